"""What the server does under load: tokens/s of one and of many clients, time to the first token, memory, losses.

    python benchmarks/serve.py [RUN_OR_MODEL] [--clients 16] [--requests 500] [--at-once 32] [--json FILE]
    python benchmarks/serve.py [RUN_OR_MODEL] --exact

Starts `tunesmith serve` on a free port and asks it over HTTP, as any client would. Use a quiet machine.
--exact: instead, whether greedy texts, alone and among 32, are those of plain transformers, token by token.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

PROMPT = "One fine morning in a small town by the sea"
NEW_TOKENS = 48


@dataclass(frozen=True)
class Answered:
    tokens: int
    seconds: float
    first_seconds: float
    status: int


@dataclass(frozen=True)
class Measured:
    """The numbers of one run of this script."""

    model: str
    machine: str
    one_client_tokens_per_second: float
    many_clients: int
    many_clients_tokens_per_second: float
    times_one: float
    first_token_seconds: float
    requests: int
    at_once: int
    lost: int
    requests_seconds: float
    rss_after_100_mb: float
    rss_at_the_end_mb: float
    rss_growth: float


class Server:
    """`tunesmith serve`, in a process of its own."""

    def __init__(self, model: str) -> None:
        self.model = model
        command = [sys.executable, "-m", "tunesmith", "-q", "serve", model, "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)\n", line)
        if not found:
            raise SystemExit(f"the server did not start: {line!r}")
        self.port = int(found[1])

    def ask(self, number: int, new_tokens: int = NEW_TOKENS) -> Answered:
        """Stream one completion."""
        begun, first, tokens = time.perf_counter(), 0.0, 0
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        body = {
            "model": "tuned",
            "prompt": f"{PROMPT}, number {number},",
            "max_tokens": new_tokens,
            "temperature": 0.8,
            "seed": number,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[len(b"data: ") :])
            first = first or time.perf_counter() - begun
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
        connection.close()
        return Answered(tokens, time.perf_counter() - begun, first, response.status)

    def ask_many(self, numbers: range, at_once: int, new_tokens: int = NEW_TOKENS) -> list[Answered]:
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda number: self.ask(number, new_tokens), numbers))

    @property
    def rss(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def measure(server: Server, clients: int, requests: int, at_once: int) -> Measured:
    server.ask(0)  # what is slow only once
    alone = [server.ask(number) for number in range(1, 4)]
    one = sum(a.tokens for a in alone) / sum(a.seconds for a in alone)
    firsts = [server.ask(number, 1).first_seconds for number in range(10, 17)]
    begun = time.perf_counter()
    together = server.ask_many(range(100, 100 + 2 * clients), clients)
    many = sum(a.tokens for a in together) / (time.perf_counter() - begun)
    begun = time.perf_counter()
    answered = server.ask_many(range(1000, 1000 + min(100, requests)), at_once, 16)
    after_100 = server.rss
    answered += server.ask_many(range(1000 + len(answered), 1000 + requests), at_once, 16)
    seconds, at_end = time.perf_counter() - begun, server.rss
    return Measured(
        model=server.model,
        machine=f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        one_client_tokens_per_second=round(one, 1),
        many_clients=clients,
        many_clients_tokens_per_second=round(many, 1),
        times_one=round(many / one, 2),
        first_token_seconds=round(statistics.median(firsts), 3),
        requests=requests,
        at_once=at_once,
        lost=sum(a.status != 200 or a.tokens == 0 for a in answered),
        requests_seconds=round(seconds, 1),
        rss_after_100_mb=round(after_100),
        rss_at_the_end_mb=round(at_end),
        rss_growth=round(at_end / after_100 - 1, 4),
    )


def exactness(model_name: str) -> dict[str, Any]:
    """How many greedy tokens of the engine are not the likeliest by a plain forward pass, ties below 1e-4 excepted."""
    import torch

    from tunesmith.generate.engine import Engine
    from tunesmith.generate.lane import Lane
    from tunesmith.generate.request import Request, Voice
    from tunesmith.generate.text import Decoding
    from tunesmith.models.load import load_for_generation

    model, tokenizer = load_for_generation(model_name, device="cpu", dtype="float32")
    words = PROMPT.split()
    prompts = [" ".join(words[: 1 + number % len(words)]) + f" {number}" for number in range(32)]
    requests = [Request(prompt, Decoding(24, temperature=0), 7) for prompt in prompts]
    counts: dict[str, Any] = {"model": model_name, "tokens": 0, "differ": 0, "largest_gap": 0.0}
    with Engine([Lane(model, [Voice("tuned", tokenizer)])]) as engine:
        written = [*engine.write(requests), *(engine.write([request])[0] for request in requests[:4])]
    for request, text in zip([*requests, *requests[:4]], written, strict=True):
        before = [tokenizer.start_id, *tokenizer.encode_batch([str(request.prompt)])[0]]
        new = tokenizer.encode_batch([text.text])[0]
        if len(new) != text.num_tokens or tokenizer.decode(new) != text.text:
            continue  # other tokens spell the same text: what was written cannot be told from it
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*before, *new]])).logits[0, len(before) - 1 : -1]
        gaps = logits.max(-1).values - logits[torch.arange(len(new)), torch.tensor(new, dtype=torch.int64)]
        counts["tokens"] += len(new)
        counts["differ"] += int((gaps >= 1e-4).sum())
        counts["largest_gap"] = max(counts["largest_gap"], float(gaps.max()) if len(new) else 0.0)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.exact:
        for name, value in exactness(asked.model).items():
            print(f"{name:32} {value}")
        return
    server = Server(asked.model)
    try:
        values: dict[str, Any] = asdict(measure(server, asked.clients, asked.requests, asked.at_once))
    finally:
        ended = server.stop()
    values["exit_code"] = ended
    for name, value in values.items():
        print(f"{name:32} {value}")
    if asked.json:
        asked.json.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
