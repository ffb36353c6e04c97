"""One pass over every table: rows are rendered, counted and spooled.

A part is a table with its role: what is trained on, or rows that the recipe names as held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.read.inputs import Input, find_inputs
from tunesmith.data.read.table import BadRow, Table, list_columns
from tunesmith.data.rows.chat import ChatTemplate
from tunesmith.data.rows.ledger import Ledger
from tunesmith.data.rows.pieces import Rendered
from tunesmith.data.rows.spec import RowSpec, choose_rows
from tunesmith.data.rows.spool import SpoolWriter, hash_text
from tunesmith.data.rows.template import RowProblem
from tunesmith.data.split.assign import EVAL, NAMES, TEST, TRAIN
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection
from tunesmith.run.artefacts import ChatAccount, FileAccount, RowNames, RowsRead

SMALL_READ = 2000
MAX_CATEGORIES = 1000
_SAY_EVERY = 10_000

Say = Callable[[str, int, int | None], None]


class ReadState(RowsRead):
    """What reading found and later steps need: read.json of a cache entry. slices: names by code."""

    slices: tuple[str, ...] | None


@dataclass(frozen=True)
class Part:
    """One table and its role. source: index of the recipe's source; given: the split it belongs to as a whole, or
    -1; by_name: its file's name says so."""

    input: Input
    source: int
    weight: float
    given: int
    by_name: bool = False


def find_parts(section: DataSection) -> list[Part]:
    """Every table that the recipe names. Raises DataError when a path leads nowhere."""
    sources = [(section.path, 1.0)] if isinstance(section.path, str) else [(s.path, s.weight) for s in section.path]
    held_out = [
        (path, side) for path, side in ((section.eval_path, EVAL), (section.test_path, TEST)) if path is not None
    ]
    replaced = {side for _, side in held_out}
    own = TRAIN if section.eval_path is not None and section.test_fraction == 0 else -1
    parts = []
    for number, (path, weight) in enumerate(sources):
        for found in find_inputs(path, section):
            by_name = found.side >= 0
            if found.side in (EVAL, TEST):
                if found.side not in replaced:
                    budget = len(sources) + len(held_out) + 2 * number + found.side
                    parts.append(Part(found, budget, 1.0, found.side, by_name))
            else:
                parts.append(Part(found, number, weight, own, by_name))
    if not any(part.given in (-1, TRAIN) for part in parts):
        raise DataError(
            f"data.path: {sources[0][0]}: no file is left to train on. Expected one beside the held-out ones."
        )
    mixed = section.model_copy(update={"splits": "ignore"})
    return parts + [
        Part(found, len(sources) + number, 1.0, side)
        for number, (path, side) in enumerate(held_out)
        for found in find_inputs(path, mixed)
    ]


@dataclass
class _Codes:
    """Names as small numbers, in the order in which they are met."""

    key: str
    names: dict[str, int] = field(default_factory=dict)

    def code(self, value: Any) -> int:
        name = "" if value is None else str(value)
        code = self.names.setdefault(name, len(self.names))
        if code >= MAX_CATEGORIES:
            raise DataError(
                f"data.{self.key}: the column has more than {MAX_CATEGORIES} different values. Expected a category."
            )
        return code


def read_parts(
    section: DataSection, parts: Sequence[Part], chat: ChatTemplate, folder: Path, *, small: bool, progress: Say
) -> ReadState:
    """Spool the rows of all parts into `folder`; returns what the later steps and the account need.

    Raises DataError when a table cannot be read, or too many of its rows cannot.
    """
    limits = _row_limits(parts, section.max_rows, small)
    done: dict[int, int] = {}
    with SpoolWriter(folder) as writer:
        reading = _Reading(section, chat, writer, progress)
        for part in parts:
            used = done.get(part.source, 0)
            limit = limits[part.source]
            if limit is None or used < limit:
                done[part.source] = used + reading.read(part, None if limit is None else limit - used)
    return reading.close(parts)


