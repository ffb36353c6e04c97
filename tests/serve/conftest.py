"""A server in a thread of this process, on a free port of this machine."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tunesmith.generate.engine import Engine

if TYPE_CHECKING:
    from tunesmith.serve.service import Limits
    from tunesmith.serve.start import Opened


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    opened: Opened
    run_path: Path
    """What is served."""

    @property
    def url(self) -> str:
        return self.opened.address

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def engine(self) -> Engine:
        engine = self.opened.speakers.engine
        assert isinstance(engine, Engine)
        return engine

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; a body that is no bytes is sent as JSON. `x_y` becomes the header x-y."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        connection.request(method, path, content, sent)
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return answer

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Ask again and again, through the server, until something is so."""
        for _ in range(5000):
            if is_so():
                return
            self.ask("GET", "/health")
        raise AssertionError("it never was so")


@contextmanager
def serving(name: Path | str, limits: Limits | None = None, key_file: Path | None = None) -> Iterator[Served]:
    for package in ("fastapi", "prometheus_client", "uvicorn"):
        pytest.importorskip(package, reason="needs the extra: pip install 'tunesmith[serve]'")
    import uvicorn

    from tunesmith.serve.start import Address, open_server

    opened = open_server(str(name), Address("127.0.0.1", 0, key_file), limits=limits)
    server = uvicorn.Server(uvicorn.Config(opened.guard, log_config=None, ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[opened.listener])), daemon=True)
    with opened.speakers.engine:
        thread.start()
        yield Served(opened, Path(name))
        server.should_exit = True
        thread.join(20)
        server.force_exit = True  # what is still connected then does not hold up the tests
        thread.join(20)
    opened.listener.close()


@pytest.fixture(scope="session")
def serving_with() -> Any:
    """serving_with(model, limits, key_file): a server, in a `with`."""
    return serving


@pytest.fixture(scope="session")
def served(lora_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A run whose model is an adapter, with its base. Votes go into a copy."""
    import shutil

    run = tmp_path_factory.mktemp("served") / "shows"
    shutil.copytree(lora_run, run)
    with serving(run) as server:
        yield server


@pytest.fixture(scope="session")
def chat_server(chat_llama: Path) -> Iterator[Served]:
    """A model that is no run, with a chat template."""
    with serving(chat_llama) as server:
        yield server
