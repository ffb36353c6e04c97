"""What a run survives: memory that runs out, which halves the micro-batch of the same step.

Numbers that went wrong are found here too, within one step, and end it: numbers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tunesmith.data.tokens.steps import Indices
from tunesmith.errors import TrainingError
from tunesmith.run.artefacts import Event
from tunesmith.training.batches import Batches


@dataclass
class Recovery:
    """Tokens of a micro-batch as they are now, and what has happened. `note` tells the user."""

    micro_batch_tokens: int
    note: Callable[[str], None]
    events: list[Event] = field(default_factory=list)

    def halve_micro_batch(self, step: int, documents: Indices, batches: Batches) -> None:
        """After memory ran out in `step`. Raises TrainingError when one document does not fit even alone."""
        old = min(self.micro_batch_tokens, batches.num_fed(documents))
        longest = int(documents[np.argmax(batches.fed_tokens[documents])])
        length = int(batches.fed_tokens[longest])
        if old <= length:
            raise TrainingError(
                f"{batches.documents.row_name(longest)}: {length} tokens do not fit in memory even alone. Set "
                f"train.max_length below {length}, train.gradient_checkpointing: true, or train.method: lora."
            )
        self.micro_batch_tokens = max(old // 2, 1)
        told = f"out of memory at step {step}: micro-batch {old} -> {self.micro_batch_tokens} tokens, same step again"
        self.events.append(Event(step=step, kind="out_of_memory", note=told))
        self.note(told)
