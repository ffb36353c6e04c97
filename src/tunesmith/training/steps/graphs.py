"""Steps that are started as a whole: recorded once for each size of a batch, checked, and replayed.

Steps of one pass are filled up to a few sizes (fast/batches/sizes.py). Before the first step, one step of each size is
run operation by operation; then all sizes are recorded, the largest first, and replayed on the same batches. Only when
loss and gradients are the same, bit for bit, is a recording used. Where the GPU's kernels do not repeat themselves,
replay and step may differ as two runs of the step do. A filled step has the same numbers recorded or not, so that a run
which goes on equals one that was never stopped, whatever each could record.

What cannot be recorded runs as it is: several passes a step, several processes, a scaled loss (fp16). Memory that runs
out gives up the recordings, and the step is tried again without them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import TunesmithError
from tunesmith.fast.batches.fixed import FixedBatch
from tunesmith.fast.batches.layout import FlatBatch, Size
from tunesmith.machine.memory import is_out_of_memory
from tunesmith.training.checkpoints.state import rng_state, set_rng_state
from tunesmith.training.steps.capture import Call, CallAgain, CudaCapture
from tunesmith.training.steps.stepper import Stepper

SAMPLED = 1024
"""Numbers of each gradient that are looked at where kernels do not repeat themselves."""
MARGIN = 4.0
"""How much farther apart than two runs of the step a replay may be there."""


@dataclass
class _Slot:
    """One size: its batch, and what was recorded of it."""

    batch: FixedBatch
    replay_pass: Call | None = None
    replay_update: Call | None = None


Example = tuple[FlatBatch, float]
"""A step: its batch, filled up and on the CPU, and the number of its targets."""


@dataclass
class Graphs:
    """The steps of one run that have a size. note: tells the user, in one line."""

    stepper: Stepper
    capture: CallAgain | CudaCapture
    device: torch.device
    note: Callable[[str], None]
    off: str = ""
    """Why nothing is recorded any more; empty while steps are."""
    _slots: dict[Size, _Slot] = field(default_factory=dict, repr=False)
    _current: _Slot | None = field(default=None, repr=False)
    _num_updates: int = 0
    _failed: str = ""

    @property
    def num_recorded(self) -> int:
        """Sizes that are replayed."""
        return sum(slot.replay_pass is not None for slot in self._slots.values())

    def prepare(self, examples: Sequence[Example]) -> None:
        """Record a size for each example, largest first. Weights, gradients and random numbers are as before.

        All examples are run before the first is recorded: what they take, the recordings take over. Raises
        OutOfMemoryError.
        """
        random_state = rng_state()
        examples = sorted(examples, key=lambda example: -example[0].num_tokens)
        try:
            steps = [self._tried(example, random_state) for example in examples]
            for example in examples:
                slot = self._slot(example)
                slot.replay_pass = self.capture.record_pass(partial(self._pass, slot), self.stepper.trained)
                self.stepper.optimizer.zero_grad()
            for example, step in zip(examples, steps, strict=True):
                if problem := self._difference(example, step, random_state):
                    self.give_up(problem)
                    return
            if examples:
                sizes = " and ".join(f"{batch.num_tokens:,}" for batch, _ in reversed(examples))
                self.note(f"steps are replayed as CUDA graphs of {sizes} tokens")
        except (RuntimeError, MemoryError, ValueError, IndexError, TunesmithError) as error:
            if is_out_of_memory(error) or (error.__context__ is not None and is_out_of_memory(error.__context__)):
                raise torch.OutOfMemoryError("out of memory while steps were recorded") from error
            self.give_up(f"steps cannot be recorded here ({_first_line(error)})")
        finally:
            self.stepper.optimizer.zero_grad()
            set_rng_state(random_state)

    def forward_backward(self, example: Example) -> Tensor:
        """The gradients of one step, and its loss."""
        self._current = None
        if self._failed:
            self.give_up(self._failed)
        slot = self._slot(example)
        slot.batch.load(*example)
        if slot.replay_pass is None:
            return self._pass(slot)
        self._current = slot
        return slot.replay_pass().clone()  # the next replay writes to the same place

    def update(self) -> Tensor | None:
        """Clip and move the weights by a replay; None where this step's update is not recorded.

        Returns the norm of the gradients before, which are gone afterwards. The first update of a run is launched, so
        that all it needs is loaded.
        """
        slot, self._current = self._current, None
        self._num_updates += 1
        if slot is None or self._num_updates == 1 or not self.stepper.update_can_be_recorded:
            return None
        if slot.replay_update is None:
            try:
                slot.replay_update = self.capture.record(self.stepper.launch_update, apart=True)
            except RuntimeError as error:  # the gradients are still needed, and lie in what would be let go of
                self._failed = f"an update cannot be recorded here ({_first_line(error)})"
                return None
        self.stepper.load_rates()
        norm = slot.replay_update().clone()
        self.stepper.optimizer.zero_grad()
        return norm

    def give_up(self, why: str) -> bool:
        """Record nothing any more, and let go of what was. Gradients of a replay are gone. Returns whether that is new.

        why: as the line says it. The steps that follow have the same numbers.
        """
        if self.off:
            return False
        self.off = why
        self.stepper.optimizer.zero_grad()
        self._current = None
        for slot in self._slots.values():
            slot.replay_pass = slot.replay_update = None
        self.capture.forget()
        self.note(f"CUDA graphs are off from here on, steps are launched operation by operation: {why}")
        return True

    def _slot(self, example: Example) -> _Slot:
        size = example[0].size
        assert size is not None
        if size not in self._slots:
            self._slots[size] = _Slot(FixedBatch(size, self.device))
        return self._slots[size]

    def _pass(self, slot: _Slot) -> Tensor:
        batch = slot.batch
        return self.stepper.run_pass(batch.blind if self.capture.is_recording else batch.flat, batch.denominator)

    def _tried(self, example: Example, random_state: dict[str, Any], call: Call | None = None) -> Outcome:
        """What `call` makes of an example; the step itself, launched operation by operation, where there is none."""
        slot = self._slot(example)
        slot.batch.load(*example)
        set_rng_state(random_state)
        loss = self._pass(slot) if call is None else call()
        outcome = Outcome.of(loss, self.stepper.trained)
        self.stepper.optimizer.zero_grad()
        return outcome

    def _difference(self, example: Example, step: Outcome, random_state: dict[str, Any]) -> str:
        """Why the recording of an example is not what was run; empty where it is."""
        replayed = self._tried(example, random_state, self._slot(example).replay_pass)
        if replayed.equals(step):
            return ""
        apart = replayed.distance(step)
        allowed = MARGIN * self._tried(example, random_state).distance(step)
        if apart <= allowed:
            return ""
        return f"a replay's gradients are {apart:.1e} from those of the step itself (at most {allowed:.1e})"


@dataclass(frozen=True)
class Outcome:
    """Loss and gradients of a step in few numbers."""

    bits: tuple[int, ...]
    """Of the loss and of each gradient, its numbers summed as integers."""
    sample: Tensor

    @classmethod
    def of(cls, loss: Tensor, trained: tuple[nn.Parameter, ...]) -> Outcome:
        """Waits for the device."""
        values = [loss.detach(), *(p.grad.detach() for p in trained if p.grad is not None)]
        sums = torch.stack([value.view(_INTEGERS[value.element_size()]).sum(dtype=torch.int64) for value in values])
        samples = [value.reshape(-1)[:: max(1, value.numel() // SAMPLED)].float() for value in values]
        return cls(tuple(sums.tolist()), torch.cat(samples))

    def equals(self, other: Outcome) -> bool:
        """Bit for bit."""
        return self.bits == other.bits and torch.equal(self.sample, other.sample)

    def distance(self, other: Outcome) -> float:
        """Of the samples, as a share of their size. Infinite when one is not finite or of another shape."""
        if self.sample.shape != other.sample.shape:
            return float("inf")
        found = float(torch.dist(self.sample, other.sample) / torch.linalg.vector_norm(other.sample).clamp_min(1e-30))
        return found if found == found else float("inf")


def _first_line(error: BaseException) -> str:
    """What went wrong first, and where: the end of a recording that failed fails as well."""
    while error.__context__ is not None:
        error = error.__context__
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    frames = traceback.extract_tb(error.__traceback__)
    return f"{said}; {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else said


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
