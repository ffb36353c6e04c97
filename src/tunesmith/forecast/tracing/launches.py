"""How many kernels one optimizer step starts on a GPU, counted on tensors without values.

A small step is as long as its launches: some 10 microseconds of the host each, whatever the kernel does. The step is
the one that training runs, built by the same code for a GPU that is pretended; each of its operators counts as many
kernels as torch starts for it there. Calibrated on the profile of torch 2.11 on one H200: 1,056 tokens a step of the
path without fused layers start 918 kernels (GPT-Neo-125M) and 3,615 (SmolLM2-135M).
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.compat import asks_for_number, dispatch_mode, fake_tensor_mode, packet_of
from tunesmith.fast.device import Device
from tunesmith.forecast.tracing import simulate
from tunesmith.forecast.tracing.step import Step
from tunesmith.forecast.tracing.trace import Work
from tunesmith.step import DTYPES, autocast, make_optimizer, prepare_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NOTHING = frozenset({"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "detach", "lift_fresh"})
"""Operators that start no kernel, beside views."""
SEVERAL = {
    "native_layer_norm_backward": 2,  # the input's gradient, the parameters'
    "_varlen_attn": 2,  # the kernel, and zeros for a random state that nothing uses
    "_varlen_attn_backward": 3,  # row sums, the kernel, the queries' gradient narrowed
    "embedding_dense_backward": 2,  # zeros, the kernel
    "index_put_": 12,  # sorts the indices, so that it adds in one order
}
"""Operators that start more than one kernel."""
CHUNK, MAX_CHUNKS = 65_536, 320
"""Of torch's kernels over many tensors: numbers that one block takes, and blocks of one launch."""
MAX_TENSORS = {
    "_foreach_norm": 110,
    "_foreach_mul_": 110,
    "_foreach_add_": 110,
    "_foreach_copy_": 64,
    "_fused_adamw_": 36,
}
"""Tensors of one such launch: the fewer, the more lists of tensors it reads."""


@dataclass(frozen=True)
class Launches:
    """Kernels of one optimizer step of one pass."""

    forward: int
    backward: int
    clipping: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.clipping + self.optimizer


def launches_of(work: Counter[Work]) -> int:
    """Kernels of traced operators, those over many tensors counted as one."""
    return sum(num_kernels(item.name) * calls for item, calls in work.items())


def count_launches(config: PretrainedConfig, step: Step, *, fused: bool = True) -> Launches:
    """Kernels of a step of one pass on a GPU, from the config alone. fused: with the layers of fast/fused."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        bare = simulate.build_on_meta(config, dtype=DTYPES[step.dtype])
        device = Device.pretended_gpu(flash_attention=step.flash, fused=fused)
        model = prepare_model(bare, step.settings, device)
        batch = simulate.traced_batch(step.micro_batch, step.target_fraction)
        stack.enter_context(simulate.GpuKernels(flash=step.flash))
        mode = stack.enter_context(fake_tensor_mode())
        simulate.fakify(model)
        batch = simulate.fake_batch(batch, mode)

        def loss() -> torch.Tensor:
            with autocast(step.precision, "cpu"):
                return model(flat=batch, denominator=batch.num_targets).loss  # type: ignore[no-any-return]

        loss()  # makes what stays
        with _counted() as forward:
            total = loss()
        with _counted() as backward:
            total.backward()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = make_optimizer(trained, step.settings, device)
        with _counted() as update:
            optimizer.step()
    sizes = [parameter.numel() for parameter in trained]
    return Launches(forward.total(), backward.total(), clipping_launches(sizes), update.total())


def clipping_launches(sizes: Sequence[int]) -> int:
    """Kernels of clip_grad_norm_ on a GPU: norms of all gradients and their clean-up, one norm of the norms (stacked),
    four for the factor, and the scaling."""
    return many_launches("_foreach_norm", sizes) + 1 + 2 + 4 + many_launches("_foreach_mul_", sizes)


def many_launches(operator: str, sizes: Iterable[int]) -> int:
    """Launches of one of torch's kernels over many tensors of so many numbers each (its multi_tensor_apply)."""
    launches = tensors = blocks = 0
    for size in sizes:
        tensors += 1
        left = -(-size // CHUNK)
        while left:
            taken = min(left, MAX_CHUNKS - blocks)
            left, blocks = left - taken, blocks + taken
            if blocks == MAX_CHUNKS or (tensors == MAX_TENSORS[operator] and not left):
                launches, blocks, tensors = launches + 1, 0, 1 if left else 0
    return launches + (blocks > 0)


def num_kernels(name: str) -> int:
    """Kernels of one call of an operator."""
    return 0 if name in NOTHING else SEVERAL.get(name, 1)


@contextlib.contextmanager
def _counted() -> Iterator[Counter[str]]:
    """The kernels that operators of this thread start inside, by the operator's name."""
    found: Counter[str] = Counter()

    def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if asks_for_number(func):
            return 1.0
        out = kwargs["out"] if func is torch.ops.aten.addmm.dtype_out else func(*args, **kwargs)
        if func.namespace != "prim" and not func.is_view:
            name = packet_of(func).__name__
            found[name] += _launches_of_call(name, args)
        return out

    with dispatch_mode(run):
        yield found


def _launches_of_call(name: str, args: Any) -> int:
    if name in MAX_TENSORS:
        return many_launches(name, [tensor.numel() for tensor in args[0]])
    if name == "_varlen_attn_backward" and args[1].shape[1] != args[2].shape[1]:
        return num_kernels(name) + 2  # the gradients of keys and values that query heads share are summed
    return num_kernels(name)
