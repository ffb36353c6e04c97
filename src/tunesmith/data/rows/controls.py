"""Control tokens that a user wrote stay characters: they are marked before a template renders them, and cut after.

A template writes `<|im_end|>` itself, and a question about `<|im_end|>` holds it too. In the rendered text the two look
alike, so what stands in a turn gets GUARD behind its first character; the rendered text is cut there, and neither half
is a token of its own. Tags such as <think> and <tool_call>, where the tokenizer holds them as plain added tokens, are
what an assistant itself writes, and stay tokens in its turns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tunesmith.data.rows.pieces import Pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GUARD = "\ufdd0"
"""A noncharacter, which Unicode keeps from every text."""
_TAG = re.compile(r"</?\w+>")


@dataclass(frozen=True)
class ControlTokens:
    """special: what no text of a user's may become. tags: added tokens that an assistant writes itself."""

    special: tuple[str, ...]
    tags: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, sources: Sequence[str]) -> ControlTokens:
        """Special tokens, named or not, and plain added tokens that a template in `sources` writes."""
        named = set(map(str, tokenizer.all_special_tokens))
        added = list(tokenizer.added_tokens_decoder.values())
        special = named | {str(token) for token in added if token.special}
        written = {str(token) for token in added if any(str(token) in source for source in sources)}
        tags = {token for token in written - special if _TAG.fullmatch(token)}
        cuttable = [token for token in sorted(special | written) if len(token) > 1 and token.strip()]
        return cls(tuple(token for token in cuttable if token not in tags), tuple(sorted(tags)))

    def guard(self, value: Any, *, own: bool) -> Any:
        """`value` with a guard in every control token, at any depth. own: it is the assistant's, whose tags stay."""
        if isinstance(value, str):
            return (self._special if own else self._all).sub(_guarded, value.replace(GUARD, ""))
        if isinstance(value, dict):
            return {key: self.guard(item, own=own) for key, item in value.items()}
        return [self.guard(item, own=own) for item in value] if isinstance(value, list) else value

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return _any_of(self.special)

    @cached_property
    def _all(self) -> re.Pattern[str]:
        return _any_of((*self.special, *self.tags))


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")


def _guarded(match: re.Match[str]) -> str:
    return match[0][0] + GUARD + match[0][1:]


def cut_at_guards(pieces: Pieces) -> Pieces:
    """Pieces without guards, cut where they stood, and without empty ones."""
    return [(part, flag) for text, flag in pieces for part in text.split(GUARD) if part]
