"""The house rules that a machine can check: floors, no circles, light imports, no text of this workplace."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import tunesmith

SRC = Path(tunesmith.__file__).parent
ROOT = Path(__file__).parents[1]
FLOORS = [
    {"errors"},
    {"units", "redact", "foreign"},
    {"disk", "web"},
    {"cache"},
    {"compat"},
    {"recipe"},
    {"schema"},
    {"machine"},
    {"fast"},
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
    {"training"},
    {"export"},
    {"report"},
    {"show"},
    {"init"},
    {"pipeline"},
    {"watch", "launch", "sweep", "serve"},
    {"api"},
    {"demo"},
    {"cli"},
]
"""From the ground up; docs/architecture.md says why."""
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


@pytest.mark.parametrize("room", sorted(SRC.rglob("__init__.py")), ids=lambda p: str(p.parent.relative_to(SRC)))
def test_a_room_names_all_that_is_in_it(room: Path) -> None:
    told = ast.get_docstring(ast.parse(room.read_text(encoding="utf-8"))) or ""
    there = {path.name for path in room.parent.glob("[!_]*.py")}
    there |= {f"{path.parent.name}/" for path in room.parent.glob("*/__init__.py")}
    named = set(re.findall(r"[\w-]+(?:\.py|/)", told))
    assert there - named == set()
    below = {path.name for path in room.parent.rglob("*.py")}
    assert {name for name in named if name.endswith(".py")} - below == set(), "named, and not there any more"


def test_the_page_on_architecture_has_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page[page.index("| room |") : page.index("Three rules")]
    assert {f"{room}/" if (SRC / room).is_dir() else f"{room}.py" for room in FLOOR} - set(
        re.findall(r"`(\w+(?:\.py|/))`", table)
    ) == set()


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


def test_no_circle_stands_anywhere() -> None:
    """Between modules and between rooms; an import inside a function counts."""
    measures = runpy.run_path(str(ROOT / "benchmarks" / "architecture.py"), run_name="architecture")
    source = measures["Source"](SRC.parent)
    assert measures["circles"](measures["module_graph"](source)) == []
    assert measures["circles"](measures["room_graph"](source)) == []


HEAVY = {"datasets", "huggingface_hub", "numpy", "peft", "scipy", "sklearn", "tokenizers", "torch", "transformers"}
CALL = """
import sys
from tunesmith.cli import main
try:
    main()
except SystemExit as end:
    heavy = sorted(set({heavy!r}) & set(sys.modules))
    print(f"exit {{end.code}}, imported {{heavy}}", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def runs(tiny_llama: Path, shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs as a user has them: trained, compared, reported."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = tunesmith.Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"max_steps": 2, "max_length": 256, "rehearse": False},
        compare={"prompts": ["One fine morning"], "num_samples": 4, "max_new_tokens": 4},
    )
    run = tunesmith.train(recipe, out=folder / "a", console=Console(quiet=True))
    run.compare()
    shutil.copytree(run.path, folder / "b")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["runs", "."],
        ["runs", ".", "--json"],
        ["compare", "a", "b"],
        ["compare", "a", "b", "--json"],
        ["report", "a"],
    ],
    ids=" ".join,
)
def test_commands_that_only_read_load_nothing_heavy(arguments: list[str], runs: Path) -> None:
    command = [sys.executable, "-c", CALL.format(heavy=sorted(HEAVY)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=runs)
    assert done.stderr.splitlines()[-1:] == ["exit 0, imported []"], done.stderr


@pytest.mark.parametrize("command", ["train", "plan", "data"])
def test_a_wrong_recipe_is_told_before_anything_heavy_is_loaded(command: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: {name: m}\ndata: {path: a.csv}\ntrain: {learning_rte: 1}\n")
    call = [sys.executable, "-c", CALL.format(heavy=sorted(HEAVY)), command, "r.yaml"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr.splitlines()[-1:] == ["exit 2, imported []"], done.stderr


def test_public_names_are_pinned() -> None:
    assert sorted(tunesmith.__all__) == [
        "DataError",
        "ModelError",
        "PlanError",
        "Recipe",
        "RecipeError",
        "Run",
        "RunError",
        "ServeError",
        "Stopped",
        "TrainingError",
        "TunesmithError",
        "__version__",
        "audit",
        "doctor",
        "evaluate_file",
        "generate",
        "plan",
        "train",
    ]
    for name in tunesmith.__all__:
        assert getattr(tunesmith, name) is not None


def test_train_stays_a_function_after_training_was_imported() -> None:
    import tunesmith.training

    assert callable(tunesmith.train)