@dataclass
class _Reading:
    """One pass over all tables into the spool."""

    section: DataSection
    chat: ChatTemplate
    writer: SpoolWriter
    progress: Say
    files: list[FileAccount] = field(default_factory=list)
    specs: list[RowSpec] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fallback_lines: int = 0
    columns: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.section.max_bad_rows)
        self.strata = _Codes("stratify")
        self.slices = _Codes("slice")

    def read(self, part: Part, limit: int | None) -> int:
        """Spool the rows of one table, at most `limit` usable ones; returns how many."""
        table = part.input.open()
        spec = choose_rows(self.section, table, self.chat)
        extra = self._extra_columns(table, part)
        before = self.ledger.usable
        rows_before = self.ledger.rows_read
        for row, values in table.read({*spec.columns, *extra.values()}):
            if limit is not None and self.ledger.usable - before >= limit:
                break
            self.ledger.rows_read += 1
            self._add(table, spec, extra, part, row, values)
            if self.ledger.rows_read % _SAY_EVERY == 0:
                self.progress("reading rows", self.ledger.rows_read, None)
        self._record(part, table, spec, self.ledger.rows_read - rows_before)
        return self.ledger.usable - before

    def _add(
        self,
        table: Table,
        spec: RowSpec,
        extra: dict[str, str],
        part: Part,
        row: int,
        values: Mapping[str, object] | BadRow,
    ) -> None:
        if isinstance(values, BadRow):
            self.ledger.bad(table, row, values.problem)
            return
        try:
            rendered = spec.render(values)
            if not rendered.documents:
                self.ledger.nothing(table, row)
                return
            group = self._group(values, extra, rendered, row)
            for pieces in rendered.documents:
                self.writer.add(
                    pieces,
                    file=len(self.files),
                    row=row,
                    group=group,
                    stratum=self.strata.code(values.get(extra["stratify"])) if "stratify" in extra else 0,
                    given=_given(values, extra, part),
                    slice_code=self.slices.code(values.get(extra["slice"])) if "slice" in extra else 0,
                )
            self.ledger.note(rendered.facts, table, row)
        except RowProblem as problem:
            self.ledger.bad(table, row, str(problem))
            return
        self.ledger.usable += 1

    def _group(self, values: Mapping[str, object], extra: dict[str, str], rendered: Rendered, row: int) -> int:
        """Documents of one group stay on one side: those of one value of the recipe's column, and those of one row."""
        group = values.get(extra["group"]) if "group" in extra else None
        if group not in (None, ""):
            return hash_text(str(group).encode("utf-8", "surrogatepass"))
        return hash_text(f"row {len(self.files)} {row}".encode()) if len(rendered.documents) > 1 else 0

    def _extra_columns(self, table: Table, part: Part) -> dict[str, str]:
        """The columns beside the text that this table is read for, by their recipe key."""
        wanted = {"slice": self.section.slice}
        if part.given < 0 or part.given == TRAIN:
            wanted |= {name: getattr(self.section, name) for name in ("group", "stratify", "split_column")}
        found = {key: column for key, column in wanted.items() if column is not None}
        for key, column in found.items():
            if column not in table.columns:
                raise DataError(
                    f"{table.name}: no column {column!r} (data.{key}). Columns: {list_columns(table.columns)}."
                )
        return found

    def _record(self, part: Part, table: Table, spec: RowSpec, num_rows: int) -> None:
        self.files.append(
            FileAccount(
                path=part.input.name,
                rows=num_rows,
                format=table.kind,
                encoding=table.about.encoding,
                delimiter=table.about.delimiter,
                content=part.input.key,
                first_row=table.first_row,
                weight=part.weight,
                how=spec.how,
            )
        )
        self.specs.append(spec)
        self.notes += table.about.notes
        self.warnings += table.about.warnings
        tally = part.input.tally
        if tally is not None and tally.fallback_lines:
            self.fallback_lines += tally.fallback_lines
            self.notes.append(
                f"{part.input.name}: {tally.fallback_lines:,} of its lines read as {self.section.fallback_encoding} "
                "(data.fallback_encoding)"
            )
        self.columns |= dict.fromkeys(table.columns)

    def close(self, parts: Sequence[Part]) -> ReadState:
        """Check the ledger; returns what the later steps and the account need."""
        where = parts[0].input.name + (f" and {len(parts) - 1} more files" if len(parts) > 1 else "")
        kinds = list(dict.fromkeys(spec.kind for spec in self.specs))
        hows = list(dict.fromkeys(spec.how for spec in self.specs))
        self.ledger.close(where, hows[0])
        if "chat" in kinds and len(kinds) > 1:
            raise DataError(
                f"{where}: some files hold chat turns and others do not ({'; '.join(hows)}). Expected one kind."
            )
        asked = self.section.eval_fraction + self.section.test_fraction
        if self.ledger.usable < 2 and asked > 0 and all(part.given < 0 for part in parts):
            raise DataError(
                f"{where}: holds one usable row. Expected at least two: one to train on and one held out. Set "
                "data.eval_fraction: 0 to train on it alone; of a text file, data.by: paragraph makes more rows."
            )
        return ReadState(
            files=tuple(self.files),
            rows_read=self.ledger.rows_read,
            columns=tuple(self.columns),
            encoding=_only(file.encoding for file in self.files),
            delimiter=_only(file.delimiter for file in self.files),
            kind=kinds[0] if len(kinds) == 1 else "mixed",
            how="; ".join((*hows, *self.ledger.say())),
            empty=self.ledger.empty,
            bad_rows=self.ledger.bad_rows,
            examples=RowNames(**{kind: tuple(rows) for kind, rows in self.ledger.examples.items()}),
            slices=tuple(self.slices.names) if self.section.slice is not None else None,
            notes=tuple(dict.fromkeys(self.notes)),
            chat=self._chat_account() if kinds == ["chat"] else None,
            warnings=tuple(dict.fromkeys(self.warnings)),
            fallback_lines=self.fallback_lines,
        )

    def _chat_account(self) -> ChatAccount:
        """What is to be known of conversations, and the day that the template writes."""
        date = self.chat.date.isoformat() if self.chat.writes_date else None
        return ChatAccount(date=date, met=dict(self.ledger.met))


def _given(values: Mapping[str, object], extra: dict[str, str], part: Part) -> int:
    if "split_column" not in extra:
        return part.given
    value = values.get(extra["split_column"])
    side = NAMES.get(str(value).strip().lower())
    if side is None:
        raise RowProblem(
            f"column {extra['split_column']!r} holds {value!r}. Expected train, eval (or validation, dev) or test."
        )
    return side


def _row_limits(parts: Sequence[Part], max_rows: int | None, small: bool) -> dict[int, int | None]:
    """Most usable rows of each source: max_rows is shared by weight among the sources that are trained on."""
    weights = {part.source: part.weight for part in parts if part.given in (-1, TRAIN)}
    total = sum(weights.values())
    limits: dict[int, int | None] = dict.fromkeys((part.source for part in parts), None)
    for source, weight in weights.items():
        if max_rows is not None:
            limits[source] = max(1, round(max_rows * weight / total))
    if small:
        return {source: min(limit or SMALL_READ, SMALL_READ) for source, limit in limits.items()}
    return limits


def _only(values: Iterable[str | None]) -> str | None:
    """The one value that all share that have any, or None."""
    distinct = set(values) - {None}
    return distinct.pop() if len(distinct) == 1 else None
