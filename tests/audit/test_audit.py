"""Each finding can fire, says its number and what to set, and stays quiet on sound data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.audit.findings import AuditReport
from tunesmith.audit.stage import audit, audit_recipe
from tunesmith.data import prepare
from tunesmith.data.split.near_duplicates import near_duplicate_groups
from tunesmith.errors import DataError
from tunesmith.models.find import find_model
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.recipe import DataSection, Recipe
from tunesmith.run.artefacts import Finding
from tunesmith.show.audit import page, render, summary

KEY = "sk-" + "abcdefghij0123456789"


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> TextTokenizer:
    return load_tokenizer(find_model(str(tiny_llama)))


@pytest.fixture(scope="module")
def lines(shows_csv: Path) -> list[str]:
    import csv

    with shows_csv.open(encoding="utf-8", newline="") as file:
        return [row["description"] for row in csv.DictReader(file)][:120]


class Auditor:
    """Audits rows that a test names."""

    def __init__(self, folder: Path, tokenizer: TextTokenizer) -> None:
        self.folder = folder
        self.tokenizer = tokenizer

    def __call__(self, rows: list[Any], max_length: int = 128, **section: Any) -> AuditReport:
        rows = [{"text": row} if isinstance(row, str) else row for row in rows]
        path = self.write("rows.jsonl", rows)
        options = {"text": "text"} if "text" in rows[0] else {}
        asked = DataSection(path=str(path), **{**options, **section})
        return audit(prepare(asked, self.tokenizer, max_length), self.tokenizer, asked, max_length)

    def write(self, name: str, rows: list[Any]) -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path


@pytest.fixture
def audited(tmp_path: Path, tokenizer: TextTokenizer) -> Auditor:
    return Auditor(tmp_path, tokenizer)


def named(report: AuditReport, name: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.name == name]
    return finding


def test_sound_data_only_meets_the_tiny_vocabulary(shows_csv: Path, tiny_llama: Path) -> None:
    recipe = Recipe(model={"name": str(tiny_llama)}, data={"path": str(shows_csv), "text": "description"})
    report = audit_recipe(recipe)
    report.check()
    assert [finding.number for finding in report.findings] == list(range(1, 19))
    assert [finding.name for finding in report.warnings] == ["tokenisation"]
    assert report.num_documents == report.num_sampled == 750
    assert sum(report.histogram.counts) == 678
    assert "English" in named(report, "language").found
    assert "750 rows" in named(report, "rows").found
    assert "description" in named(report, "rows").found


def test_few_rows_and_few_held_out_rows(audited: Auditor, lines: list[str]) -> None:
    report = audited(lines[:20])
    assert named(report, "rows").status == "warns"
    held_out = named(report, "held out")
    assert (held_out.status, held_out.limit) == ("warns", 20)
    assert "eval_fraction" in str(held_out.option)


def test_nothing_held_out(audited: Auditor, lines: list[str]) -> None:
    report = audited(lines, eval_fraction=0)
    assert named(report, "held out").status == "warns"
    assert "0" in named(report, "held out").option
    assert named(report, "leakage").status == "fine"


def test_the_encoding_is_said(tmp_path: Path, tokenizer: TextTokenizer, lines: list[str]) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(("text\n" + "\n".join(f'"{line} café"' for line in lines)).encode("latin-1", "replace"))
    asked = DataSection(path=str(path), text="text", encoding="latin-1")
    finding = named(audit(prepare(asked, tokenizer, 128), tokenizer, asked, 128), "encoding")
    assert finding.status == "fine"
    assert "8859-1" in finding.found


def test_empty_rows_are_named(audited: Auditor, lines: list[str]) -> None:
    finding = named(audited([*lines, ""]), "empty")
    assert finding.status == "warns"
    assert finding.value == 1
    assert finding.rows[0].endswith("rows.jsonl:121")


def test_equal_rows(audited: Auditor, lines: list[str]) -> None:
    finding = named(audited([*lines, *lines[:12]]), "duplicates")
    assert finding.status == "warns"
    assert finding.value == pytest.approx(12 / 132)
    assert len(finding.rows) == 5


def test_nearly_equal_rows(audited: Auditor, lines: list[str]) -> None:
    report = audited([*lines, *(line + " Again." for line in lines[:12])])
    finding = named(report, "near-duplicates")
    assert finding.status == "warns"
    assert "12 documents" in finding.found
    assert named(report, "duplicates").status == "fine"
    assert named(report, "leakage").status == "fine", "near-duplicates stay on one side by default"


def test_rows_that_the_split_compared_are_not_compared_again(
    audited: Auditor, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*lines, *(line + " Again." for line in lines[:12]), lines[0], f"{lines[1]} {lines[2]} {lines[3]}"]
    before = named(audited(rows, max_length=64), "near-duplicates")
    calls = []

    def count(texts: list[str]) -> Any:
        calls.append(len(texts))
        return near_duplicate_groups(texts)

    monkeypatch.setattr("tunesmith.audit.rows.near_duplicate_groups", count)
    after = named(audited(rows, max_length=64), "near-duplicates")
    assert calls == []
    assert after == before
    assert "12 documents" in after.found
    alone = named(audited(rows, max_length=64, near_duplicates=False, eval_fraction=0), "near-duplicates")
    assert len(calls) == 1
    assert alone.status == "warns"


def test_a_beginning_that_all_rows_share_makes_none_alike(audited: Auditor, lines: list[str]) -> None:
    system = "You are a patient critic — " + " ".join(lines[100:115])
    rows = [{"prompt": system + line[:40], "completion": line[40:80]} for line in lines[:100]]
    report = audited(rows, prompt="prompt", completion="completion", max_length=4096)
    assert named(report, "near-duplicates").value == 0
    assert named(report, "leakage").status == "fine"


def test_control_tokens_are_no_words_of_a_language(audited: Auditor, lines: list[str]) -> None:
    texts = [f"<|endoftext|>{line}" for line in lines]
    plain, marked = (named(audited(rows), "language") for rows in (lines, texts))
    assert marked.found == plain.found


def test_near_duplicates_across_a_given_split_leak(audited: Auditor, lines: list[str]) -> None:
    held_out = [{"text": line + " Again."} for line in lines[:5]] + [
        {"text": "x " + line[::-1]} for line in lines[5:25]
    ]
    path = audited.write("held_out.jsonl", held_out)
    finding = named(audited(lines, eval_path=str(path)), "leakage")
    assert finding.status == "warns"
    assert finding.value == 5
    assert all("held_out.jsonl" in row for row in finding.rows)
    assert "eval_path" in str(finding.option)


def test_held_out_rows_that_are_training_rows_block(audited: Auditor, lines: list[str]) -> None:
    path = audited.write("held_out.jsonl", [{"text": line} for line in lines[:30]])
    report = audited(lines, eval_path=str(path))
    assert named(report, "leakage").status == "blocks"
    with pytest.raises(DataError, match=r"leakage: 30 of 30 held-out documents"):
        report.check()


@pytest.mark.parametrize(
    ("rule", "status", "said"),
    [("split", "fine", "Nothing is lost"), ("truncate", "warns", "not trained"), ("drop", "warns", "rows are gone")],
)
def test_long_documents(audited: Auditor, lines: list[str], rule: str, status: str, said: str) -> None:
    report = audited([*lines, " ".join(lines[:10])], long=rule)
    finding = named(report, "cut")
    assert finding.status == status
    assert said in finding.found
    assert "1 of 121 documents" in finding.found
    assert ("data.long: split" in str(finding.option)) is (status == "warns")


def test_prompts_that_are_too_long_to_be_read(audited: Auditor, lines: list[str]) -> None:
    rows = [{"prompt": " ".join(lines[:number]), "completion": lines[number]} for number in (1, 2, 30)]
    finding = named(audited(rows, prompt="prompt", completion="completion"), "cut")
    assert finding.status == "warns"
    assert "of the prompts" in finding.found
    assert int(finding.value or 0) > 500


def test_text_that_is_always_cut_never_teaches_the_end(audited: Auditor, lines: list[str]) -> None:
    report = audited(lines, max_length=16, long="truncate")
    assert named(report, "end").status == "blocks"
    with pytest.raises(DataError, match="never learn to stop"):
        report.check()


def test_documents_that_are_cut_teach_no_end(audited: Auditor, lines: list[str]) -> None:
    finding = named(audited([*lines, " ".join(lines[:10])], long="truncate"), "end")
    assert finding.status == "warns"
    assert finding.value == finding.limit - 1


def test_inner_pieces_rightly_have_no_end(audited: Auditor, lines: list[str]) -> None:
    finding = named(audited([*lines, " ".join(lines[:10])]), "end")
    assert finding.status == "fine"
    assert "inner pieces" in finding.found


def test_a_share_of_tokens_is_learned_of_prompts_and_completions(audited: Auditor, lines: list[str]) -> None:
    rows = [{"prompt": line, "completion": " Yes."} for line in lines]
    finding = named(audited(rows, prompt="prompt", completion="completion"), "learned")
    assert finding.status == "fine"
    assert 0.02 < float(finding.value or 0) < 0.2


def test_hardly_any_token_is_learned(audited: Auditor, lines: list[str]) -> None:
    rows = [{"prompt": " ".join(lines[i : i + 4]), "completion": "Y"} for i in range(60)]
    finding = named(audited(rows, prompt="prompt", completion="completion", max_length=512), "learned")
    assert finding.status == "warns"
    assert finding.limit == 0.01


def test_padding_is_never_spent_and_its_price_is_told(audited: Auditor, lines: list[str]) -> None:
    finding = named(audited(lines), "padding")
    assert finding.status == "fine"
    assert "to 2048 96%" in finding.found


def test_a_script_that_the_vocabulary_does_not_know(audited: Auditor) -> None:
    rows = [f"少年は{number}番目の灯台へ行き、そこで古い地図を見つけました。" * 2 for number in range(80)]
    report = audited(rows, max_length=512)
    finding = named(report, "tokenisation")
    assert finding.status == "warns"
    assert "parts of characters" in finding.found
    assert "Japanese" in named(report, "language").found


def test_trouble_in_the_text_is_counted_named_and_never_repeated(audited: Auditor, lines: list[str]) -> None:
    rows = list(lines)
    rows[3] = f"My key is {KEY} and my mail anna.berg@example.com, call +49 30 1234567."
    rows[5] = "A caf\u00c3\u00a9 and an end <|endoftext|> and \0 and \x1b[31m red."
    rows[7] = "A lost character: \ufffd."
    report = audited(rows)
    for name, row in {"secrets": 4, "personal data": 4, "markers": 6, "mojibake": 6}.items():
        finding = named(report, name)
        assert finding.status == "warns", name
        assert finding.rows[0].endswith(f"rows.jsonl:{row}"), name
    everything = json.dumps(report.to_json()) + page(report) + _printed(report)
    for private in (KEY, "anna.berg", "1234567", "\x1b[31m", "\0"):
        assert private not in everything


def test_large_data_is_sampled_and_says_so(audited: Auditor, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.audit.stage.MAX_DOCUMENTS", 30)
    report = audited(lines)
    assert 30 <= report.num_sampled <= 33
    assert report.num_documents == 120
    assert f"in a sample of {report.num_sampled} documents" in named(report, "near-duplicates").found


def test_the_report_is_plain_json(audited: Auditor, lines: list[str]) -> None:
    report = audited(lines)
    value = json.loads(json.dumps(report.to_json()))
    assert value["blocks"] == 0
    assert value["findings"][0]["name"] == "rows"
    assert len(value["examples"]) == 3
    assert value["examples"][0]["runs"][0]["supervised"] is False


def test_the_terminal_view_has_every_finding(audited: Auditor, lines: list[str]) -> None:
    report = audited(lines)
    printed = _printed(report)
    for finding in report.findings:
        assert finding.name in printed
    assert summary(report) in printed
    assert "█" in printed


def _printed(report: AuditReport) -> str:
    import io

    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=200, color_system=None).print(render(report))
    return stream.getvalue()


def test_a_document_longer_than_the_model_reads_is_named(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(
        "description\n" + "\n".join(f"{number} " + "word " * (300 if number == 4 else 5) for number in range(20))
    )
    asked = DataSection(path=str(path), text="description")
    data = prepare(asked, tokenizer, 1024)
    finding = named(audit(data, tokenizer, asked, 1024, 64), "length")
    assert finding.status == "blocks"
    assert "long.csv:6 has " in finding.found
    assert "the model reads at most 64" in finding.found
    assert named(audit(data, tokenizer, asked, 1024, 4096), "length").status == "fine"
