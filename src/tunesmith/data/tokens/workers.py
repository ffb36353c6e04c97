"""Encoding in several processes. Each reads rows from the spool itself and answers with arrays over a pipe.

Workers are plain child processes, not multiprocessing's: those would run the user's own script again, or fork a process
that already holds threads.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.rows.spool import Spool
from tunesmith.data.tokens.encode import Encoded, Encoder

MIN_BYTES = 32 << 20  # below, a worker's start costs more than it saves
MAX_WORKERS = 8
Rows = NDArray[np.int64]
Encode = Callable[[Rows], Encoded]


def num_workers(num_bytes: int) -> int:
    """Processes to encode `num_bytes` of text with; 0: in this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS) if cores > 1 and num_bytes >= MIN_BYTES else 0


@contextmanager
def encoded_batches(
    spool: Spool, encoder: Encoder, tokenizer_json: str, batches: Iterator[Rows], workers: int
) -> Iterator[Iterator[tuple[Rows, Encoded]]]:
    """Each batch with its encoding, in order; the next ones are encoded while the caller uses it."""

    def encode_here(rows: Rows) -> Encoded:
        return encoder.encode([spool.pieces(row) for row in rows.tolist()])

    with ExitStack() as stack:
        encode: Encode = encode_here
        if workers:
            started = [stack.enter_context(_Worker(spool.folder, encoder, tokenizer_json)) for _ in range(workers)]
            encode = _shared(started, encode_here)
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=max(1, workers)))
        yield _ahead(pool, encode, batches, window=max(2, 2 * workers))


def _ahead(
    pool: ThreadPoolExecutor, encode: Encode, batches: Iterator[Rows], window: int
) -> Iterator[tuple[Rows, Encoded]]:
    waiting: list[tuple[Rows, Future[Encoded]]] = []
    for batch in batches:
        waiting.append((batch, pool.submit(encode, batch)))
        if len(waiting) == window:
            rows, future = waiting.pop(0)
            yield rows, future.result()
    for rows, future in waiting:
        yield rows, future.result()


def _shared(workers: list[_Worker], encode_here: Encode) -> Encode:
    """Encode with whichever worker is free; there is a thread for each. A dead one's rows are encoded here."""
    free: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def encode(rows: Rows) -> Encoded:
        worker = free.get()
        try:
            return encode_here(rows) if worker is None else worker.encode(rows)
        except (OSError, EOFError, ValueError):  # it died before, or within, its answer
            worker = None
            return encode_here(rows)
        finally:
            free.put(worker)

    return encode


class _Worker:
    """One process that encodes rows of the spool in `folder`."""

    def __init__(self, folder: Path, encoder: Encoder, tokenizer_json: str) -> None:
        values = {key: value for key, value in asdict(encoder).items() if key != "encode_batch"}
        self.job = {"folder": str(folder), "encoder": values, "tokenizer": tokenizer_json}

    def __enter__(self) -> _Worker:
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests: IO[bytes] = self.process.stdin
        self.answers: IO[bytes] = self.process.stdout
        self.requests.write(json.dumps(self.job).encode() + b"\n")
        self.requests.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with suppress(BrokenPipeError), self.process:
            pass

    def encode(self, rows: Rows) -> Encoded:
        """Raises EOFError, OSError or ValueError when the process has died."""
        _send(self.requests, rows)
        return Encoded(*(_receive(self.answers) for _ in range(3)))


def _send(stream: IO[bytes], *arrays: NDArray[Any]) -> None:
    for array in arrays:
        stream.write(f"{array.dtype.str} {array.size}\n".encode())
        stream.write(np.ascontiguousarray(array).data)
    stream.flush()


def _receive(stream: IO[bytes]) -> NDArray[Any]:
    header = stream.readline().split()
    if not header:
        raise EOFError
    dtype = np.dtype(header[0].decode())
    return np.frombuffer(stream.read(int(header[1]) * dtype.itemsize), dtype=dtype)


def serve() -> None:
    """Encode what is asked on standard input until it is closed."""
    from tokenizers import Tokenizer

    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    job = json.loads(requests.readline())
    tokenizer = Tokenizer.from_str(job["tokenizer"])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = not job["encoder"]["chat"]
    spool = Spool(Path(job["folder"]))

    def encode_batch(texts: Any) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    encoder = Encoder(encode_batch=encode_batch, **job["encoder"])
    with suppress(EOFError):
        while True:
            encoded = encoder.encode([spool.pieces(row) for row in _receive(requests).tolist()])
            _send(answers, encoded.tokens, encoded.supervised, encoded.lengths)
