"""What every HTTP server here stands behind: host, origin, key, limits and a content policy; and how one is started.

    guard = Guard(app, Rules.of(host, key))        any ASGI app; no framework is needed, none is in the way
    run_server(guard, listen(host, port), ready)

What it holds against, and how:

    a page of another name that resolves to this machine (DNS rebinding)      Host is checked: 400
    a form or script of another site that posts here (CSRF)                   Origin and Sec-Fetch-Site: 403
    whoever reaches an address that is not this machine's alone               a key, compared in constant time: 401
    a key that lands in a history, a log or a script                          a ticket for once, an HttpOnly cookie
    text that would be run as script, a page inside another's frame           Content-Security-Policy, nosniff
    a request without end                                                     413, 431

Answers to what is refused, and to an app that fails, tell nothing of the inside.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import ipaddress
import json
import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

from tunesmith.errors import ServeError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
"""An ASGI application, version 3: https://asgi.readthedocs.io/en/latest/specs/www.html."""
Headers = list[tuple[bytes, bytes]]

KEY_VARIABLE = "TUNESMITH_API_KEY"
MIN_KEY_CHARACTERS = 16
MAX_BODY_BYTES = 1_000_000
MAX_HEADER_BYTES = 16_384
MAX_HEADERS = 100
SIGN_IN = "/sign-in"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def content_policy(style: str, script: str | None = None, *, form_action: str = "'none'") -> str:
    """A page's own style by its hash, and nothing else; with a script of its own also what that asks of this server."""
    allowed = ["default-src 'none'", f"style-src {_hash(style)}"]
    if script is not None:
        allowed += [f"script-src {_hash(script)}", "connect-src 'self'"]
    return "; ".join([*allowed, "base-uri 'none'", f"form-action {form_action}"])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def read_key(path: Path | None) -> str | None:
    """The key of a file, else that of TUNESMITH_API_KEY, else None. Raises ServeError for one that cannot serve."""
    where, key = f"${KEY_VARIABLE}", os.environ.get(KEY_VARIABLE, "").strip()
    if path is not None:
        where = str(path)
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ServeError(f"{path}: the key cannot be read ({error}). Expected a file that holds it.") from None
    elif not key:
        return None
    if len(key) < MIN_KEY_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
        raise ServeError(
            f"{where}: not fit as a key. Expected {MIN_KEY_CHARACTERS} or more ASCII characters without spaces, such as"
            " `openssl rand -hex 24` writes."
        )
    return key


