"""Private names of libraries stand in compat.py alone, and the installed releases still have them."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import tunesmith
from tunesmith.compat import PROBES, Probe

SRC = Path(tunesmith.__file__).parent
LIBRARIES = {"torch", "transformers", "peft", "tokenizers", "datasets", "huggingface_hub"}
STANDARD = {"os._exit", "_replace", "_asdict", "_fields"}
"""What the standard library documents in spite of its underscore."""


def own_names() -> set[str]:
    """Underscore names that src gives to things of its own."""
    names: set[str] = set()
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
                names.add(node.attr)
    return names


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_uses(path: Path, own: set[str]) -> Iterator[str]:
    """Private names of libraries that a file imports, reads as an attribute, or asks for by getattr."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            found = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            found = [part for a in node.names if a.name.split(".")[0] in LIBRARIES for part in a.name.split(".")]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) not in STANDARD and node.attr not in STANDARD:
            found = [node.attr] if not _is_self(node.value) and node.attr not in own else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
            found = [name] if isinstance(name, str) and name not in own else []
        line = getattr(node, "lineno", 0)
        yield from (f"{path.relative_to(SRC)}:{line}: {name}" for name in found if is_private(name))


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_the_installed_release_has_the_name(probe: Probe) -> None:
    releases = ", ".join(f"{name} {metadata.version(name)}" for name in sorted(LIBRARIES))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe.check()
    except Exception as error:
        pytest.fail(f"{probe.name}: {type(error).__name__}: {error}. {probe.sentence} Here: {releases}")


def test_every_probe_says_what_for() -> None:
    for probe in PROBES:
        assert probe.sentence.endswith("."), probe.name
        assert len(probe.sentence) > 20, probe.name
    assert len({probe.name for probe in PROBES}) == len(PROBES)


def test_private_names_stand_in_compat_alone() -> None:
    own = own_names()
    rooms = [path for path in sorted(SRC.rglob("*.py")) if path != SRC / "compat.py"]
    assert [use for path in rooms for use in private_uses(path, own)] == []


@pytest.mark.parametrize(
    "code",
    [
        "from torch._subclasses.fake_tensor import FakeTensorMode",
        "from torch.utils import _pytree",
        "import torch._dynamo",
        "dataset._fingerprint",
        "torch.ops.mkldnn._linear_pointwise(x)",
        "getattr(torch.ops.mkldnn, '_linear_pointwise', None)",
        "config._name_or_path = 'x'",
    ],
)
def test_a_private_name_is_found(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SRC", tmp_path)
    (tmp_path / "a.py").write_text(code)
    assert list(private_uses(tmp_path / "a.py", own=set())) != []


@pytest.mark.parametrize("code", ["self._mine", "os._exit(1)", "event._replace(x=1)", "x.__dict__", "run._own"])
def test_what_is_not_a_librarys_is_left_alone(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SRC", tmp_path)
    (tmp_path / "a.py").write_text(code)
    assert list(private_uses(tmp_path / "a.py", own={"_own"})) == []
