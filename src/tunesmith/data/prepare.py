"""The stage: what the recipe calls data becomes three splits of token arrays and the account of how.

    files -> rows -> pieces -> splits -> tokens

The result is cached by the content of the files, the recipe's data section and the tokenizer; a second run reads
nothing but the files' hashes.
"""

from __future__ import annotations

import datetime
import errno
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.account import SPLITS, Conditions, account, fingerprint, say_split
from tunesmith.data.arrays import load_array
from tunesmith.data.cache import Entry, find_entry, key_of, open_entry, read_state, write_state
from tunesmith.data.rows.chat import ChatTemplate
from tunesmith.data.rows.reading import Part, ReadState, Say, find_parts, read_parts
from tunesmith.data.rows.spool import Spool
from tunesmith.data.split.assign import EVAL, TEST, TRAIN, assign_splits, uniform
from tunesmith.data.split.near_duplicates import near_duplicate_groups
from tunesmith.data.tokens.documents import Data, NearGroups, load_documents
from tunesmith.data.tokens.encode import Encoder
from tunesmith.data.tokens.long import LongCounts
from tunesmith.data.tokens.tokenize import Tokenization
from tunesmith.errors import DataError, RunError
from tunesmith.recipe import DataSection
from tunesmith.run.artefacts import DataAccount

if TYPE_CHECKING:
    from tunesmith.models.tokenizer import TextTokenizer

FORMAT = 4
ACCOUNT = "account.json"
NEAR = "near.npy"
SMALL_ROWS = {TRAIN: 100, EVAL: 20, TEST: 20}


def prepare(
    section: DataSection,
    tokenizer: TextTokenizer,
    max_length: int,
    *,
    small: bool = False,
    progress: Say | None = None,
    date: datetime.date | None = None,
) -> Data:
    """Read, split and tokenise the recipe's data, or find it in the cache.

    max_length: tokens of the longest document, start and end included. small: about 100 training and 20 held-out rows.
    progress: called with (stage, done, total or None) while rows are read, compared and tokenised. date: what a chat
    template that writes today's date writes; a run that goes on gives the day on which it began.

    Rows that are chat give the tokenizer a chat template where it has none, so that it is saved with the model.
    Raises DataError when the data cannot be read, or nothing in it can be trained on.
    """
    parts = find_parts(section)
    chat = ChatTemplate.of(tokenizer, date)
    key = key_of(
        {
            "format": FORMAT,
            "section": section.model_dump(mode="json"),
            "inputs": [(part.input.name, part.input.key, part.given) for part in parts],
            "tokenizer": tokenizer.fingerprint,
            "num_rows": tokenizer.num_rows,
            "chat": (chat.source, chat.tools_source, chat.date.isoformat() if chat.writes_date else None),
            "max_length": max_length,
            "small": small,
        }
    )
    job = _Job(section, parts, tokenizer, chat, max_length, small, progress or _say_nothing)
    data = _prepared(key) or _built(key, job) or _prepared(key) or _built(key, job)
    if data is None:
        raise DataError(
            f"{find_entry(key).final}: the prepared data is damaged as soon as it is written. Check the disk."
        )
    if data.account.kind == "chat":
        chat.keep()
    return _with_notes_of_paths(data, parts)


def _prepared(key: str) -> Data | None:
    """What lies in the cache, where it is whole. Nobody waits for it: all processes of a run check it at once."""
    entry = find_entry(key)
    return _load_whole(entry.folder) if entry.is_complete else None


def _built(key: str, job: _Job) -> Data | None:
    """What this process makes; None where another one made it meanwhile."""
    before = find_entry(key).stamp
    with open_entry(key) as entry:
        if entry.is_complete and entry.stamp != before:
            return None
        entry.reopen()
        job.build(entry)
        return _load(entry.folder)


def _with_notes_of_paths(data: Data, parts: Sequence[Part]) -> Data:
    """What lies beside the files is said as it is now, and makes no other data."""
    notes = dict.fromkeys([*(note for part in parts for note in part.input.notes), *data.account.notes])
    return replace(data, account=data.account.model_copy(update={"notes": tuple(notes)}))


def _say_nothing(*_: object) -> None:
    return None


def _load_whole(folder: Path) -> Data | None:
    """The prepared data, or None when its ids, boundaries or mask are not as they were written."""
    try:
        data = _load(folder)
        splits = zip(SPLITS, (data.train, data.eval, data.test), strict=True)
        whole = all(fingerprint(documents) == data.account.splits[name].fingerprint for name, documents in splits)
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, DataError, RunError):
        return None
    return data if whole else None


