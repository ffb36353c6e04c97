"""The tables of a report as plain rows of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from tunesmith.report.artefacts import Artefacts
from tunesmith.report.charts import Dot, strip
from tunesmith.report.numbers import MISSING, by_unit, fixed, number, percent, signed
from tunesmith.units import format_bytes, format_seconds

Level = Literal["good", "note", "bad"]
SIDES = ("base", "tuned", "real")


@dataclass(frozen=True)
class Tile:
    """A key number; `before` is the base's."""

    label: str
    value: str
    before: str = ""
    note: str = ""


@dataclass(frozen=True)
class ScoreRow:
    title: str
    meaning: str
    values: dict[str, str]
    ranges: dict[str, str]
    reading: str
    level: Level
    picture: Markup


@dataclass(frozen=True)
class Row:
    """A name, a value and a remark."""

    name: str
    value: str
    remark: str = ""


def tiles(artefacts: Artefacts) -> list[Tile]:
    """The numbers that people look for first."""
    result, scores = artefacts.result, artefacts.compare.get("scores") or {}
    found = [
        _result_tile(result, scores, "Held-out loss", "eval_loss", "heldout_loss", "nats per token"),
        _result_tile(result, scores, "Perplexity", "eval_perplexity", "heldout_perplexity", "tokens"),
        _result_tile(result, scores, "Bits per byte", "eval_bits_per_byte", "heldout_bits_per_byte", "bits"),
        _result_tile(result, scores, "Token accuracy", "eval_token_accuracy", "heldout_token_accuracy", "share"),
        _score_tile(scores, "Told from real", "style_auc", "AUC, 0.50 is best"),
        _score_tile(scores, "Texts that copy", "copied_texts", f"real texts: {_value(scores, 'copied_texts', 'real')}"),
    ]
    if number(result.get("train_seconds")) is not None:
        speed = f"{fixed(result.get('tokens_per_second'), 0)} tokens/s"
        found.append(Tile("Training time", format_seconds(result["train_seconds"]), note=speed))
    if number(result.get("peak_bytes")):
        found.append(Tile("Peak memory", format_bytes(result["peak_bytes"])))
    return [tile for tile in found if tile is not None]


def _result_tile(
    result: dict[str, Any], scores: dict[str, Any], label: str, key: str, score: str, unit: str
) -> Tile | None:
    value, before = by_unit(result.get(key), unit), by_unit(result.get(f"{key}_base"), unit)
    value = _value(scores, score, "tuned") if value == MISSING else value
    before = _value(scores, score, "base") if before == MISSING else before
    return Tile(label, value, before if before != MISSING else "") if value != MISSING else None


def _score_tile(scores: dict[str, Any], label: str, name: str, note: str) -> Tile | None:
    value = _value(scores, name, "tuned")
    return Tile(label, value, _value(scores, name, "base"), note) if value != MISSING else None


def _value(scores: dict[str, Any], name: str, side: str) -> str:
    score = scores.get(name) or {}
    return by_unit((score.get(side) or {}).get("value"), str(score.get("unit", "")))


def score_rows(comparison: dict[str, Any]) -> list[ScoreRow]:
    """Every score of compare.json with a picture and a reading in words."""
    return [_score_row(score) for score in (comparison.get("scores") or {}).values()]


def _score_row(score: dict[str, Any]) -> ScoreRow:
    unit = str(score.get("unit", ""))
    found = {side: score.get(side) or {} for side in SIDES}
    values = {side: by_unit(found[side].get("value"), unit) for side in SIDES}
    ranges = {side: _range(found[side], unit) for side in SIDES}
    dots = [Dot.of(found[side], side) for side in SIDES if number(found[side].get("value")) is not None]
    reading, level = read_score(score)
    told = ", ".join(f"{side} {values[side]}" for side in SIDES if values[side] != MISSING)
    return ScoreRow(
        str(score.get("title", "")),
        str(score.get("meaning", "")),
        values,
        ranges,
        reading,
        level,
        strip(dots, description=f"{score.get('title')}: {told}"),
    )


def _range(interval: dict[str, Any], unit: str) -> str:
    low, high = number(interval.get("low")), number(interval.get("high"))
    if low is None or high is None or low == high:
        return ""
    return f"{by_unit(low, unit)} to {by_unit(high, unit)}"


def read_score(score: dict[str, Any]) -> tuple[str, Level]:
    """What a score says, in two or three words. Nothing is called a change whose interval holds zero."""
    base, tuned, real = (number((score.get(side) or {}).get("value")) for side in SIDES)
    change = score.get("change") or {}
    low, high = number(change.get("low")), number(change.get("high"))
    if base is None or tuned is None:
        return "", "note"
    if low is None or high is None:
        low = high = tuned - base
    better = score.get("better")
    if better == "at most real" and real is not None:
        return _against_real(score, tuned, real)
    if low <= 0 <= high:
        return "no clear change", "note"
    if better == "real" and real is not None:
        nearer = abs(tuned - real) < abs(base - real)
        return ("nearer to real", "good") if nearer else ("further from real", "bad")
    if better == "lower":
        return ("better", "good") if high < 0 else ("worse", "bad")
    if better == "higher":
        return ("better", "good") if low > 0 else ("worse", "bad")
    return "changed", "note"


