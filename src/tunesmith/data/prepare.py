"""The stage: what the recipe calls data becomes three splits of token arrays and the account of how.

    files -> rows -> pieces -> splits -> tokens

The result is cached by the content of the files, the recipe's data section and the tokenizer; a second run reads nothing
but the files' hashes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.cache import Entry, key_of, open_entry, read_state, write_state
from tunesmith.data.chat import ChatTemplate
from tunesmith.data.documents import Data, TokenizedDocuments, load_array, load_documents
from tunesmith.data.ledger import Ledger
from tunesmith.data.long import LongCounts
from tunesmith.data.near_duplicates import near_duplicate_groups
from tunesmith.data.read import Input, find_inputs
from tunesmith.data.rows import RowSpec, choose_rows
from tunesmith.data.split import EVAL, NAMES, TEST, TRAIN, assign_splits, uniform
from tunesmith.data.spool import Spool, SpoolWriter, hash_text
from tunesmith.data.table import BadRow, Table
from tunesmith.data.template import RowProblem, list_columns
from tunesmith.data.tokenize import Encoder, Tokenization
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection

if TYPE_CHECKING:
    from tunesmith.tokenizer import TextTokenizer

FORMAT = 1
SMALL_ROWS = {TRAIN: 100, EVAL: 20, TEST: 20}
SMALL_READ = 2000
SPLITS = ("train", "eval", "test")
MAX_CATEGORIES = 1000

Say = Callable[[str, int, int | None], None]


def prepare(
    section: DataSection, tokenizer: TextTokenizer, max_length: int, *, small: bool = False, progress: Say | None = None
) -> Data:
    """Read, split and tokenise the recipe's data, or find it in the cache.

    max_length: tokens of the longest document, start and end included. small: about 100 training and 20 held-out rows.
    progress: called with (stage, done, total or None) while rows are read and tokens written.

    Rows that are chat give the tokenizer a chat template where it has none, so that it is saved with the model.
    Raises DataError when the data cannot be read, or nothing in it can be trained on.
    """
    parts = _find_parts(section)
    chat = ChatTemplate.of(tokenizer)
    key = key_of(
        {
            "format": FORMAT,
            "section": section.model_dump(mode="json"),
            "inputs": [(part.input.name, part.input.key, part.given) for part in parts],
            "tokenizer": tokenizer.fingerprint,
            "chat": chat.source,
            "max_length": max_length,
            "small": small,
        }
    )
    with open_entry(key) as entry:
        if not entry.is_complete:
            job = _Job(section, parts, tokenizer, chat, max_length, small, progress or _say_nothing)
            job.build(entry)
        data = _load(entry.folder)
    if data.audit["kind"] == "chat":
        chat.keep()
    return data


def _say_nothing(stage: str, done: int, total: int | None) -> None:
    return None


def _load(folder: Path) -> Data:
    audit = read_state(folder / "audit.json")
    if audit is None:
        raise DataError(f"{folder}: the cached data is damaged. Delete this folder; it is made again.")
    text = load_array(folder / "text.npy")
    train, held_out, test = (load_documents(folder / name, text) for name in SPLITS)
    return Data(train, held_out, test, audit, audit["fingerprint"])


@dataclass(frozen=True)
class Part:
    """One table and its role. source: index of the recipe's source; given: the split it belongs to as a whole, or -1."""

    input: Input
    source: int
    weight: float
    given: int


