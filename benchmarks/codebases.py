"""This codebase beside others that it learned from, in numbers: python benchmarks/codebases.py FOLDER > table.md

FOLDER holds unpacked wheels, for example:

    pip download --no-deps --dest wheels litgpt torchtune llm httpx
    for wheel in wheels/*.whl; do unzip -q -o "$wheel" -d wheels/unpacked; done
    python benchmarks/codebases.py wheels/unpacked

Counted as `architecture.py` says, by the same code for all, and besides:

- loops: functions that call `optimizer.step()` on something that is called an optimizer; a fix of one is a fix of each.
- hops: from the function behind a package's command that trains every weight on one device to that call.
- names Gemma: files outside of tests in which an architecture that litgpt, torchtune and tunesmith all have is named:
  what has to be read, and mostly written, to add one like it; and their lines.
- six parameters: functions that take more than six, self left out.
- says what it is: public functions and classes with a docstring.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TypeGuard

from architecture import (
    LONG_FUNCTION,
    OURS,
    PACKAGE,
    Calls,
    Function,
    Source,
    circles,
    module_graph,
    private_names,
    room_graph,
)

OTHERS = ("litgpt", "torchtune", "llm", "httpx")
STARTS = {
    "litgpt": ("litgpt.finetune.full", "setup"),
    "torchtune": ("recipes.full_finetune_single_device", "recipe_main"),
}
"""Of the command; ours is found by architecture.py."""
NAMED = "gemma"


def functions(source: Source) -> Iterator[tuple[str, Function]]:
    for module in source.modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                yield f"{module.name}.{node.name}".removeprefix(source.package + "."), node


def num_parameters(node: Function) -> int:
    given = node.args
    named = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def rows(source: Source) -> Iterator[tuple[str, str]]:
    lengths = {name: module.text.count("\n") for name, module in source.modules.items()}
    found = {name: (node.end_lineno or node.lineno) - node.lineno + 1 for name, node in functions(source)}
    nodes = [node for _, node in functions(source)]
    yield "files, lines", f"{len(lengths)}, {sum(lengths.values()):,}"
    yield "median file, largest", f"{statistics.median(lengths.values()):.0f}, {_largest(lengths)}"
    yield "functions", f"{len(nodes):,}"
    yield "largest function", _largest(found)
    yield f"more than {LONG_FUNCTION} lines", _share(sum(n > LONG_FUNCTION for n in found.values()), len(found))
    yield "more than six parameters", _share(sum(num_parameters(node) > 6 for node in nodes), len(nodes))
    public = [node for module in source.modules.values() for node in module.tree.body if _is_public(node)]
    yield "public names that say what they are", _share(sum(bool(ast.get_docstring(n)) for n in public), len(public))
    yield "circles between modules, rooms", f"{_circles(module_graph(source))}, {_circles(room_graph(source))}"
    yield "private names of other libraries", f"{len(private_names(source))}"
    yield "loops", f"{len(list(_loops(source)))}"
    yield "hops to optimizer.step()", _hops(source)
    named = [module for module in source.modules.values() if NAMED in module.text.lower()]
    lines = sum(NAMED in line.lower() for module in named for line in module.text.splitlines())
    yield "files that name Gemma, lines", f"{len(named)}, {lines}" if named else "-"


def _is_public(node: ast.AST) -> TypeGuard[Function | ast.ClassDef]:
    return isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")


def _largest(lengths: dict[str, int]) -> str:
    name = max(lengths, key=lambda name: lengths[name])
    return f"{lengths[name]:,} ({'.'.join(name.split('.')[-2:])})"


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / max(whole, 1):.0%})"


def _circles(graph: dict[str, set[str]]) -> str:
    groups = circles(graph)
    return f"{len(groups)} ({max(map(len, groups))} the largest)" if groups else "0"


def _loops(source: Source) -> Iterator[str]:
    for name, node in functions(source):
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and ast.unparse(call.func).lower().endswith("optimizer.step"):
                yield name
                break


def _hops(source: Source) -> str:
    chain = Calls(source).shortest(STARTS.get(source.package))
    return f"{len(chain)}" if chain else "-"


def sources(folder: Path) -> Iterator[tuple[str, Source]]:
    yield PACKAGE, Source(OURS)
    versions = {found.name: found.version for found in metadata.distributions(path=[str(folder)])}
    for name in OTHERS:
        source = Source(folder, name)
        if name == "torchtune":  # its loops stand beside the package
            source.modules.update(Source(folder, "recipes").modules)
        yield f"{name} {versions.get(name, '')}".strip(), source


def main() -> None:
    parser = argparse.ArgumentParser(description="This codebase beside others, as a markdown table.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    columns = {name: dict(rows(source)) for name, source in sources(parser.parse_args().folder)}
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for row in columns[PACKAGE]:
        print(f"| {row} | {' | '.join(column[row] for column in columns.values())} |")


if __name__ == "__main__":
    main()
