"""Start a server: load, listen, say where, and drain when told to stop."""

from __future__ import annotations

import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.generate.voices import Speakers, open_speakers
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.recipe import CompareSection
from tunesmith.redact import redact
from tunesmith.serve.app import build_app
from tunesmith.serve.patience import Patience
from tunesmith.serve.playground import Playground
from tunesmith.serve.rows import Rows
from tunesmith.serve.service import Limits, Service, run_of
from tunesmith.web import Guard, Rules, address_of, listen, read_key, run_server


@dataclass(frozen=True)
class Address:
    """Where a server listens, and the file of the key that it wants."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key_file: Path | None = None


@dataclass(frozen=True)
class Opened:
    """A server that can begin: its app, its socket, its address."""

    guard: Guard
    listener: socket.socket
    address: str
    speakers: Speakers
    limits: Limits = field(default_factory=Limits)

    def run(self, ready: Callable[[str], object]) -> None:
        """Serve until SIGINT or SIGTERM; ready(address) is called when it answers. What is being answered then is
        answered to its end, up to `limits.drain_seconds`."""
        with self.speakers.engine:
            run_server(
                self.guard,
                self.listener,
                lambda: ready(self.address),
                grace_seconds=self.limits.drain_seconds,
                max_connections=2 * self.limits.max_open,
            )


def open_server(
    name: str,
    address: Address | None = None,
    *,
    limits: Limits | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Opened:
    """Load RUN_OR_MODEL and bind the address; llama.cpp writes with a GGUF file.

    Raises ServeError for an address that cannot be had or needs a key, ModelError or RunError for the model.
    """
    address, limits = address or Address(), limits or Limits()
    rules = Rules.of(address.host, read_key(address.api_key_file), open_paths=frozenset({"/health"}))
    listener = listen(address.host, address.port)
    try:
        service = _service(name, limits, say)
    except BaseException:
        listener.close()
        raise
    patience = Patience(
        build_app(service, Playground(service, _rows(service))),
        max_open=limits.max_open,
        body_seconds=limits.body_seconds,
        counted=service.count,
    )
    guard = Guard(patience, rules, _tell)
    return Opened(guard, listener, address_of(listener, address.host), service.speakers, limits)


def _service(name: str, limits: Limits, say: Callable[[str], object]) -> Service:
    run_dir = run_of(name)
    speakers = open_speakers(name, max_waiting=limits.max_waiting, with_llama_cpp=True, say=say)
    defaults = run_dir.recipe().compare if run_dir is not None else CompareSection()
    shown = run_dir.path.resolve().name if run_dir is not None else speakers.own_name
    return Service(shown, speakers, run_dir, limits, defaults)


def _rows(service: Service) -> Rows | None:
    """The run's training rows, which are read while the server answers already."""
    if service.run_dir is None:
        return None
    source = next(iter(service.speakers.sources.values()))
    rows = Rows(service.run_dir, load_tokenizer(source))  # of its own: it is used in another thread
    rows.start()
    return rows


def _tell(error: Exception) -> None:
    """What failed inside is told here alone, without secrets."""
    text = "".join(traceback.format_exception(error))
    sys.stderr.write(redact(text))