@dataclass(frozen=True)
class Rules:
    """What a guard lets through."""

    hosts: frozenset[str]
    """Names that a request may use for this server, lower case, without port and brackets."""
    any_address: bool = False
    """Whether it may also use any numeric address: a name is what rebinding needs."""
    key: str | None = None
    open_paths: frozenset[str] = frozenset()
    """Paths that need no key, such as /health."""
    max_body_bytes: int = MAX_BODY_BYTES

    @classmethod
    def of(cls, host: str, key: str | None, **more: Any) -> Rules:
        """For a server that listens on `host`. Raises ServeError for one that others reach and that has no key."""
        if key is None and not is_loopback(host):
            raise ServeError(
                f"--host {host}: other machines can reach this, and no key is set. Put one into a file for "
                f"--api-key-file, or into ${KEY_VARIABLE}; or leave --host out and use `ssh -L` to come here."
            )
        everywhere = host in ("0.0.0.0", "::")
        names = {socket.gethostname().lower(), socket.getfqdn().lower()} if everywhere else {host.lower()}
        return cls(_LOOPBACK_NAMES | names, everywhere, key, **more)

    def names(self, host: str) -> bool:
        """Whether `host`, as a request's Host header has it, is a name of this server."""
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1].strip("[]")
        return name in self.hosts or (self.any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Refusal:
    """An answer that is not the app's."""

    status: int
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    page: str | None = None
    """HTML instead of JSON."""


class Guard:
    """An ASGI app around another one, which then sees only requests that keep the rules.

    failed(error) is told what the app raised; whoever asked is told that something failed, and nothing of it. Every
    answer gets the headers that keep a browser narrow; those that the app set itself stay.
    """

    def __init__(self, app: App, rules: Rules, failed: Callable[[Exception], None] = lambda _: None) -> None:
        self.app, self.rules, self.failed = app, rules, failed
        self._session = secrets.token_urlsafe(32)
        self._cookie = f"tunesmith-{secrets.token_hex(4)}"  # cookies know no ports: two servers must not share one
        self._tickets: list[str] = []

    def ticket(self) -> str:
        """What opens this server once, as `/?ticket=...`: the browser gets a cookie, and the address forgets it."""
        self._tickets.append(secrets.token_urlsafe(24))
        return self._tickets[-1]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            exchange = _Exchange(receive, send, self.rules.max_body_bytes)
            refusal = self._refuse(scope) or await self._sign_in(scope, exchange)
            if refusal is None:
                await self._pass_on(scope, exchange)
            else:
                await exchange.answer(refusal)
        else:
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks it

    async def _pass_on(self, scope: Message, exchange: _Exchange) -> None:
        refusal = None
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            if not exchange.too_large:
                self.failed(error)
                refusal = Refusal(500, "Something failed inside; the server's own output says what.")
        if exchange.too_large:
            refusal = _too_large(self.rules.max_body_bytes)
        if refusal is not None and not exchange.begun:
            await exchange.answer(refusal)

    def _refuse(self, scope: Message) -> Refusal | None:
        headers: Headers = list(scope["headers"])
        if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            return Refusal(431, "Too many headers, or too long ones.")
        hosts = _all(headers, b"host")
        if len(hosts) != 1 or not self.rules.names(hosts[0]):
            return Refusal(400, "Host names no name of this server.")
        if scope["method"] not in _READS and not _is_own(headers, hosts[0]):
            return Refusal(403, "A page of another origin may not do this.")
        length = "".join(_all(headers, b"content-length")) or "0"
        if not length.isdecimal():
            return Refusal(400, "Content-Length is no number.")
        return _too_large(self.rules.max_body_bytes) if int(length) > self.rules.max_body_bytes else None

    # ---- the key ----

    async def _sign_in(self, scope: Message, exchange: _Exchange) -> Refusal | None:
        """None for who may pass; else what to answer: where to go on, or that a key is needed."""
        key, method, path = self.rules.key, scope["method"], scope["path"]
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        tickets = [value for name, value in query if name == "ticket"]
        if tickets and method == "GET":
            rest = urlencode([(name, value) for name, value in query if name != "ticket"])
            used = next((ticket for ticket in self._tickets if _same(ticket, tickets[0])), None)
            if used is not None:
                self._tickets.remove(used)
            return self._welcome(quote(path) + (f"?{rest}" if rest else ""), signed_in=used is not None)
        if key is None or path in self.rules.open_paths or self._is_known(list(scope["headers"])):
            return None
        if path == SIGN_IN and method == "POST":
            given = parse_qs((await exchange.body()).decode("latin-1")).get("key", [""])[0]
            if _same(given.strip(), key):
                return self._welcome("/", signed_in=True)
            return _ask_for_key("This is not the key.")
        accepts = "".join(_all(list(scope["headers"]), b"accept"))
        if method == "GET" and "text/html" in accepts:
            return _ask_for_key("")
        return Refusal(401, "A key is needed: Authorization: Bearer KEY.", ((b"www-authenticate", b"Bearer"),))

    def _welcome(self, target: str, *, signed_in: bool) -> Refusal:
        """On to the page itself, so that no ticket stays in the address; who is known gets the cookie."""
        place = (b"location", ("/" + target.lstrip("/\\")).encode())
        cookie = f"{self._cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict".encode()
        return Refusal(303, "Go on.", (place, (b"set-cookie", cookie)) if signed_in else (place,))

    def _is_known(self, headers: Headers) -> bool:
        assert self.rules.key is not None
        for value in _all(headers, b"authorization"):
            scheme, _, given = value.partition(" ")
            if scheme.lower() == "bearer" and _same(given.strip(), self.rules.key):
                return True
        cookies = [part.strip().partition("=") for value in _all(headers, b"cookie") for part in value.split(";")]
        return any(name == self._cookie and _same(value, self._session) for name, _, value in cookies)


class _Exchange:
    """One request and its answer: the body is counted, the answer gets its headers."""

    def __init__(self, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self._receive, self._send, self._left = receive, send, max_body_bytes
        self.too_large = self.begun = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.too_large = True
            raise ServeError("the request is too large")  # what the app makes of it is not sent
        return message

    async def send(self, message: Message) -> None:
        if self.too_large and not self.begun:
            return
        if message["type"] == "http.response.start":
            self.begun = True
            message = {**message, "headers": _narrowed(message.get("headers", ()))}
        await self._send(message)

    async def body(self) -> bytes:
        """The whole body; what is beyond the limit is not read."""
        parts, more = [], True
        while more:
            try:
                message = await self.receive()
            except ServeError:
                self.too_large = False
                return b""
            parts.append(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
        return b"".join(parts)

    async def answer(self, refusal: Refusal) -> None:
        self.too_large = False
        fault = "server_error" if refusal.status >= 500 else "invalid_request_error"
        error = {"message": refusal.message, "type": fault, "param": None, "code": refusal.status}
        kind, text = ("text/html; charset=utf-8", refusal.page) if refusal.page else ("application/json", None)
        body = (text if text is not None else json.dumps({"error": error})).encode()
        start = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body)), *refusal.headers]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": start})
        await self.send({"type": "http.response.body", "body": body})