def _load(folder: Path) -> Data:
    known = read_state(folder / ACCOUNT, DataAccount)
    if known is None:
        raise DataError(f"{folder}: the cached data is damaged. Delete this folder; it is made again.")
    text = load_array(folder / "text.npy")
    train, held_out, test = (load_documents(folder / name, text) for name in SPLITS)
    near = NearGroups(*np.load(folder / NEAR)) if (folder / NEAR).exists() else None
    return Data(train, held_out, test, known, known.fingerprint, near)


@dataclass
class _Job:
    """Builds one cache entry, and takes up what a killed process left: the rows when all were read, and whole
    batches."""

    section: DataSection
    parts: Sequence[Part]
    tokenizer: TextTokenizer
    chat: ChatTemplate
    max_length: int
    small: bool
    progress: Say

    def build(self, entry: Entry) -> None:
        """Raises DataError when the data is not fit, or the cache has no room."""
        try:
            if not (entry.partial / ACCOUNT).exists():
                self._build(entry.partial)
            shutil.rmtree(entry.partial / "rows", ignore_errors=True)
        except DataError:
            entry.discard()
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            entry.discard()
            raise DataError(
                f"{entry.partial.parent}: no room is left on this disk for the prepared data. Free about four times "
                "the size of the data, or set XDG_CACHE_HOME to a larger disk."
            ) from None
        entry.complete()

    def _build(self, folder: Path) -> None:
        read = read_state(folder / "read.json", ReadState)
        if read is None:
            read = read_parts(self.section, self.parts, self.chat, folder, small=self.small, progress=self.progress)
            write_state(folder / "read.json", read)
        spool = Spool(folder)
        sides = self._sides(spool)
        repeats = self._repeats(spool, sides, read)
        counts = self._tokenize(folder, spool, sides, repeats, read)
        conditions = Conditions(
            split_by=say_split(self.section, self.parts),
            chat_template=self.chat.name if read.kind == "chat" else None,
            tokenizer=self.tokenizer.fingerprint,
            max_length=self.max_length,
            small=self.small,
        )
        write_state(folder / ACCOUNT, account(folder, spool, sides, repeats, counts, read, conditions))

    def _sides(self, spool: Spool) -> NDArray[np.int8]:
        """The split of each row: as given by a column or a file of its own, else by content."""
        section = self.section
        sides = np.array(spool.given)
        free = np.flatnonzero(sides <= TRAIN if section.split_column is not None else sides < 0)
        fractions = (
            0.0 if (sides == EVAL).any() else section.eval_fraction,
            0.0 if (sides == TEST).any() else section.test_fraction,
        )
        if not any(fractions) or not len(free):
            sides[free] = TRAIN
            return sides
        hashes = spool.hashes[free]
        groupings, keys = [], hashes
        if section.group is not None or (spool.groups[free] > 0).any():
            keys = np.where(spool.groups[free] > 0, spool.groups[free], hashes)
            groupings.append(keys)
        if section.near_duplicates:
            self.progress("comparing rows", 0, len(free))
            near = near_duplicate_groups(spool.comparable(free))
            groupings.append(near.astype(np.uint64))
            if len(free) == len(sides):
                np.save(spool.folder / NEAR, np.stack([spool.spans(free)[:, 0], near]))
        sides[free] = assign_splits(
            hashes,
            groupings,
            keys=keys,
            strata=spool.strata[free] if section.stratify is not None else None,
            fractions=fractions,
            seed=section.seed,
            where=self.parts[0].input.name,
        )
        return sides

    def _repeats(self, spool: Spool, sides: NDArray[np.int8], read: ReadState) -> NDArray[np.int32]:
        """How often each row is seen in an epoch: as its source's weight says in training, once elsewhere."""
        weights = np.array([file.weight for file in read.files])[spool.file_of]
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
        read: ReadState,
    ) -> list[LongCounts]:
        files = read.files

        def row_name(row: int) -> str:
            file = files[spool.file_of[row]]
            return f"{file.path}:{int(spool.rows[row]) + file.first_row}"

        encoder = Encoder.of(self.tokenizer, chat=read.kind == "chat")
        work = Tokenization(spool, self.tokenizer, encoder, self.max_length, self.section.long, row_name)
        done, total = 0, int((repeats > 0).sum())

        def count(num_rows: int) -> None:
            nonlocal done
            done += num_rows
            self.progress("tokenising rows", done, total)

        counts = []
        for side, name in enumerate(SPLITS):
            order = np.flatnonzero((sides == side) & (repeats > 0))
            counts.append(work.write_split(folder / name, order, repeats[order], count))
        return counts
