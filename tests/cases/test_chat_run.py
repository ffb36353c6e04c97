"""A run that was tuned on conversations: where it stops, how it is asked, and what a resume on another day reads."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import tunesmith
from tunesmith.api import Run
from tunesmith.cli import app
from tunesmith.data.rows.chat import ChatTemplate
from tunesmith.data.tokens.asked import begun_on
from tunesmith.generate.text import generate, stream
from tunesmith.models.load import load_for_generation
from tunesmith.models.tokenizer import TextTokenizer

CASES = Path(__file__).parent
QUIET = Console(quiet=True)
DATED = "{{ 'Today: ' + strftime_now('%d %b %Y') + '\\n' }}"


def recipe(model: Path, **train: Any) -> tunesmith.Recipe:
    return tunesmith.Recipe(
        model={"name": str(model)},
        data={"path": str(CASES / "chat_end_is_not_eos" / "rows.jsonl"), "near_duplicates": False},
        train={"max_steps": 2, "max_length": 128, "tokens_per_step": 64, "rehearse": False, **train},
        compare={"num_samples": 2, "max_new_tokens": 6, "prompts": ["Question about a river?"]},
    )


@pytest.fixture(scope="module")
def run(chat_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tunesmith.train(recipe(chat_llama), out=tmp_path_factory.mktemp("runs") / "chat", console=QUIET)


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each call of the generation loop was given to go on from."""
    import tunesmith.generate.text as module

    calls: list[Any] = []
    write = module.generate

    def noting(model: Any, tokenizer: Any, prompts: Any, **options: Any) -> Any:
        calls.append([prompt if isinstance(prompt, str) else tokenizer.decode(prompt, False) for prompt in prompts])
        return write(model, tokenizer, prompts, **options)

    monkeypatch.setattr(module, "generate", noting)
    return calls


ASKED = "<|im_start|>user\nQuestion?<|im_end|>\n<|im_start|>assistant\n"


def test_the_saved_model_stops_at_both_ends(run: Run) -> None:
    config = json.loads((run.dir.model / "generation_config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == [0, 513]


def test_a_saved_adapter_says_both_ends(chat_llama: Path, tmp_path: Path) -> None:
    tuned = tunesmith.train(recipe(chat_llama, method="lora"), out=tmp_path / "run", console=QUIET)
    config = json.loads((tuned.dir.model / "generation_config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == [0, 513]
    assert (config["bos_token_id"], config["pad_token_id"]) == (0, 0)


def test_the_audit_says_which_ends(run: Run) -> None:
    (found,) = [finding["found"] for finding in run.dir.read_json("data.json")["findings"] if finding["name"] == "end"]
    assert "A turn ends in '<|im_end|>', which is not the tokenizer's end '<|endoftext|>'" in found


@pytest.mark.parametrize("stop", ["<|im_end|>", "<|endoftext|>"])
def test_generation_stops_at_either_end(chat_llama: Path, stop: str) -> None:
    model, tokenizer = load_for_generation(str(chat_llama), device="cpu")
    bias = torch.zeros(514)
    bias[tokenizer.backend.convert_tokens_to_ids(stop)] = 1e4
    model.lm_head.register_forward_hook(lambda module, args, logits: logits + bias)
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0, "seed": 1}
    (found,) = generate(model, tokenizer, ["A river"], **options)
    assert (found.text, found.num_tokens, found.ended) == ("", 0, True)
    assert "".join(stream(model, tokenizer, "A river", **options)) == ""


def test_generation_stops_at_the_models_own_end(tiny_llama: Path) -> None:
    model, tokenizer = load_for_generation(str(tiny_llama), device="cpu")
    model.generation_config.eos_token_id = [0, 7]
    bias = torch.zeros(512)
    bias[7] = 1e4
    model.lm_head.register_forward_hook(lambda module, args, logits: logits + bias)
    (found,) = generate(model, tokenizer, ["A river"], max_new_tokens=8, temperature=0.0, top_p=1.0, seed=1)
    assert (found.num_tokens, found.ended) == (0, True)


def test_a_chat_run_is_asked_in_its_template(run: Run, fed: list[Any]) -> None:
    done = CliRunner().invoke(app, ["generate", str(run.path), "-p", "Question?", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)[0]
    assert said["prompt"] == "Question?"
    assert said["text"] == run.generate("Question?")
    assert fed == [[ASKED]]


def test_raw_prompts_are_continued(run: Run, fed: list[Any]) -> None:
    done = CliRunner().invoke(app, ["generate", str(run.path), "-p", "Question?", "--raw", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["text"] == run.generate("Question?", raw=True)
    run.generate()
    assert fed == [["Question?"], [""]]


def test_an_answer_stands_below_its_prompt(run: Run) -> None:
    done = CliRunner().invoke(app, ["generate", str(run.path), "-p", "Question?"])
    assert done.stdout.startswith("Question?\n\n")


def test_a_model_is_not_asked(chat_llama: Path, fed: list[Any]) -> None:
    tunesmith.api.generate(str(chat_llama), ["Question?"], max_new_tokens=2)
    assert fed == [["Question?"]]


def test_compare_asks_in_the_template(run: Run, fed: list[Any]) -> None:
    run.compare(["Question?"])
    assert [prompts[0] for prompts in fed] == [ASKED, ASKED], "base and tuned alike"
    sample = run.dir.read_json("compare.json")["samples"][0]
    assert sample["prompt"] == "Question?"


@pytest.fixture
def days(monkeypatch: pytest.MonkeyPatch) -> list[datetime.date]:
    """Two days; the first is today, until it is popped."""
    days = [datetime.date(2026, 1, 31), datetime.date(2027, 12, 28)]
    of = ChatTemplate.of

    def on_its_day(tokenizer: TextTokenizer, date: datetime.date | None = None) -> ChatTemplate:
        return of(tokenizer, date or days[0])

    monkeypatch.setattr(ChatTemplate, "of", on_its_day)
    return days


@pytest.fixture
def dated(chat_llama: Path, tmp_path: Path) -> Path:
    """The chat model with a template that writes today's date."""
    model = Path(shutil.copytree(chat_llama, tmp_path / "model"))
    template = model / "chat_template.jinja"
    template.write_text(DATED + template.read_text(encoding="utf-8"), encoding="utf-8")
    return model


def test_another_day_changes_nothing(dated: Path, tmp_path: Path, days: list[datetime.date]) -> None:
    """Neither what a resume reads nor what `eval` scores: both are of the day on which the run began."""
    rows = str(CASES / "chat_end_is_not_eos" / "rows.jsonl")
    begun = tunesmith.train(recipe(dated), out=tmp_path / "run", console=QUIET)
    before = begun.dir.read_json("data.json")["fingerprint"]
    scored = tunesmith.evaluate_file(str(begun.path), rows)
    of_the_model = tunesmith.evaluate_file(str(begun.dir.model), rows)
    days.pop(0)
    assert tunesmith.evaluate_file(str(begun.path), rows) == scored
    assert tunesmith.evaluate_file(str(begun.dir.model), rows) != of_the_model, "a mere model knows no other day"
    longer = tunesmith.train(recipe(dated, max_steps=3), out=tmp_path / "run", resume=True, console=QUIET)
    assert longer.result["steps"] == 3
    assert longer.dir.read_json("data.json")["fingerprint"] == before
    assert begun_on(longer.dir) == datetime.date(2026, 1, 31)