def _against_real(score: dict[str, Any], tuned: float, real: float) -> tuple[str, Level]:
    above = number((score.get("gap") or {}).get("low"))
    if tuned <= real:
        return "no more than real", "good"
    if above is not None and above > 0:
        return "more than real", "bad"
    return "not clearly more than real", "note"


def forecast_rows(plan: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """What was planned, what was measured, and by how much it was off."""
    predicted, measured = plan.get("predicted") or {}, plan.get("measured") or {}
    shown = {
        "peak_bytes": ("Peak memory", format_bytes),
        "train_seconds": ("Training time", format_seconds),
        "total_seconds": ("Whole run", format_seconds),
        "tokens_per_second": ("Tokens per second", lambda value: fixed(value, 0)),
    }
    rows = []
    for key, (name, show) in shown.items():
        planned, took = number(predicted.get(key)), number(measured.get(key))
        if planned is None and took is None:
            continue
        off = signed(percent(took / planned - 1)) if planned and took is not None else MISSING
        rows.append((name, _shown(planned, show), _shown(took, show), off))
    return rows


def _shown(value: float | None, show: Any) -> str:
    return str(show(value)) if value is not None else MISSING


def plan_rows(plan: dict[str, Any]) -> list[Row]:
    """Each decided value with its reason."""
    reasons = plan.get("reasons") or {}
    return [
        Row(name.replace("_", " "), _plain(plan[name]), str(reasons.get(name, "")))
        for name in plan
        if name not in ("reasons", "predicted", "measured")
    ]


def data_rows(data: dict[str, Any]) -> list[Row]:
    """The ledger: what was read, and what became of it."""
    dropped = data.get("dropped") or {}
    examples = data.get("examples") or {}
    rows = [
        ("Rows are", data.get("how") or data.get("kind"), ""),
        ("Rows read", data.get("rows_read"), ""),
        ("Empty, left out", data.get("empty"), ", ".join(map(str, examples.get("empty") or []))),
        ("Unreadable, left out", data.get("bad_rows"), ", ".join(map(str, examples.get("bad_rows") or []))),
        ("Exact duplicates", data.get("duplicates"), "kept on one side of the split"),
        ("Duplicates on both sides of the split", data.get("straddling_duplicates"), ""),
        ("Too long, dropped", dropped.get("too_long"), ""),
        ("Left out by --small or a weight", dropped.get("not_in_small_run_or_weight"), ""),
        (
            "Truncated",
            data.get("truncated"),
            f"{fixed(data.get('truncated_tokens'), 0)} tokens lost" if data.get("truncated") else "",
        ),
        ("Longest document allowed", data.get("max_length"), "tokens"),
        ("Split by", data.get("split_by"), ""),
        ("Encoding", data.get("encoding"), ""),
    ]
    return [Row(name, _plain(value), remark) for name, value, remark in rows if value not in (None, "")]


def split_rows(data: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Documents, tokens, supervised tokens and fingerprint of each split."""
    names = {"train": "training", "eval": "held-out", "test": "test"}
    return [
        (
            names.get(name, name),
            _plain(split.get("documents")),
            _plain(split.get("tokens")),
            _plain(split.get("targets")),
            str(split.get("fingerprint", "")),
        )
        for name, split in (data.get("splits") or {}).items()
        if split.get("documents")
    ]


def group_rows(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Loss by slice or kind: name, documents, base, tuned, change and its interval."""
    return [
        (
            str(row["name"]) or "(empty)",
            _plain(row["num_documents"]),
            fixed(row["base"]["value"], 3),
            fixed(row["tuned"]["value"], 3),
            signed(fixed(row["change"]["value"], 3)),
            _range(row["change"], "nats per token"),
        )
        for row in rows
    ]


def fact_rows(artefacts: Artefacts) -> list[Row]:
    """Where the run comes from: fingerprints and environment."""
    return [Row(name, value) for name, value in _facts(artefacts) if value not in ("", "None", MISSING)]


def _facts(artefacts: Artefacts) -> Iterator[tuple[str, str]]:
    base, tuned = artefacts.compare.get("base") or {}, artefacts.compare.get("tuned") or {}
    if artefacts.recipe is not None:
        yield "Base model", artefacts.recipe.model.name
    yield "Revision of the base", str(base.get("revision"))
    yield "Licence of the base", str(base.get("licence"))
    if tuned:
        yield "Tuned model", "an adapter on the base" if tuned.get("adapter") else "full weights"
    yield "Data fingerprint", str(artefacts.data.get("fingerprint"))
    yield "Tokenizer fingerprint", str(artefacts.data.get("tokenizer"))
    for name, value in (artefacts.compare.get("environment") or {}).items():
        yield str(name), str(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return fixed(value, 0)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return MISSING if value is None else str(value)
