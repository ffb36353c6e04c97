"""One trial of training settings: a short run in this process, from the base model's weights, that leaves one line.

Model, adapter, optimizer, batches and clipping are those of `tunesmith train`; what is tried here and is no recipe
value (betas, averages, rates of parts) is done beside it. Seconds are never taken down: what a trial says of time is
its tokens and steps.
"""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.documents import SHOWS
from tunesmith.data import prepare
from tunesmith.data.tokens.steps import run_steps
from tunesmith.evaluate import evaluate
from tunesmith.fast.batches.layout import flatten
from tunesmith.machine.detect import processor_prefers_bf16
from tunesmith.models.find import EMBEDDED, find_model
from tunesmith.models.load import load_model
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.recipe import DataSection, LoraSection
from tunesmith.step import StepSettings, autocast, clip_gradients, make_optimizer, prepare_model
from tunesmith.training.loop import rate_at

EVAL_TOKENS = 2048
MICRO_BATCH = 2048
DECAY_SHARE = 0.3
"""Of the steps of a run with the schedule wsd (warm-up, stable, decay): in these the rate falls."""


@dataclass(frozen=True)
class Setting:
    """What is tried. Defaults are those of `tunesmith train` before anything here was decided."""

    text: str = "netflix"
    """netflix, shows, manual (the Python language's, as packaged with it), netflix-whole."""
    rows: int = 640
    """Of which a fifth is held out; the whole of a text where it has fewer."""
    method: str = "full"
    rank: int = 16
    tokens_per_step: int = 256
    learning_rate: float = 2e-4
    schedule: str = "linear"
    warmup: float = 0.03
    """Share of the steps."""
    epochs: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0
    """Decay of an average over the weights with bias correction, which is scored beside them; 0: none."""
    embedding_rate: float = 1.0
    """Times the rate, of the embedding (and head, where they are one)."""
    layer_decay: float = 1.0
    """A layer's rate is this times that of the layer above it."""
    noise: float = 0.0
    """NEFTune's alpha (Jain et al., 2023)."""
    seed: int = 7

    @classmethod
    def parse(cls, values: dict[str, str]) -> Setting:
        kinds = {one.name: {"str": str, "int": int, "float": float}[str(one.type)] for one in fields(cls)}
        return cls(**{name: kinds[name](value) for name, value in values.items()})

    def changed(self) -> dict[str, Any]:
        """What is not as usual."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Setting(), name)}


@dataclass
class Line:
    """What a trial leaves."""

    setting: dict[str, Any]
    precision: str
    base_loss: float
    num_steps: int
    tokens: int
    """Supervised ones that were trained on."""
    fed_tokens: int
    evaluations: list[tuple[int, int, float]] = field(default_factory=list)
    """Steps, supervised tokens and held-out loss."""
    average_loss: float | None = None
    """Of the average, at the end."""
    train_loss: list[float] = field(default_factory=list)
    """Of each step; the mean of eight neighbours where there are more than 200."""
    diverged: bool = False

    def text(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


@lru_cache(maxsize=2)
def data_of(text: str, rows: int, netflix: Path, model: str) -> Any:
    """Documents for a model, a fifth of them held out by content. netflix: where its rows are."""
    tokenizer = load_tokenizer(find_model(model))
    with tempfile.TemporaryDirectory() as folder:
        section = _section(text, rows, netflix, Path(folder))
        return prepare(section, tokenizer, 1024)


def _section(text: str, rows: int, netflix: Path, folder: Path) -> DataSection:
    usual: dict[str, Any] = {"text": "description", "max_rows": rows, "eval_fraction": 0.2}
    if text == "netflix-whole":
        with netflix.open(encoding="utf-8", newline="") as file:
            texts = [row["description"] for row in csv.DictReader(file)]
        parts = {"train": texts[:7999], "eval": texts[8000:8799]}
        paths = {name: _write(folder / f"{name}.jsonl", part) for name, part in parts.items()}
        return DataSection(path=paths["train"], eval_path=paths["eval"], text="description")
    if text == "manual":
        return DataSection(path=_write(folder / "manual.jsonl", _manual()), **usual)
    return DataSection(path=str({"netflix": netflix, "shows": SHOWS}[text]), **usual)


def _write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"description": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def _manual() -> list[str]:
    """Long prose that every Python has: its language reference, in pieces of about 1,200 characters."""
    from pydoc_data.topics import topics

    pieces, piece = [], ""
    for topic in sorted(topics):
        for paragraph in topics[topic].split("\n\n"):
            piece = f"{piece}\n\n{paragraph}" if piece else paragraph
            if len(piece) > 1200:
                pieces.append(piece)
                piece = ""
    return pieces


class Bench:
    """One model, loaded once; every trial begins with the weights that it was loaded with."""

    def __init__(self, netflix: Path, model: str = EMBEDDED) -> None:
        self.netflix, self.name = netflix, model
        self.key: tuple[str, int] | None = None
        self.precision = "bf16" if processor_prefers_bf16() else "fp32"
        self.base_losses: dict[tuple[str, int], float] = {}

    def ready(self, setting: Setting) -> None:
        """The model of this method, at its beginning."""
        key = (setting.method, setting.rank if setting.method != "full" else 0)
        if key != self.key:
            self.model, self.start = None, None
            torch.manual_seed(7)
            settings: Any = {"method": setting.method, "precision": self.precision}
            settings["lora"] = LoraSection(rank=setting.rank)
            self.model = prepare_model(load_model(find_model(self.name)), StepSettings(**settings))
            self.key = key
            self.start = [(p, p.detach().clone()) for p in self.model.parameters() if p.requires_grad]
        for parameter, value in self.start:
            parameter.data.copy_(value)

    def data_of(self, setting: Setting) -> Any:
        return data_of(setting.text, setting.rows, self.netflix, self.name)

    def score(self, setting: Setting) -> float:
        with autocast(self.precision, "cpu"):
            loss = evaluate(self.model, self.data_of(setting).eval, max_tokens=EVAL_TOKENS).loss
        self.model.train()
        return float(loss)

    def know(self, setting: Setting, base_loss: float) -> None:
        """What an earlier trial found of the base model."""
        self.base_losses[setting.text, setting.rows] = base_loss

    def base_loss(self, setting: Setting) -> float:
        key = (setting.text, setting.rows)
        if key not in self.base_losses:
            self.base_losses[key] = self.score(setting)
        return self.base_losses[key]

    def run(self, setting: Setting, evaluations: int, between: Callable[[], None] = lambda: None) -> Line:
        """between: called after each step."""
        self.ready(setting)
        train = self.data_of(setting).train
        fed = np.asarray(train.lengths, dtype=np.int64) - 1
        steps = run_steps(fed, setting.tokens_per_step, seed=setting.seed, epochs=setting.epochs)
        total = int(sum(train.targets_per_document[step].sum() for step in steps))
        whole_fed = int(sum(fed[step].sum() for step in steps))
        line = Line(asdict(setting), self.precision, self.base_loss(setting), len(steps), total, whole_fed)
        torch.manual_seed(setting.seed)
        optimizer = self._optimizer(setting)
        average = _Average(self.start, setting.ema) if setting.ema else None
        due, tokens = {math.ceil(len(steps) * (i + 1) / evaluations) for i in range(evaluations)}, 0
        with _noise(self.model, setting.noise):
            for number, documents in enumerate(steps):
                share = _share(setting, number, len(steps))
                for group in optimizer.param_groups:
                    group["lr"] = setting.learning_rate * group["times"] * share
                line.train_loss.append(self._step(optimizer, train, documents, setting))
                tokens += int(train.targets_per_document[documents].sum())
                if average is not None:
                    average.add()
                if not math.isfinite(line.train_loss[-1]):
                    line.diverged = True
                    break
                if number + 1 in due:
                    line.evaluations.append((number + 1, tokens, self.score(setting)))
                between()
        if average is not None and not line.diverged:
            with average.in_place():
                line.average_loss = self.score(setting)
        line.train_loss = _thinned(line.train_loss)
        return line

    def _optimizer(self, setting: Setting) -> torch.optim.Optimizer:
        settings = StepSettings(weight_decay=setting.weight_decay, learning_rate=setting.learning_rate)
        optimizer = make_optimizer(self.model.parameters(), settings)
        times = {id(p): _times(name, setting, self.model) for name, p in self.model.named_parameters()}
        groups = []
        for group in optimizer.param_groups:
            for value in sorted({times[id(p)] for p in group["params"]}):
                some = [p for p in group["params"] if times[id(p)] == value]
                groups.append({**group, "params": some, "times": value, "betas": (setting.beta1, setting.beta2)})
        optimizer.param_groups = groups
        return optimizer

    def _step(self, optimizer: Any, train: Any, documents: np.ndarray, setting: Setting) -> float:
        targets, loss = int(train.targets_per_document[documents].sum()), 0.0
        parts = np.array_split(documents, max(1, math.ceil(int((train.lengths[documents] - 1).sum()) / MICRO_BATCH)))
        for number, part in enumerate(parts):
            flat = flatten([train[int(i)] for i in part])
            with autocast(self.precision, "cpu"):
                of_part = self.model(flat=flat, denominator=targets, weights_changed=number == 0).loss
            of_part.backward()
            loss += float(of_part.detach())
        clip_gradients([p for p, _ in self.start], setting.clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss


class _Average:
    """A running mean of the weights after each step, the newest weighing most, without the pull of the beginning."""

    def __init__(self, start: list[tuple[Any, Any]], decay: float) -> None:
        self.parameters = [p for p, _ in start]
        self.sums = [torch.zeros_like(p) for p in self.parameters]
        self.decay, self.weight = decay, 0.0

    @torch.no_grad()
    def add(self) -> None:
        torch._foreach_lerp_(self.sums, [p.detach() for p in self.parameters], 1 - self.decay)
        self.weight = self.decay * self.weight + 1 - self.decay

    @contextmanager
    def in_place(self) -> Iterator[None]:
        for parameter, total in zip(self.parameters, self.sums, strict=True):
            parameter.data.copy_(total / self.weight)
        yield


def _share(setting: Setting, step: int, total: int) -> float:
    warmup = min(total - 1, max(1, round(setting.warmup * total))) if setting.warmup else 0
    if setting.schedule != "wsd":
        return rate_at(step, schedule=setting.schedule, warmup=warmup, total=total)
    falling = max(1, round(DECAY_SHARE * total))
    return min(rate_at(step, schedule="constant", warmup=warmup, total=total), (total - step) / (falling + 1))


def _times(name: str, setting: Setting, model: Any) -> float:
    """Of the rate."""
    parts = name.split(".")
    if "embed_tokens" in parts or "lm_head" in parts:
        return setting.embedding_rate
    if setting.layer_decay != 1.0 and "layers" in parts:
        above = model.config.num_hidden_layers - 1 - int(parts[parts.index("layers") + 1])
        return float(setting.layer_decay**above)
    return 1.0


@contextmanager
def _noise(model: Any, alpha: float) -> Iterator[None]:
    """Uniform noise on the embeddings while the model trains, scaled by length and width."""

    def add(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        width = alpha / math.sqrt(output.shape[-2] * output.shape[-1])
        return output + torch.empty_like(output).uniform_(-width, width)

    hook = model.get_input_embeddings().register_forward_hook(add) if alpha else None
    yield
    if hook is not None:
        hook.remove()


def _thinned(losses: list[float]) -> list[float]:
    size = 1 if len(losses) <= 200 else 8
    means = [losses[i : i + size] for i in range(0, len(losses), size)]
    return [round(sum(part) / len(part), 4) for part in means]
