"""Which part of a room its own tests reach: python benchmarks/coverage_by_room.py [ROOM ...]

Without names all rooms that have a floor. Each room's tests (tests/ROOM, or tests/test_ROOM.py) run alone, in one
process; lines and branches that only other rooms' tests reach, or a process of their own, do not count. Exits with 1
where a room is below its floor. A floor is what was measured, less two points: raise it with the tests.
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
    "doctor": 85,
    "init": 88,
    "machine": 70,
    "recipe": 93,
    "redact": 86,
    "report": 93,
    "schema": 98,
    "show": 43,  # most of it is shown by the tests of those who call it
    "web": 90,
}
"""Per cent of lines and branches. A room that is not here was not measured."""


def measure(room: str) -> float:
    """Per cent. Raises SystemExit with what pytest said when a test fails."""
    source = SOURCE / room if (SOURCE / room).is_dir() else SOURCE / f"{room}.py"
    tests = ROOT / "tests" / room if (ROOT / "tests" / room).is_dir() else ROOT / "tests" / f"test_{room}.py"
    if not source.exists() or not tests.exists():
        raise SystemExit(f"{room}: no such room, or no tests of its own. Expected one of: {', '.join(FLOORS)}")
    with tempfile.TemporaryDirectory(prefix="tunesmith-coverage-") as folder:
        data, report = Path(folder) / "data", Path(folder) / "report.json"
        coverage = [sys.executable, "-m", "coverage"]
        pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", str(tests)]
        done = subprocess.run(
            [*coverage, "run", f"--data-file={data}", *pytest], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{room}: its tests fail\n{done.stdout[-2000:]}")
        include = f"--include={source}/*" if source.is_dir() else f"--include={source}"
        subprocess.run(
            [*coverage, "json", f"--data-file={data}", include, "-o", str(report)],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        return float(json.loads(report.read_text(encoding="utf-8"))["totals"]["percent_covered"])


def main(rooms: list[str]) -> int:
    low = False
    print("| room | reached | floor |\n|---|---|---|")
    for room in rooms or sorted(FLOORS):
        reached, floor = measure(room), FLOORS.get(room)
        low |= floor is not None and reached < floor
        print(f"| {room} | {reached:.1f}% | {'not set' if floor is None else f'{floor}%'} |", flush=True)
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
