"""Steps that are started as a whole: recorded once for each size of a batch, checked, and replayed.

Steps of one pass are filled up to a few sizes (fast/sizes.py). The first step of a size runs operation by operation;
the second does too, and is then recorded and replayed on the same batch. Only when loss and gradients are the same, bit
for bit, is the recording used; where the GPU's own kernels do not repeat themselves, replay and step may differ as two
runs of the step do. A filled step has the same numbers recorded or not, so that a run which goes on equals one that was
never stopped, whenever each records.

What cannot be recorded runs as it is: several passes a step, several processes, a scaled loss (fp16). Memory that runs
out gives up the recordings, and the step is tried again without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from tunesmith.errors import TunesmithError
from tunesmith.fast.fixed import FixedBatch
from tunesmith.fast.layout import FlatBatch, Size
from tunesmith.machine.memory import is_out_of_memory
from tunesmith.training.capture import Call, CallAgain, CudaCapture
from tunesmith.training.state import rng_state, set_rng_state
from tunesmith.training.stepper import Stepper

SAMPLED = 1024
"""Numbers of each gradient that are looked at where kernels do not repeat themselves."""
MARGIN = 4.0
"""How much farther apart than two runs of the step a replay may be there."""


@dataclass
class _Slot:
    """One size: its batch, and what was recorded of it."""

    batch: FixedBatch
    num_steps: int = 0
    replay_pass: Call | None = None
    replay_update: Call | None = None


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

    @property
    def num_recorded(self) -> int:
        """Sizes that are replayed."""
        return sum(slot.replay_pass is not None for slot in self._slots.values())

    def forward_backward(self, batch: FlatBatch, denominator: float) -> Tensor:
        """The gradients of one step, and its loss. batch: filled up, on the CPU."""
        assert batch.size is not None
        self._current = None
        slot = self._slots.get(batch.size)
        if slot is None:
            slot = self._slots[batch.size] = _Slot(FixedBatch(batch.size, self.device))
        slot.batch.load(batch, denominator)
        slot.num_steps += 1
        if self.off or slot.num_steps == 1:
            return self._pass(slot)
        if slot.replay_pass is None:
            return self._record(slot)
        self._current = slot
        return slot.replay_pass().clone()  # the next replay writes to the same place

    def update(self) -> Tensor | None:
        """Clip and move the weights by a replay; None where this step's update was not recorded.

        Returns the norm of the gradients before, which are gone afterwards.
        """
        slot, self._current = self._current, None
        if slot is None or slot.replay_update is None:
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

    def _pass(self, slot: _Slot) -> Tensor:
        batch = slot.batch
        return self.stepper.run_pass(batch.blind if self.capture.is_recording else batch.flat, batch.denominator)

    def _record(self, slot: _Slot) -> Tensor:
        """The step run, recorded and replayed; the replay counts when it is the same, else the step."""
        stepper, random_state = self.stepper, rng_state()
        step = Outcome.of(self._pass(slot), stepper.trained)

        def again(call: Call) -> Tensor:
            stepper.optimizer.zero_grad()
            set_rng_state(random_state)
            return call()

        try:
            stepper.optimizer.zero_grad()
            self._record_calls(slot)
            assert slot.replay_pass is not None
            loss = again(slot.replay_pass).clone()
            replayed = Outcome.of(loss, stepper.trained)
            if replayed.equals(step):
                self._current = slot
                return loss
            apart = replayed.distance(step)
            allowed = MARGIN * Outcome.of(again(partial(self._pass, slot)), stepper.trained).distance(step)
            if apart <= allowed:
                self._current = slot
                return again(slot.replay_pass).clone()
            self.give_up(f"a replay's gradients are {apart:.1e} from those of the step itself (at most {allowed:.1e})")
        except (RuntimeError, ValueError, IndexError, TunesmithError) as error:
            if is_out_of_memory(error) or is_out_of_memory(error.__context__ or error):
                raise torch.OutOfMemoryError("out of memory while a step was recorded") from error
            self.give_up(f"this step cannot be recorded ({str(error).strip().splitlines()[0]})")
        return again(partial(self._pass, slot))

    def _record_calls(self, slot: _Slot) -> None:
        """The update right after the pass, whose gradients lie in the pool that both share."""
        stepper = self.stepper
        slot.replay_pass = self.capture.record_pass(partial(self._pass, slot), stepper.trained)
        if stepper.update_can_be_recorded:
            slot.replay_update = self.capture.record(stepper.launch_update)


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


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
