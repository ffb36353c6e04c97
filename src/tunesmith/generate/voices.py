"""Models made ready to write: tuned and base, from one set of weights where one is an adapter on the other."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.data.rows.chat import ChatTemplate
from tunesmith.data.rows.turns import Turn
from tunesmith.data.tokens.asked import chat_of
from tunesmith.data.tokens.encode import chat_prompt
from tunesmith.errors import ModelError
from tunesmith.generate.asking import TextEngine
from tunesmith.generate.engine import MAX_TOKENS, MAX_WAITING, Engine
from tunesmith.generate.lane import Lane
from tunesmith.generate.request import Voice
from tunesmith.models.adapters import can_switch_by_row, put_on
from tunesmith.models.find import ModelSource, find_model
from tunesmith.models.grow import find_asked
from tunesmith.models.load import load_model, usual_device
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.run.directory import RunDir

TUNED, BASE = "tuned", "base"
Load = Callable[[ModelSource], Any]
MEMORY_SHARE = 0.5
"""Of the memory that is free once the models are loaded, for what they keep of the texts they write."""


@dataclass(frozen=True)
class Speakers:
    """An engine, and what is known of the models that it writes with."""

    engine: TextEngine
    sources: Mapping[str, ModelSource]
    """By voice: tuned, base or both."""
    chats: Mapping[str, ChatTemplate | None]
    """The template that each is asked in; None for a model that only continues text."""
    asks_in_turns: bool
    """A run that was tuned on conversations: its prompts are a user's turns."""
    notes: tuple[str, ...] = ()

    @property
    def own_name(self) -> str:
        """What a model that is no run is called."""
        source = next(iter(self.sources.values()))
        name = source.name.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name) or TUNED

    def prompt(self, text: str, voice: str, *, raw: bool = False) -> str | tuple[int, ...]:
        """`text` as the voice is fed it: a user's turn where the run was tuned on conversations and it is not `raw`."""
        chat = self.chats[voice] if self.asks_in_turns and not raw and text else None
        return text if chat is None else tuple(chat_prompt(chat, [Turn({"role": "user", "content": text})]))


def open_speakers(
    name: str,
    *,
    base: bool = True,
    tuned: bool = True,
    device: str | None = None,
    dtype: str | None = None,
    max_waiting: int | None = None,
    with_llama_cpp: bool = False,
    say: Callable[[str], object] = lambda _: None,
) -> Speakers:
    """Load RUN_OR_MODEL, and the base that it was tuned from where there is one and `base` says so.

    Weights are float32 on a CPU and bfloat16 on a GPU that has it, unless told otherwise. A base that cannot be found
    is told in `notes`, unless it alone is asked for. with_llama_cpp: a GGUF file is written with as it is, not
    dequantised. Raises ModelError or RunError.
    """
    if is_gguf(name) and with_llama_cpp:
        return _gguf_speakers(Path(name).expanduser(), MAX_WAITING if max_waiting is None else max_waiting, say)
    say("finding the model")
    run_dir = RunDir.open(Path(name).expanduser()) if RunDir.is_run(Path(name).expanduser()) else None
    own = find_model(name)
    notes: list[str] = []
    below = _base_of(own, run_dir, notes if tuned else None) if base or not tuned else None
    if below is None and not tuned:
        raise ModelError(f"model {name}: was not tuned from another one that is known here, so it has no base.")
    device, dtype = usual_device(device, dtype)
    say("loading the model")
    lanes = list(_lanes(own, below, tuned, partial(load_model, device=device, dtype=dtype)))
    sources = {TUNED: own if tuned else None, BASE: below}
    voices = {voice.name: voice for lane in lanes for voice in lane.voices.values()}
    chats = {name: _template(run_dir, voice.tokenizer) for name, voice in voices.items()}
    say("warming up")
    engine = Engine(
        lanes, max_tokens=_room(lanes, device), max_waiting=MAX_WAITING if max_waiting is None else max_waiting
    )
    return Speakers(
        engine,
        {name: source for name, source in sources.items() if source is not None and name in voices},
        chats,
        run_dir is not None and any(chat_of(run_dir, voice.tokenizer) is not None for voice in voices.values()),
        tuple(notes),
    )


def is_gguf(name: str) -> bool:
    """Whether a GGUF file is named."""
    return name.lower().endswith(".gguf") and Path(name).expanduser().is_file()


def _gguf_speakers(path: Path, max_waiting: int, say: Callable[[str], object]) -> Speakers:
    from gguf import GGUFReader

    from tunesmith.generate.llama_cpp import LlamaCppEngine

    say("reading the tokenizer")
    source = find_model(str(path), weights=False)
    tokenizer = load_tokenizer(source)
    fields = GGUFReader(path).fields
    length = next((int(f.contents()) for name, f in fields.items() if name.endswith(".context_length")), sys.maxsize)
    say("loading the model into llama.cpp")
    engine = LlamaCppEngine(path, tokenizer, context_length=length, max_waiting=max_waiting)
    return Speakers(engine, {TUNED: source}, {TUNED: _template(None, tokenizer)}, asks_in_turns=False)


def _base_of(own: ModelSource, run_dir: RunDir | None, notes: list[str] | None) -> ModelSource | None:
    """What a run or an adapter was tuned from. A base that is gone is an error where `notes` is None."""
    if run_dir is None:
        return replace(own, adapter=None, name=own.base_name) if own.adapter is not None else None
    asked = run_dir.recipe().model
    try:
        return find_asked(asked)
    except ModelError as error:
        if own.adapter is not None:
            return replace(own, adapter=None)
        if notes is None:
            raise
        notes.append(f"The base is not served: {error}")
        return None


def _lanes(own: ModelSource, below: ModelSource | None, tuned: bool, load: Load) -> list[Lane]:
    if below is None:
        return [Lane(load(own), [Voice(TUNED, load_tokenizer(own))])]
    if not tuned:
        return [Lane(load(below), [Voice(BASE, load_tokenizer(below))])]
    tokenizers = load_tokenizer(own), load_tokenizer(below)
    if own.adapter is not None and can_switch_by_row(own.adapter):
        model = put_on(load(replace(own, adapter=None)), own, TUNED)
        return [Lane(model, [Voice(TUNED, tokenizers[0], TUNED), Voice(BASE, tokenizers[1])])]
    return [
        Lane(load(own), [Voice(TUNED, tokenizers[0])]),
        Lane(load(below), [Voice(BASE, tokenizers[1])]),
    ]


def _template(run_dir: RunDir | None, tokenizer: TextTokenizer) -> ChatTemplate | None:
    chat = chat_of(run_dir, tokenizer) if run_dir is not None else None
    return chat or (ChatTemplate.of(tokenizer) if getattr(tokenizer.backend, "chat_template", None) else None)


def _room(lanes: list[Lane], device: str) -> int:
    """Tokens that all rows may hold together, from what one token takes."""
    bytes_per_token = max(lane.bytes_per_token() for lane in lanes)
    return min(MAX_TOKENS, max(1, int(_free_bytes(device) * MEMORY_SHARE / len(lanes) / max(1, bytes_per_token))))


def _free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free: Any = psutil.virtual_memory().available
    return int(free)