def _find_parts(section: DataSection) -> list[Part]:
    sources = [(section.path, 1.0)] if isinstance(section.path, str) else [(s.path, s.weight) for s in section.path]
    held_out = [
        (path, side) for path, side in ((section.eval_path, EVAL), (section.test_path, TEST)) if path is not None
    ]
    own = TRAIN if section.eval_path is not None and section.test_fraction == 0 else -1
    parts = [
        Part(found, number, weight, own)
        for number, (path, weight) in enumerate(sources)
        for found in find_inputs(path, section)
    ]
    return parts + [
        Part(found, len(sources) + number, 1.0, side)
        for number, (path, side) in enumerate(held_out)
        for found in find_inputs(path, section)
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


@dataclass
class _Job:
    """Builds one cache entry."""

    section: DataSection
    parts: list[Part]
    tokenizer: TextTokenizer
    chat: ChatTemplate
    max_length: int
    small: bool
    progress: Say

    def build(self, entry: Entry) -> None:
        try:
            self._build(entry.partial)
        except DataError:
            entry.discard()
            raise
        entry.complete()

    def _build(self, folder: Path) -> None:
        read = read_state(folder / "read.json")
        if read is None:
            read = self._read(folder)
            write_state(folder / "read.json", read)
        spool = Spool(folder / "spool")
        sides = self._sides(spool, len(read["files"]))
        repeats = self._repeats(spool, sides, read)
        counts = self._tokenize(folder, spool, sides, repeats, read)
        (folder / "spool" / "text.npy").rename(folder / "text.npy")
        audit = self._account(folder, spool, sides, repeats, counts, read)
        shutil.rmtree(folder / "spool")
        write_state(folder / "audit.json", audit)

    def _read(self, folder: Path) -> dict[str, Any]:
        reading = _Reading(self.section, self.chat, SpoolWriter(folder / "spool"), self.progress)
        limits = _row_limits(self.parts, self.section.max_rows, self.small)
        done: dict[int, int] = {}
        for part in self.parts:
            used = done.get(part.source, 0)
            limit = limits[part.source]
            if limit is None or used < limit:
                done[part.source] = used + reading.read(part, None if limit is None else limit - used)
        reading.writer.close()
        return reading.close(self.parts)

    def _sides(self, spool: Spool, num_files: int) -> NDArray[np.int8]:
        section = self.section
        sides = np.array(spool.given)
        free = np.flatnonzero(sides < 0)
        fractions = (0.0 if (sides == EVAL).any() else section.eval_fraction, section.test_fraction)
        if (sides == TEST).any():
            fractions = (fractions[0], 0.0)
        if section.split_column is not None and fractions[0] > 0:
            free = np.flatnonzero(sides <= TRAIN)
        if not len(free):
            return sides
        if not any(fractions):
            sides[free] = TRAIN
            return sides
        hashes = spool.hashes[free]
        groupings, keys = [], hashes
        if section.group is not None:
            groups = spool.groups[free]
            keys = np.where(groups > 0, groups, hashes)
            groupings.append(keys.astype(np.uint64))
        if section.near_duplicates:
            self.progress("comparing rows", 0, len(free))
            groupings.append(
                near_duplicate_groups([spool[i] for i in free.tolist()] if len(free) < len(spool) else spool)
            )
        sides[free] = assign_splits(
            hashes,
            groupings,
            keys=keys,
            strata=spool.strata[free] if section.stratify is not None else None,
            fractions=fractions,
            seed=section.seed,
        )
        return sides

    def _repeats(self, spool: Spool, sides: NDArray[np.int8], read: dict[str, Any]) -> NDArray[np.int32]:
        """How often each row is seen in an epoch: its source's weight in training, once elsewhere, never when left out."""
        weights = np.array([file["weight"] for file in read["files"]])[spool.file_of]
        extra = uniform(spool.hashes, self.section.seed + 1) < weights % 1
        repeats = np.where(sides == TRAIN, weights.astype(np.int32) + extra, 1).astype(np.int32)
        if self.small:
            for side, limit in SMALL_ROWS.items():
                repeats[np.flatnonzero((sides == side) & (repeats > 0))[limit:]] = 0
        if not (repeats[sides == TRAIN] > 0).any():
            raise DataError(
                "data: no training row is left after splitting and weighting. Add rows or raise the weights."
            )
        return repeats

    def _tokenize(
        self,
        folder: Path,
        spool: Spool,
        sides: NDArray[np.int8],
        repeats: NDArray[np.int32],
        read: dict[str, Any],
    ) -> list[LongCounts]:
        files = read["files"]

        def row_name(row: int) -> str:
            file = files[spool.file_of[row]]
            return f"{file['path']}:{int(spool.rows[row]) + file['first_row']}"

        encoder = Encoder(self.tokenizer, chat=read["kind"] == "chat")
        work = Tokenization(spool, encoder, self.max_length, self.section.long, row_name)
        done = 0

        def count(num_tokens: int) -> None:
            nonlocal done
            done += num_tokens
            self.progress("tokenising", done, None)

        counts = []
        for side, name in enumerate(SPLITS):
            order = np.flatnonzero((sides == side) & (repeats > 0))
            counts.append(work.write_split(folder / name, order, repeats[order], count))
        return counts

    def _account(
        self,
        folder: Path,
        spool: Spool,
        sides: NDArray[np.int8],
        repeats: NDArray[np.int32],
        counts: list[LongCounts],
        read: dict[str, Any],
    ) -> dict[str, Any]:
        splits = {}
        for name in SPLITS:
            documents = _finish_split(folder / name, read, load_array(folder / "text.npy"))
            splits[name] = {
                "documents": len(documents),
                "tokens": len(documents.tokens),
                "targets": documents.num_targets,
                "fingerprint": _fingerprint(documents),
            }
        if splits["train"]["targets"] == 0:
            raise DataError(
                f"{read['files'][0]['path']}: 0 tokens would be trained ({read['how']}). {_why_nothing(counts[0])}"
            )
        total = counts[0] + counts[1] + counts[2]
        used = repeats > 0
        fingerprint = hashlib.blake2b("".join(s["fingerprint"] for s in splits.values()).encode(), digest_size=8)
        return {
            **{key: read[key] for key in ("files", "rows_read", "columns", "encoding", "delimiter", "kind", "how")},
            "chat_template": self.chat.name if read["kind"] == "chat" else None,
            "empty": read["empty"],
            "bad_rows": read["bad_rows"],
            "examples": read["examples"],
            "duplicates": len(spool) - len(np.unique(spool.hashes)),
            "straddling_duplicates": _straddling(spool.hashes, sides),
            "dropped": {
                "too_long": total.num_dropped,
                "not_in_small_run_or_weight": int((~used).sum()),
            },
            "truncated": total.num_truncated,
            "truncated_tokens": total.lost_targets,
            "long": total.to_json(),
            "splits": splits,
            "split_by": self._split_by(),
            "fingerprint": fingerprint.hexdigest(),
            "tokenizer": self.tokenizer.fingerprint,
            "max_length": self.max_length,
            "small": self.small,
            "length_histogram": _histogram(load_array(folder / "train" / "whole_lengths.npy")),
            "notes": read["notes"],
        }

    def _split_by(self) -> str:
        section = self.section
        if section.eval_path is not None:
            return f"held-out rows from {section.eval_path}"
        if section.split_column is not None:
            return f"column {section.split_column!r}"
        parts = ["content hash" if section.group is None else f"group {section.group!r}", f"seed {section.seed}"]
        if section.stratify is not None:
            parts.append(f"stratified by {section.stratify!r}")
        if section.near_duplicates:
            parts.append("near-duplicates on one side")
        return ", ".join(parts)


@dataclass
class _Reading:
    """One pass over all tables into the spool."""

    section: DataSection
    chat: ChatTemplate
    writer: SpoolWriter
    progress: Say
    files: list[dict[str, Any]] = field(default_factory=list)
    specs: list[RowSpec] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
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
            if self.ledger.rows_read % 10_000 == 0:
                self.progress("reading rows", self.ledger.rows_read, None)
        self._record(part, table, spec, self.ledger.rows_read - rows_before)
        return self.ledger.usable - before

    def _add(
        self, table: Table, spec: RowSpec, extra: dict[str, str], part: Part, row: int, values: dict[str, Any] | BadRow
    ) -> None:
        if isinstance(values, BadRow):
            self.ledger.bad(table, row, values.problem)
            return
        try:
            pieces = spec.render(values)
            if not any(flag for _, flag in pieces):
                self.ledger.nothing(table, row)
                return
            group = values.get(extra["group"]) if "group" in extra else None
            self.writer.add(
                pieces,
                file=len(self.files),
                row=row,
                group=0 if group in (None, "") else hash_text(str(group).encode("utf-8", "surrogatepass")),
                stratum=self.strata.code(values.get(extra["stratify"])) if "stratify" in extra else 0,
                given=_given(values, extra, part),
                slice_code=self.slices.code(values.get(extra["slice"])) if "slice" in extra else 0,
            )
        except RowProblem as problem:
            self.ledger.bad(table, row, str(problem))
            return
        self.ledger.usable += 1

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
            {
                "path": part.input.name,
                "rows": num_rows,
                "format": table.kind,
                "encoding": table.about.get("encoding"),
                "delimiter": table.about.get("delimiter"),
                "content": part.input.key,
                "first_row": table.first_row,
                "weight": part.weight,
                "how": spec.how,
            }
        )
        self.specs.append(spec)
        self.notes += table.about.get("notes", [])
        self.columns |= dict.fromkeys(table.columns)

    def close(self, parts: Sequence[Part]) -> dict[str, Any]:
        """Check the ledger; returns what the later steps and the account need."""
        where = parts[0].input.name + (f" and {len(parts) - 1} more files" if len(parts) > 1 else "")
        kinds = list(dict.fromkeys(spec.kind for spec in self.specs))
        hows = list(dict.fromkeys(spec.how for spec in self.specs))
        self.ledger.close(where, hows[0])
        if "chat" in kinds and len(kinds) > 1:
            raise DataError(
                f"{where}: some files hold chat turns and others do not ({'; '.join(hows)}). Expected one kind."
            )
        if self.ledger.usable < 2:
            raise DataError(f"{where}: holds one usable row. Expected at least two: one to train on and one held out.")
        return {
            "files": self.files,
            "rows_read": self.ledger.rows_read,
            "columns": list(self.columns),
            "encoding": _only(file["encoding"] for file in self.files),
            "delimiter": _only(file["delimiter"] for file in self.files),
            "kind": kinds[0] if len(kinds) == 1 else "mixed",
            "how": "; ".join(hows),
            "empty": self.ledger.empty,
            "bad_rows": self.ledger.bad_rows,
            "examples": self.ledger.examples,
            "slices": list(self.slices.names) if self.section.slice is not None else None,
            "notes": list(dict.fromkeys(self.notes)),
        }


