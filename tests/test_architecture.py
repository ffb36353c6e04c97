"""The house rules that a machine can check: floors, no circles, light imports, no text of this workplace."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tunesmith

SRC = Path(tunesmith.__file__).parent
FLOORS = [
    {"errors"},
    {"units", "redact", "foreign"},
    {"disk"},
    {"cache"},
    {"compat"},
    {"recipe"},
    {"fast"},
    {"machine"},
    {"run"},
    {"models"},
    {"step"},
    {"data"},
    {"evaluate", "generate"},
    {"forecast"},
    {"plan"},
    {"audit"},
    {"selftest", "doctor"},
    {"compare"},
    {"report"},
    {"show"},
    {"training"},
    {"pipeline"},
    {"demo"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def rooms_imported(path: Path) -> set[str]:
    """Rooms that a file imports when it runs; names for type checkers alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    rooms: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tunesmith":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("tunesmith.")}
    return rooms - {"__version__"}


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in SRC.glob("*.py")} | {path.parent.name for path in SRC.glob("*/__init__.py")}
    assert rooms - {"__init__", "__main__"} == set(FLOOR)


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_only_go_down(path: Path) -> None:
    room = path.relative_to(SRC).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    for other in rooms_imported(path) - {room}:
        assert FLOOR[other] < FLOOR[room], f"{room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})"


def imported_from_elsewhere(tree: ast.AST) -> set[str]:
    """Names that a file imports from other libraries."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in ("tunesmith", "__future__"):
            names |= {alias.asname or alias.name for alias in node.names}
    return names - {"tunesmith"}


def patched(tree: ast.AST) -> list[str]:
    """What a file puts onto modules and classes of other libraries."""
    foreign, found = imported_from_elsewhere(tree), []
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            targets = [ast.Attribute(node.args[0], "?")]
        for target in targets:
            root = target
            while isinstance(root, ast.Attribute):
                root = root.value
            if root is not target and isinstance(root, ast.Name) and root.id in foreign:
                found.append(ast.unparse(target))
    return found


def test_a_patch_is_recognised() -> None:
    text = (
        "import torch.nn.functional as F\nfrom torch import Tensor\nF.dropout = 1\nsetattr(Tensor, 'x', 2)\nx = F.relu"
    )
    assert patched(ast.parse(text)) == ["F.dropout", "Tensor.?"]


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_nothing_in_another_library_is_replaced(path: Path) -> None:
    """It would hold for every thread of the process, and break with the library's next release."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert patched(tree) == []
    assert "mock" not in {part for name in modules_imported(tree) for part in name.split(".")}


def modules_imported(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_torch_without_need() -> None:
    code = (
        "import sys, tunesmith, tunesmith.cli, tunesmith.show.summary, tunesmith.report.page, tunesmith.run.table;"
        "bad = {'torch', 'transformers', 'pydantic_core'} & set(sys.modules) - {'pydantic_core'};"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_pinned() -> None:
    assert sorted(tunesmith.__all__) == [
        "DataError",
        "ModelError",
        "PlanError",
        "Recipe",
        "RecipeError",
        "Run",
        "RunError",
        "Stopped",
        "TrainingError",
        "TunesmithError",
        "__version__",
        "train",
    ]
    for name in tunesmith.__all__:
        assert getattr(tunesmith, name) is not None


def test_train_stays_a_function_after_training_was_imported() -> None:
    import tunesmith.training

    assert callable(tunesmith.train)
