"""Whether the hub answers, and who is logged in there.

Asked with huggingface_hub's own session, so with its client and proxies, but within a time limit and without following
redirections: its whoami has neither, waits for ever on a host that accepts and says nothing, and goes where it is sent.
"""

from __future__ import annotations

import os
from typing import Any

from tunesmith.errors import Stopped
from tunesmith.redact import redact

TIMEOUT_SECONDS = 4.0


class Refused(Exception):
    """The hub answered with a status that is no success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def is_offline() -> bool:
    """Whether the hub's library was told to stay offline."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").strip().upper() in {"1", "ON", "YES", "TRUE"} for name in names)


def endpoint() -> str:
    """The address of the hub, from HF_ENDPOINT."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def why_silent() -> str | None:
    """Why the hub cannot be asked; None when it answered, be it with a refusal. One request, 4 seconds at most."""
    try:
        status = _ask("HEAD", "/api/models/gpt2").status_code
    except Stopped:
        raise
    except Exception as error:  # the session's kinds of exception change with the release
        return redact(str(error) or type(error).__name__)[:120]
    return None if status < 500 else f"status {status}"


def answers() -> bool:
    """Whether asking the hub gets an answer soon; its library would try for half a minute. True offline: it knows."""
    return is_offline() or why_silent() is None


def whoami(token: str) -> str:
    """The name of the account that `token` belongs to.

    Raises Refused when the hub does not accept it, OSError when it did not answer as it should.
    """
    try:
        answer = _ask("GET", "/api/whoami-v2", {"Authorization": f"Bearer {token}"})
        if answer.status_code >= 400:
            raise Refused(answer.status_code)
        return str(answer.json()["name"])
    except (Refused, Stopped):
        raise
    except Exception as error:
        raise OSError(redact(str(error))[:200]) from None


def _ask(method: str, path: str, headers: dict[str, str] | None = None) -> Any:
    from huggingface_hub import get_session

    address = f"{endpoint()}{path}"
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"HF_ENDPOINT is no web address ({address.partition(':')[0]})")
    return get_session().request(method, address, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=False)
