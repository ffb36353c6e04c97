"""A GGUF file as an engine: llama.cpp's own server inside this process (xllamacpp), asked as the other engine is.

The prompt is encoded by the file's own tokenizer as transformers reads it, so that what is fed is what training fed.
llama.cpp draws its own random numbers: a seed gives the same text again, but not that of the other engine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from tunesmith.errors import ModelError
from tunesmith.generate.asking import TextEngine
from tunesmith.generate.request import Busy, EngineClosed, Piece, Request, Ticket, TokenScore, Voice
from tunesmith.machine.threads import choose_waiting
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.redact import redact

NUM_SLOTS = 8
MAX_CONTEXT = 4096
"""Tokens of prompt and text together, where the model reads more: each slot keeps that many."""


class LlamaCppEngine(TextEngine):
    """Writes with a GGUF file. Each text that is written has a thread, which waits for llama.cpp."""

    def __init__(self, path: Path, tokenizer: TextTokenizer, *, context_length: int, max_waiting: int) -> None:
        self.voices = {"tuned": Voice("tuned", tokenizer)}
        self.max_waiting = max_waiting
        self.context_length = min(context_length, MAX_CONTEXT)
        self._server = _open(path, self.context_length)
        self._going: set[Ticket] = set()
        self._pool = ThreadPoolExecutor(NUM_SLOTS, thread_name_prefix="tunesmith-llama")
        self._lock = threading.Lock()
        self._is_closing = False

    @property
    def num_rows(self) -> int:
        return min(len(self._going), NUM_SLOTS)

    @property
    def num_waiting(self) -> int:
        return max(0, len(self._going) - NUM_SLOTS)

    def submit(self, request: Request, deliver: Callable[[Piece], None]) -> Ticket:
        """As `TextEngine` says: raises ModelError for a prompt that fills the context."""
        ticket = Ticket(request, self.ids_of(request), deliver)
        if len(ticket.ids) >= self.context_length:
            raise ModelError(
                f"a prompt of {len(ticket.ids)} tokens leaves no room in the context of {self.context_length}. "
                "Shorten the prompt."
            )
        with self._lock:
            if self._is_closing:
                raise EngineClosed("the engine is closing and takes no more requests.")
            if self.num_waiting >= self.max_waiting:
                raise Busy(f"{self.num_waiting} requests wait already. Try again later.")
            self._going.add(ticket)
        self._pool.submit(self._write, ticket)
        return ticket

    def start(self) -> Self:
        return self

    def close(self, *, drain: bool = False) -> None:
        with self._lock:
            self._is_closing = True
            for ticket in () if drain else list(self._going):
                ticket.deliver(Piece("", 0, error="the server is closing."))
                ticket.cancel()
        self._pool.shutdown(wait=True)

    def _write(self, ticket: Ticket) -> None:
        try:
            if not ticket.is_cancelled:
                self._server.handle_completions(_asked(ticket), _Listener(ticket))
        except Exception as error:  # the binding's errors are of no one kind
            ticket.deliver(Piece("", 0, error=redact(f"llama.cpp: {error}")))
        finally:
            with self._lock:
                self._going.discard(ticket)


class _Listener:
    """Takes what llama.cpp writes; called with each chunk, it says whether to stop."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket, self._num_tokens = ticket, 0

    def __call__(self, chunk: Any) -> bool:
        if "error" in chunk or "choices" not in chunk:
            told = chunk.get("error", chunk)
            message = told.get("message", told) if isinstance(told, dict) else told
            self._ticket.deliver(Piece("", self._num_tokens, error=redact(f"llama.cpp: {message}")))
            return True
        choice = chunk["choices"][0]
        finish = choice.get("finish_reason")
        self._num_tokens = chunk["usage"]["completion_tokens"] if "usage" in chunk else self._num_tokens + 1
        scores = tuple(map(_score, ((choice.get("logprobs") or {}).get("content")) or ()))
        reused = (chunk.get("usage") or {}).get("prompt_tokens_details", {}).get("cached_tokens", 0)
        self._ticket.num_reused = max(self._ticket.num_reused, reused)
        asked = self._ticket.request.top_logprobs
        self._ticket.deliver(
            Piece(
                choice.get("text") or "",
                self._num_tokens,
                () if asked is None else scores,
                None if finish is None else "length" if finish == "length" else "stop",
            )
        )
        return self._ticket.is_cancelled


def _score(token: Any) -> TokenScore:
    return TokenScore(token["token"], token["logprob"], tuple(map(_score, token.get("top_logprobs") or ())))


def _asked(ticket: Ticket) -> dict[str, Any]:
    request = ticket.request
    asked = {
        "prompt": ticket.ids,
        "n_predict": request.decoding.max_new_tokens,
        "temperature": request.decoding.temperature,
        "top_p": request.decoding.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "seed": _seed(request),
        "stop": list(request.stop),
        "stream": True,
        "cache_prompt": True,
    }
    return asked if request.top_logprobs is None else {**asked, "n_probs": max(1, request.top_logprobs)}


def _seed(request: Request) -> int:
    """Another one for each occurrence of a prompt, as llama.cpp takes it."""
    digest = hashlib.sha256(f"{request.seed}\0{request.occurrence}".encode()).digest()
    return int.from_bytes(digest[:4], "little") % (2**32 - 1)


def _open(path: Path, context_length: int) -> Any:
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModelError(f"model {path}: xllamacpp is not installed. Run: pip install 'tunesmith[gguf]'")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = NUM_SLOTS
    params.n_ctx = NUM_SLOTS * context_length
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    if choose_waiting().is_busy:  # beside other work threads that spin take the time of those they wait for
        params.cpuparams.poll = params.cpuparams_batch.poll = 0
    params.verbosity = -1
    try:
        return xllamacpp.Server(params)
    except Exception as error:
        raise ModelError(
            f"model {path}: llama.cpp cannot load it ({redact(str(error))[:200]}). Its architecture or its "
            "quantisation may be newer than the installed xllamacpp."
        ) from None
