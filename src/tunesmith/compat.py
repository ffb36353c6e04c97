"""What tunesmith needs of other libraries beyond their public promises. Importing it imports none of them.

Every private name stands here once: a function that gives it, and by `private` a sentence that says what for and a
probe that tells whether the installed release still has it. Call the function where the name is used.

    @private("torch.utils._pytree.tree_iter", "The trace looks for tensors in the arguments of an operator.")
    def tree_iter(tree: Any) -> Iterator[Any]: ...
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, UntypedStorage, nn

    SomeTensor = TypeVar("SomeTensor", bound=Tensor)

Found = TypeVar("Found")


@dataclass(frozen=True)
class Probe:
    """One private name of a library, what it is for, and a check that raises when it is gone or behaves otherwise."""

    name: str
    sentence: str
    check: Callable[[], object]


PROBES: list[Probe] = []


def private(name: str, sentence: str, check: Callable[[], object] | None = None) -> Callable[[Found], Found]:
    """Register the decorated function as the one place that touches `name`.

    check: raises when the name is gone or behaves otherwise; without it the function is called with no arguments.
    """

    def register(function: Found) -> Found:
        PROBES.append(Probe(name, sentence, check or function))  # type: ignore[arg-type]
        return function

    return register


@private(
    "datasets.Dataset._fingerprint",
    "The key of a data set's content: equal for equal rows and steps, without reading the rows.",
    check=lambda: _check_fingerprint(),
)
def dataset_fingerprint(dataset: object) -> str:
    """What `datasets` calls the content of a data set."""
    return str(dataset._fingerprint)  # type: ignore[attr-defined]


def _check_fingerprint() -> None:
    from datasets import Dataset

    first, second, other = (dataset_fingerprint(Dataset.from_dict({"text": [text]})) for text in "aab")
    if first != second or first == other:
        raise RuntimeError(f"behaves otherwise: {first}, {second}, {other}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers and peft without their progress bars, notes and deprecation warnings about each other."""
    from transformers.utils import logging as their_logging

    level, bars = their_logging.get_verbosity(), their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        their_logging.set_verbosity(level)
        if bars:
            their_logging.enable_progress_bar()


@private(
    "torch._subclasses.fake_tensor.FakeTensorMode",
    "The plan traces a step on tensors that have a shape and no values.",
    check=lambda: _check_fakes(),
)
def fake_tensor_mode() -> Any:
    """A mode in which operators make tensors without values; `from_tensor` gives one like a real tensor."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


@private(
    "torch.utils._python_dispatch.TorchDispatchMode",
    "The trace sees every operator that a step runs, those of its backward pass too.",
    check=lambda: _check_dispatch(),
)
def dispatch_mode(handle: Callable[[Any, Any, dict[str, Any]], Any]) -> AbstractContextManager[Any]:
    """A context in which handle(operator, arguments, named arguments) stands for every operator of this thread."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return handle(func, args, kwargs or {})

    return Mode()


@private(
    "torch.autograd.graph._engine_run_backward",
    "Autograd adds a second gradient into the first in place, but for a tensor that a trace sees it never does.",
    check=lambda: _check_engine(),
)
def adds_in_place(operator: Any, arguments: Any) -> bool:
    """Whether an operator that a `dispatch_mode` sees is the engine's own sum of two gradients, of which it holds the
    only reference to the first (can_accumulate_inplace of torch/csrc/autograd/input_buffer.cpp)."""
    import torch

    if operator is not torch.ops.aten.add.Tensor or torch.is_grad_enabled():
        return False
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_BETWEEN):
        frame = frame.f_back
    if frame.f_code.co_name != "_engine_run_backward":
        return False
    first = arguments[0]
    # The dispatcher, its copy for Python and the handle hold the tensor beside the engine.
    return bool(
        first._use_count() <= _HELD_TENSOR
        and torch._C._storage_Use_Count(first.untyped_storage()._cdata) <= _HELD_STORAGE
    )


_BETWEEN = ("tunesmith.compat", "tunesmith.forecast.tracing.trace", "torch._dynamo", "torch._compile", "torch.utils")
_HELD_TENSOR, _HELD_STORAGE = 4, 2


