"""The stage on a tiny run: what compare.json holds, and that it is the same each time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import tunesmith
from tunesmith import Recipe
from tunesmith.compare import compare
from tunesmith.compare.blind import BlindTest, store
from tunesmith.errors import RunError
from tunesmith.run.artefacts import Comparison, Plan, Result
from tunesmith.run.directory import COMPARE, RunDir


@pytest.fixture(scope="module")
def comparison(tiny_run: RunDir) -> Comparison:
    return tiny_run.read(Comparison)


def test_compare_json_is_private(tiny_run: RunDir) -> None:
    assert tiny_run.file(COMPARE).stat().st_mode & 0o777 == 0o600


def test_every_score_has_base_tuned_and_an_explanation(comparison: Comparison) -> None:
    scores = comparison.scores
    assert set(scores) == {
        "heldout_loss",
        "heldout_perplexity",
        "heldout_bits_per_byte",
        "heldout_token_accuracy",
        "style_auc",
        "ended",
        "length",
        "length_distance",
        "distinct_1",
        "distinct_2",
        "distinct_3",
        "repetition",
        "copied_texts",
        "copied_words",
        "copied_longest",
        "nearest_similarity",
        "general_loss",
    }
    for name, score in scores.items():
        assert score.base is not None, name
        assert score.base.value is not None, name
        assert score.tuned.low <= score.tuned.value <= score.tuned.high, name
        assert score.title, name
    assert scores["heldout_loss"].change.high < 0  # two epochs made this model better
    assert scores["copied_texts"].real is not None


def test_samples_cover_the_recipe_openings_and_nothing(comparison: Comparison) -> None:
    samples = comparison.samples
    kinds = [sample.kind for sample in samples]
    assert (kinds.count("prompt"), kinds.count("opening"), kinds.count("unconditional")) == (3, 6, 6)
    assert len({sample.tuned.text for sample in samples if sample.kind == "unconditional"}) > 1
    rows = [sample.row for sample in samples if sample.row]
    assert len(rows) == len(set(rows)) == 12
    assert all("shows.csv:" in row for row in rows)
    for sample in samples:
        assert (sample.real is None) == (sample.kind == "prompt")
        assert (sample.prompt == "") == (sample.kind == "unconditional")


def test_slices_and_kinds_are_reported(comparison: Comparison) -> None:
    assert comparison.slices.column == "genre"
    assert sum(row.num_documents for row in comparison.slices.rows) == comparison.counts.held_out_documents
    assert {row.num_documents for row in comparison.general.rows} == {5}
    assert len(comparison.general.rows) == 8


def test_a_second_comparison_is_the_same_and_keeps_the_blind_test(copied_run: RunDir, comparison: Comparison) -> None:
    blind = BlindTest.of(comparison).result()
    store(copied_run, blind)
    again = compare(copied_run)
    assert again == copied_run.read(Comparison)
    assert again == comparison.model_copy(update={"seconds": again.seconds, "blind": blind})


def test_losses_that_differ_from_trainings_are_noted(comparison: Comparison, copied_run: RunDir) -> None:
    assert not [note for note in comparison.notes if "changed since training" in note]
    result = copied_run.read(Result)
    copied_run.write(result.model_copy(update={"eval_loss": 5.0, "eval_loss_base": 6.0}))
    said = [note for note in compare(copied_run).notes if "changed since training" in note]
    assert len(said) == 2
    assert "5.000 in result.json" in said[1]


def test_other_prompts_replace_the_recipes(copied_run: RunDir) -> None:
    asked = compare(copied_run, ["Two sisters", "At dawn"])
    assert [s.prompt for s in asked.samples if s.kind == "prompt"] == ["Two sisters"] * 3 + ["At dawn"] * 3


def test_without_its_data_the_run_is_compared_on_prompts_and_says_so(copied_run: RunDir, tmp_path: Path) -> None:
    copy = copied_run
    recipe = copy.recipe()
    gone = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(tmp_path / "gone.csv")})})
    copy.write_recipe(gone)
    comparison = compare(copy)
    assert "gone.csv" in " ".join(comparison.notes)
    assert {sample.kind for sample in comparison.samples} == {"prompt"}
    assert set(comparison.scores) == {"general_loss"}


def test_an_unfinished_run_is_refused_with_the_command_that_finishes_it(copied_run: RunDir) -> None:
    shutil.rmtree(copied_run.model)
    with pytest.raises(RunError, match=r"tunesmith train .* --resume"):
        compare(copied_run)


def test_a_lora_run_is_compared_through_its_adapter(copied_run: RunDir) -> None:
    import torch

    from tunesmith.models.adapters import attach_lora
    from tunesmith.models.find import find_model
    from tunesmith.models.load import load_model, save_model
    from tunesmith.models.tokenizer import load_tokenizer

    copy = copied_run
    recipe = copy.recipe()
    source = find_model(recipe.model.name)
    tuned = attach_lora(load_model(source), recipe.lora, "lora")
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    shutil.rmtree(copy.model)
    save_model(tuned, load_tokenizer(source), copy.model, "card")
    comparison = compare(copy)
    assert comparison.tuned.adapter is True
    change = comparison.scores["heldout_loss"].change
    assert change is not None
    assert change.value != pytest.approx(0, abs=1e-3)


def test_a_part_of_the_held_out_rows_keeps_bytes_and_slices(tiny_run: RunDir, tiny_llama: Path) -> None:
    from tunesmith.compare.observe import some_documents
    from tunesmith.data import prepare
    from tunesmith.models.find import find_model
    from tunesmith.models.tokenizer import load_tokenizer

    recipe = tiny_run.recipe()
    assert recipe.train.max_length != "auto"
    documents = prepare(recipe.data, load_tokenizer(find_model(str(tiny_llama))), recipe.train.max_length).eval
    assert some_documents(documents, 10**6, 0) is documents
    part = some_documents(documents, int(documents.lengths.sum()) // 2, 0)
    assert 0 < len(part) < len(documents)
    assert int(part.lengths.sum()) <= int(documents.lengths.sum()) // 2
    rows = documents.rows.tolist()
    for number in range(len(part)):
        original = rows.index(part.rows[number])
        assert np.array_equal(part[number][0], documents[original][0])
        assert part.num_bytes[number] == documents.num_bytes[original]
        assert part.slices is not None
        assert documents.slices is not None
        assert part.slices[number] == documents.slices[original]
    assert part.num_targets == int(part.targets_per_document.sum())
    assert len(some_documents(replace(documents), 1, 0)) == 1


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_held_out_rows_score_as_in_training_whatever_the_arithmetic(
    tiny_llama: Path, shows_csv: Path, tmp_path: Path, precision: str
) -> None:
    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.3},
        train={"learning_rate": 5e-3, "precision": precision, "tokens_per_step": 512, "micro_batch_tokens": 200},
        compare={"num_samples": 2, "max_new_tokens": 2, "prompts": []},
    )
    run = tunesmith.train(recipe, out=tmp_path / precision, console=Console(quiet=True))
    run.compare()
    result, scores = run.dir.read(Result), run.dir.read(Comparison).scores
    assert run.dir.read(Plan).precision == precision
    assert scores["heldout_loss"].tuned.value == pytest.approx(result.eval_loss, abs=1e-6)
    assert scores["heldout_loss"].base.value == pytest.approx(result.eval_loss_base, abs=1e-6)
    assert scores["heldout_token_accuracy"].tuned.value == result.eval_token_accuracy
