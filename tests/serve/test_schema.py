"""The OpenAPI schema holds: what it allows is answered, what it forbids is refused, and nothing fails inside."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tunesmith[serve]'")


def test_the_schema_names_every_path_of_the_api(served: Any) -> None:
    schema = served.ask("GET", "/openapi.json").json
    assert {"/v1/models", "/v1/completions", "/v1/chat/completions", "/health", "/metrics"} <= schema["paths"].keys()
    assert schema["paths"]["/v1/completions"]["post"]["responses"].keys() >= {"400", "404", "413", "429", "503"}


@pytest.mark.slow
def test_schemathesis_finds_nothing(served: Any, tmp_path: Path) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("needs schemathesis: pip install schemathesis")
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        f"{served.url}/openapi.json",
        "--max-examples=15",
        "--phases=examples,coverage,fuzzing",
        "--exclude-checks=positive_data_acceptance",  # best_of beyond n, and what else no schema can say
        "--request-timeout=60",
        "--seed=7",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
