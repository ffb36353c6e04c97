"""Texts written during training: they change nothing that is learned, stand once for each step, and never end a run."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tunesmith
from tunesmith import Recipe, Stopped
from tunesmith.run.artefacts import MetricsLine, SamplesLine
from tunesmith.run.directory import LOG, SAMPLES, RunDir

QUIET = Console(quiet=True)
PROMPTS = ["One fine morning", "A boy and a girl", "Two friends"]


def recipe_for(model: Path, shows_csv: Path, samples: int, **more: Any) -> Recipe:
    """With dropout, so that a random number drawn by a sample would show in every step after it."""
    values: dict[str, Any] = {
        "model": {"name": str(model)},
        "data": {"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        "train": {"method": "lora", "learning_rate": 5e-3, "tokens_per_step": 1024, "max_length": 256, "epochs": 2},
        "lora": {"rank": 4, "dropout": 0.2},
        "eval": {"every": 3, "samples": samples},
        "save": {"every": 2},
        "compare": {"prompts": PROMPTS, "max_new_tokens": 8},
    }
    return Recipe.parse({name: {**values.get(name, {}), **more.get(name, {})} for name in {**values, **more}})


def learned(run_dir: RunDir) -> tuple[str, list[tuple[int, float | None, float | None, float | None]]]:
    """The weights and every number but times."""
    digest = hashlib.sha256()
    for file in sorted(run_dir.model.glob("*.safetensors")):
        digest.update(file.read_bytes())
    lines = [MetricsLine.parse(line, "metrics") for line in run_dir.metrics()]
    return digest.hexdigest(), [(line.step, line.loss, line.grad_norm, line.eval_loss) for line in lines]


@pytest.fixture(scope="module")
def sampled(tiny_llama: Path, shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that writes two texts at each evaluation."""
    out = tmp_path_factory.mktemp("sampled") / "run"
    return tunesmith.train(recipe_for(tiny_llama, shows_csv, 2), out=out, console=QUIET).dir


def test_a_run_is_bitwise_the_same_with_samples_and_without(
    sampled: RunDir, tiny_llama: Path, shows_csv: Path, tmp_path: Path
) -> None:
    without = tunesmith.train(recipe_for(tiny_llama, shows_csv, 0), out=tmp_path / "run", console=QUIET).dir
    assert not without.has(SAMPLES)
    assert learned(without) == learned(sampled)


def test_each_evaluation_has_a_text_of_each_prompt(sampled: RunDir) -> None:
    evaluated = [line["step"] for line in sampled.metrics() if "eval_loss" in line]
    lines = sampled.samples()
    assert [line.step for line in lines] == evaluated
    assert evaluated[0] == 0
    assert {tuple(text.prompt for text in line.texts) for line in lines} == {tuple(PROMPTS[:2])}
    assert len({line.texts[0].text for line in lines}) > 1, "the model changed, and with it what it writes"
    assert f"step 3 writes: {PROMPTS[0]}" in sampled.file(LOG).read_text()


def test_a_run_that_is_stopped_and_goes_on_writes_each_text_once(
    sampled: RunDir, tiny_llama: Path, shows_csv: Path, tmp_path: Path
) -> None:
    recipe, seen = recipe_for(tiny_llama, shows_csv, 2), list[int]()

    def step_is(number: int) -> bool:
        return bool(seen) and seen[-1] == number

    for last in (3, 5):
        with pytest.raises(Stopped):
            tunesmith.train(
                recipe,
                out=tmp_path / "run",
                console=QUIET,
                on_step=lambda line: seen.append(line.step),
                stop=partial(step_is, last),
            )
    run_dir = tunesmith.train(recipe, out=tmp_path / "run", console=QUIET).dir
    assert run_dir.samples() == sampled.samples()
    assert learned(run_dir)[0] == learned(sampled)[0]


def test_texts_after_the_checkpoint_are_written_again(copied_run: RunDir) -> None:
    for step in (0, 4, 8):
        copied_run.append_samples(SamplesLine(step=step, texts=()))
    with copied_run.file(SAMPLES).open("a") as file:
        file.write('{"step": 9, "te')
    before = len(copied_run.samples())
    copied_run.keep_lines_until(4)
    assert all(line.step <= 4 for line in copied_run.samples())
    assert 0 < len(copied_run.samples()) < before
    copied_run.clear()
    assert not copied_run.has(SAMPLES)


def test_a_model_that_cannot_write_is_told_once_and_the_run_goes_on(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path
) -> None:
    long = {"compare": {"prompts": ["word " * 3000], "max_new_tokens": 8}}
    run = tunesmith.train(recipe_for(tiny_llama, shows_csv, 1, **long), out=tmp_path / "run", console=QUIET)
    assert run.result["stopped"] is None
    assert run.dir.file(LOG).read_text().count("eval.samples: no text could be written (a prompt of") == 1
    assert not run.dir.has(SAMPLES)


def test_a_run_on_conversations_is_asked_in_its_template(chat_llama: Path, tmp_path: Path) -> None:
    rows = "".join(
        f'{{"messages": [{{"role": "user", "content": "Say {number}"}}, '
        f'{{"role": "assistant", "content": "It is {number}, as it was."}}]}}\n'
        for number in range(60)
    )
    (tmp_path / "chat.jsonl").write_text(rows)
    recipe = Recipe(
        model={"name": str(chat_llama)},
        data={"path": str(tmp_path / "chat.jsonl"), "messages": "messages", "near_duplicates": False},
        train={"max_steps": 2, "max_length": 256, "rehearse": False},
        compare={"prompts": ["Say 5 sk-abcdefghijklmnopqrstuvwxyz"], "max_new_tokens": 4},
    )
    run = tunesmith.train(recipe, out=tmp_path / "run", console=QUIET)
    texts = [line.texts[0] for line in run.dir.samples()]
    assert len(texts) == 2
    assert all(text.is_answer and text.prompt == "Say 5 [redacted]" for text in texts)
