"""One training step of each setup that is compared: forward, backward, clipping, AdamW.

A variant trains documents in its own batches and returns how many real (non-padding) tokens it trained. Peers run the
way their users run them; the arithmetic type, the optimizer and the documents are the same for all unless the name
says otherwise.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.shapes import Shape, build
from tunesmith.machine.detect import processor_prefers_bf16
from tunesmith.step import StepSettings, clip_gradients, make_optimizer, prepare_model

Documents = list[np.ndarray]
REFERENCE_LENGTH = 2048
PACKED_LENGTH = 1024
MEMORY_ROUNDS = 2


@dataclass
class Variant:
    """`train(documents)` runs them through optimizer steps; `order` says how the documents of a round are chosen."""

    name: str
    what: str
    train: Callable[[Documents], int]
    order: str = "random"
    """random; sorted: neighbours in length, as grouping by length gives; one: a single document."""
    bfloat16: bool = False
    """Its products are bfloat16 although the others' are not: its limit is that of bfloat16."""


@dataclass
class Bench:
    """The model, optimizer and settings that several variants of one process share: peers one, tunesmith's another."""

    shape: Shape
    device: str = "cpu"
    bfloat16: bool = False
    """Autocast to bfloat16, for every variant but the reference."""
    tokens_per_pass: int = 1 << 20

    def __post_init__(self) -> None:
        self._model: Any = None
        self._optimizer: Any = None
        self._fast: Bench | None = None

    @property
    def model(self) -> Any:
        if self._model is None:
            self._model = build(self.shape, self.device)
        return self._model

    def fast(self, compile: bool = False) -> Bench:
        """The same with a model of its own, as training makes it: the peers' layers must stay as they are."""
        if self._fast is None:
            self._fast = Bench(self.shape, self.device, self.bfloat16, self.tokens_per_pass)
            prepare_model(self._fast.model, StepSettings(compile=compile))
        return self._fast

    def autocast(self, bfloat16: bool = False) -> Any:
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=bfloat16 or self.bfloat16)

    def step(self) -> None:
        """Clip, update, forget the gradients."""
        if self._optimizer is None:
            self._optimizer = adamw(self.model)
        optimizer_step(self.model, self._optimizer)


def adamw(model: Any) -> torch.optim.Optimizer:
    """The optimizer of training, for every variant."""
    return make_optimizer(model.parameters(), StepSettings(learning_rate=1e-5))


