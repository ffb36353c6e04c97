"""Groups agree with brute force over the shingle sets, are the same every time, and cover the odd inputs."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.split import near_duplicates
from tunesmith.data.split.near_duplicates import near_duplicate_groups, similarity


@pytest.fixture(scope="module")
def words(shows_csv: Path) -> list[str]:
    with shows_csv.open(encoding="utf-8", newline="") as file:
        return sorted({word for row in csv.DictReader(file) for word in row["description"].split()})


def _edited(texts: list[str], words: list[str], rng: random.Random) -> list[str]:
    edited = []
    for text in texts:
        parts = text.split()
        for _ in range(rng.randint(0, 5)):
            parts[rng.randrange(len(parts))] = rng.choice(words)
        edited.append(" ".join(parts))
    return edited


def test_pairs_are_found_exactly_where_brute_force_finds_them(words: list[str]) -> None:
    rng = random.Random(3)
    texts = [" ".join(rng.choices(words, k=25)) for _ in range(400)]
    edited = _edited(texts, words, rng)
    groups = near_duplicate_groups(texts + edited)
    similar = np.array([similarity(a, b) >= 0.8 for a, b in zip(texts, edited, strict=True)])
    assert 50 < similar.sum() < 350, "the edits must fall on both sides of the threshold"
    np.testing.assert_array_equal(groups[:400] == groups[400:], similar)
    np.testing.assert_array_equal(groups[:400], np.arange(400))


@pytest.mark.parametrize("threshold", [0.5, 0.9, 1.0])
def test_other_thresholds(words: list[str], threshold: float) -> None:
    rng = random.Random(5)
    texts = [" ".join(rng.choices(words, k=30)) for _ in range(100)]
    edited = _edited(texts, words, rng)
    groups = near_duplicate_groups(texts + edited, threshold=threshold)
    similar = np.array([similarity(a, b) >= threshold for a, b in zip(texts, edited, strict=True)])
    np.testing.assert_array_equal(groups[:100] == groups[100:], similar)


def test_groups_do_not_depend_on_how_texts_fall_into_blocks(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(8)
    texts = [" ".join(rng.choices(words, k=20)) for _ in range(60)]
    texts += _edited(texts, words, rng)
    expected = near_duplicate_groups(texts)
    monkeypatch.setattr(near_duplicates, "_BLOCK_CHARACTERS", 300)
    monkeypatch.setattr(near_duplicates, "_FILE_ABOVE_BYTES", 0)
    np.testing.assert_array_equal(near_duplicate_groups(texts), expected)


def test_a_chain_of_edits_is_one_group_named_after_its_first_text(words: list[str]) -> None:
    rng = random.Random(1)
    text = rng.choices(words, k=40)
    chain = [" ".join(text)]
    for place in range(0, 40, 2):
        text[place] = rng.choice(words)
        chain.append(" ".join(text))
    assert similarity(chain[0], chain[-1]) < 0.8
    groups = near_duplicate_groups(["something else entirely", *chain])
    assert groups.tolist() == [0] + [1] * len(chain)


def test_a_large_cluster_is_joined_whole(words: list[str]) -> None:
    rng = random.Random(2)
    text = rng.choices(words, k=60)
    texts = [" ".join([*text[:30], rng.choice(words), *text[30:]]) for _ in range(500)]
    assert set(near_duplicate_groups(texts).tolist()) == {0}


def test_case_and_white_space_do_not_count() -> None:
    assert near_duplicate_groups(["One fine  Morning\n", "one fine morning", "a boy and a girl"]).tolist() == [0, 0, 2]


def test_scripts_without_spaces() -> None:
    text = "ある晴れた朝、少年と少女は海辺の小さな町で不思議な灯台を見つけ、二人で中へ入ってみることにしました。"
    groups = near_duplicate_groups([text, text.replace("町", "村"), "まったく関係のない別の文章がここにあります。"])
    assert groups.tolist() == [0, 0, 2]


def test_empty_and_tiny_texts() -> None:
    assert near_duplicate_groups([]).tolist() == []
    assert near_duplicate_groups(["x"]).tolist() == [0]
    assert near_duplicate_groups(["", " ", "a", "b", "A"]).tolist() == [0, 0, 2, 3, 2]


def test_long_texts_are_compared_on_a_sample() -> None:
    rng = random.Random(4)
    long = "".join(rng.choices("abcdefghij klmnop", k=60_000))
    other = "".join(rng.choices("abcdefghij klmnop", k=60_000))
    assert near_duplicate_groups([long, other, long[:-5_000]]).tolist() == [0, 1, 0]
    assert similarity(long, long[:-20_000]) == pytest.approx(2 / 3, abs=0.02)


def test_when_exact_checks_run_out_signatures_decide(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_EXACT_CHECKS", 0)
    rng = random.Random(6)
    texts = [" ".join(rng.choices(words, k=25)) for _ in range(50)]
    groups = near_duplicate_groups([*texts, *(text + "!" for text in texts)])
    np.testing.assert_array_equal(groups[:50], groups[50:])


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        near_duplicate_groups(["a", "b"], threshold=threshold)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=12))
def test_any_text_gets_a_group_and_equal_texts_the_same(texts: list[str]) -> None:
    groups = near_duplicate_groups(texts + texts)
    np.testing.assert_array_equal(groups[: len(texts)], groups[len(texts) :])
    assert all(groups[group] == group and group <= index for index, group in enumerate(groups.tolist()))
