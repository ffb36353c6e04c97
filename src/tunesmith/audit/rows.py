"""Checks of rows: how many, how they were read, what language, which repeat, which are on both sides of the split."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.audit.findings import Status, counted
from tunesmith.audit.language import guess_language
from tunesmith.audit.text import MAX_NAMED_ROWS, RowCount, TextScan
from tunesmith.data.split.beginnings import without_shared_beginnings
from tunesmith.data.split.near_duplicates import near_duplicate_groups
from tunesmith.data.tokens.documents import Data
from tunesmith.recipe import DataSection
from tunesmith.run.artefacts import ChatAccount, Finding

FEW_DOCUMENTS = 50
FEW_HELD_OUT = 20
MANY_DUPLICATES = 0.01
MANY_NEAR_DUPLICATES = 0.05
MOST_LEAKED = 0.5


@dataclass(frozen=True)
class Text:
    """A document whose text the audit read."""

    row: str
    text: str
    is_train: bool
    begin: int | None = None
    """Byte of the kept text where it begins."""


def check_rows(data: Data) -> Finding:
    """How many rows were read, from how many files, and how they were understood."""
    account = data.account
    num_files = len(account.files)
    files = f" in {num_files:,} files" if num_files > 1 else ""
    found = f"{counted(account.rows_read, 'row')}{files}, {account.how}; "
    found += f"{counted(len(data.train), 'document')} to train on"
    columns = f" Columns: {', '.join(account.columns[:20])}." if account.columns else ""
    if len(data.train) < FEW_DOCUMENTS and not account.small:
        found += f": few; expect the model to repeat them.{columns}"
        return Finding(name="rows", status="warns", found=found, value=len(data.train), limit=FEW_DOCUMENTS)
    return Finding(name="rows", status="fine", found=f"{found}.{columns}", value=len(data.train), limit=FEW_DOCUMENTS)


def check_held_out(data: Data) -> Finding:
    """Whether enough documents are held out for a loss that means something."""
    num = len(data.eval)
    if num == 0:
        found = "no row is held out: there is no held-out loss and no comparison with the base model's."
        return Finding(
            name="held out",
            status="warns",
            found=found,
            value=0,
            limit=FEW_HELD_OUT,
            option="data.eval_fraction: 0.1, or data.eval_path",
        )
    test = f", {len(data.test):,} for test" if len(data.test) else ""
    found = f"{counted(num, 'document')}{test} (by {data.account.split_by})"
    if num < FEW_HELD_OUT and not data.account.small:
        found += f": few; their loss says little below {FEW_HELD_OUT}."
        by_share = data.account.split_by.startswith(("content hash", "group"))
        return Finding(
            name="held out",
            status="warns",
            found=found,
            value=num,
            limit=FEW_HELD_OUT,
            option="a larger data.eval_fraction" if by_share else None,
        )
    return Finding(name="held out", status="fine", found=found + ".", value=num, limit=FEW_HELD_OUT)


def check_encoding(data: Data) -> Finding:
    """How the files were read. A reader takes UTF or what the recipe names, and refuses other bytes itself."""
    account = data.account
    names = ", ".join(sorted({file.encoding for file in account.files if file.encoding is not None}))
    said = [f"{line.rstrip('.')}." for line in (names or "as the format says", *account.warnings, *account.notes)]
    return Finding(name="encoding", status="warns" if account.warnings else "fine", found=" ".join(said))


def check_language(texts: Sequence[Text], control_tokens: Sequence[str]) -> Finding:
    """What the words look like. control_tokens: words of a chat template such as <|im_end|>, not of the language."""
    sample = "\n".join(text.text[:2000] for text in texts[:: max(1, len(texts) // 500)])
    guess = guess_language(functools.reduce(lambda text, token: text.replace(token, " "), control_tokens, sample))
    named = f"{guess.language} (a guess)" if guess.language else "not recognised"
    return Finding(name="language", status="fine", found=f"{named}: {guess.evidence}.", value=round(guess.share, 3))


def check_empty(data: Data, section: DataSection) -> Finding:
    """Rows that hold no text, and rows that could not be read."""
    account = data.account
    lost = account.empty + account.bad_rows
    if not lost:
        return Finding(
            name="empty", status="fine", found="no row is empty or unreadable.", value=0, limit=section.max_bad_rows
        )
    found = f"{account.empty:,} empty and {counted(account.bad_rows, 'unreadable row')} left out."
    rows = (*account.examples.empty, *account.examples.bad_rows)[:MAX_NAMED_ROWS]
    return Finding(
        name="empty",
        status="warns",
        found=found,
        value=lost,
        limit=section.max_bad_rows,
        option="data.max_bad_rows: 0 to refuse them",
        rows=tuple(rows),
    )


def check_duplicates(data: Data, texts: Sequence[Text]) -> Finding:
    """Rows whose text stands in an earlier row too; `texts` are looked at for examples."""
    account = data.account
    num = account.duplicates
    share = num / max(1, account.rows_read - account.empty - account.bad_rows)
    if not num:
        return Finding(name="duplicates", status="fine", found="no two rows are equal.", value=0, limit=MANY_DUPLICATES)
    found = f"{counted(num, 'row')} ({share:.1%}) repeat another word for word, so that it is learned more than once."
    status: Status = "warns" if share > MANY_DUPLICATES else "fine"
    seen: set[str] = set()
    rows = [text.row for text in texts if text.text in seen or seen.add(text.text)]  # type: ignore[func-returns-value]
    return Finding(
        name="duplicates",
        status=status,
        found=found,
        value=share,
        limit=MANY_DUPLICATES,
        option=None,
        rows=tuple(rows[:MAX_NAMED_ROWS]),
    )


def check_near_duplicates(data: Data, section: DataSection, texts: Sequence[Text]) -> tuple[Finding, Finding]:
    """Near-duplicates among the sampled texts, and how much of what is held out is also trained on."""
    unique = list({text.text: text for text in reversed(texts)}.values())[::-1]
    unique, groups = _near_groups(data, unique)
    sizes = np.bincount(groups, minlength=1)
    extra = np.flatnonzero(groups != np.arange(len(groups)))
    share = len(extra) / max(1, len(unique))
    found = "no two different documents are nearly equal."
    if len(extra):
        found = f"{counted(len(extra), 'document')} ({share:.1%}) nearly equal to another; "
        found += f"{int(sizes.max()):,} in the largest group."
    status: Status = "warns" if share > MANY_NEAR_DUPLICATES else "fine"
    rows = tuple(unique[int(index)].row for index in extra[:MAX_NAMED_ROWS])
    near = Finding(
        name="near-duplicates",
        status=status,
        found=found,
        value=share,
        limit=MANY_NEAR_DUPLICATES,
        option=None,
        rows=rows,
    )
    trained = np.zeros(len(unique), dtype=bool)
    trained[groups[[text.is_train for text in unique]]] = True
    leaked = [text.row for text, group in zip(unique, groups, strict=True) if not text.is_train and trained[group]]
    return near, _leakage(data, section, leaked, sum(not text.is_train for text in unique))


def _near_groups(data: Data, texts: list[Text]) -> tuple[list[Text], NDArray[np.int64]]:
    """Texts, and for each the number of the first that it is nearly equal to: as the split found, where it compared."""
    begins = [text.begin for text in texts if text.begin is not None]
    if data.near is None or len(begins) < len(texts):
        return texts, near_duplicate_groups(without_shared_beginnings([text.text for text in texts]))
    rows, first = np.unique(data.near.rows_at(np.array(begins, dtype=np.int64)), return_index=True)
    order = np.argsort(first)  # of several pieces of a row the first; all are in its group
    _, places, inverse = np.unique(data.near.groups[rows[order]], return_index=True, return_inverse=True)
    return [texts[int(number)] for number in first[order]], places[inverse]


def _leakage(data: Data, section: DataSection, near: list[str], num_looked_at: int) -> Finding:
    equal = data.account.straddling_duplicates
    num_held_out = len(data.eval) + len(data.test)
    if not num_held_out:
        return Finding(name="leakage", status="fine", found="nothing is held out.", value=0, limit=0)
    if not equal and not near:
        return Finding(
            name="leakage",
            status="fine",
            found="no held-out document is also trained on, or nearly so.",
            value=0,
            limit=0,
        )
    found = f"{equal:,} of {num_held_out:,} held-out documents are also trained on"
    if near:
        found += f", {len(near):,} of {num_looked_at:,} nearly"
    found += ": the held-out loss looks better than it is."
    option = "data.eval_path to other rows" if section.eval_path else "data.near_duplicates: true"
    if section.split_column:
        option = f"other values in column {section.split_column!r}"
    status: Status = "blocks" if equal > MOST_LEAKED * num_held_out else "warns"
    return Finding(
        name="leakage",
        status=status,
        found=found,
        value=equal + len(near),
        limit=0,
        option=option,
        rows=tuple(near[:MAX_NAMED_ROWS]),
    )


_RENDERED_ADVICE = (
    "Their control tokens are learned as plain characters, and what the user says is learned too. Give the turns as a "
    "list: the model's own template writes the tokens, and what the assistant says is learned."
)
_AS_WRITTEN = "They are learned as plain characters, as written; remove them where they are leftovers."


def check_markers(scan: TextScan, chat: ChatAccount | None, of: str) -> Finding:
    """Control tokens in what people wrote, also in turns, and texts that a chat template rendered before."""
    if scan.rendered.num_rows:
        found = (
            f"{counted(scan.rendered.num_rows, 'document')}{of} looks like a chat that a template rendered before "
            if scan.rendered.num_rows == 1
            else f"{counted(scan.rendered.num_rows, 'document')}{of} look like chats that a template rendered before "
        )
        return Finding(
            name="markers",
            status="warns",
            found=f"{found}({counted(scan.rendered.num_hits, 'header')} of turns). {_RENDERED_ADVICE}",
            value=scan.rendered.num_rows,
            limit=0,
            option="data.messages to a column of turns, each with role and content",
            rows=tuple(scan.rendered.rows),
        )
    in_turns = chat.met.get("control_tokens") if chat is not None else None
    if in_turns is not None:
        found = (
            f"{counted(in_turns.num_rows, 'conversation')} with control tokens of the model in the turns themselves. "
            f"{_AS_WRITTEN}"
        )
        return Finding(
            name="markers", status="warns", found=found, value=in_turns.num_rows, limit=0, rows=in_turns.rows
        )
    return _met(
        "markers",
        "no control token, NUL or control character stands in the text.",
        [(scan.special, "control token"), (scan.nul, "NUL"), (scan.control, "other control character")],
        _AS_WRITTEN,
        of,
    )


def _met(name: str, clean: str, parts: Sequence[tuple[RowCount, str]], advice: str, of: str) -> Finding:
    """A finding that warns where any of the counts met something. of: how many documents were looked at, as words."""
    met = [(count, what) for count, what in parts if count.num_rows]
    if not met:
        return Finding(name=name, status="fine", found=clean, value=0, limit=0)
    found = ", ".join(
        f"{counted(count.num_hits, what)} in {counted(count.num_rows, 'document')}" for count, what in met
    )
    rows = tuple(dict.fromkeys(row for count, _ in met for row in count.rows))[:MAX_NAMED_ROWS]
    value = sum(count.num_rows for count, _ in met)
    return Finding(name=name, status="warns", found=f"{found}{of}. {advice}", value=value, limit=0, rows=rows)


def check_texts(scan: TextScan, of: str) -> list[Finding]:
    """What the scan met beside markers, one finding a kind. of: how many documents were looked at, as words."""
    return [
        _met(
            "mojibake",
            "no sign of a wrong encoding.",
            [(scan.misread, "wrongly decoded character"), (scan.replaced, "replacement character")],
            "The file was damaged before it came here; export it again as UTF-8.",
            of,
        ),
        _met(
            "secrets",
            "no key or token of a known shape.",
            [(scan.secret, "likely key")],
            "A model can repeat them word for word: remove them, and revoke them if they are real.",
            of,
        ),
        _met(
            "personal data",
            "no e-mail address or telephone number of a known shape.",
            [(scan.email, "likely e-mail"), (scan.phone, "likely telephone number")],
            "A model can repeat them word for word: remove or mask them unless that is meant.",
            of,
        ),
    ]
