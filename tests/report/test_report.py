"""report.html: complete, private, self-contained, and whole even where artefacts are missing, damaged or hostile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from tunesmith.redact import redact
from tunesmith.report import write_report
from tunesmith.report.page import content_policy
from tunesmith.report.samples import MAX_EVALUATIONS, Piece, split_text, while_it_trained
from tunesmith.report.tables import data_rows
from tunesmith.report.verdict import judge
from tunesmith.run.artefacts import (
    Comparison,
    DataAccount,
    Dropped,
    Finding,
    NamedRow,
    Plan,
    Result,
    RowNames,
    SamplesLine,
    Status,
    WrittenText,
)
from tunesmith.run.directory import COMPARE, DATA, LOG, METRICS, PLAN, RECIPE, RESULT, SAMPLES, RunDir

Change = Callable[..., None]

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


def test_a_finished_run_shows_everything(copied_run: RunDir) -> None:
    plan, data, result = copied_run.read(Plan), copied_run.read(DataAccount), copied_run.read(Result)
    comparison = copied_run.read(Comparison)
    page = page_of(copied_run)
    assert not page.open
    for expected in (
        judge(result, comparison).sentence,
        "full fine-tuning on shows.csv",
        *(score.title for score in comparison.scores.values()),
        *(finding.found for finding in data.findings),
        *plan.reasons.values(),
        "What it learned, by genre",
        "What it forgot",
        "Gradient norm",
        f"{result.tokens_per_second:,.0f} supervised tokens/s",
        f"training {data.splits['train'].documents}",
        data.fingerprint,
        data.how,
        "learning_rate: 0.005",
        f"step {plan.num_steps}: held-out loss",
        comparison.environment["torch"],
    ):
        assert " ".join(expected.split()) in page.text, expected
    for sample in comparison.samples[:3]:
        assert " ".join(redact(sample.tuned.text).split()) in page.text
    assert "could not be read" not in page.text
    assert copied_run.file("report.html").stat().st_mode & 0o777 == 0o600


def test_every_row_that_was_left_out_has_its_line(copied_run: RunDir, change: Change) -> None:
    data = copied_run.read(DataAccount)
    dropped = Dropped(too_long=5, by_weight_or_small=1234)
    names = RowNames(empty=("shows.csv:17", "shows.csv:90"), bad_rows=("shows.csv:8",))
    change(copied_run, DataAccount, dropped=dropped, empty=2, bad_rows=1, examples=names)
    rows = {row.name: (row.value, row.remark) for row in data_rows(copied_run.read(DataAccount))}
    assert rows["Left out by --small or a weight"] == ("1,234", "")
    assert rows["Too long, dropped"][0] == "5"
    assert rows["Empty, left out"] == ("2", "shows.csv:17, shows.csv:90")
    assert rows["Rows read"][0] == str(data.rows_read)
    text = page_of(copied_run).text
    assert "Left out by --small or a weight 1,234" in text
    assert "Unreadable, left out 1 shows.csv:8" in text


def test_what_the_audit_found_stands_first_where_it_warns(copied_run: RunDir, change: Change) -> None:
    findings = (
        Finding(name="rows", status="fine", found="80 rows.", number=1, option="never shown"),
        Finding(name="leakage", status="warns", found="3 rows leak.", option="data.near_duplicates: true", number=2),
        Finding(name="learned", status="blocks", found="nothing is learned.", rows=("a.csv:7",), number=3),
    )
    change(copied_run, DataAccount, findings=findings)
    text = page_of(copied_run).text
    places = [text.index(f"{finding.name} : {finding.found}") for finding in findings]
    assert places[2] < places[1] < text.index("1 check found nothing wrong") < places[0]
    assert "Set data.near_duplicates: true." in text
    assert "First: a.csv:7." in text
    assert "never shown" not in text


def test_copied_spans_are_marked_where_they_lie(copied_run: RunDir, change: Change) -> None:
    first, *others = copied_run.read(Comparison).samples
    text = ", a baker finds a letter in the flour, addressed to the man."
    span = (text.index("a baker"), text.index(", addressed"))
    source = NamedRow(row="data/shows.csv:231", text="In a mountain village a baker finds a letter in the flour.")
    tuned = first.tuned.model_copy(
        update={"text": text, "copied": (span,), "longest_copy": 8, "copied_from": source, "nearest": source}
    )
    change(copied_run, Comparison, samples=(first.model_copy(update={"tuned": tuned}), *others))
    html = write_report(copied_run).read_text(encoding="utf-8")
    assert "</span>, <mark>a baker finds a letter in the flour</mark>, addressed to the man" in html
    assert "8 words in a row from shows.csv:231" in html
    assert "nearest training row: shows.csv:231" in html


def test_split_text_survives_overlapping_and_wrong_spans() -> None:
    assert split_text("abcdef", [(1, 3), (2, 4)]) == [
        Piece("a", False),
        Piece("bc", True),
        Piece("d", True),
        Piece("ef", False),
    ]
    assert split_text("abc", [(-5, 99)]) == [Piece("abc", True)]
    assert split_text("abc", [(2, 1)]) == [Piece("abc", False)]
    assert split_text("", []) == [Piece("", False)]


def test_the_page_loads_nothing_and_runs_nothing(copied_run: RunDir) -> None:
    html = write_report(copied_run).read_text(encoding="utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "iframe", "object", "link", "form", "base"})
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")], tag
        assert attributes.get("href", "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy == content_policy(style[1])
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_headings_labels_and_tables_are_for_screen_readers_too(copied_run: RunDir) -> None:
    page = page_of(copied_run)
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
def test_a_missing_artefact_leaves_the_rest(copied_run: RunDir, missing: str) -> None:
    copied_run.file(missing).unlink()
    page = page_of(copied_run)
    assert not page.open
    assert "could not be read" not in page.text
    if missing == COMPARE:
        assert "tunesmith compare lets base and tuned model write" in page.text
        assert "held-out loss" in page.text


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]", '"text"', "null", '{"scores": 3, "samples": [4], "splits": []}']
)
@pytest.mark.parametrize("damaged", [PLAN, DATA, RESULT, COMPARE, METRICS])
def test_a_damaged_artefact_is_named_and_leaves_the_rest(copied_run: RunDir, damaged: str, content: str) -> None:
    copied_run.file(damaged).write_text(content, encoding="utf-8")
    page = page_of(copied_run)
    assert not page.open
    if damaged == METRICS:
        assert ("metrics.jsonl: 1 line cannot be used" in page.text) == content.startswith('{"')
    elif content.startswith('{"'):
        assert f"{damaged}: a part has an unexpected shape" in page.text
        assert f"{damaged} cannot be used" in page.text
    else:
        assert f"{damaged} cannot be read" in page.text


def test_a_damaged_part_leaves_the_rest_of_its_artefact(copied_run: RunDir) -> None:
    comparison, data = copied_run.read_json(COMPARE), copied_run.read_json(DATA)
    comparison["scores"]["ended"]["better"] = "sideways"
    comparison["samples"][0]["tuned"] = "text"
    comparison["telling"] = None
    data["findings"] = [3, *data["findings"]]
    copied_run.write_json(COMPARE, comparison)
    copied_run.write_json(DATA, data)
    with copied_run.file(METRICS).open("a", encoding="utf-8") as file:
        file.write('{"step": "many", "loss": 1.0}\n{"loss": 1.0}\n')
    text = page_of(copied_run).text
    assert "compare.json: a part has an unexpected shape (scores.ended.better: " in text
    assert "compare.json: a part has an unexpected shape (samples.*.tuned: " in text
    assert "data.json: a part has an unexpected shape (findings.*: " in text
    assert "metrics.jsonl: 2 lines cannot be used" in text
    assert "Ends by itself" not in text
    assert "Repeats itself" in text
    assert "In a blind" not in text
    assert data["fingerprint"] in text


def test_a_run_in_progress_says_how_far_it_is(copied_run: RunDir, change: Change) -> None:
    copied_run.file(RESULT).unlink()
    copied_run.file(COMPARE).unlink()
    num_steps = copied_run.read(Plan).num_steps
    change(copied_run, Status, state="running")
    page = page_of(copied_run)
    assert "Not finished" in page.text
    assert f"Step {num_steps} of {num_steps}; running when this was written." in page.text
    assert "No samples yet." in page.text


def test_a_directory_with_a_recipe_alone_works(tmp_path: Path, copied_run: RunDir) -> None:
    bare = RunDir(tmp_path / "bare")
    bare.path.mkdir()
    bare.write_recipe(copied_run.recipe())
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


def test_what_it_wrote_while_it_trained_is_shown_from_the_base_to_the_end(copied_run: RunDir) -> None:
    def line(step: int) -> SamplesLine:
        text = WrittenText(prompt="One fine", text=f" day {step}", ended=True, is_answer=False)
        return SamplesLine(step=step, texts=(text,))

    copied_run.file(SAMPLES).unlink()
    assert "While it trained" not in page_of(copied_run).text
    for step in range(100):
        copied_run.append_samples(line(step))
    shown = page_of(copied_run).text
    assert "While it trained" in shown
    assert "Base One fine day 0" in shown
    assert "Step 99 One fine day 99" in shown
    assert len(while_it_trained(copied_run.samples())) == MAX_EVALUATIONS


def test_half_a_character_does_not_break_the_file(copied_run: RunDir) -> None:
    comparison = copied_run.read_json(COMPARE)
    comparison["samples"][0]["tuned"]["text"] = "half \ud83d and \x00 nul"
    copied_run.file(COMPARE).write_text(json.dumps(comparison), encoding="utf-8")
    assert "f ? and" in write_report(copied_run).read_text(encoding="utf-8")


def test_damaged_recipe_is_shown_as_text(copied_run: RunDir) -> None:
    copied_run.file(RECIPE).write_text("model: [", encoding="utf-8")
    page = page_of(copied_run)
    assert "recipe.yaml cannot be read" in page.text
    assert "model: [" in page.text


def test_the_test_rows_and_what_is_not_measured_have_tiles(copied_run: RunDir, change: Change) -> None:
    assert "Test loss" not in page_of(copied_run).text
    change(copied_run, Result, test_loss=4.3217)
    assert "Test loss 4.322 scored once, at the end" in page_of(copied_run).text
    copied_run.file(COMPARE).unlink()
    change(copied_run, Result, eval_loss=None, eval_loss_base=5.5, stopped="SIGTERM", best_eval_loss=None)
    text = page_of(copied_run).text
    assert "Held-out loss not measured base 5.500" in text
    assert "Its held-out loss is not measured yet" in text


def test_a_dry_run_is_named_in_the_head_and_in_the_verdict(copied_run: RunDir, change: Change) -> None:
    assert "dry run" not in page_of(copied_run).text
    change(copied_run, DataAccount, small=True)
    said = copied_run.read(DataAccount).dry_run
    assert page_of(copied_run).text.count(said) == 2
