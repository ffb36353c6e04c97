"""Work of a GPU that is recorded once and started as a whole: a graph, in one call of the host's.

A recorded call has fixed addresses. Memory that it takes comes from one pool that all recordings share, since they
never run at the same time; what a recording leaves there for the next one (gradients) is seen through `window`, which
does not own it, so that another recording may lie in the same place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[], Tensor]


class CallAgain:
    """A device without graphs: what was recorded is called again. The machinery around it is the same."""

    is_recording = False

    def record(self, call: Call, *, apart: bool = False) -> Call:
        return call

    def record_pass(self, call: Call, trained: Sequence[nn.Parameter]) -> Call:
        return call

    def forget(self) -> None:
        """Nothing is held."""

    def on_stream(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class CudaCapture:
    """Records on a stream of its own, which training runs on as well: workspaces and cached memory are one."""

    def __init__(self, device: torch.device) -> None:
        self.is_recording = False
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._pools: dict[bool, Any] = {}

    def record(self, call: Call, *, apart: bool = False) -> Call:
        """What `call` launches, without running it. The result launches it again and returns the same tensor.

        apart: it reads what another recording left behind, so its memory must not lie in the same place. Raises what
        `call` raises, and RuntimeError when it waits for the device or does what cannot be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        if apart not in self._pools:
            self._pools[apart] = torch.cuda.graph_pool_handle()
        self.is_recording = True
        try:
            # thread_local: what other threads of the process do with their own streams is no harm.
            with torch.cuda.graph(graph, self._pools[apart], self._stream, capture_error_mode="thread_local"):
                output = call()
        except BaseException:
            self._mend_generator()
            raise
        finally:
            self.is_recording = False
        self._graphs.append(graph)

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    def record_pass(self, call: Call, trained: Sequence[nn.Parameter]) -> Call:
        """As `record`, for a call that makes the gradients of the parameters. They are in place after a replay."""
        replay = self.record(call)
        windows = [None if parameter.grad is None else window(parameter.grad) for parameter in trained]

        def replay_pass() -> Tensor:
            output = replay()
            for parameter, gradient in zip(trained, windows, strict=True):
                parameter.grad = gradient
            return output

        return replay_pass

    def forget(self) -> None:
        """Give up all that was recorded, and its memory."""
        if self._graphs:
            torch.cuda.synchronize(self._device)
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()
        self._pools.clear()

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """Inside, work is launched on the stream of the recordings."""
        before = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            before.wait_stream(self._stream)

    def _mend_generator(self) -> None:
        """After a recording that failed, the generator would refuse random numbers outside of one."""
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())


def capture_on(device: torch.device) -> CallAgain | CudaCapture:
    """How steps are recorded on a device."""
    return CudaCapture(device) if device.type == "cuda" else CallAgain()


class _Interface:
    """A place in a GPU's memory, as numpy's and Numba's interface describes one."""

    def __init__(self, tensor: Tensor) -> None:
        size = tensor.element_size()
        self.__cuda_array_interface__ = {
            "data": (tensor.data_ptr(), False),
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * size for stride in tensor.stride()),
            "typestr": f"<i{size}",
            "version": 3,
        }


def window(tensor: Tensor) -> Tensor:
    """The memory of a CUDA tensor as another tensor that does not keep it. Raises RuntimeError when it was copied."""
    seen = torch.as_tensor(_Interface(tensor), device=tensor.device).view(tensor.dtype)
    if seen.data_ptr() != tensor.data_ptr():
        raise RuntimeError("a tensor's memory cannot be seen through another one")
    return seen
