"""`watch --web`: the live page as an ASGI app, and its server. It reads runs and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

from tunesmith.errors import RunError, Stopped
from tunesmith.run.directory import RunDir
from tunesmith.run.table import find_runs
from tunesmith.watch.page import Page, policy, run_page, runs_page
from tunesmith.watch.view import View
from tunesmith.web import Guard, Message, Receive, Rules, Send, address_of, listen, require_server, run_server

REFRESH_SECONDS = 1.0
FOLDER_SECONDS = 10.0
"""Between two looks for new runs in a folder."""
RUN = "/run/"
LIVE = "/live"


class Board:
    """The runs that are watched, read again at most once a second however many browsers ask."""

    def __init__(self, path: Path, price: float | None, now: Callable[[], float] = time.monotonic) -> None:
        """Raises RunError when `path` is no run and holds none."""
        self.path, self.price, self._now = path, price, now
        self.views: dict[str, View] = {}
        self._looked = self._refreshed = now()
        self._find()

    @property
    def is_folder(self) -> bool:
        return not RunDir.is_run(self.path)

    def _find(self) -> None:
        found = {run.path: run for run in find_runs(self.path)}
        kept = {view.run_dir.path: view for view in self.views.values()}
        names = [path.resolve().name for path in found]
        self.views = {
            name if names.count(name) == 1 else f"{name}-{number}": kept.get(path) or View.of(run)
            for number, (name, (path, run)) in enumerate(zip(names, found.items(), strict=True), start=1)
        }

    def refresh(self) -> None:
        now = self._now()
        if self.is_folder and now - self._looked >= FOLDER_SECONDS:
            self._looked = now
            with contextlib.suppress(RunError):  # all were moved away: what was seen last stays
                self._find()
        if now - self._refreshed >= REFRESH_SECONDS:
            self._refreshed = now
            for view in self.views.values():
                view.refresh()

    def page(self, path: str) -> Page | None:
        """What the address `path` shows; None for one that shows nothing."""
        self.refresh()
        if path == "/":
            first = next(iter(self.views.values()))
            return runs_page(self.views) if self.is_folder else run_page(first, self.price, back=False)
        view = self.views.get(path.removeprefix(RUN)) if path.startswith(RUN) else None
        return run_page(view, self.price, back=True) if view is not None else None


class Site:
    """The ASGI app: pages, and under /live what changed in them."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._one = asyncio.Lock()

    async def __call__(self, scope: Message, _: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"no {scope['type']} here")
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, "text/plain", b"This page is only read.\n")
            return
        path: str = scope["path"]
        live = path.startswith(LIVE + "/")
        async with self._one:  # views are not made for two readers; a slow disk keeps only this page waiting
            page = await asyncio.to_thread(self.board.page, path.removeprefix(LIVE) if live else path)
        if page is None:
            await _answer(send, 404, "text/plain", b"No such run here.\n")
        elif live:
            known = parse_qs(scope["query_string"].decode("latin-1")).get("known", [""])[0]
            told = json.dumps(page.changed(set(known.split(","))))
            await _answer(send, 200, "application/json", told.encode())
        else:
            await _answer(send, 200, "text/html; charset=utf-8", page.whole().encode())


async def _answer(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
    if kind.startswith("text/html"):
        headers.append((b"content-security-policy", policy().encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve_page(
    path: Path, price: float | None, *, host: str, port: int, key: str | None, say: Callable[[str], None]
) -> None:
    """Show the run, or the runs, at `path` until Ctrl-C. say: told the address, on a line of its own, when it answers.

    Raises ServeError where no server can be started, RunError where there is no run.
    """
    require_server("watch --web")
    rules, board = Rules.of(host, key), Board(path, price)
    guard, listener = Guard(Site(board), rules, lambda error: say(f"watch --web: {error!r}")), listen(host, port)
    address = address_of(listener, host)
    with contextlib.suppress(KeyboardInterrupt, Stopped):
        run_server(guard, listener, lambda: say(address if key is None else f"{address}/?ticket={guard.ticket()}"))
