"""What src imports is what pyproject.toml asks for, no more and no less, and what is tested is allowed by it."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

import tunesmith

SRC = Path(tunesmith.__file__).parent
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
DISTRIBUTION = {
    "docx": "python-docx",
    "lm_eval": "lm-eval",
    "markdown_it": "markdown-it-py",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Where a package is imported by another name than it is installed by."""
COMES_WITH = {"starlette": "fastapi", "triton": "torch"}
"""Imported only where another requirement has brought it."""
NOT_IMPORTED = {
    "gcsfs": "fsspec imports it for gs://",
    "onnx": "torch.onnx.export imports it",
    "onnxscript": "torch.onnx.export imports it",
    "mlflow-skinny": "accelerate imports it for train.report_to, as the three others",
    "tensorboard": "as mlflow",
    "trackio": "as mlflow",
    "wandb": "as mlflow",
    "s3fs": "fsspec imports it for s3://",
}
"""Required though src does not name it, and why."""


def imported() -> Iterator[tuple[str, str]]:
    """Every top-level package that src imports, at once or late, by name or by import_module, and where."""
    for path in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _modules(node):
                yield name.split(".")[0], f"{path.relative_to(SRC)}:{node.lineno}"  # type: ignore[attr-defined]


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module and not node.level else []
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "_import"):
        first = node.args[0] if node.args else None
        return [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
    return []


def requirements(*extras: str) -> dict[NormalizedName, Requirement]:
    """The required packages and those of `extras`, by canonical name."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for name in extras for line in project["optional-dependencies"][name])]
    return {canonicalize_name(found.name): found for found in map(Requirement, lines)}


def for_users() -> list[str]:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    return [name for name in project["optional-dependencies"] if name not in ("dev", "dev-all", "docs")]


def distribution(package: str) -> str:
    package = COMES_WITH.get(package, package)
    return canonicalize_name(DISTRIBUTION.get(package, package))


def test_what_is_imported_is_declared() -> None:
    declared = requirements(*for_users())
    missing = [
        f"{where}: {package}"
        for package, where in imported()
        if package != "tunesmith" and package not in sys.stdlib_module_names and distribution(package) not in declared
    ]
    assert not missing


def test_what_is_declared_is_imported() -> None:
    used = {distribution(package) for package, _ in imported()}
    assert requirements(*for_users()).keys() <= used | NOT_IMPORTED.keys()
    assert not used & NOT_IMPORTED.keys()


def test_what_is_tested_is_allowed_and_pinned() -> None:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    pins = {canonicalize_name(found.name): found for found in map(Requirement, lines)}
    for name, wanted in requirements("dev", "dev-all", "docs").items():
        if name == "tunesmith":
            continue  # its own extras
        assert name in pins, f"{name} is not pinned in {CONSTRAINTS.name}"
        (pin,) = pins[name].specifier
        assert wanted.specifier.contains(pin.version), f"{pins[name]} is not {wanted}"
