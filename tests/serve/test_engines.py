"""Commands that start another engine on the same model, and what is missing for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith.cli import app
from tunesmith.errors import ModelError, ServeError
from tunesmith.serve.engines import Command, engine_command, start_engine

KEY = "a-key-of-more-than-16-characters"


def test_a_plain_model_goes_as_it_is(tiny_llama: Path) -> None:
    done = CliRunner().invoke(app, ["serve", str(tiny_llama), "--engine", "vllm", "--port", "9000", "--print"])
    assert done.exit_code == 0, done.output
    expected = f"vllm serve {tiny_llama} --served-model-name tuned --host 127.0.0.1 --port 9000\n"
    assert done.stdout == expected
    command = engine_command("transformers", str(tiny_llama), "127.0.0.1", 1, None)
    assert command.shown == f"transformers serve {tiny_llama} --host 127.0.0.1 --port 1"


def test_a_key_is_never_an_argument(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    vllm = engine_command("vllm", str(tiny_llama), "0.0.0.0", 1, file)
    assert ("VLLM_API_KEY", KEY) in vllm.environment
    llama = engine_command("llama.cpp", str(tmp_path / "m.gguf"), "0.0.0.0", 1, file)
    assert llama.arguments[-2:] == ("--api-key-file", str(file))
    assert KEY not in vllm.shown + llama.shown
    with pytest.raises(ServeError, match="takes no key"):
        engine_command("transformers", str(tiny_llama), "0.0.0.0", 1, file)
    monkeypatch.setenv("TUNESMITH_API_KEY", KEY)
    with pytest.raises(ServeError, match="from a file"):
        engine_command("llama.cpp", str(tmp_path / "m.gguf"), "127.0.0.1", 1, None)
    monkeypatch.delenv("TUNESMITH_API_KEY")
    with pytest.raises(ServeError, match="no key is set"):
        engine_command("vllm", str(tiny_llama), "0.0.0.0", 1, None)


def test_what_an_engine_cannot_read_is_told_with_the_command_that_writes_it(lora_run: Path, tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match=f"tunesmith export {lora_run} --format safetensors"):
        engine_command("vllm", str(lora_run), "127.0.0.1", 1, None)
    with pytest.raises(ModelError, match=f"tunesmith export {lora_run} --format gguf"):
        engine_command("llama.cpp", str(lora_run), "127.0.0.1", 1, None)
    with pytest.raises(ModelError, match="needs a GGUF file"):
        engine_command("llama.cpp", str(tiny_llama), "127.0.0.1", 1, None)


def test_an_engine_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServeError, match="no vllm on the PATH"):
        start_engine("vllm", Command(("vllm", "serve")))
    done: Any = CliRunner().invoke(app, ["serve", str(tiny_llama), "--engine", "ollama"])
    assert "Expected vllm, llama.cpp, transformers" in str(done.exception)
