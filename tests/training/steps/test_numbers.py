"""Bad numbers stop the run with a message that helps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tunesmith.errors import TrainingError
from tunesmith.training.checkpoints.checkpoint import save_checkpoint
from tunesmith.training.steps.numbers import check_finite, check_weights


def touch(folder: Path) -> None:
    (folder / "x").touch()


def test_finite_values_pass(tmp_path: Path) -> None:
    check_finite(3, tmp_path, loss=0.0, grad_norm=1e300)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_with_causes_and_the_last_good_checkpoint(
    value: float, tmp_path: Path
) -> None:
    for step in (10, 11):
        save_checkpoint(tmp_path, step, touch, info={}, keep=2)
    (tmp_path / "step-11" / "x").unlink()
    with pytest.raises(TrainingError) as caught:
        check_finite(12, tmp_path, loss=2.0, grad_norm=value)
    message = str(caught.value)
    assert message.startswith(f"step 12: grad_norm is {value}.")
    assert f"last good checkpoint is {tmp_path}/step-10." in message
    assert "learning rate" in message
    with pytest.raises(TrainingError, match="No checkpoint was written before"):
        check_finite(1, tmp_path / "none", loss=value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_named(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    first, second = torch.nn.Linear(3, 3, dtype=dtype), torch.nn.Linear(3, 3, dtype=dtype)
    model = torch.nn.Sequential(first, second)
    with torch.no_grad():
        first.bias.fill_(torch.finfo(dtype).max)
    check_weights(4, tmp_path, model)
    with torch.no_grad():
        second.weight[2, 1] = value
    with pytest.raises(TrainingError, match=r"step 4: not finite: parameter 1\.weight\."):
        check_weights(4, tmp_path, model)
