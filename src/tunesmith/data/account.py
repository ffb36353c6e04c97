"""The account of prepared data, data.json: what was read, what became of every row and token, and fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.arrays import load_array, passes
from tunesmith.data.cache import write_state
from tunesmith.data.read.layout import say_splits
from tunesmith.data.rows.reading import Part, ReadState
from tunesmith.data.rows.spool import Spool
from tunesmith.data.split.assign import EVAL, TRAIN
from tunesmith.data.tokens.documents import SplitAbout, TokenizedDocuments, load_documents
from tunesmith.data.tokens.long import LongCounts
from tunesmith.errors import DataError
from tunesmith.recipe import DataSection
from tunesmith.run.artefacts import DataAccount, Dropped, Histogram, SplitAccount

SPLITS = ("train", "eval", "test")


@dataclass(frozen=True)
class Conditions:
    """What the data was prepared for and how it was split, as the account tells it."""

    split_by: str
    chat_template: str | None
    tokenizer: str
    max_length: int
    small: bool


def account(
    folder: Path,
    spool: Spool,
    sides: NDArray[np.int8],
    repeats: NDArray[np.int32],
    counts: list[LongCounts],
    read: ReadState,
    conditions: Conditions,
) -> DataAccount:
    """Describe the splits that lie tokenised in `folder`, and close them for reading.

    sides, repeats: [N] the split of each spooled row, and how often it is used in an epoch. counts: what became of long
    documents, by split. read: what reading found. Raises DataError when nothing would be trained.
    """
    text = load_array(folder / "text.npy")
    splits = {name: describe(_finish_split(folder / name, read, text)) for name in SPLITS}
    if splits["train"].targets == 0:
        raise DataError(f"{read.files[0].path}: 0 tokens would be trained ({read.how}). {_why_nothing(counts[0])}")
    total = sum(counts[1:], counts[0])
    fingerprints = "".join(split.fingerprint for split in splits.values())
    return DataAccount(
        **dict(read),
        **vars(conditions),
        duplicates=len(spool) - len(np.unique(spool.hashes)),
        straddling_duplicates=_straddling(spool.hashes, sides),
        dropped=Dropped(too_long=total.num_dropped, by_weight_or_small=int((repeats == 0).sum())),
        truncated=total.num_truncated,
        truncated_tokens=total.lost_targets,
        long=total.account(),
        splits=splits,
        fingerprint=hashlib.blake2b(fingerprints.encode(), digest_size=8).hexdigest(),
        length_histogram=_histogram(load_array(folder / "train" / "whole_lengths.npy")),
    )


def say_split(section: DataSection, parts: Sequence[Part]) -> str:
    """One line that says what decides a row's split."""
    if section.split_column is not None:
        return f"column {section.split_column!r}"
    if section.eval_path is not None:
        return f"held-out rows from {section.eval_path}"
    named = [part for part in parts if part.by_name]
    if named:
        said = say_splits([part.input.name for part in named], [max(part.given, TRAIN) for part in named])
        if any(part.given == EVAL for part in named):
            return f"the files' names: {said}"
        return f"the files' names: {said}; eval from the training rows"
    if section.eval_fraction == 0 and section.test_fraction == 0:
        return "nothing held out (data.eval_fraction: 0)"
    keys = ["content hash" if section.group is None else f"group {section.group!r}", f"seed {section.seed}"]
    if section.stratify is not None:
        keys.append(f"stratified by {section.stratify!r}")
    if section.near_duplicates:
        keys.append("near-duplicates on one side")
    return ", ".join(keys)


def describe(documents: TokenizedDocuments) -> SplitAccount:
    """A split in numbers."""
    return SplitAccount(
        documents=len(documents),
        tokens=len(documents.tokens),
        targets=documents.num_targets,
        fingerprint=fingerprint(documents),
    )


def _finish_split(folder: Path, read: ReadState, text: NDArray[np.uint8]) -> TokenizedDocuments:
    """Describe a split that is written, and load it."""
    offsets = load_array(folder / "offsets.npy")
    supervised = load_array(folder / "supervised.npy")
    num_targets = sum(int(np.count_nonzero(part)) for part in passes(supervised))
    plain = num_targets == len(supervised) - (len(offsets) - 1)
    about = SplitAbout(
        masked=not (plain and not supervised[offsets[:-1]].any()),
        files=tuple(file.path for file in read.files),
        first_rows=tuple(file.first_row for file in read.files),
        slices=read.slices,
    )
    write_state(folder / "about.json", about)
    return load_documents(folder, text)


def fingerprint(documents: TokenizedDocuments) -> str:
    """Of ids, boundaries and mask: equal fingerprints train alike."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (documents.tokens, documents.offsets, documents.supervised):
        if array is not None:
            for part in passes(array):
                digest.update(part.data)
    return digest.hexdigest()


def _straddling(hashes: NDArray[np.uint64], sides: NDArray[np.int8]) -> int:
    """Held-out rows that are also trained on; possible only where the split was given."""
    return int(np.isin(hashes[sides != TRAIN], hashes[sides == TRAIN]).sum())


def _histogram(lengths: NDArray[np.int32]) -> Histogram:
    """Training rows by length in tokens, before anything is cut; the last edge is past the longest."""
    top = int(lengths.max(initial=1))
    edges = np.unique(np.linspace(0, top + 1, num=25).astype(np.int64))
    return Histogram(edges=edges.tolist(), counts=np.histogram(lengths, edges)[0].tolist())


def _why_nothing(counts: LongCounts) -> str:
    if counts.num_dropped:
        return f"{counts.num_dropped} documents are longer than train.max_length. Raise it, or set data.long: split."
    return "Choose columns that hold text to learn."
