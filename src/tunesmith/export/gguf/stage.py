"""The GGUF file of a merged model, or of an adapter, written and run by llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.disk import write_text
from tunesmith.errors import ModelError
from tunesmith.export.check import NEW_TOKENS, Engine, Seen, check_passed, first_rows, observe, part_of, round_trip
from tunesmith.export.fold import fold, is_foldable
from tunesmith.export.gguf import engine
from tunesmith.export.gguf.adapter import write_adapter
from tunesmith.export.gguf.families import Family, context_length, family_of
from tunesmith.export.gguf.held import SUPER_BLOCK, Held, take_weights
from tunesmith.export.gguf.modelfile import modelfile
from tunesmith.export.gguf.quant import QUANTIZER, find_quantizer, quantize_file
from tunesmith.export.gguf.vocab import vocabulary
from tunesmith.export.gguf.write import Says, round_weights, write_gguf
from tunesmith.export.job import Adapter, Job, Proof
from tunesmith.run.artefacts import Quant, QuantCost, RoundTrip

DEFAULT: Quant = "f16"
NUM_TARGETS = 160
"""Held-out tokens that llama.cpp predicts: each costs it one step."""
WRITTEN_BY_LLAMA_CPP = ("q4_k_m",)


def export_gguf(job: Job, model: Any) -> Proof:
    """Write NAME.QUANT.gguf and a Modelfile, and let llama.cpp run it. `model` is changed.

    Raises ModelError with what differed, or what the format cannot hold.
    """
    quant = job.asked.quant or DEFAULT
    model, family = _for_llama_cpp(job, model)
    file = job.folder / f"{job.name}.{quant}.gguf"
    job.say(f"writing {file.name}")
    _write(job, model, family, file, quant)
    if quant in WRITTEN_BY_LLAMA_CPP:
        job.notes.append(_describe(take_weights(model, family, file), quant))
    else:
        round_weights(model, quant)
    cost, expected = None, job.tuned
    if quant != "f32":
        job.say("scoring the rounded weights")
        expected = observe(model, job.rows, job.begun)
        cost = QuantCost(
            num_documents=len(job.rows),
            num_tokens=len(expected.logprobs),
            loss=expected.loss,
            tuned_loss=job.tuned.loss,
            measured_by="the weights as the file holds them, in transformers and float32",
        )
    context = context_length(model.config)
    trip = _run(job, file, quant, expected, context)
    text, note = modelfile(file.name, job.tokenizer, is_chat=job.is_chat, context=context)
    write_text(job.folder / "Modelfile", text)
    if note:
        job.notes.append(note)
    return Proof(
        quant, family.arch, model.config.vocab_size, context, (trip,), cost, "gguf", _use(file.name, job.is_chat)
    )


def export_adapter(job: Job, base: Any, adapters: Mapping[str, Adapter]) -> Proof:
    """Write the adapter as a GGUF file that llama.cpp puts on any file of its base, and let it do so.

    Raises ModelError for an architecture whose weights are joined in the file.
    """
    quant = job.asked.quant or DEFAULT
    if quant not in ("f32", "f16", "bf16"):
        raise ModelError(f"export --adapter --quant {quant}: an adapter is written as f32, f16 or bf16.")
    if is_foldable(type(base).__name__):
        raise ModelError(
            f"export --adapter: {type(base).__name__} is folded into another architecture, in which its adapter has no "
            "place. Leave out --adapter."
        )
    family = family_of(base.config, type(base).__name__)
    file, below = job.folder / f"{job.name}.lora.{quant}.gguf", job.folder / "base.gguf"
    job.say(f"writing {file.name}")
    write_adapter(file, base, family, adapters, quant)
    _write(job, base, family, below, "f32")
    try:
        trip = _run(job, below, quant, job.tuned, context_length(base.config), file)
    finally:
        below.unlink(missing_ok=True)
    use = (
        f"`{file.name}` is an adapter: give llama.cpp a GGUF file of the base model beside it.\n\n"
        f"```sh\nllama-cli -m base.gguf --lora {file.name} -p 'One fine morning'\n```"
    )
    context = context_length(base.config)
    return Proof(quant, family.arch, base.config.vocab_size, context, (trip,), None, "gguf", use)


def _for_llama_cpp(job: Job, model: Any) -> tuple[Any, Family]:
    name = type(model).__name__
    if is_foldable(name):
        job.say(f"folding {name}")
        model = fold(model)
        job.notes.append(f"{name} was folded exactly into {type(model).__name__}, which llama.cpp runs.")
        if name == "GPTNeoForCausalLM":
            job.notes.append(
                f"It reads {model.config.n_positions} tokens at most: beyond its local window GPT-Neo computes what "
                "llama.cpp has no operation for. The safetensors model reads longer texts."
            )
    return model, family_of(model.config, type(model).__name__)


def _write(job: Job, model: Any, family: Family, file: Path, quant: Quant) -> None:
    words = vocabulary(job.tokenizer, model.config.vocab_size)
    says = Says(job.name, job.licence, job.starts)
    if quant not in WRITTEN_BY_LLAMA_CPP:
        write_gguf(file, model, family, words, job.tokenizer, quant, says)
        return
    plain = file.with_suffix(".f16")
    try:
        write_gguf(plain, model, family, words, job.tokenizer, "f16", says)
        job.say(f"quantising it with {find_quantizer()}")
        quantize_file(plain, file, quant)
    finally:
        plain.unlink(missing_ok=True)


def _describe(held: Held, quant: Quant) -> str:
    """What llama.cpp's quantizer made of it: a mixture of types, and others where a matrix does not fit."""
    types = ", ".join(f"{number} {kind}" for kind, number in held.num_by_type.items())
    text = (
        f"{QUANTIZER} wrote {held.num_matrices} matrices as {quant}: {types}; {held.bits_per_weight:.1f} bits a weight."
    )
    if not held.num_uneven:
        return text
    return (
        f"{text} {held.num_uneven} of them have rows that are no multiple of {SUPER_BLOCK}, which the types of "
        f"{quant} need: it took larger ones for these."
    )


