"""report.html: complete, private, self-contained, and whole even where artefacts are missing, damaged or hostile."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from tunesmith.report import write_report
from tunesmith.report.page import content_policy
from tunesmith.report.samples import Piece, split_text
from tunesmith.run.directory import COMPARE, DATA, LOG, METRICS, PLAN, RECIPE, RESULT, STATUS, RunDir

VOID = {"meta", "link", "br", "img", "input", "line", "rect", "circle", "polygon", "path", "hr"}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; checks that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> inside {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(run_dir: RunDir) -> Page:
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def test_a_finished_run_shows_everything(example_run: RunDir) -> None:
    page = page_of(example_run)
    assert not page.open
    for expected in (
        "The tuned model predicts your text better than the base",
        "smollm2-135m, full fine-tuning on shows.csv",
        "a baker finds a letter in the flour",
        "8 words in a row from shows.csv:231",
        "Told apart from real texts",
        "not clearly more than real",
        "story of",
        "What it learned, by genre",
        "What it forgot",
        "Gradient norm",
        "20,480 training tokens",
        "shows.csv:17, shows.csv:90",
        "0123456789abcdef",
        "learning_rate: 0.0002",
        "step 120/120",
        "+7.4%",
    ):
        assert expected in page.text, expected
    assert "could not be read" not in page.text
    assert example_run.file("report.html").stat().st_mode & 0o777 == 0o600


def test_copied_spans_are_marked_where_they_lie(example_run: RunDir) -> None:
    html = write_report(example_run).read_text(encoding="utf-8")
    assert "</span>, <mark>a baker finds a letter in the flour</mark>, addressed to the man" in html


def test_split_text_survives_overlapping_and_wrong_spans() -> None:
    assert split_text("abcdef", [[1, 3], [2, 4]]) == [
        Piece("a", False),
        Piece("bc", True),
        Piece("d", True),
        Piece("ef", False),
    ]
    assert split_text("abc", [[-5, 99]]) == [Piece("abc", True)]
    assert split_text("abc", [[2, 1]]) == [Piece("abc", False)]
    assert split_text("", []) == [Piece("", False)]


def test_the_page_loads_nothing_and_runs_nothing(example_run: RunDir) -> None:
    html = write_report(example_run).read_text(encoding="utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "iframe", "object", "link", "form", "base"})
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")], tag
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy == content_policy(style[1])
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_headings_labels_and_tables_are_for_screen_readers_too(example_run: RunDir) -> None:
    page = page_of(example_run)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes.get("role") == "img"
            assert attributes.get("aria-label")
        if tag == "th":
            assert attributes.get("scope") in ("row", "col")
        if tag == "a":
            assert str(attributes["href"])[1:] in identities
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in identities


@pytest.mark.parametrize("missing", [PLAN, DATA, METRICS, RESULT, COMPARE, LOG])
def test_a_missing_artefact_leaves_the_rest(example_run: RunDir, missing: str) -> None:
    example_run.file(missing).unlink()
    page = page_of(example_run)
    assert not page.open
    assert "could not be read" not in page.text
    if missing == COMPARE:
        assert "tunesmith compare lets base and tuned model write" in page.text
        assert "held-out loss 4.450" in page.text


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]", '"text"', "null", '{"scores": 3, "samples": [4], "splits": []}']
)
@pytest.mark.parametrize("damaged", [PLAN, DATA, RESULT, COMPARE, METRICS])
def test_a_damaged_artefact_is_named_and_leaves_the_rest(example_run: RunDir, damaged: str, content: str) -> None:
    example_run.file(damaged).write_text(content, encoding="utf-8")
    page = page_of(example_run)
    assert not page.open
    if damaged in (PLAN, DATA, RESULT, COMPARE) and not content.startswith("{" + '"'):
        assert f"{damaged} cannot be read" in page.text
    if damaged == COMPARE and content.startswith("{" + '"'):
        assert "compare.json: a part has an unexpected shape" in page.text


def test_a_run_in_progress_says_how_far_it_is(example_run: RunDir) -> None:
    example_run.file(RESULT).unlink()
    example_run.file(COMPARE).unlink()
    example_run.write_json(STATUS, {"state": "training", "step": 120, "num_steps": 400})
    page = page_of(example_run)
    assert "Not finished" in page.text
    assert "Step 120 of 120; training when this was written." in page.text
    assert "No samples yet." in page.text


def test_a_directory_with_a_recipe_alone_works(tmp_path: Path, example_run: RunDir) -> None:
    bare = RunDir(tmp_path / "bare")
    bare.path.mkdir()
    bare.write_recipe(example_run.recipe())
    page = page_of(bare)
    assert "This run has no result yet" in page.text
    assert "No steps were recorded yet." in page.text


def test_hostile_text_in_every_field_stays_text(hostile_run: RunDir) -> None:
    page = page_of(hostile_run)
    assert not page.open
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    assert [tag for tag, _ in page.tags].count("style") == 1
    assert page.text.count("document.title='owned'") > 50
    assert "{{7*7}}" in page.text
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_half_a_character_does_not_break_the_file(example_run: RunDir) -> None:
    comparison = example_run.read_json(COMPARE)
    comparison["samples"][0]["tuned"]["text"] = "half \ud83d and \x00 nul"
    example_run.file(COMPARE).write_text(json.dumps(comparison), encoding="utf-8")
    assert "f ? and" in write_report(example_run).read_text(encoding="utf-8")


def test_damaged_recipe_is_shown_as_text(example_run: RunDir) -> None:
    example_run.file(RECIPE).write_text("model: [", encoding="utf-8")
    page = page_of(example_run)
    assert "recipe.yaml cannot be read" in page.text
    assert "model: [" in page.text
