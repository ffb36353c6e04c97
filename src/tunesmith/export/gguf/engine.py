"""A real llama.cpp, from the wheel xllamacpp, in a process of its own: a file that it cannot take ends that process.

Its server answers with log-probabilities of generated tokens only. So each target is made the one that is generated, by
a bias on it that comes after the probabilities were taken; the prefix stays in its cache, and a target costs one token.
A token that is half of a UTF-8 character is left out of the server's list, and so is its probability here.

    python -m tunesmith.export.gguf.engine < request.json > answer.json
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.machine.threads import is_busy

PACKAGE = "xllamacpp"
BIAS = 10_000.0
TIMEOUT_SECONDS = 3600
NUM_PROBABILITIES = 2
SMALL_BYTES = 50_000_000
"""A smaller file is run by one thread, and any on a busy machine: several would spin while one waits for another."""


@dataclass(frozen=True)
class Request:
    """What llama.cpp is asked. rows: (ids, places of the targets). begun: openings to continue greedily."""

    file: str
    rows: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    begun: tuple[tuple[int, ...], ...]
    new_tokens: int
    texts: tuple[str, ...]
    """To tokenise as the file says, its start token included."""
    context: int
    adapter: str | None = None


@dataclass(frozen=True)
class Answer:
    """Per target its log-probability and the likeliest token, None where the server left it out."""

    logprobs: list[float | None]
    first: list[int | None]
    texts: list[list[int]]
    tokens: list[list[int]]


def llama_cpp_version() -> str:
    """`llama.cpp (xllamacpp 2026.10.11549)`. Raises ModelError that names the extra where it is missing."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ModelError(
            "export --format gguf: llama.cpp is not installed, so the file could not be proved. "
            "Run: pip install 'tunesmith[gguf]'"
        )
    return f"llama.cpp ({PACKAGE} {metadata.version(PACKAGE)})"


def ask(request: Request) -> Answer:
    """What llama.cpp makes of a file. Raises ModelError with its last words when it refuses the file or dies of it."""
    command = [sys.executable, "-m", "tunesmith.export.gguf.engine"]
    source = str(Path(__file__).parents[3])
    known = [source, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    done = subprocess.run(
        command,
        input=json.dumps(asdict(request)),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(part for part in known if part)},
    )
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        told = words[-1] if words else f"it ended with status {done.returncode} and no message"
        raise ModelError(
            f"export: llama.cpp cannot run {Path(request.file).name} ({told.strip()[:300]}). Nothing was written; "
            "export safetensors instead, and please report it with the model's name."
        )
    return Answer(**json.loads(done.stdout.splitlines()[-1]))


class _LlamaCpp:
    """One loaded file."""

    def __init__(self, request: Request) -> None:
        import xllamacpp

        self.context = request.context
        params = xllamacpp.CommonParams()
        params.model.path = request.file
        params.n_ctx = request.context
        params.n_parallel = 1
        alone = Path(request.file).stat().st_size < SMALL_BYTES or is_busy()
        threads = 1 if alone else os.cpu_count() or 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.warmup, params.verbosity, params.fit_params = False, -1, False
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if request.adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(request.adapter, 1.0)]
        self.server = xllamacpp.Server(params)

    def complete(self, ids: Sequence[int], num_tokens: int, forced: int | None = None) -> list[dict[str, Any]]:
        """What the server lists of the tokens that it generated, the likeliest each time or the forced one."""
        answer = self.server.handle_completions(
            {
                "prompt": list(ids),
                "n_predict": num_tokens,
                "temperature": 0,
                "samplers": ["top_k"],
                "top_k": 1,
                "n_probs": NUM_PROBABILITIES,
                "cache_prompt": True,
                "ignore_eos": False,
                "logit_bias": [] if forced is None else [[forced, BIAS]],
            }
        )
        if "choices" not in answer:
            raise ValueError(json.dumps(answer)[:300])
        return list((answer["choices"][0].get("logprobs") or {}).get("content") or ())

    def score(self, ids: Sequence[int], target: int) -> tuple[float | None, int | None]:
        """Log-probability of the target, and the likeliest token."""
        listed = self.complete(ids, 1, forced=target)
        if len(listed) != 1 or listed[0]["id"] != target:
            return None, None
        best = listed[0]["top_logprobs"]
        first = best[0]["id"] if best else target
        value = float(listed[0]["logprob"])
        return (value, first) if math.isfinite(value) else (None, None)

    def write(self, ids: Sequence[int], num_tokens: int) -> list[int]:
        """The likeliest tokens, one at a time, so that none is missing from a list; an end token ends it."""
        new = list[int]()
        for _ in range(min(num_tokens, self.context - len(ids))):
            listed = self.complete([*ids, *new], 1)
            if len(listed) != 1:
                break
            new.append(int(listed[0]["id"]))
        return new

    def tokenize(self, text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": True, "parse_special": False}).encode()
        headers = {"Content-Type": "application/json"}
        call = urllib.request.Request(f"{self.server.listening_address}/tokenize", body, headers)
        with urllib.request.urlopen(call) as answer:
            return list(json.load(answer)["tokens"])


def _answer(request: Request) -> Answer:
    llama = _LlamaCpp(request)
    scored = [llama.score(ids[:place], ids[place]) for ids, places in request.rows for place in places]
    return Answer(
        logprobs=[value for value, _ in scored],
        first=[token for _, token in scored],
        texts=[llama.write(ids, request.new_tokens) for ids in request.begun],
        tokens=[llama.tokenize(text) for text in request.texts],
    )


def main() -> None:
    """Read a request on standard input and answer it on standard output."""
    values = json.load(sys.stdin)
    answer = _answer(Request(**values))
    sys.stdout.write("\n" + json.dumps(asdict(answer)) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the server's threads would be waited for


if __name__ == "__main__":
    main()