_NARROW: Headers = [
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


def _narrowed(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of an answer, with those that it lacks; no page may stand in another's frame."""
    given = [(name.lower(), value) for name, value in headers]
    named = {name for name, _ in given}
    given += [(name, value) for name, value in _NARROW if name not in named]
    framed = b"; frame-ancestors 'none'"
    return [
        (name, value + framed)
        if name == b"content-security-policy" and b"frame-ancestors" not in value
        else (name, value)
        for name, value in given
    ]


def _all(headers: Headers, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in headers if name.lower() == wanted]


def _is_own(headers: Headers, host: str) -> bool:
    """Whether a request comes from a page of this server, or from no page at all."""
    if any(site not in ("same-origin", "none") for site in _all(headers, b"sec-fetch-site")):
        return False
    return all(urlsplit(origin).netloc.lower() == host.lower() for origin in _all(headers, b"origin"))


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"The request is too large; at most {limit:,} bytes are read.", ((b"connection", b"close"),))


_SIGN_IN_STYLE = (
    "body{font:16px system-ui,sans-serif;max-width:24rem;margin:15vh auto;padding:0 1rem;color-scheme:light dark}"
    "input,button{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;margin:.4rem 0}"
)


def _ask_for_key(problem: str) -> Refusal:
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>tunesmith</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_SIGN_IN_STYLE}</style>'
        f'<form method="post" action="{SIGN_IN}"><label for="key">Key of this server</label>'
        '<input id="key" name="key" type="password" autocomplete="current-password" autofocus required>'
        f'<button>Open</button><p role="alert">{problem}</p></form></html>'
    )
    policy = content_policy(_SIGN_IN_STYLE, form_action="'self'").encode()
    # without a referrer a browser sends `Origin: null` with the form, which no page of this server is
    return Refusal(401, problem, ((b"content-security-policy", policy), (b"referrer-policy", b"same-origin")), page)


# ---- the server ----


def require_server(command: str, *packages: str) -> None:
    """Raises ServeError where the extra is missing that a server needs, or one of `packages` beside uvicorn."""
    for package in ("uvicorn", *packages):
        if importlib.util.find_spec(package) is None:
            raise ServeError(f"{command}: {package} is not installed. Run: pip install 'tunesmith[serve]'")


def listen(host: str, port: int) -> socket.socket:
    """A socket that connections already wait at; port 0 takes a free one. Raises ServeError where it cannot be had."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        raise ServeError(
            f"{host}:{port}: cannot listen there ({error.strerror or error}). Another --port, or --port 0 for a free "
            "one; --host names an address of this machine."
        ) from None


def address_of(listener: socket.socket, host: str) -> str:
    """`http://127.0.0.1:8000`."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def run_server(
    app: App,
    listener: socket.socket,
    ready: Callable[[], object],
    *,
    grace_seconds: int = 2,
    max_connections: int | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, which it raises again when it has closed. ready() is called when it answers.

    grace_seconds: for answers that are not whole yet when it is told to stop. max_connections: 503 beyond.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=2 * MAX_HEADER_BYTES,
        timeout_graceful_shutdown=grace_seconds,
        limit_concurrency=max_connections,
    )
    with listener:
        Server(config).run(sockets=[listener])
