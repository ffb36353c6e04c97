"""Prompts from files, texts to files, and going on where that stopped."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith.api import Writer
from tunesmith.cli import app
from tunesmith.errors import DataError, ModelError
from tunesmith.generate.prompts import read_prompts
from tunesmith.generate.text import generate
from tunesmith.models.load import load_for_generation

PROMPTS = ["One fine morning", "A boy", "A boy", "né漢 \u2028 b"]


def expected(model: Path) -> list[str]:
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.8, "top_p": 1.0, "seed": 7}
    return [text.text for text in generate(*load_for_generation(str(model), device="cpu"), PROMPTS, **options)]


def run(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, ["generate", *arguments], input=stdin)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(PROMPTS) + "\n", encoding="utf-8")
    return path


def test_a_line_each_and_the_same_as_generate(tiny_llama: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = run(str(tiny_llama), "--file", str(prompts), "--out", str(out), "--max-new-tokens", "8")
    assert done.exit_code == 0, done.output
    found = lines(out)
    assert [line["prompt"] for line in found] == PROMPTS
    assert [line["text"] for line in found] == expected(tiny_llama)
    assert {line["temperature"] for line in found} == {0.8}
    assert out.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4])
def test_going_on_where_it_stopped(kept: int, tiny_llama: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    writer = Writer(str(tiny_llama)).decoded(8, None, None, None)
    writer.write_lines(read_prompts(str(prompts)), out)
    whole = out.read_bytes()
    parts = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(parts[:kept]) + (parts[kept][:20] if kept < 4 else b""))
    assert writer.write_lines(read_prompts(str(prompts)), out) == kept
    assert out.read_bytes() == whole


def test_an_output_of_something_else_is_refused(tiny_llama: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    writer = Writer(str(tiny_llama)).decoded(8, None, None, None)
    writer.write_lines(PROMPTS[:2], out)
    before = out.read_bytes()
    with pytest.raises(DataError, match="1: was written with another seed"):
        writer.decoded(8, None, None, 3).write_lines(PROMPTS, out)
    with pytest.raises(DataError, match="2: was written with another prompt"):
        writer.write_lines(PROMPTS[:1], out)
    assert out.read_bytes() == before
    out.write_text("{}\n")
    with pytest.raises(DataError, match="is no line of texts"):
        writer.write_lines(PROMPTS, out)


def test_standard_input_and_output(tiny_llama: Path) -> None:
    given = "".join(f"{prompt}\n" for prompt in PROMPTS)
    done = run(str(tiny_llama), "--file", "-", "--max-new-tokens", "8", stdin=given)
    assert [json.loads(line)["text"] for line in done.stdout.split("\n") if line] == expected(tiny_llama)
    done = run(str(tiny_llama), "--prompt", "-", "--max-new-tokens", "8", stdin=f"{PROMPTS[0]}\n")
    assert done.stdout == f"{PROMPTS[0]}{expected(tiny_llama)[0]}\n\n"


def test_prompts_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('"a"\n{"prompt": "b\\nc", "more": 1}\n')
    assert read_prompts(str(path)) == ["a", "b\nc"]
    for text, told in (("[1]\n", "p.jsonl:1: expected a string"), ("{\n", "p.jsonl:1: not valid JSON"), ("", "no pro")):
        path.write_text(text)
        with pytest.raises(DataError, match=told):
            read_prompts(str(path))
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(str(tmp_path / "none.txt"))


def test_base_and_raw(tiny_run: Any) -> None:
    name = str(tiny_run.path)
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.8, "top_p": 1.0, "seed": 7}
    base = load_for_generation(tiny_run.recipe().model.name, device="cpu")
    [line] = Writer(name, base=True).lines(["A boy"])
    assert line.text == generate(*base, ["A boy"], **options)[0].text
    assert (line.voice, line.max_new_tokens) == ("base", 12)  # as the run is compared
    done = run(name, "--prompt", "A boy", "--base", "--json")
    assert json.loads(done.stdout)[0]["text"] == line.text


def test_a_model_that_was_tuned_from_nothing_has_no_base(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="has no base"):
        Writer(str(tiny_llama), base=True).lines(["A boy"])


@pytest.mark.parametrize("arguments", [("--prompt", "a", "--file", "b"), ("--out", "b")])
def test_options_that_do_not_go_together(arguments: tuple[str, ...], tiny_llama: Path) -> None:
    done = run(str(tiny_llama), *arguments)
    assert "--file" in str(done.exception)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_how_many_are_done_is_shown(is_terminal: bool, tiny_llama: Path) -> None:
    from rich.console import Console

    shown = io.StringIO()
    writer = Writer(str(tiny_llama)).decoded(4, None, None, None)
    writer.write_lines(PROMPTS, None, console=Console(file=shown, force_terminal=is_terminal, width=100))
    assert ("4/4" if is_terminal else "writing texts 0 of 4") in shown.getvalue()


def test_a_terminal_sees_no_control_characters() -> None:
    from rich.console import Console

    from tunesmith.generate.batch import TextStream
    from tunesmith.generate.request import Piece
    from tunesmith.show.texts import show_texts

    hostile = TextStream("a", False, iter([Piece("\x1b[2J b\nc", 1), Piece("", 1, finish="stop")]))
    shown = io.StringIO()
    show_texts([hostile], Console(file=shown, force_terminal=True))
    assert shown.getvalue() == "a\ufffd[2J b\nc\n\n"
