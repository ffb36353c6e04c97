"""Copied spans and nearest rows: planted copies, and agreement with a brute-force search."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.compare.copying import Copied, find_copies, find_nearest
from tunesmith.compare.words import word_spans, words

ROW = "A retired pilot builds a boat in her garden, and one night the river comes to fetch it."


def test_a_row_copied_whole_is_one_span_over_all_of_it() -> None:
    copied = find_copies([ROW], ["Something else.", ROW])[0]
    assert copied == Copied(longest=len(words(ROW)), longest_row=1, spans=((0, len(ROW)),), share=1.0)


def test_a_planted_span_is_found_where_it_lies_whatever_its_case() -> None:
    planted = "BUILDS a boat in her garden, and one night"
    text = f"Nobody knows why he {planted} leaves for ever."
    copied = find_copies([text], [ROW])[0]
    assert [text[start:end] for start, end in copied.spans] == [planted]
    assert copied.longest == len(words(planted)) == 10


def test_seven_words_in_a_row_are_no_copied_span_and_eight_are() -> None:
    seven, eight = " ".join(words(ROW)[:7]), " ".join(words(ROW)[:8])
    short, long = find_copies([seven + " xylophone", eight + " xylophone"], [ROW])
    assert (short.longest, short.spans, short.share) == (7, (), 0.0)
    assert (long.longest, len(long.spans)) == (8, 1)
    assert long.share == pytest.approx(8 / 9)


def test_no_run_crosses_the_border_between_rows_or_texts() -> None:
    first, second = "one two three four", "five six seven eight"
    copied = find_copies([f"{first} {second}", "five six", "seven eight"], [first, second])
    assert [text.longest for text in copied] == [4, 2, 2]


def test_empty_texts_and_empty_rows_share_nothing() -> None:
    assert find_copies(["", "  ", "word"], ["", "..."]) == [Copied(0, None, (), 0.0)] * 3
    assert find_copies([ROW], []) == [Copied(0, None, (), 0.0)]
    assert find_copies([], [ROW]) == []


def test_text_without_spaces_is_compared_character_by_character() -> None:
    row, text = "老人在河边造了一条船给他的孙女", "有人说老人在河边造了一条船啊"
    copied = find_copies([text], [row])[0]
    assert copied.longest == 10
    assert [text[start:end] for start, end in copied.spans] == ["老人在河边造了一条船"]


def test_agrees_with_brute_force_on_random_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.compare.copying._ROWS_AT_ONCE", 7)  # several pieces, the last one partial
    generator = np.random.default_rng(3)

    def sentence() -> str:
        return " ".join(generator.choice(list("abcd"), size=generator.integers(1, 15)))

    rows, texts = [sentence() for _ in range(30)], [sentence() for _ in range(40)]
    for text, copied in zip(texts, find_copies(texts, iter(rows), min_words=3), strict=True):
        expected, first_row = _brute_force(text, rows)
        assert copied.longest == expected
        assert copied.longest_row is not None
        run = " ".join(words(rows[copied.longest_row]))
        pieces = [" ".join(words(text)[i : i + expected]) for i in range(len(words(text)))]
        assert any(f" {piece} " in f" {run} " for piece in pieces if len(piece.split()) == expected)
        assert copied.longest_row >= first_row


def _brute_force(text: str, rows: list[str]) -> tuple[int, int]:
    tokens = words(text)
    for length in range(len(tokens), 0, -1):
        runs = {" ".join(tokens[i : i + length]) for i in range(len(tokens) - length + 1)}
        for index, row in enumerate(rows):
            if any(f" {run} " in f" {' '.join(words(row))} " for run in runs):
                return length, index
    return 0, -1


def test_nearest_row_is_the_one_with_the_same_words() -> None:
    rows = ["A cat sleeps on the stove.", ROW, "Two brothers inherit a lighthouse."]
    nearest = find_nearest([ROW, "A pilot builds a boat.", "zzz"], rows)
    assert nearest[0] is not None
    assert (nearest[0].row, round(nearest[0].similarity, 3)) == (1, 1.0)
    assert nearest[1] is not None
    assert nearest[1].row == 1
    assert 0 < nearest[1].similarity < 1
    assert nearest[2] is None
    assert find_nearest(["a"], ["", " "]) == [None]


def test_words_and_their_places_agree() -> None:
    text = "Don't stop—it's 3.5 km, naïve_reader! 猫が"
    assert [text[start:end].casefold() for start, end in word_spans(text)] == words(text)
    assert words(text)[:4] == ["don't", "stop", "—", "it's"]
    assert words(text)[-3:] == ["!", "猫", "が"]
