"""The command: what it prints, and how it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunesmith.cli import app
from tunesmith.errors import RunError
from tunesmith.run.directory import RunDir


def test_the_path_comes_last(lora_run: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["-q", "export", str(lora_run.path), "--format", "safetensors", "--out", str(out)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[-1] == str(out)
    assert lines[0].startswith("loaded again by transformers")
    assert "greedy texts the same" in lines[0]


def test_for_a_machine(lora_run: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["-q", "export", str(lora_run.path), "--format", "safetensors", "--out", str(out), "--json"]
    values = json.loads(CliRunner().invoke(app, call).stdout)
    assert values["path"] == str(out)
    assert values["round_trips"][0]["same_first"] == 1.0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--format", "ggml"], r"--format ggml: expected one of safetensors, gguf, hub, onnx"),
        (["--format", "gguf", "--quant", "q3"], r"--quant q3: expected one of f32, f16, bf16, q8_0"),
    ],
)
def test_unknown_words(options: list[str], told: str, lora_run: RunDir) -> None:
    done = CliRunner().invoke(app, ["export", str(lora_run.path), *options])
    assert isinstance(done.exception, RunError)
    with pytest.raises(RunError, match=told):
        raise done.exception


def test_no_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path), "--format", "gguf"])
    assert isinstance(done.exception, RunError)


def test_help_has_an_example() -> None:
    assert "tunesmith export runs/shows-smollm2 --format gguf" in CliRunner().invoke(app, ["export", "--help"]).stdout
