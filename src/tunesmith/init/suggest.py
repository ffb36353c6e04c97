"""A model that fits this machine, and how it is trained there. No torch: the driver and the memory are asked."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from tunesmith.doctor.hardware import find_gpus
from tunesmith.doctor.places import check_embedded
from tunesmith.models.find import EMBEDDED
from tunesmith.models.reach import is_offline
from tunesmith.units import format_bytes

FULL_BYTES = 16
"""Of a parameter that trains: float32 weight, gradient and AdamW's two moments."""
ACTIVATION_BYTES = 3_000_000_000
SMALL_RAM_BYTES = 5_000_000_000
"""Free memory below which the smallest model trains as LoRA."""


@dataclass(frozen=True)
class Candidate:
    """A hub model that may be offered. chat: its variant that was tuned to talk."""

    name: str
    chat: str
    num_parameters: int


CANDIDATES = (
    Candidate("HuggingFaceTB/SmolLM2-1.7B", "HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_000_000),
    Candidate("HuggingFaceTB/SmolLM2-360M", "HuggingFaceTB/SmolLM2-360M-Instruct", 362_000_000),
    Candidate("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct", 135_000_000),
)


@dataclass(frozen=True)
class Suggestion:
    """A model and a method for this machine. others: names that are worth a comment, with what they are."""

    name: str
    method: str
    why: str
    others: tuple[tuple[str, str], ...]


def suggest(*, chat: bool) -> Suggestion:
    """The largest model that trains whole on this machine's GPU; the embedded one on a processor."""
    has_embedded, gpus = check_embedded().status == "ok", find_gpus()
    if gpus and not (is_offline() and has_embedded):
        return for_gpu(gpus[0].name, gpus[0].memory_bytes, chat=chat)
    return for_processor(int(psutil.virtual_memory().available), has_embedded=has_embedded, chat=chat)


def for_gpu(gpu: str, memory_bytes: int, *, chat: bool) -> Suggestion:
    """For a GPU of `memory_bytes`."""
    best = next((c for c in CANDIDATES if FULL_BYTES * c.num_parameters + ACTIVATION_BYTES <= memory_bytes), None)
    best, method = (best, "full") if best is not None else (CANDIDATES[-1], "lora")
    name = best.chat if chat else best.name
    why = f"{_size(best)}, fetched once; fits the {gpu} ({format_bytes(memory_bytes)}), method {method}"
    return Suggestion(name, method, why, (*_smaller(best, chat), (EMBEDDED, "embedded, for a first try offline")))


def for_processor(free_bytes: int, *, has_embedded: bool, chat: bool) -> Suggestion:
    """For a machine without a GPU, `free_bytes` of memory free."""
    method = "full" if free_bytes >= SMALL_RAM_BYTES else "lora"
    small = CANDIDATES[-1]
    name = EMBEDDED if has_embedded else small.chat if chat else small.name
    origin = "embedded, nothing is downloaded" if has_embedded else "fetched once"
    why = f"{_size(small)}, {origin}; small enough for a processor, {format_bytes(free_bytes)} free, method {method}"
    others = (
        ("EleutherAI/gpt-neo-125m", "of the hub; any id works there"),
        ("path/to/model", "a local directory, a GGUF file or a run"),
    )
    return Suggestion(name, method, why, others)


def _smaller(best: Candidate, chat: bool) -> tuple[tuple[str, str], ...]:
    rest = CANDIDATES[CANDIDATES.index(best) + 1 :][:1]
    return tuple((c.chat if chat else c.name, f"{_size(c)}, faster") for c in rest)


def _size(candidate: Candidate) -> str:
    return (
        f"{candidate.num_parameters / 1e9:.1f}B"
        if candidate.num_parameters > 1e9
        else (f"{candidate.num_parameters / 1e6:.0f}M")
    )
