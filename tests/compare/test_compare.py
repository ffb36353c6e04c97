"""The stage on a tiny run: what compare.json holds, and that it is the same each time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.compare import compare
from tunesmith.errors import RunError
from tunesmith.run.directory import COMPARE, RESULT, RunDir


@pytest.fixture(scope="module")
def comparison(finished_run: RunDir) -> dict[str, Any]:
    return compare(finished_run)


def test_compare_json_is_what_compare_returns_and_private(finished_run: RunDir, comparison: dict[str, Any]) -> None:
    path = finished_run.file(COMPARE)
    assert json.loads(path.read_text(encoding="utf-8")) == comparison
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_score_has_base_tuned_and_an_explanation(comparison: dict[str, Any]) -> None:
    scores = comparison["scores"]
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
        assert score["base"]["value"] is not None, name
        assert score["tuned"]["low"] <= score["tuned"]["value"] <= score["tuned"]["high"], name
        assert score["title"], name
        assert score["better"] in ("lower", "higher", "real", "at most real"), name
    assert scores["heldout_loss"]["change"]["low"] > 0  # noise on the weights made this model worse
    assert scores["copied_texts"]["real"] is not None


def test_samples_cover_the_recipe_openings_and_nothing(comparison: dict[str, Any]) -> None:
    samples = comparison["samples"]
    kinds = [sample["kind"] for sample in samples]
    assert (kinds.count("prompt"), kinds.count("opening"), kinds.count("unconditional")) == (3, 6, 6)
    assert len({sample["tuned"]["text"] for sample in samples if sample["kind"] == "unconditional"}) > 1
    rows = [sample["row"] for sample in samples if sample["row"]]
    assert len(rows) == len(set(rows)) == 12
    assert all("shows.csv:" in row for row in rows)
    for sample in samples:
        assert (sample["real"] is None) == (sample["kind"] == "prompt")
        assert (sample["prompt"] == "") == (sample["kind"] == "unconditional")


def test_slices_and_kinds_are_reported(comparison: dict[str, Any]) -> None:
    assert comparison["slices"]["column"] == "genre"
    assert (
        sum(row["num_documents"] for row in comparison["slices"]["rows"]) == comparison["counts"]["held_out_documents"]
    )
    assert {row["num_documents"] for row in comparison["general"]["rows"]} == {5}
    assert len(comparison["general"]["rows"]) == 8


def test_a_second_comparison_is_the_same(finished_run: RunDir, comparison: dict[str, Any]) -> None:
    again = compare(finished_run)
    assert {**again, "seconds": 0} == {**comparison, "seconds": 0}


def test_losses_that_differ_from_trainings_are_noted(
    comparison: dict[str, Any], finished_run: RunDir, tmp_path: Path
) -> None:
    said = [note for note in comparison["notes"] if "changed since training" in note]
    assert len(said) == 2  # the fixture's result.json is made up
    copy = copied(finished_run, tmp_path)
    scores = comparison["scores"]["heldout_loss"]
    true = {"eval_loss": scores["tuned"]["value"], "eval_loss_base": scores["base"]["value"]}
    copy.write_json(RESULT, copy.read_json(RESULT) | true)
    assert not [note for note in compare(copy)["notes"] if "changed since training" in note]


def test_other_prompts_replace_the_recipes(finished_run: RunDir, tmp_path: Path) -> None:
    copy = copied(finished_run, tmp_path)
    asked = compare(copy, ["Two sisters", "At dawn"])
    assert [s["prompt"] for s in asked["samples"] if s["kind"] == "prompt"] == ["Two sisters"] * 3 + ["At dawn"] * 3


def test_without_its_data_the_run_is_compared_on_prompts_and_says_so(finished_run: RunDir, tmp_path: Path) -> None:
    copy = copied(finished_run, tmp_path)
    recipe = copy.recipe()
    gone = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(tmp_path / "gone.csv")})})
    copy.write_recipe(gone)
    comparison = compare(copy)
    assert "gone.csv" in " ".join(comparison["notes"])
    assert {sample["kind"] for sample in comparison["samples"]} == {"prompt"}
    assert set(comparison["scores"]) == {"general_loss"}


def test_an_unfinished_run_is_refused_with_the_command_that_finishes_it(finished_run: RunDir, tmp_path: Path) -> None:
    copy = copied(finished_run, tmp_path)
    shutil.rmtree(copy.model)
    with pytest.raises(RunError, match=r"tunesmith train .* --resume"):
        compare(copy)


def test_a_lora_run_is_compared_through_its_adapter(finished_run: RunDir, tmp_path: Path) -> None:
    import torch

    from tunesmith.models.adapters import attach_lora
    from tunesmith.models.find import find_model
    from tunesmith.models.load import load_model, save_model
    from tunesmith.models.tokenizer import load_tokenizer

    copy = copied(finished_run, tmp_path)
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
    assert comparison["tuned"]["adapter"] is True
    loss = comparison["scores"]["heldout_loss"]
    assert loss["change"]["value"] != pytest.approx(0, abs=1e-3)


def copied(run_dir: RunDir, tmp_path: Path) -> RunDir:
    shutil.copytree(run_dir.path, tmp_path / "copy")
    return RunDir.open(tmp_path / "copy")


def test_a_part_of_the_held_out_rows_keeps_bytes_and_slices(finished_run: RunDir, tiny_llama: Path) -> None:
    from tunesmith.compare.observe import some_documents
    from tunesmith.data import prepare
    from tunesmith.models.find import find_model
    from tunesmith.models.tokenizer import load_tokenizer

    recipe = finished_run.recipe()
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
