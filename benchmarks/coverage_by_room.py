"""Which part of a room its own tests reach: python benchmarks/coverage_by_room.py [ROOM ...]

Without names all rooms. Each room's tests (tests/ROOM, or tests/test_ROOM*.py) run alone, in one process, without those
marked slow; lines and branches that only other rooms' tests reach, or a process of their own, do not count. Exits with
1 where a room is below its floor, with 2 where its tests fail. A floor is what was measured, less two points: raise it
with the tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tunesmith"
FLOORS: dict[str, int] = {
    "audit": 93,
    "cache": 95,
    "compat": 89,
    "disk": 96,
    "doctor": 85,
    "errors": 98,
    "evaluate": 97,
    "foreign": 96,
    "init": 88,
    "launch": 84,
    "machine": 70,
    "models": 89,
    "recipe": 93,
    "redact": 86,
    "report": 93,
    "schema": 98,
    "show": 43,  # most of it is shown by the tests of those who call it
    "step": 93,
    "units": 98,
    "watch": 86,
    "web": 90,
}
"""Per cent of lines and branches."""
WITHOUT: frozenset[str] = frozenset(
    {
        "api",
        "cli",
        "compare",
        "data",
        "demo",
        "export",
        "fast",
        "forecast",
        "generate",
        "pipeline",
        "plan",
        "run",
        "selftest",
        "serve",
        "sweep",
        "training",
    }
)
"""Rooms whose tests take minutes each, and that were not measured yet: shown, and held to nothing."""


def tests_of(room: str) -> list[Path]:
    """The files and folders below tests/ that hold the tests of a room."""
    tests = ROOT / "tests"
    if (tests / room).is_dir():
        return [tests / room]
    return sorted({*tests.glob(f"test_{room}.py"), *tests.glob(f"test_{room}_*.py")})


def rooms_of_source() -> set[str]:
    """What has to have a floor: folders and modules of src/tunesmith with code in them."""
    paths = [path for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return {path.stem for path in paths if not path.stem.startswith("__")} - {"assets"}


def measure(room: str) -> float:
    """Per cent. Raises SystemExit with what pytest said when a test fails."""
    source = SOURCE / room if (SOURCE / room).is_dir() else SOURCE / f"{room}.py"
    if not source.exists() or not tests_of(room):
        raise SystemExit(
            f"{room}: no such room, or no tests of its own. Expected one of: {', '.join(sorted({*FLOORS, *WITHOUT}))}"
        )
    with tempfile.TemporaryDirectory(prefix="tunesmith-coverage-") as folder:
        report = Path(folder) / "report.json"
        run_tests(room, Path(folder) / "data", source)
        only = f"--include={source}/*" if source.is_dir() else f"--include={source}"
        coverage("json", f"--data-file={Path(folder) / 'data'}", only, "-o", str(report), check=True)
        return float(json.loads(report.read_text(encoding="utf-8"))["totals"]["percent_covered"])


def run_tests(room: str, data: Path, source: Path) -> None:
    """Only the room is traced: other code runs nearly as fast as ever."""
    traced = f"--source={source}" if source.is_dir() else f"--source=tunesmith.{room}"
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
    done = coverage("run", f"--data-file={data}", traced, *pytest, *map(str, tests_of(room)))
    if done.returncode != 0:
        print(f"{room}: its tests fail\n{done.stdout[-2000:]}{done.stderr[-2000:]}", file=sys.stderr)
        raise SystemExit(2)


def coverage(*arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coverage", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=check)


def main(rooms: list[str]) -> int:
    low = False
    print("| room | reached | floor |\n|---|---|---|")
    for room in rooms or sorted({*FLOORS, *WITHOUT}):
        reached, floor = measure(room), FLOORS.get(room)
        low |= floor is not None and reached < floor
        print(f"| {room} | {reached:.1f}% | {'not set' if floor is None else f'{floor}%'} |", flush=True)
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
