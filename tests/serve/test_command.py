"""The command itself: the address on a line of its own, a drain at SIGTERM, what is missing by name."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tunesmith[serve]'")
pytest.importorskip("prometheus_client", reason="needs the extra: pip install 'tunesmith[serve]'")

WITHOUT = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {name!r} else found(name, *rest)
from tunesmith.cli import main
main()
"""


@pytest.fixture
def process(tiny_llama: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tunesmith", "serve", str(tiny_llama), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_it_says_where_it_answers_and_drains_at_sigterm(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)\n", process.stdout.readline())
    assert found is not None
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=120)
    asked = {"model": "tuned", "prompt": "A boy", "max_tokens": 400, "temperature": 2, "seed": 3, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(asked), {"content-type": "application/json"})
    response = connection.getresponse()
    first = response.readline()
    process.send_signal(signal.SIGTERM)
    rest = response.read()
    assert first.startswith(b"data: {")
    assert rest.endswith(b"data: [DONE]\n\n")  # what was being answered is answered to its end
    connection.close()
    assert process.wait(120) == 0
    assert process.stdout.read() == ""


@pytest.mark.parametrize("package", ["uvicorn", "fastapi"])
def test_a_missing_extra_is_named(package: str, tiny_llama: Path) -> None:
    command = [sys.executable, "-c", WITHOUT.format(name=package), "serve", str(tiny_llama), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'tunesmith[serve]'" in done.stderr
    assert "Traceback" not in done.stderr
