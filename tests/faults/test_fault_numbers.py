"""NaN and infinity: stopped within one step, never saved, the last good checkpoint named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_sample import sample

if TYPE_CHECKING:
    from conftest import Lab

CASES = [
    ("weight", 5, "nan"),
    ("weight", 1, "inf"),
    ("grad", 5, "nan"),
    ("grad", 12, "inf"),
    ("loss", 5, "nan"),
    ("eval", 2, "nan"),
]


@pytest.mark.row("NaN or infinity in weight, gradient, loss, evaluation")
@pytest.mark.parametrize(
    ("what", "step", "value"),
    sample(CASES, 0, 2, 5),
)
def test_a_bad_number_stops_and_is_never_saved(lab: Lab, out: Path, what: str, step: int, value: str) -> None:
    fault = {"kind": "bad_number", "what": what, "step": step, "value": float(value)}
    child = lab.train("full", out, fault=fault)
    assert child.wait() == 2, child.output
    said = " ".join(child.output.split())
    at = 5 if what == "eval" else step
    assert f"step {at}: " in said
    assert "Traceback" not in said
    assert "Likely causes" in said
    last = (at - 1) // 3 * 3
    assert (f"The last good checkpoint is {out}/checkpoints/step-{last}." if last else "No checkpoint was") in said
    assert not (out / "model").exists()
    assert lab.finish("full", out) == lab.reference("full")


@pytest.mark.row("a learning rate that explodes")
def test_a_learning_rate_that_explodes_saves_no_bad_number(lab: Lab, out: Path) -> None:
    recipe = lab.recipe("full", train__learning_rate=0.99, train__max_grad_norm=1e9, train__max_steps=12)
    child = lab.train(recipe, out)
    assert child.wait() in (0, 2), child.output
    import math

    from safetensors.numpy import load_file

    for file in out.glob("checkpoints/*/model.safetensors"):
        assert all(math.isfinite(float(abs(tensor).max())) for tensor in load_file(file).values())