@private(
    "torch.utils._pytree.tree_iter",
    "The trace looks for the tensors among an operator's arguments.",
    check=lambda: _check_tree(),
)
def tensors_in(tree: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists and dicts, in order."""
    import torch
    from torch.utils._pytree import tree_iter

    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor))


@private(
    "torch.UntypedStorage._cdata",
    "Tells whether two tensors lie in the same memory; data_ptr is not defined for tensors without values.",
    check=lambda: _check_storage(),
)
def storage_id(storage: UntypedStorage) -> int:
    """A number that belongs to a storage as long as it lives."""
    return int(storage._cdata)


@private(
    "torch._ops.OpOverload._overloadpacket",
    "The arithmetic of an operator is known by its name, whatever the kinds of its arguments.",
    check=lambda: _check_packet(),
)
def packet_of(operator: Any) -> Any:
    """The operator (aten.mm) of an overload (aten.mm.default)."""
    return operator._overloadpacket


@private(
    "torch.ops.aten._local_scalar_dense",
    "A step asks for one number, the gradient of its loss; a trace without values answers for it.",
    check=lambda: _check_number(),
)
def asks_for_number(operator: Any) -> bool:
    """Whether an operator is that of Tensor.item()."""
    import torch

    return packet_of(operator) is torch.ops.aten._local_scalar_dense


@private(
    "torch.Tensor._make_subclass",
    "The fast path's mask is made as a real tensor inside a trace too; as_subclass would be traced, and fails there.",
    check=lambda: _check_subclass(),
)
def as_subclass(tensor: Tensor, kind: type[SomeTensor]) -> SomeTensor:
    """The tensor as one of another class, on the same memory; no mode sees it."""
    made: SomeTensor = kind._make_subclass(kind, tensor)
    return made


@private(
    "torch.nn.Module._forward_hooks, _forward_pre_hooks",
    "An embedding with hooks must be called as a module, and keeps its own gradient.",
    check=lambda: _check_hooks(),
)
def has_forward_hooks(module: nn.Module) -> bool:
    """Whether something is called before or after a module's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


@private(
    "accelerate's _hf_hook",
    "A forward that accelerate put on a module for moving weights is no patch of another tool.",
    check=lambda: _check_accelerate_hook(),
)
def has_accelerate_hook(module: nn.Module) -> bool:
    """Whether accelerate stands before this module."""
    return hasattr(module, "_hf_hook")


@private(
    "torch._foreach_copy_",
    "All weights of a model are narrowed in a few launches.",
    check=lambda: _check_copies(),
)
def copy_many(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source to its target, of the same shape and perhaps another type."""
    import torch

    torch._foreach_copy_(targets, sources)


def _check_copies() -> None:
    import torch

    target = torch.zeros(2, dtype=torch.bfloat16)
    copy_many([target], [torch.ones(2)])
    if target.tolist() != [1.0, 1.0]:
        raise RuntimeError(f"behaves otherwise: {target}")


_VARLEN = ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k", "is_causal", "scale", "window_size"]
_VARLEN_BACKWARD = ["grad_out", *_VARLEN[:3], "out", "lse", *_VARLEN[3:8], "rng_state", *_VARLEN[8:]]


@private(
    "torch.ops.torch_attn._varlen_attn",
    "Variable-length attention without the zeros that torch's own function takes for gradients nobody has.",
)
def varlen_operators() -> tuple[Any, Any] | None:
    """The operators behind varlen_attn, forward and backward; None where they take other arguments."""
    import torch
    import torch.nn.attention.varlen

    forward = torch.ops.torch_attn._varlen_attn.default
    backward = torch.ops.torch_attn._varlen_attn_backward.default
    named = [[argument.name for argument in operator._schema.arguments] for operator in (forward, backward)]
    known = named[0][: len(_VARLEN)] == _VARLEN and named[1] == _VARLEN_BACKWARD
    return (forward, backward) if known else None


@private(
    "torch.ops.mkldnn._is_mkldnn_bf16_supported",
    "Whether oneDNN multiplies bf16 matrices on this processor at all; where it does, the rate is measured.",
)
def onednn_has_bf16() -> bool:
    """Whether this processor has what oneDNN needs for bf16."""
    import torch

    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@private(
    "torch.ops.mkldnn._linear_pointwise",
    "float32 products by oneDNN, where torch itself would call MKL.",
    check=lambda: _check_onednn(),
)
def onednn_linear(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """left right^T + bias, [..., N, M]."""
    import torch

    out: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return out


@private(
    "torch.ops.mkldnn._linear_pointwise (as an operator)",
    "The trace counts oneDNN's products among the matrix products.",
    check=lambda: _check_onednn(),
)
def onednn_linear_operator() -> Any:
    """The operator behind `onednn_linear`; None when torch was built without oneDNN."""
    import torch

    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@private(
    "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
    "The trace counts the arithmetic of the CPU's attention, which torch's own counter leaves out.",
)
def cpu_attention_operators() -> tuple[Any, Any]:
    """The operators of attention on a CPU, forward and backward."""
    import torch

    aten = torch.ops.aten
    return (
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )


@private(
    "torch.ops.aten._scaled_dot_product_flash_attention",
    "A step traced for a GPU allocates what its flash attention does.",
    check=lambda: _check_gpu_attention(flash=True),
)
def flash_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float, causal: bool, scale: float | None) -> Tensor:
    """The kernel that SDPA takes on a GPU for half precision without a mask."""
    import torch

    attend = torch.ops.aten._scaled_dot_product_flash_attention
    out: Tensor = attend(q, k, v, dropout, causal, False, scale=scale)[0]
    return out


@private(
    "torch.ops.aten._scaled_dot_product_efficient_attention",
    "A step traced for a GPU allocates what its memory-efficient attention does.",
    check=lambda: _check_gpu_attention(flash=False),
)
def efficient_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, causal: bool, scale: float | None
) -> Tensor:
    """The kernel that SDPA takes on a GPU with a mask, or in float32."""
    import torch

    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    out: Tensor = attend(q, k, v, bias, True, dropout, causal, scale=scale)[0]
    return out


@private(
    "torch.ops.aten._scaled_dot_product_attention_math",
    "A step traced for a GPU allocates what attention does there where no kernel takes it.",
    check=lambda: _check_math_attention(),
)
def math_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """What torch calls the math backend; grouped heads are repeated."""
    import torch

    attend = torch.ops.aten._scaled_dot_product_attention_math
    out: Tensor = attend(q, k, v, mask, 0.0, causal, None, scale=scale, enable_gqa=True)[0]
    return out


@private(
    "transformers GradientCheckpointingLayer._gradient_checkpointing_func",
    "A layer that the fast path replaces is recomputed in the way that was set for the model.",
    check=lambda: _check_checkpointing(),
)
def checkpointed(layer: Any, run: Callable[..., Any], *args: Any) -> Any:
    """run(*args) with its activations computed again in backward, as the layer's model was told to."""
    return layer._gradient_checkpointing_func(run, *args)


def enable_checkpointing(model: Any, **options: Any) -> None:
    """Let a model compute its activations again in backward; later releases of transformers give it another name.

    options: more of torch.utils.checkpoint's.
    """
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, **options})