def _given(values: dict[str, Any], extra: dict[str, str], part: Part) -> int:
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


def _finish_split(folder: Path, read: dict[str, Any], text: NDArray[np.uint8]) -> TokenizedDocuments:
    """Describe a split that is written, and load it."""
    offsets = load_array(folder / "offsets.npy")
    supervised = load_array(folder / "supervised.npy")
    plain = int(np.count_nonzero(supervised)) == len(supervised) - (len(offsets) - 1)
    about = {
        "masked": not (plain and not supervised[offsets[:-1]].any()),
        "files": [file["path"] for file in read["files"]],
        "first_rows": [file["first_row"] for file in read["files"]],
        "slices": read["slices"],
    }
    write_state(folder / "about.json", about)
    return load_documents(folder, text)


def _fingerprint(documents: TokenizedDocuments) -> str:
    """Of ids, boundaries and mask: equal fingerprints train alike."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (documents.tokens, documents.offsets, documents.supervised):
        if array is not None:
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _straddling(hashes: NDArray[np.uint64], sides: NDArray[np.int8]) -> int:
    """Held-out rows that are also trained on; possible only where the split was given."""
    return int(np.isin(hashes[sides != TRAIN], hashes[sides == TRAIN]).sum())


def _histogram(lengths: NDArray[np.int32]) -> dict[str, list[int]]:
    """Training rows by length in tokens, before anything is cut; the last edge is past the longest."""
    top = int(lengths.max(initial=1))
    edges = np.unique(np.linspace(0, top + 1, num=25).astype(np.int64))
    return {"edges": edges.tolist(), "counts": np.histogram(lengths, edges)[0].tolist()}


def _why_nothing(counts: LongCounts) -> str:
    if counts.num_dropped:
        return f"{counts.num_dropped} documents are longer than train.max_length and left out. Raise it, or set data.long: split."
    return "Choose columns that hold text to learn."


def _only(values: Any) -> Any:
    """The one value that all share, or None."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None
