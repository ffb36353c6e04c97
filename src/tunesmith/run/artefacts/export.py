"""EXPORT.json: what left a run, and how it did when it was loaded again."""

from __future__ import annotations

from typing import ClassVar, Literal

from tunesmith.run.artefacts.manifest import FileEntry
from tunesmith.run.artefacts.record import Artefact, Record

ExportFormat = Literal["safetensors", "gguf", "hub", "onnx"]
Quant = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q4_0", "q4_k_m"]


class RoundTrip(Record):
    """What was exported against the tuned model in memory, on the same rows."""

    engine: str
    """What loaded it: transformers, llama.cpp or onnxruntime, with its version."""
    against: str
    """What it is compared with."""
    num_documents: int
    num_tokens: int
    """Supervised tokens that both predicted."""
    num_unlisted: int
    """Tokens that the engine gave no probability for; they are left out."""
    loss: float
    expected_loss: float
    """Of what it is compared with."""
    tuned_loss: float
    """Of the tuned model with its weights as they were trained, on the same tokens."""
    loss_tolerance: float
    """Nats by which the losses may differ in this format."""
    same_first: float
    """Share of tokens where both have the same likeliest one, or where it is a near tie (within `tie_nats`)."""
    same_first_least: float
    tie_nats: float
    largest_difference: float
    """Of the log-probabilities of the tokens, in nats."""
    num_texts: int
    same_texts: int
    """Greedy texts that are equal, or part at a near tie."""
    seconds: float

    @property
    def passed(self) -> bool:
        close = abs(self.loss - self.expected_loss) <= self.loss_tolerance
        return close and self.same_first >= self.same_first_least and self.same_texts == self.num_texts


class QuantCost(Record):
    """What the type of the weights costs on the rows of the run, in nats a token."""

    num_documents: int
    num_tokens: int
    loss: float
    """With the weights as the file holds them, computed in float32."""
    tuned_loss: float
    """With the weights as they were trained."""
    measured_by: str


class Export(Artefact):
    """EXPORT.json: what was exported from which weights, and the round trip that proves it."""

    FILE: ClassVar[str] = "EXPORT.json"
    VERSION: ClassVar[int] = 1

    version: int = 1
    format: ExportFormat
    quant: Quant
    architecture: str
    """As the file names it: LlamaForCausalLM, or llama in GGUF."""
    base: str
    base_revision: str | None
    method: str
    weights: str
    """Where in the run they come from: model, or a checkpoint of an unfinished run."""
    is_adapter: bool
    merged_change: float | None
    """Norm of what was learned / norm of the weights it was added to; null for an adapter left as it is."""
    end_ids: tuple[int, ...]
    """Tokens that end a text."""
    vocabulary: int
    """Rows of the embedding."""
    context_length: int | None
    rows: str
    """Which rows were scored: the run's held-out ones, or others where it has none."""
    cost: QuantCost | None
    round_trips: tuple[RoundTrip, ...]
    files: dict[str, FileEntry]
    address: str | None
    """On the hub."""
    notes: tuple[str, ...]
    seconds: float
