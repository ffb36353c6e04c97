"""Runs used from Python and from the command line: the same words, and never in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import tunesmith
from tunesmith import api
from tunesmith.api import Run
from tunesmith.cli import app

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tiny_llama: Path, shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps; its compare section is unlike the defaults."""
    recipe = tunesmith.Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"max_steps": 2, "max_length": 256, "rehearse": False},
        compare={"num_samples": 4, "max_new_tokens": 5, "temperature": 0.3, "top_p": 0.5, "seed": 11},
    )
    return tunesmith.train(recipe, out=tmp_path_factory.mktemp("runs") / "tiny", console=QUIET)


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How each call of the generation loop was asked to decode."""
    import tunesmith.generate.text as module

    calls: list[dict[str, Any]] = []
    write = module.generate

    def noting(model: Any, tokenizer: Any, prompts: Any, **options: Any) -> Any:
        calls.append(options)
        return write(model, tokenizer, prompts, **options)

    monkeypatch.setattr(module, "generate", noting)
    return calls


AS_COMPARED = {"max_new_tokens": 5, "temperature": 0.3, "top_p": 0.5, "seed": 11}


def test_generate_decodes_a_run_as_it_is_compared(run: Run, decoding: list[dict[str, Any]]) -> None:
    done = CliRunner().invoke(app, ["generate", str(run.path), "-p", "One fine", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["text"] == run.generate("One fine")
    assert decoding == [AS_COMPARED]


def test_an_option_goes_before_the_compare_section(run: Run, decoding: list[dict[str, Any]]) -> None:
    options = ["--max-new-tokens", "3", "--temperature", "0", "--top-p", "1", "--seed", "0"]
    done = CliRunner().invoke(app, ["generate", str(run.path), *options, "--json"])
    assert done.exit_code == 0, done.output
    asked: dict[str, Any] = {"max_new_tokens": 3, "temperature": 0, "top_p": 1, "seed": 0}
    assert json.loads(done.stdout)[0]["text"] == api.generate(str(run.path), [""], **asked)[0].text
    assert decoding == [asked]


def test_a_model_is_decoded_by_the_defaults(tiny_llama: Path, decoding: list[dict[str, Any]]) -> None:
    api.generate(str(tiny_llama), ["One"])
    assert decoding == [{"max_new_tokens": 80, "temperature": 0.8, "top_p": 1.0, "seed": 7}]


def test_compare_says_what_it_does_meanwhile(run: Run) -> None:
    done = CliRunner().invoke(app, ["compare", str(run.path), "-p", "One fine morning"])
    assert done.exit_code == 0, done.output
    said = [line.rsplit(",")[0] for line in done.stderr.splitlines()]
    num_texts = len(run.dir.read_json("compare.json")["samples"])
    assert list(dict.fromkeys(line for line in said if "writes" in line)) == [  # said again while it lasts
        f"{who} writes {num_texts} texts" for who in ("base", "tuned")
    ]
    assert said[0] == "loading torch and transformers"
    assert "writes" not in done.stdout


def test_compare_is_quiet_when_asked(run: Run) -> None:
    done = CliRunner().invoke(app, ["-q", "compare", str(run.path), "-p", "One fine morning", "--json"])
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert json.loads(done.stdout)["samples"]
