"""Trials are made once each, in order, and go on in the next call."""

import argparse
import json


def line_of(way, rate, seed, loss):
    return {"way": way, "rate": rate, "seed": seed, "eval_loss": loss, "eval_loss_base": 4.5, "state_bytes": 10**9}


def test_rates_come_first_and_then_other_seeds_of_the_best(benchmarks, capsys):
    from optimizers import WAYS, Trial, next_trial, print_table

    rates, seeds, first = (2e-4, 1e-4), (7, 8), next(iter(WAYS))
    assert next_trial([], list(WAYS), rates, seeds) == Trial(first, 2e-4, 7)
    done = [line_of(way, rate, 7, 4.0 - 1000 * rate) for rate in rates for way in WAYS]
    assert next_trial(done[:-1], list(WAYS), rates, seeds) == Trial(list(WAYS)[-1], 1e-4, 7)
    assert next_trial(done, list(WAYS), rates, seeds) == Trial(first, 2e-4, 8)
    done += [line_of(way, 2e-4, 8, 3.9) for way in WAYS]
    assert next_trial(done, list(WAYS), rates, seeds) is None
    print_table(done)
    printed = capsys.readouterr().out
    assert "| adamw | float32 | 3.9000 | 3.8000 | 3.8500 (3.8000 to 3.9000, 2 seeds) | 1,000 MB |" in printed
    assert "Base: 4.5000. Seeds 7, 8." in printed


def test_a_trial_goes_on_in_the_next_call(benchmarks, tiny_llama, shows_csv, tmp_path):
    from optimizers import Trial, run_trial

    values = {"data": shows_csv, "runs": tmp_path, "model": str(tiny_llama), "rows": 40}
    trial = Trial("adafactor float32", 1e-3, 7)
    assert run_trial(trial, argparse.Namespace(**values, seconds=0)) is None
    assert (tmp_path / trial.name / "checkpoints").is_dir()
    line = run_trial(trial, argparse.Namespace(**values, seconds=600))
    assert line is not None
    assert json.loads(json.dumps(line))["eval_loss"] < line["eval_loss_base"]
    assert not (tmp_path / trial.name).exists()
