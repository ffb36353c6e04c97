"""Other engines on the same model, for real load: vLLM, llama.cpp's server, transformers. Each lives in an environment
of its own, which is found on the PATH or named by its command; what is started is printed first."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.errors import ModelError, ServeError
from tunesmith.models.find import find_model
from tunesmith.run.directory import RunDir
from tunesmith.web import KEY_VARIABLE, is_loopback, read_key

Name = Literal["vllm", "llama.cpp", "transformers"]
EXPORTS = "export"
"""Where exports of a run lie."""


@dataclass(frozen=True)
class Command:
    """What starts an engine. `environment`: what is added to it; a key stands there and never among the arguments."""

    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def shown(self) -> str:
        """As a shell takes it, the key left out."""
        return shlex.join(self.arguments)


def engine_command(engine: Name, name: str, host: str, port: int, api_key_file: Path | None) -> Command:
    """The command that serves RUN_OR_MODEL with another engine.

    Raises ServeError for an engine that takes no key where one is needed, ModelError for a model that is not in the
    engine's format, with the command that writes it.
    """
    key = read_key(api_key_file)
    if key is None and not is_loopback(host):
        raise ServeError(f"--host {host}: other machines can reach this, and no key is set. Give --api-key-file.")
    if engine == "llama.cpp":
        files = ("--api-key-file", str(api_key_file)) if api_key_file is not None else ()
        if key is not None and api_key_file is None:
            raise ServeError(
                f"--engine llama.cpp: takes its key from a file. Give --api-key-file, not ${KEY_VARIABLE}."
            )
        model = _gguf_of(name)
        return Command(("llama-server", "--model", str(model), "--host", host, "--port", str(port), *files))
    model = _whole_model_of(name)
    if engine == "vllm":
        secret = (("VLLM_API_KEY", key),) if key is not None else ()
        served = ("--served-model-name", "tuned", "--host", host, "--port", str(port))
        return Command(("vllm", "serve", str(model), *served), secret)
    if key is not None:
        raise ServeError("--engine transformers: its server takes no key. Serve this machine alone, or another engine.")
    return Command(("transformers", "serve", str(model), "--host", host, "--port", str(port)))


def start_engine(engine: Name, command: Command) -> None:
    """Become the engine. Raises ServeError where its program is not there."""
    program = shutil.which(command.arguments[0])
    if program is None:
        raise ServeError(f"--engine {engine}: no {command.arguments[0]} on the PATH. {_HOW[engine]}")
    os.execve(program, command.arguments, {**os.environ, **dict(command.environment)})


_HOW: dict[str, str] = {
    "vllm": "Install it in an environment of its own: python -m venv vllm && vllm/bin/pip install vllm; then put "
    "vllm/bin first on the PATH.",
    "llama.cpp": "Install llama.cpp's llama-server (brew install llama.cpp, or build it), or leave --engine out: the "
    "extra gguf serves a GGUF file.",
    "transformers": "Install it in an environment of its own: pip install 'transformers[serving]'; then put its bin "
    "first on the PATH.",
}


def _gguf_of(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path
    if RunDir.is_run(path):
        found = sorted((path / EXPORTS).rglob("*.gguf"), key=lambda file: file.stat().st_mtime)
        if found:
            return found[-1]
        raise ModelError(f"model {name}: llama.cpp needs a GGUF file. Write it: tunesmith export {path} --format gguf")
    raise ModelError(f"model {name}: llama.cpp needs a GGUF file, or a run that was exported as one.")


def _whole_model_of(name: str) -> Path:
    """A directory of whole weights: other engines know nothing of a run."""
    source = find_model(name)
    if source.adapter is None:
        return Path(source.path)
    merged = sorted(
        file.parent
        for file in (Path(name).expanduser() / EXPORTS).glob("*/config.json")
        if (file.parent / "model.safetensors").exists() or (file.parent / "model.safetensors.index.json").exists()
    )
    if merged:
        return merged[-1]
    raise ModelError(
        f"model {name}: its model is an adapter. Merge it first: tunesmith export {name} --format safetensors"
    )
