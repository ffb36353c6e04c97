"""ONNX, checked by onnxruntime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

from tunesmith.errors import ModelError
from tunesmith.export import onnx
from tunesmith.export.stage import Exported
from tunesmith.run.directory import RunDir


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in onnx.PACKAGES),
    reason="onnx, onnxruntime or onnxscript is not installed: pip install 'tunesmith[onnx]'",
)
@pytest.mark.filterwarnings("ignore")
def test_the_graph_predicts_and_writes_the_same(lora_run: RunDir, leave: Callable[..., Exported]) -> None:
    done = leave(lora_run, "onnx")
    assert (done.path / "model.onnx").is_file()
    (trip,) = done.record.round_trips
    assert trip.engine.startswith("onnxruntime")
    assert trip.largest_difference < 1e-4
    assert trip.same_texts == trip.num_texts == 3


def test_a_missing_package_is_named(
    lora_run: RunDir, leave: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "PACKAGES", ("no_such_package",))
    with pytest.raises(ModelError, match=r"no_such_package not installed. Run: pip install 'tunesmith\[onnx\]'"):
        leave(lora_run, "onnx")
