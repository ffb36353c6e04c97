"""The lab: tiny models, recipes, uninterrupted runs to compare with, and the table of what was survived."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from fault_zygote import Child, Zygote

TIMES = ("time", "tokens_per_second", "fed_tokens_per_second", "peak_bytes")


@dataclass
class Lab:
    """Runs cases of `tunesmith train` in forked children and says how they ended."""

    folder: Path
    models: dict[str, Path]
    data: Path
    zygote: Zygote
    references: dict[str, tuple[dict[str, Any], float]] = field(default_factory=dict)

    def recipe(self, kind: str, **changes: Any) -> Path:
        """full: GPT-Neo with dropout 0.1; lora: Llama with adapter dropout 0.1; plain: GPT-Neo without dropout."""
        values: dict[str, Any] = {
            "model": {"name": str(self.models[kind])},
            "data": {"path": str(self.data), "text": "description", "max_rows": 50, "near_duplicates": False},
            "train": {
                "method": "lora" if kind == "lora" else "full",
                "epochs": 2,
                "learning_rate": 0.005,
                "max_length": 64,
                "tokens_per_step": 640,
                "micro_batch_tokens": 320,
            },
            "lora": {"rank": 4, "dropout": 0.1},
            "eval": {"every": 5},
            "save": {"every": 3, "keep": 2},
            "compare": {"num_samples": 1, "max_new_tokens": 2},
        }
        for key, value in changes.items():
            section, _, name = key.partition("__")
            values[section][name] = value
        path = self.folder / f"{kind}{abs(hash(str(values)))}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def train(self, kind: str | Path, out: Path, *more: str, fault: dict[str, Any] | None = None) -> Child:
        """Start `tunesmith train`; the child runs until it ends, or the fault or the caller ends it."""
        recipe = kind if isinstance(kind, Path) else self.recipe(kind)
        return self.zygote.start("tunesmith", fault, arguments=["train", str(recipe), "--out", str(out), *more])

    def finish(self, kind: str | Path, out: Path, *more: str) -> dict[str, Any]:
        """Run to the end, from wherever the run stands, and return its outcome."""
        child = self.train(kind, out, *more)
        assert child.wait() == 0, child.output
        return outcome(out)

    def reference(self, kind: str) -> dict[str, Any]:
        """The outcome of the run that nothing disturbed."""
        return self._timed_reference(kind)[0]

    def seconds(self, kind: str) -> float:
        """How long that run takes."""
        return self._timed_reference(kind)[1]

    def _timed_reference(self, kind: str) -> tuple[dict[str, Any], float]:
        if kind not in self.references:
            started = time.monotonic()
            found = self.finish(kind, self.folder / f"reference-{kind}")
            self.references[kind] = (found, time.monotonic() - started)
        return self.references[kind]

    def outcome(self, out: Path) -> dict[str, Any]:
        return outcome(out)

    def stopped_at(self, kind: str, out: Path, step: int) -> Path:
        """A run that was killed in the forward pass of the step after `step`, with all its files."""
        start = self.folder / f"stopped-{kind}-{step}"
        if not start.exists():
            fault = {"kind": "send", "number": 9, "at": "step", "nth": step + 1}
            assert self.train(kind, start, fault=fault).wait() == 137
        shutil.copytree(start, out)
        return out


def outcome(out: Path) -> dict[str, Any]:
    """What must be equal between runs: weights bit for bit, every logged number, every final score."""
    weights = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((out / "model").glob("*.safetensors"))
    }
    assert weights, sorted(out.iterdir())
    assert (out / "report.html").is_file()
    assert "measured" in json.loads((out / "plan.json").read_text())
    result = json.loads((out / "result.json").read_text())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": weights,
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "result": {key: result[key] for key in ("eval_loss", "eval_loss_base", "train_tokens", "steps", "stopped")},
    }


def dropout_copy(model: Path, to: Path) -> Path:
    """The same GPT-Neo with dropout 0.1 everywhere."""
    shutil.copytree(model, to)
    config = json.loads((to / "config.json").read_text())
    config |= {"embed_dropout": 0.1, "attention_dropout": 0.1, "resid_dropout": 0.1}
    (to / "config.json").write_text(json.dumps(config))
    return to


@pytest.fixture(scope="session")
def lab(
    tmp_path_factory: pytest.TempPathFactory, tiny_gpt_neo: Path, tiny_llama: Path, shows_csv: Path
) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    models = {"plain": tiny_gpt_neo, "full": dropout_copy(tiny_gpt_neo, folder / "neo"), "lora": tiny_llama}
    zygote = Zygote(folder)
    yield Lab(folder, models, shows_csv, zygote)
    zygote.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the run of this test goes."""
    return tmp_path / "run"


# ---- the table ----


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(name): the row of the fault table that a test counts in")


@pytest.fixture(autouse=True)
def count(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Say that this test holds more than one case."""
    marker = request.node.get_closest_marker("row")
    if marker is not None:
        record_property("fault_row", marker.args[0])

    def several(cases: int) -> None:
        record_property("fault_cases", cases)

    return several
