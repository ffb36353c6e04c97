"""Recorded decode steps write what transformers' steps write; where they would not, they are not used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tunesmith.generate import decode, text
from tunesmith.generate.text import generate
from tunesmith.models.load import load_for_generation
from tunesmith.models.tokenizer import TextTokenizer

PROMPTS = ["", "One fine morning", "A boy and a girl who live by the sea", "x", ""]
DECODING: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.8, "top_p": 1.0, "seed": 7}
SMALL = {"vocab_size": 512, "bos_token_id": 0, "eos_token_id": 0}
LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
NEOX = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**LLAMA, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3", {**LLAMA, "num_key_value_heads": 2}),
    "gemma2": ("Gemma2", {**LLAMA, "num_key_value_heads": 2, "final_logit_softcapping": 1.5, "sliding_window": 512}),
    "gpt2": ("GPT2", GPT),
    "gptj": ("GPTJ", {**GPT, "rotary_dim": 4}),
    "gpt-neo": (
        "GPTNeo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "window_size": 8,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
    "gpt-neox": ("GPTNeoX", NEOX),
    "falcon": ("Falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False}),
}


class Recorded:
    """A recording that calls again, and counts."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, device: torch.device) -> Callable[[Callable[[], None]], Callable[[], None]]:
        return self.record

    def record(self, call: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            self.replays += 1
            call()

        return replay


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    made = Recorded()
    for room in (decode, text):
        monkeypatch.setattr(room, "recorder", made)
    return made


def build(name: str) -> Any:
    kind, values = CONFIGS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SMALL, **values)
    return getattr(transformers, kind + ("LMHeadModel" if kind == "GPT2" else "ForCausalLM"))(config).eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_texts_are_those_that_transformers_steps_write(
    name: str, temperature: float, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name)
    decoding = {**DECODING, "temperature": temperature}
    plain = generate(model, tokenizer, PROMPTS, **decoding)
    made = Recorded()
    for room in (decode, text):
        monkeypatch.setattr(room, "recorder", made)
    assert generate(model, tokenizer, PROMPTS, **decoding) == plain
    assert made.replays > 8
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_step_of_other_numbers_is_not_used(
    tiny_llama: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_for_generation(str(tiny_llama), device="cpu")
    expected = generate(model, tokenizer, PROMPTS, **DECODING)
    assert recorded.replays
    recorded.replays = 0
    right = decode.CachedBatch.attend
    monkeypatch.setattr(decode.CachedBatch, "attend", lambda *arguments: 1.01 * right(*arguments))
    assert generate(model, tokenizer, PROMPTS, **DECODING) == expected
    assert recorded.replays == 0


def test_short_texts_and_models_that_cannot_be_recorded_are_written_without(
    tiny_llama: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_for_generation(str(tiny_llama), device="cpu")
    short = generate(model, tokenizer, PROMPTS, **{**DECODING, "max_new_tokens": 8})
    assert len(short) == len(PROMPTS)

    def fail(call: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "record", fail)
    unrecorded = generate(model, tokenizer, PROMPTS, **DECODING)
    assert recorded.replays == 0
    monkeypatch.undo()
    assert generate(model, tokenizer, PROMPTS, **DECODING) == unrecorded


def test_a_layer_that_forgets_the_beginning_is_not_recorded(tokenizer: TextTokenizer, recorded: Recorded) -> None:
    model = build("gemma2")
    model.config.sliding_window = 4
    assert len(generate(model, tokenizer, PROMPTS, **DECODING)) == len(PROMPTS)
    assert recorded.replays == 0


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_a_gpu_writes_with_graphs_what_it_writes_without(
    name: str, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, greedy = build(name).cuda(), {**DECODING, "temperature": 0.0}
    found = generate(model, tokenizer, PROMPTS, **greedy)
    with monkeypatch.context() as patch:
        for room in (decode, text):
            patch.setattr(room, "recorder", lambda device: None)
        assert generate(model, tokenizer, PROMPTS, **greedy) == found
    replays = 0
    record = decode._record

    def counting(call: Callable[[], None]) -> Callable[[], None]:
        replay = record(call)

        def again() -> None:
            nonlocal replays
            replays += 1
            replay()

        return again

    monkeypatch.setattr(decode, "_record", counting)
    assert generate(model, tokenizer, PROMPTS, **greedy) == found
    assert replays > 8
