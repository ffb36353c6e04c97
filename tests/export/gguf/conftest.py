"""Stand-ins for llama.cpp's programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def quantizer_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """quantizer_that(does): a llama-quantize on the path, of one line of shell; $1 is its source, $2 its target."""

    def call(does: str) -> Path:
        path = tmp_path / "llama-quantize"
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return path

    return call
