"""How one layer attends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionOptions:
    """scale multiplies the scores. window: how many tokens a token sees, itself included; None means all before it.

    softcap: scores become softcap * tanh(scores / softcap).
    """

    scale: float
    window: int | None = None
    dropout: float = 0.0
    softcap: float | None = None