def _must(holds: bool) -> None:
    if not holds:
        raise RuntimeError("behaves otherwise")


def _tensor() -> Tensor:
    import torch

    return torch.ones(2, 2)


def _has_onednn() -> bool:
    import torch

    return bool(torch.backends.mkldnn.is_available())


def _check_fakes() -> None:
    with fake_tensor_mode() as mode:
        _must((mode.from_tensor(_tensor()) @ _tensor()).shape == (2, 2))


def _check_tree() -> None:
    _must(len(list(tensors_in(({"a": [_tensor()]}, 1, _tensor())))) == 2)


def _check_subclass() -> None:
    import torch

    class Subclass(torch.Tensor):
        pass

    tensor = _tensor()
    with fake_tensor_mode():
        _must(type(as_subclass(tensor, Subclass)) is Subclass)


def _check_dispatch() -> None:
    seen = []

    def handle(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        seen.append(operator)
        return operator(*args, **kwargs)

    tensor = _tensor().requires_grad_()
    with dispatch_mode(handle):
        (tensor * tensor).sum().backward()
    _must(len(seen) > 2 and tensor.grad is not None)


def _check_engine() -> None:
    import torch

    seen = []

    def handle(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if operator is torch.ops.aten.add.Tensor:
            seen.append(adds_in_place(operator, args))
        return operator(*args, **kwargs)

    tensor = _tensor().requires_grad_() * 1.0
    with dispatch_mode(handle):
        (tensor.exp() + tensor.sin()).sum().backward()
    _must(seen == [False, True])


def _check_storage() -> None:
    tensor = _tensor()
    _must(storage_id(tensor.untyped_storage()) == storage_id(tensor[0].untyped_storage()))
    _must(storage_id(tensor.untyped_storage()) != storage_id(_tensor().untyped_storage()))


def _check_packet() -> None:
    import torch

    _must(packet_of(torch.ops.aten.mm.default) is torch.ops.aten.mm)


def _check_number() -> None:
    with fake_tensor_mode() as mode:
        fake = mode.from_tensor(_tensor().sum())
        with dispatch_mode(lambda operator, *_: 3.0 if asks_for_number(operator) else None):
            _must(fake.item() == 3.0)


def _check_hooks() -> None:
    from torch import nn

    module = nn.Identity()
    _must(not has_forward_hooks(module))
    module.register_forward_hook(lambda *_: None)
    _must(has_forward_hooks(module))


def _check_onednn() -> None:
    import torch

    if _has_onednn():
        left, right = torch.rand(3, 4), torch.rand(5, 4)
        _must(onednn_linear_operator() is not None)
        torch.testing.assert_close(onednn_linear(left, right, torch.ones(5)), left @ right.t() + 1)


def _check_gpu_attention(*, flash: bool) -> None:
    import torch

    with fake_tensor_mode():
        q = torch.empty(1, 2, 8, 16, dtype=torch.bfloat16)
        found = (
            flash_attention(q, q, q, 0.0, True, None) if flash else efficient_attention(q, q, q, None, 0.0, True, None)
        )
    _must(found.shape == q.shape)


def _check_math_attention() -> None:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    q, k = torch.rand(1, 4, 3, 8), torch.rand(1, 2, 3, 8)
    expected = scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(math_attention(q, k, k, None, True, None), expected)


def _check_accelerate_hook() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module
    from torch import nn

    module = nn.Identity()
    _must(not has_accelerate_hook(module))
    add_hook_to_module(module, ModelHook())
    _must(has_accelerate_hook(module))


def _check_checkpointing() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": 8, "n_positions": 8}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    enable_checkpointing(model)
    _must(bool(checkpointed(model.base_model.h[0], lambda tensor: tensor + 1, _tensor()).sum() == 8))
