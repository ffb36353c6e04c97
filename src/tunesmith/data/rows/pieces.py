"""A rendered row: documents of pieces of text, (text, flag), some of them learned.

CONTEXT is read but not learned, TARGET is learned, MARK is learned but is no text of the user's (an end-of-turn token),
so it counts no bytes. Where pieces of one flag follow one another, text must not be encoded across the border: a
control token that a user wrote is cut there, so that it stays characters.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT, TARGET, MARK = 0, 1, 3
Pieces = list[tuple[str, int]]

CONTROL_TOKENS = "control_tokens"
"""A row whose turns hold control tokens of the model, which are read as characters."""
EMPTY_TURNS = "empty_turns"
"""A row with an assistant turn that says nothing: its end alone is learned."""
TURN_A_DOCUMENT = "turn_a_document"
"""A conversation that became a document a turn, because the template rewrites earlier turns."""
SYSTEM_MOVED = "system_moved"
"""A system turn whose text went in front of the first user turn."""
TOOLS_LEFT_OUT = "tools_left_out"
"""A row whose tools the template does not write, so that the model is not told of them."""
EMPTY_THOUGHTS = "empty_thoughts"
"""A row without a thought where the template's generation prompt opens one: it is closed before the answer."""


@dataclass(frozen=True)
class Rendered:
    """What became of a row: its documents, none where it holds nothing to learn, and the facts to know about it."""

    documents: tuple[Pieces, ...] = ()
    facts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, pieces: Pieces) -> Rendered:
        """One document, or none where no piece holds text to learn."""
        return cls((pieces,) if any(flag for _, flag in pieces) else ())
