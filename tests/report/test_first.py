"""The top of the report: words for a reader who knows no measure, and what to do next."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.machine.prices import typical_prices
from tunesmith.report import write_report
from tunesmith.report.artefacts import read_artefacts
from tunesmith.report.first import QUOTED, First, read_first
from tunesmith.run.artefacts import Comparison, DataAccount, Result
from tunesmith.run.directory import COMPARE, RESULT, RunDir

Change = Callable[..., None]


def first(run_dir: RunDir) -> First:
    return read_first(read_artefacts(run_dir))


def about(run_dir: RunDir) -> dict[str, str]:
    return {row.name: row.value for row in first(run_dir).about}


def test_a_quote_stands_before_a_plain_sentence_before_all_numbers(copied_run: RunDir, change: Change) -> None:
    change(copied_run, Result, eval_token_accuracy_base=0.187, eval_token_accuracy=0.304)
    sample = copied_run.read(Comparison).samples[0]
    found = first(copied_run)
    assert found.quote is not None
    assert found.quote.prompt == sample.prompt == "One fine morning"
    assert found.quote.after == sample.tuned.text.strip("\n")
    assert "right 30 times in 100; before training, 19 times." in found.sentence
    assert not re.search(r"perplexity|loss|nats|tokens?\b", found.sentence)
    page = write_report(copied_run).read_text(encoding="utf-8")
    order = [page.index(part) for part in ("Before training", "After training", "times in 100", "held-out loss", "AUC")]
    assert order == sorted(order)


def test_what_it_took_is_said_with_its_date(copied_run: RunDir, change: Change) -> None:
    change(copied_run, Result, hardware="NVIDIA L4", ended=1764201600.0, total_seconds=4000.0, train_seconds=3000.0)
    told = about(copied_run)
    assert told["Trained on"] == "NVIDIA L4"
    assert told["Date"] == "27 November 2025"
    assert told["Took"] == "67 min"
    assert "NVIDIA L4" in write_report(copied_run).read_text(encoding="utf-8")
    change(copied_run, Result, hardware=None, ended=1e30)
    assert {"Trained on", "Date"}.isdisjoint(about(copied_run)), "older runs did not write them"


@pytest.mark.parametrize(("hardware", "gpus"), [("NVIDIA L4", 1), ("4 x NVIDIA L4", 4)])
def test_a_gpu_of_the_table_has_a_cost(copied_run: RunDir, change: Change, hardware: str, gpus: int) -> None:
    prices = typical_prices()
    price = prices.of("l4")
    assert price is not None
    change(copied_run, Result, hardware=hardware, total_seconds=7200.0)
    assert about(copied_run)["Cost"] == f"about {2 * gpus * price:.2f} {prices.currency}"
    change(copied_run, Result, hardware="AMD EPYC, 2 cores")
    assert "Cost" not in about(copied_run)


def test_equal_shares_are_told_by_what_the_model_hesitates_between(copied_run: RunDir, change: Change) -> None:
    same: dict[str, Any] = {"eval_token_accuracy_base": 0.301, "eval_token_accuracy": 0.304}
    change(copied_run, Result, eval_perplexity_base=267.3, eval_perplexity=7.14, **same)
    assert (
        "between about 7.1 possible next pieces of a word; before training, between 267." in first(copied_run).sentence
    )
    nothing = dict.fromkeys(("eval_perplexity", "eval_token_accuracy", "eval_loss"))
    change(copied_run, Result, **nothing)
    assert first(copied_run).sentence == ""


def test_long_texts_are_cut_between_words(copied_run: RunDir) -> None:
    comparison = copied_run.read(Comparison)
    sample = comparison.samples[0]
    long = sample.model_copy(update={"tuned": sample.tuned.model_copy(update={"text": "word " * 500})})
    copied_run.write(comparison.model_copy(update={"samples": (long, *comparison.samples[1:])}))
    quote = first(copied_run).quote
    assert quote is not None
    assert len(quote.after) <= QUOTED + 2
    assert quote.after.endswith("word …")


def test_the_next_step_follows_from_what_was_found(copied_run: RunDir, change: Change) -> None:
    run = copied_run.path.name
    data = copied_run.read(DataAccount)
    change(copied_run, DataAccount, small=True)
    assert about(copied_run)["Next"] == "the same command without --small"
    change(copied_run, DataAccount, **{"small": data.small})
    change(copied_run, Result, best_eval_loss=1.0, best_step=2)
    assert "fewer epochs" in about(copied_run)["Next"]
    copied_run.file(COMPARE).unlink()
    assert about(copied_run)["Next"] == f"tunesmith compare {run}"
    change(copied_run, Result, stopped="SIGTERM")
    assert about(copied_run)["Next"] == f"tunesmith train {run}/recipe.yaml --out {run} --resume"
    copied_run.file(RESULT).unlink()
    assert first(copied_run).quote is None


def test_the_page_names_no_place_of_this_machine(copied_run: RunDir, tmp_path: Path) -> None:
    recipe = copied_run.recipe()
    data = recipe.data.model_copy(update={"path": "/home/anna/secret place/shows.csv"})
    copied_run.write_recipe(recipe.model_copy(update={"data": data}))
    page = write_report(copied_run).read_text(encoding="utf-8")
    assert "shows.csv" in page
    for place in ("/home/anna", "secret place", str(tmp_path), str(Path(recipe.model.name).parent)):
        assert place not in page, place