def optimizer_step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    clip_gradients([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def real_tokens(documents: Documents) -> int:
    """Supervised tokens: all but the first of each document."""
    return sum(len(ids) - 1 for ids in documents)


def padded_batch(documents: Documents, device: str, length: int | None = None) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels, padded on the right to the longest document or to `length`."""
    length = length or max(len(ids) for ids in documents)
    ids = torch.full((len(documents), length), int(documents[0][-1]))
    mask = torch.zeros((len(documents), length), dtype=torch.long)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = torch.from_numpy(document)
        mask[row, : len(document)] = 1
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def transformers_steps(bench: Bench, batch_size: int, *, bfloat16: bool = False) -> Callable[[Documents], int]:
    """What transformers.Trainer does per batch, with dynamic padding and without its bookkeeping."""

    def train(documents: Documents) -> int:
        for begin in range(0, len(documents), batch_size):
            batch = padded_batch(documents[begin : begin + batch_size], bench.device)
            with bench.autocast(bfloat16):
                loss = bench.model(**batch, use_cache=False).loss
            loss.backward()
            del loss  # as the Trainer does: the nodes of its graph leave gaps between the next batch's tensors
            bench.step()
        return real_tokens(documents)

    return train


def reference_steps(bench: Bench) -> Callable[[Documents], int]:
    """The reference recipe: float32, one row padded to 2048 tokens, eager attention, whole logits."""
    length = min(REFERENCE_LENGTH, bench.model.config.max_position_embeddings)

    def train(documents: Documents) -> int:
        for document in documents:
            bench.model(**padded_batch([document], bench.device, length), use_cache=False).loss.backward()
            bench.step()
        return real_tokens(documents)

    return train


def tunesmith_steps(bench: Bench, *, compile: bool = False, bfloat16: bool = False) -> Callable[[Documents], int]:
    """Flat batches on the fast path; all documents of a call are one optimizer step."""
    own = bench.fast(compile)
    return flat_steps(own, own.model, own.step, bfloat16=bfloat16)


def flat_steps(
    bench: Bench, model: Any, step: Callable[[], None], *, bfloat16: bool = False
) -> Callable[[Documents], int]:
    from tunesmith import fast

    def train(documents: Documents) -> int:
        total = real_tokens(documents)
        for part in passes(documents, bench.tokens_per_pass):
            flat = fast.flatten([(ids, None) for ids in part]).to(bench.device)
            with bench.autocast(bfloat16):
                loss = model(flat=flat, denominator=total).loss
            loss.backward()
            del loss
        step()
        return total

    return train


def passes(documents: Documents, tokens: int) -> Iterator[Documents]:
    """Consecutive documents of at most `tokens` together."""
    part: Documents = []
    for document in documents:
        if part and real_tokens(part) + len(document) - 1 > tokens:
            yield part
            part = []
        part.append(document)
    yield part


def tunesmith_lora_steps(bench: Bench, *, bfloat16: bool = False) -> Callable[[Documents], int]:
    """As tunesmith, with rank-16 adapters on every linear layer of a model of its own. bfloat16: autocast, and the
    frozen weights are held in it, as the plan chooses."""
    model = build(bench.shape, bench.device)
    if bfloat16:
        model.to(torch.bfloat16)
    model = prepare_model(model, StepSettings(method="lora"))
    optimizer = adamw(model)
    return flat_steps(bench, model, lambda: optimizer_step(model, optimizer), bfloat16=bfloat16)


def tunesmith_bfloat16_steps(bench: Bench) -> Callable[[Documents], int]:
    """As tunesmith, with weights, gradients and optimizer state held in bfloat16: half the memory."""
    model = prepare_model(build(bench.shape, bench.device).to(torch.bfloat16), StepSettings(dtype="bfloat16"))
    optimizer = adamw(model)
    return flat_steps(bench, model, lambda: optimizer_step(model, optimizer))


def trl_steps(bench: Bench, *, best: bool, batch: int = 16) -> Callable[[Documents], int]:
    """TRL's SFTTrainer with packing: its defaults (bfloat16, checkpointing), or its best setting for this device."""
    import datasets
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from harness.documents import save_gpt2_tokenizer

    datasets.disable_progress_bars()
    folder = Path(tempfile.mkdtemp())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(save_gpt2_tokenizer(folder))
    tokenizer.pad_token = tokenizer.eos_token
    on_cpu = bench.device == "cpu"
    in_bfloat16 = not (best and on_cpu) or processor_prefers_bf16()
    arguments = SFTConfig(
        output_dir=str(folder),
        packing=True,
        max_length=min(PACKED_LENGTH, bench.model.config.max_position_embeddings),
        per_device_train_batch_size=1 if on_cpu else batch,
        bf16=False,  # autocast is entered below: accelerate allows one type a process
        gradient_checkpointing=not best,
        use_cpu=on_cpu,
        report_to="none",
        disable_tqdm=True,
    )

    def trainer_of(documents: Documents) -> Any:
        rows = datasets.Dataset.from_dict({"input_ids": [ids.tolist() for ids in documents]})
        return SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)

    model = build(bench.shape, bench.device)
    optimizer = adamw(model)
    prepared: dict[int, tuple[Any, list[Any]]] = {}

    def prepare(documents: Documents) -> tuple[Any, list[Any]]:
        """Packing is not timed: it runs once before training."""
        if id(documents) not in prepared:
            trainer = trainer_of(documents)
            if arguments.gradient_checkpointing:
                enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
                enable({"use_reentrant": False})
            prepared.clear()
            prepared[id(documents)] = trainer, list(trainer.get_train_dataloader())
        return prepared[id(documents)]

    def train(documents: Documents) -> int:
        trainer, batches = prepare(documents)
        trainer.current_gradient_accumulation_steps = 1  # what Trainer.train sets
        for batch in batches:
            with torch.autocast(bench.device, dtype=torch.bfloat16, enabled=in_bfloat16):
                trainer.training_step(model, dict(batch))
            optimizer_step(model, optimizer)
        return real_tokens(documents)

    train.prepare = prepare  # type: ignore[attr-defined]
    return train


def liger_steps(bench: Bench, batch_size: int) -> Callable[[Documents], int]:
    """transformers with Liger's kernels (Llama shapes only), dynamic padding, sorted."""
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    own = Bench(bench.shape, bench.device, bench.bfloat16)
    apply_liger_kernel_to_llama(model=own.model)
    return transformers_steps(own, batch_size)


def missing(name: str, bench: Bench) -> str | None:
    """Why a variant cannot run here; None when it can."""
    if name.startswith("trl") and importlib.util.find_spec("trl") is None:
        return "trl is not installed (pip install trl)"
    in_bfloat16 = name.endswith("_autocast") or (name == "trl_default" and bench.device == "cpu")
    if in_bfloat16 and bench.device == "cpu" and not processor_prefers_bf16():
        return "bfloat16 is the slower type here"
    if name == "liger":
        if importlib.util.find_spec("liger_kernel") is None:
            return "liger-kernel is not installed"
        if bench.shape.kind != "llama" or bench.device != "cuda":
            return "Liger has kernels for Llama on CUDA only"
    return None


def make(name: str, bench: Bench) -> Variant:
    """A variant by name."""
    batch = 32
    builders: dict[str, tuple[str, str, Callable[[], Callable[[Documents], int]]]] = {
        "reference": ("fp32, batch 1, padded to 2048, eager, whole logits", "one", lambda: reference_steps(bench)),
        "hf_random": ("Trainer, dynamic padding, batch 8", "random", lambda: transformers_steps(bench, 8)),
        "hf_sorted": ("Trainer, grouped by length, batch 32", "sorted", lambda: transformers_steps(bench, batch)),
        "hf_sorted_autocast": (
            "as hf_sorted, bf16 autocast",
            "sorted",
            lambda: transformers_steps(bench, batch, bfloat16=True),
        ),
        "tunesmith_autocast": ("as tunesmith, bf16 autocast", "random", lambda: tunesmith_steps(bench, bfloat16=True)),
        "trl_default": ("TRL packing, its defaults", "random", lambda: trl_steps(bench, best=False)),
        "trl_best": ("TRL packing, no checkpointing, faster type", "random", lambda: trl_steps(bench, best=True)),
        "liger": ("Trainer + Liger, sorted, batch 32", "sorted", lambda: liger_steps(bench, batch)),
        "tunesmith": ("flat batches, fast path", "random", lambda: tunesmith_steps(bench)),
        "tunesmith_compile": ("as above, compiled", "random", lambda: tunesmith_steps(bench, compile=True)),
        "tunesmith_bf16": ("as above, all state in bfloat16", "random", lambda: tunesmith_bfloat16_steps(bench)),
        "tunesmith_lora": ("rank 16 on every linear layer", "random", lambda: tunesmith_lora_steps(bench)),
        "tunesmith_lora_autocast": (
            "as tunesmith_lora, bf16 autocast",
            "random",
            lambda: tunesmith_lora_steps(bench, bfloat16=True),
        ),
    }
    what, order, builder = builders[name]
    return Variant(name, what, builder(), order, bfloat16=name.endswith("_autocast"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No advice from libraries between the rows of a table."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)
