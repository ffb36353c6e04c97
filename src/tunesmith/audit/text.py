"""What stands in the text that should not: broken encodings, control characters, foreign markers, secrets, addresses.

Every check counts rows and keeps the names of the first few. What was found is never kept or printed: a secret that the
audit repeats has leaked once more. The patterns are heuristics; a count above zero means "look at these rows".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tunesmith.redact import count_secrets

MAX_NAMED_ROWS = 5

_EMAIL = re.compile(r"(?<![\w.+@-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}(?![\w@])")
_PHONE = re.compile(  # +49 30 1234567, (030) 1234567, 0171 2345678, 555-123-4567
    r"(?<![\w.,:/-])(?:(?:\+|\(0?\d|00?[1-9])[\d ()/.-]{6,20}\d|(?:1[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4})(?![\w-]*\w)"
)
_DATE = re.compile(r"0\d[ ./-]\d\d[ ./-](?:19|20)\d\d")
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_RENDERED = re.compile(  # the header of a turn, as chat templates write it
    r"<\|im_start\|>\s?\w+\n|<\|start_header_id\|>\w+<\|end_header_id\|>|<start_of_turn>\w+\n|<\|turn>\w+\n|"
    r"\[/INST\]|<\|(?:user|assistant|system|User|Assistant)\|>|<\uff5c(?:User|Assistant)\uff5c>|"
    r"<\|start\|>\w+(?:<\|channel\|>\w+)?<\|message\|>|<\|(?:START_OF_TURN|USER|CHATBOT)_TOKEN\|>"
)
_MISREAD = re.compile("[\u00c2-\u00f4](?:[\u0080-\u00bf]|[\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]){1,3}")


@dataclass
class RowCount:
    """How many rows a check met, how often, and the names of the first few."""

    num_rows: int = 0
    num_hits: int = 0
    rows: list[str] = field(default_factory=list)

    def add(self, row: str, hits: int) -> None:
        if hits:
            self.num_rows += 1
            self.num_hits += hits
            if len(self.rows) < MAX_NAMED_ROWS:
                self.rows.append(row)


@dataclass
class TextScan:
    """What the checks found in the rows that were looked at."""

    num_rows: int = 0
    num_characters: int = 0
    nul: RowCount = field(default_factory=RowCount)
    control: RowCount = field(default_factory=RowCount)
    special: RowCount = field(default_factory=RowCount)
    rendered: RowCount = field(default_factory=RowCount)
    misread: RowCount = field(default_factory=RowCount)
    replaced: RowCount = field(default_factory=RowCount)
    secret: RowCount = field(default_factory=RowCount)
    email: RowCount = field(default_factory=RowCount)
    phone: RowCount = field(default_factory=RowCount)


def scan_texts(texts: Iterable[tuple[str, str]], special_tokens: Sequence[str], *, chat: bool = False) -> TextScan:
    """Look for trouble in (row name, text) pairs.

    special_tokens: the tokenizer's control tokens as written, which should not stand in a user's text. chat: a template
    rendered the texts, so that headers of turns are meant.
    """
    scan = TextScan()
    checks: list[tuple[RowCount, Callable[[str], int]]] = [
        (scan.nul, lambda text: text.count("\0")),
        (scan.control, lambda text: len(_CONTROL.findall(text))),
        (scan.misread, count_misread),
        (scan.replaced, lambda text: text.count("\ufffd")),
        (scan.secret, count_secrets),
        (scan.email, count_emails),
        (scan.phone, count_phones),
    ]
    if not chat:
        checks.append((scan.rendered, count_turns))
    if special_tokens:
        pattern = re.compile("|".join(re.escape(token) for token in sorted(special_tokens, key=len, reverse=True)))
        checks.append((scan.special, lambda text: len(pattern.findall(text))))
    for row, text in texts:
        scan.num_rows += 1
        scan.num_characters += len(text)
        for count, check in checks:
            count.add(row, check(text))
    return scan


def holds_private(text: str) -> bool:
    """Whether a text holds a secret or personal data of a known shape, and should not be shown as an example."""
    return bool(count_secrets(text) or count_emails(text) or count_phones(text))


def count_turns(text: str) -> int:
    """Headers of turns as chat templates write them."""
    return sum(1 for _ in _RENDERED.finditer(text)) if "<" in text or "[/INST]" in text else 0


def count_emails(text: str) -> int:
    """E-mail addresses."""
    return len(_EMAIL.findall(text)) if "@" in text else 0


def count_phones(text: str) -> int:
    """Numbers written like telephone numbers, of 9 to 15 digits."""
    return sum(1 for match in _PHONE.finditer(text) if _is_phone(match[0]))


def _is_phone(found: str) -> bool:
    return 9 <= sum(character.isdigit() for character in found) <= 15 and not _DATE.match(found)


def count_misread(text: str) -> int:
    """Characters of UTF-8 that were read as Latin-1 or Windows-1252: an accented e that became two signs."""
    if text.isascii():
        return 0
    return sum(1 for match in _MISREAD.finditer(text) if _reads_as_utf8(match[0]))


def _reads_as_utf8(found: str) -> bool:
    width = 2 if found[0] < "\u00e0" else 3 if found[0] < "\u00f0" else 4
    try:
        data = b"".join(_one_byte(character) for character in found[:width])
        data.decode("utf-8")
    except UnicodeError:
        return False
    return len(found) >= width


def _one_byte(character: str) -> bytes:
    return character.encode("latin-1") if character < "\u0100" else character.encode("cp1252")