def _run(
    job: Job, file: Path, quant: Quant, expected: Seen, context: int | None, adapter: Path | None = None
) -> RoundTrip:
    """Let llama.cpp predict and write what the tuned model did. Raises ModelError with what differed."""
    version, started = engine.llama_cpp_version(), time.monotonic()
    job.say("running it in llama.cpp")
    part = first_rows(job.rows, NUM_TARGETS)
    longest = max(len(ids) for ids in (*(row.ids for row in part), *job.begun)) + NEW_TOKENS
    texts = job.texts() if adapter is None else []
    answer = engine.ask(
        engine.Request(
            file=str(file),
            rows=tuple((row.ids, tuple(row.places)) for row in part),
            begun=tuple(job.begun),
            new_tokens=NEW_TOKENS,
            texts=tuple(texts),
            context=longest if context is None else min(longest, context),
            adapter=None if adapter is None else str(adapter),
        )
    )
    _check_tokens(job, texts, answer.tokens)
    found = Seen(
        np.array([np.nan if value is None else value for value in answer.logprobs], dtype=np.float64),
        np.array([-1 if token is None else token for token in answer.first], dtype=np.int64),
        np.zeros(len(answer.first)),
        tuple(tuple(ids) for ids in answer.texts),
        (),
    )
    tuned = None if expected is job.tuned else part_of(job.tuned, part)
    by = Engine(version, time.monotonic() - started)
    trip = round_trip(by, part_of(expected, part), found, part, quant, tuned)
    check_passed(trip, f"{file.name}")
    return trip


def _check_tokens(job: Job, texts: list[str], found: list[list[int]]) -> None:
    """Raise ModelError where llama.cpp cuts a text into other tokens than training did."""
    start = [job.tokenizer.start_id] if job.starts else []
    for text, expected, other in zip(texts, job.tokenizer.encode_batch(texts), found, strict=True):
        if other != [*start, *expected]:
            place = next((i for i, (a, b) in enumerate(zip(other, [*start, *expected], strict=False)) if a != b), 0)
            raise ModelError(
                f"export: llama.cpp reads {text[:60]!r} as other tokens than training did: from token {place} on "
                f"{other[place : place + 6]}, expected {[*start, *expected][place : place + 6]}. Nothing was written; "
                "export safetensors instead."
            )


def _use(file: str, is_chat: bool) -> str:
    ask = f"llama-cli -m {file} -cnv" if is_chat else f"llama-cli -m {file} -no-cnv -p 'One fine morning' -n 80"
    return f"""```sh
{ask}
ollama create my-model -f Modelfile && ollama run my-model
```"""
