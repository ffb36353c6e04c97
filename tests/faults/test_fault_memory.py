"""Out of memory: the same step again in smaller pieces, the same steps, the same gradient to rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fault_sample import sample

if TYPE_CHECKING:
    from conftest import Lab

CASES = [(where, step) for where in ("forward", "backward") for step in (1, 6, 12)]


def weights(out: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(out / "model" / "model.safetensors")


def assert_close(lab: Lab, out: Path) -> None:
    expected, found = weights(lab.folder / "reference-plain"), weights(out)
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=2e-4, err_msg=name)


def events(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "result.json").read_text())["events"]
    return found


@pytest.mark.row("out of memory in forward, backward, optimizer, evaluation")
@pytest.mark.parametrize(
    ("where", "step"),
    sample(CASES, 0, 4),
)
def test_a_step_that_does_not_fit_is_made_in_smaller_pieces(lab: Lab, out: Path, where: str, step: int) -> None:
    expected = lab.reference("plain")
    host = step == 6
    child = lab.train("plain", out, fault={"kind": "out_of_memory", "where": where, "step": step, "host": host})
    assert child.wait() == 0, child.output
    found = lab.outcome(out)
    assert [event["step"] for event in events(out)] == [step]
    assert f"out of memory at step {step}: micro-batch 320 -> 160 tokens" in " ".join(child.output.split())
    assert found["result"]["steps"] == expected["result"]["steps"]
    assert found["result"]["train_tokens"] == expected["result"]["train_tokens"]
    for line, wanted in zip(found["metrics"], expected["metrics"], strict=True):
        for key in ("loss", "eval_loss", "grad_norm", "learning_rate"):
            assert line.get(key, 0.0) == pytest.approx(wanted.get(key, 0.0), rel=2e-4), (line["step"], key)
    assert_close(lab, out)


@pytest.mark.row("out of memory in forward, backward, optimizer, evaluation")
def test_the_optimizer_state_that_does_not_fit_at_first_is_made_again(lab: Lab, out: Path) -> None:
    child = lab.train("plain", out, fault={"kind": "out_of_memory", "where": "optimizer", "step": 0, "host": True})
    assert child.wait() == 0, child.output
    assert lab.outcome(out)["weights"] == lab.reference("plain")["weights"]


@pytest.mark.row("out of memory in forward, backward, optimizer, evaluation")
@pytest.mark.parametrize("nth", sample([2, 1, 4], 0))
def test_an_evaluation_that_does_not_fit_leaves_training_alone(lab: Lab, out: Path, nth: int) -> None:
    child = lab.train("plain", out, fault={"kind": "out_of_memory", "where": "eval", "step": nth})
    assert child.wait() == 0, child.output
    assert lab.outcome(out)["weights"] == lab.reference("plain")["weights"]
    assert events(out) == []


@pytest.mark.row("a kill after out of memory")
def test_a_kill_after_out_of_memory_goes_on_with_the_small_pieces(lab: Lab, out: Path, tmp_path: Path) -> None:
    """Dropout sees other pieces, so the run to compare with is one that met the same error and was not killed."""
    fault = {"kind": "out_of_memory", "where": "forward", "step": 2, "limit": 200}
    child = lab.train("full", tmp_path / "whole", fault=fault)
    assert child.wait() == 0, child.output
    child = lab.train("full", out, fault={**fault, "kill_at": 8})
    assert child.wait() == 137, child.output
    assert lab.finish("full", out) == lab.outcome(tmp_path / "whole")


@pytest.mark.row("a document that does not fit alone")
def test_a_document_that_does_not_fit_alone_is_named(lab: Lab, out: Path) -> None:
    child = lab.train("plain", out, fault={"kind": "out_of_memory", "where": "forward", "step": 4, "limit": 1})
    assert child.wait() == 2
    said = " ".join(child.output.split())
    assert "shows.csv:" in said
    assert "do not fit in memory even alone" in said
    assert "train.max_length" in said
    assert lab.finish("plain", out) == lab.reference("plain")
