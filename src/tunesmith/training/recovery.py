"""What a run survives: memory that runs out, which halves the micro-batch of the same step; a loss that stands out,
whose rows are named.

Numbers that went wrong are found here too, within one step, and end it: numbers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tunesmith.data.tokens.steps import Indices
from tunesmith.errors import TrainingError
from tunesmith.run.artefacts import Event
from tunesmith.run.spikes import Spikes
from tunesmith.training.checkpoints.checkpoint import last_good
from tunesmith.training.steps.batches import Batches

MAX_SPIKES = 20
"""Loss spikes that are written down; a run with more is told by its first ones."""
NAMED_ROWS = 5


@dataclass
class Recovery:
    """Tokens of a micro-batch as they are now, and what has happened. `note` tells the user."""

    micro_batch_tokens: int
    note: Callable[[str], None]
    happened: Callable[[Event], None]
    """Told of each loss that stands out."""
    events: list[Event] = field(default_factory=list)
    spikes: Spikes = field(default_factory=Spikes)

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

    def cannot_retry(self, step: int, checkpoints: Path) -> TrainingError:
        """After memory ran out in a step whose weights may have moved in part."""
        good = last_good(checkpoints)
        kept = f"The last good checkpoint is {good}." if good else "No checkpoint was written before."
        return TrainingError(
            f"out of memory at step {step}. Weights move while backward runs here, because memory is tight: a step "
            f"that was begun cannot be tried again in parts. {kept} Set train.max_length or train.tokens_per_step "
            "lower, or train.method: lora."
        )

    def gave_up_graphs(self, step: int) -> None:
        """After memory ran out in `step` while recorded steps held some of it."""
        told = f"out of memory at step {step}: without CUDA graphs and their memory, same step again"
        self.events.append(Event(step=step, kind="out_of_memory", note=told))
        self.note(told)

    def look_at_loss(self, step: int, loss: float, documents: Indices, batches: Batches) -> None:
        """Where the loss of `step` stands out above those before it, say which rows were in the step."""
        usual = self.spikes.usual
        if not self.spikes.stands_out(loss) or usual is None:
            return
        if sum(event.kind == "loss_spike" for event in self.events) >= MAX_SPIKES:
            return
        names = list(dict.fromkeys(batches.documents.row_name(int(index)) for index in documents))
        more = f" and {len(names) - NAMED_ROWS} more" if len(names) > NAMED_ROWS else ""
        told = f"loss {loss:.3f} where {usual:.3f} was usual, on {', '.join(names[:NAMED_ROWS])}{more}"
        self.events.append(Event(step=step, kind="loss_spike", note=told))
        self.note(f"step {step}: {told}")
        self.happened(self.events[-1])
