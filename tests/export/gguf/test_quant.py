"""The types of weights in a file, and llama.cpp's own quantizer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunesmith.errors import ModelError
from tunesmith.export.gguf.quant import find_quantizer, quantize_file, rounded, type_of

VALUES = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)


@pytest.mark.parametrize(
    ("quant", "most"), [("f32", 0.0), ("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 0.02), ("q5_1", 0.1), ("q4_0", 0.25)]
)
def test_what_is_left_of_the_values(quant: str, most: float) -> None:
    left = rounded(VALUES, type_of(quant, VALUES.shape), "a matrix")  # type: ignore[arg-type]
    assert left.dtype == np.float32
    assert np.abs(left - VALUES).max() <= most


def test_vectors_and_short_rows_stay_finer() -> None:
    assert type_of("q4_0", (64,)).name == "F32"
    assert type_of("q4_0", (8, 48)).name == "F16"


def test_f16_overflows() -> None:
    with pytest.raises(ModelError, match=r"big holds 70000, and f16 ends at 65504. Use --quant bf16 or f32"):
        rounded(np.full((2, 32), 7e4, np.float32), type_of("f16", (2, 32)), "big")


def test_no_quantizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(
        ModelError, match=r"neither on the path nor in .*bin. It comes with llama.cpp: brew install .*--quant q4_0"
    ):
        find_quantizer()


def test_a_quantizer_beside_python(
    quantizer_that: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = quantizer_that("exit 0")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_quantizer() == str(path)


def test_a_quantizer_on_the_path(quantizer_that: Callable[[str], Path], tmp_path: Path) -> None:
    quantizer_that('echo "$3" > "$2"')
    quantize_file(tmp_path / "a", tmp_path / "b", "q4_k_m")
    assert (tmp_path / "b").read_text() == "Q4_K_M\n"


def test_one_that_fails(quantizer_that: Callable[[str], Path], tmp_path: Path) -> None:
    quantizer_that("echo 'no such model' >&2; exit 1")
    with pytest.raises(ModelError, match=r"llama-quantize failed \(no such model\)"):
        quantize_file(tmp_path / "a", tmp_path / "b", "q4_k_m")
