"""How the code hangs together, in numbers: python benchmarks/architecture.py [SRC ...] > table.md

SRC: the src/ of a checkout, ours unless given; with several, a column each, to set a change beside what was before.
--no-start-up leaves out what takes a minute: the commands that are started and timed.

How it is counted:

- hops: calls from the function behind `tunesmith train` to `optimizer.step()`, that last one included, on the shortest
  chain that the text of the code allows. A name is what its import or its module says; `self.name()` is the method of
  the class or of one that it inherits from, `value.name()` any method of ours of that name. Where a chain leaves for a
  class of an installed library that one of ours inherits from (a Trainer), its methods are followed too and counted as
  the library's. A rehearsal, which is rolled back, is not the loop.
- functions: every def, nested ones too; their lines from the def to the end, docstring included.
- circles: groups of modules that import each other, directly or around corners. An import inside a function counts, one
  under TYPE_CHECKING does not. Rooms are what stands directly under tunesmith/.
- private names: what begins with one underscore and is imported from, or read of, another library; and methods of ours
  that override a private one of a library's class.
- start-up: processor seconds (user and system) of the command as a process of its own, the best of three, with a
  two-layer model of random weights.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

PACKAGE = "tunesmith"
OURS = Path(__file__).parents[1] / "src"
LONG_FUNCTION = 40
RUNS = 3
Function = ast.FunctionDef | ast.AsyncFunctionDef
OF_CONTAINERS = {name for kind in (dict, set, list, str, bytes) for name in dir(kind)}
"""`value.update()` is a dict's or a hash's, and no method of ours."""


@dataclass
class Module:
    """One file. imports: local name -> dotted name that it stands for, wherever in the file it is imported."""

    name: str
    path: Path
    tree: ast.Module
    text: str
    is_package: bool
    imports: dict[str, str] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    """Functions of the module, and methods as Class.method."""

    @classmethod
    def read(cls, name: str, path: Path) -> Module:
        text = path.read_text(encoding="utf-8")
        module = cls(name, path, ast.parse(text), text, path.name == "__init__.py")
        module._make_absolute()
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                module.imports |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    module.imports[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                module.classes[node.name] = node
                module.functions |= {
                    f"{node.name}.{item.name}": item for item in node.body if isinstance(item, Function)
                }
            elif isinstance(node, Function):
                module.functions[node.name] = node
        return module

    def _make_absolute(self) -> None:
        """`from . import x` and the like as `from package import x`."""
        parts = self.name.split(".")
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                above = parts[: len(parts) - node.level + self.is_package]
                node.module, node.level = ".".join([*above, *([node.module] if node.module else [])]), 0


@dataclass
class Source:
    """All modules under SRC/tunesmith, or of another package there."""

    path: Path
    package: str = PACKAGE

    @cached_property
    def modules(self) -> dict[str, Module]:
        found = {}
        for path in sorted((self.path / self.package).rglob("*.py")):
            parts = path.relative_to(self.path).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module.read(name, path)
        return found

    @property
    def label(self) -> str:
        """The commit that is checked out, and + where files differ from it."""

        def git(*arguments: str) -> str:
            return subprocess.run(
                ["git", "-C", str(self.path), *arguments], capture_output=True, text=True, check=False
            ).stdout.strip()

        return (git("rev-parse", "--short", "HEAD") or "?") + ("+" if git("status", "--porcelain", ".") else "")


# ----------------------------------------------------------------------------------------------------------- sizes


def sizes(source: Source) -> Iterator[tuple[str, str]]:
    modules = source.modules.values()
    lengths = {module.name: module.text.count("\n") for module in modules}
    functions = {
        f"{module.name}.{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, Function)
    }
    yield "files", f"{len(lengths)}"
    yield "lines", f"{sum(lengths.values()):,}"
    yield "functions", f"{len(functions):,}"
    yield "largest file", _largest(lengths)
    yield "largest function", _largest(functions)
    yield f"functions of more than {LONG_FUNCTION} lines", f"{sum(n > LONG_FUNCTION for n in functions.values())}"
    yield (
        "lines with `dict[str, Any]`",
        f"{sum('dict[str, Any]' in line for module in modules for line in module.text.splitlines())}",
    )
    mocks = sum(len(re.findall(r"unittest(?:\.| import )mock", module.text)) for module in modules)
    yield "uses of unittest.mock", f"{mocks}"


def _largest(lengths: dict[str, int]) -> str:
    name = max(lengths, key=lambda name: lengths[name])
    return f"{name.removeprefix(PACKAGE + '.')}, {lengths[name]}"


# --------------------------------------------------------------------------------------------------------- circles


def typing_only(tree: ast.AST) -> set[int]:
    """ids of the nodes that stand under `if TYPE_CHECKING`."""
    return {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }


def module_graph(source: Source) -> dict[str, set[str]]:
    """Modules of ours that each module imports, lazily too."""
    graph: dict[str, set[str]] = {}
    for module in source.modules.values():
        hidden = typing_only(module.tree)
        names: set[str] = set()
        for node in ast.walk(module.tree):
            if id(node) in hidden:
                continue
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    names.add(whole if whole in source.modules else node.module)
        graph[module.name] = {name for name in names if name in source.modules and name != module.name}
    graph[source.package] = set()  # its names load when they are asked for
    return graph


def room_graph(source: Source) -> dict[str, set[str]]:
    """The same between rooms."""
    graph: dict[str, set[str]] = defaultdict(set)
    for name, imported in module_graph(source).items():
        graph[_room(name)] |= {_room(other) for other in imported} - {_room(name)}
    return {room: others - {source.package} for room, others in graph.items()}


def _room(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups that reach each other, found as Tarjan does, the largest first."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in number:
            visit(name)
    return sorted(found, key=len, reverse=True)


def circle_rows(source: Source) -> Iterator[tuple[str, str]]:
    for what, graph in (("modules", module_graph(source)), ("rooms", room_graph(source))):
        groups = circles(graph)
        names = "; ".join(", ".join(name.removeprefix(PACKAGE + ".") for name in group) for group in groups[:3])
        yield f"circles between {what}", f"{len(groups)}" + (f" ({names})" if groups and len(names) < 200 else "")


# --------------------------------------------------------------------------------------------------- private names


def private_names(source: Source) -> set[str]:
    """As `where: what`."""
    found = set()
    for module in source.modules.values():
        foreign = {name: whole for name, whole in module.imports.items() if not whole.startswith(source.package)}
        for whole in foreign.values():
            if any(_is_private(part) for part in whole.split(".")):
                found.add(f"{module.name}: {whole}")
        for node in ast.walk(module.tree):
            chain = _chain(node) if isinstance(node, ast.Attribute) else []
            if chain and chain[0] in foreign and any(_is_private(part) for part in chain[1:]):
                found.add(f"{module.name}: {foreign[chain[0]]}.{'.'.join(chain[1:])}")
        for name, node in module.classes.items():
            for base in _foreign_bases(module, node):
                methods = [item.name for item in node.body if isinstance(item, Function)]
                found |= {
                    f"{module.name}: {name}.{m} overrides" for m in methods if _is_private(m) and hasattr(base, m)
                }
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _chain(node: ast.expr) -> list[str]:
    """`a.b.c` as its names; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [*reversed([*names, node.id])] if isinstance(node, ast.Name) else []


def _foreign_bases(module: Module, node: ast.ClassDef) -> list[type]:
    found = []
    for base in node.bases:
        chain = _chain(base)
        whole = module.imports.get(chain[0], "") if chain else ""
        if not whole or whole.startswith(module.name.split(".")[0]):
            continue
        where, _, name = ".".join([whole, *chain[1:]]).rpartition(".")
        try:
            value = getattr(importlib.import_module(where), name)
        except (ImportError, AttributeError):
            continue
        if isinstance(value, type):
            found.append(value)
    return found


# ------------------------------------------------------------------------------------------------------------ hops


class Calls:
    """Who calls whom. A function is (module, name), a method (module, Class.method)."""

    def __init__(self, source: Source) -> None:
        self.modules = dict(source.modules)
        self.library: set[str] = set()
        """Names of modules that are not ours."""
        for module in list(source.modules.values()):
            for node in module.classes.values():
                for base in _foreign_bases(module, node):
                    self._add_library(base)
        self.methods: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name in source.modules:
            for function in self.modules[name].functions:
                if "." in function:
                    self.methods[function.split(".")[1]].append((name, function))

    def _add_library(self, base: type) -> None:
        try:
            path = inspect.getsourcefile(base)
        except TypeError:  # a class that is written in C
            return
        if path is not None and path.endswith(".py") and "optimizer.step(" in Path(path).read_text(encoding="utf-8"):
            self.modules[base.__module__] = Module.read(base.__module__, Path(path))
            self.library.add(base.__module__)

    def shortest(self, start: tuple[str, str] | None = None) -> list[tuple[str, str]]:
        """From the command, or `start`, to the function that calls optimizer.step(); empty when there is none."""
        starts = [start] if start is not None else [
            (name, "train") for name in self.modules if re.fullmatch(rf"{PACKAGE}\.cli(\.train)?", name)
            if "train" in self.modules[name].functions
        ]  # fmt: skip
        before: dict[tuple[str, str], tuple[str, str] | None] = dict.fromkeys(starts)
        waiting = deque(starts)
        while waiting:
            place = waiting.popleft()
            if self._steps(place):
                chain = [place]
                while (previous := before[chain[-1]]) is not None:
                    chain.append(previous)
                return chain[::-1]
            for called in self._called(place):
                if called not in before:
                    before[called] = place
                    waiting.append(called)
        return []

    def _function(self, place: tuple[str, str]) -> Function:
        return self.modules[place[0]].functions[place[1]]

    def _steps(self, place: tuple[str, str]) -> bool:
        """Whether it says `...optimizer.step(...)`, and is no rehearsal, which is rolled back."""
        if "rehears" in place[0] + place[1]:
            return False
        chains = (_chain(node.func) for node in ast.walk(self._function(place)) if isinstance(node, ast.Call))
        return any(len(chain) > 1 and chain[-1] == "step" and "optimizer" in chain[-2].lower() for chain in chains)

    def _called(self, place: tuple[str, str]) -> Iterator[tuple[str, str]]:
        module = self.modules[place[0]]
        for node in ast.walk(self._function(place)):
            chain = _chain(node) if isinstance(node, ast.Name | ast.Attribute) else []
            if len(chain) == 2 and chain[0] == "self" and "." in place[1]:  # also where it is only handed on
                yield from self._method(module, place[1].split(".")[0], chain[1])
            elif isinstance(node, ast.Call) and _chain(node.func):
                yield from self._named(module, _chain(node.func))
                handed_on = (given.id for given in node.args if isinstance(given, ast.Name))  # launch(main)
                yield from ((module.name, name) for name in handed_on if name in module.functions)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                known = place[0] not in self.library and node.func.attr not in OF_CONTAINERS
                yield from self.methods[node.func.attr] if known else ()

    def _named(self, module: Module, chain: list[str]) -> Iterator[tuple[str, str]]:
        if len(chain) == 1 and chain[0] in module.functions:
            yield module.name, chain[0]
            return
        whole = ".".join([module.imports.get(chain[0], chain[0]), *chain[1:]])
        for _ in range(4):  # a package hands names of its modules on
            where, _, name = whole.rpartition(".")
            if where in self.modules and name in self.modules[where].functions:
                yield where, name
                return
            if where in self.modules and name in self.modules[where].imports:
                whole = self.modules[where].imports[name]
                continue
            break
        if len(chain) > 1 and module.name not in self.library and chain[0] not in module.imports:
            if chain[-1] not in OF_CONTAINERS:
                yield from self.methods[chain[-1]]
            yield from self._inherited(chain[-1])

    def _method(self, module: Module, owner: str, name: str) -> Iterator[tuple[str, str]]:
        """Of the class; where it is a library's, first of ours that inherit from it; else of what it inherits from."""
        if module.name in self.library and self.methods.get(name):
            yield from self.methods[name]
        if f"{owner}.{name}" in module.functions:
            yield module.name, f"{owner}.{name}"
        elif module.name not in self.library:
            yield from self._inherited(name)

    def _inherited(self, name: str) -> Iterator[tuple[str, str]]:
        for library in sorted(self.library):
            yield from ((library, item) for item in self.modules[library].functions if item.endswith(f".{name}"))


def hops(source: Source) -> Iterator[tuple[str, str]]:
    calls = Calls(source)
    chain = calls.shortest()
    theirs = sum(module in calls.library for module, _ in chain)
    told = " -> ".join(
        (module if module in calls.library else module.removeprefix(PACKAGE + ".")) + "." + name
        for module, name in chain
    )
    of_library = f", {theirs} of them the library's" if theirs else ", all ours"
    yield "hops from the command to optimizer.step()", f"{len(chain)}{of_library}" if chain else "none found"
    yield "the chain", told


# -------------------------------------------------------------------------------------------------------- start-up


def start_up(source: Source) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory(prefix="tunesmith-architecture-") as name:
        folder = Path(name)
        build_model(folder / "model")
        shows = source.path / PACKAGE / "assets" / "shows.csv"
        (folder / "r.yaml").write_text(
            f"model: {{name: model}}\ndata: {{path: {shows}, text: description, eval_fraction: 0.2}}\n"
            "train: {tokens_per_step: 1024, max_length: 256, max_steps: 8}\n"
        )
        train = ["train", "r.yaml", "--small", "--fresh", "--out", "runs/small"]
        seconds(source, folder, train)  # fills the caches: of prepared data, and of compiled Python
        for arguments in (
            train,
            ["--help"],
            ["runs"],
            ["report", "runs/small"],
            ["data", "r.yaml"],
            ["plan", "r.yaml"],
        ):
            best = min(seconds(source, folder, arguments) for _ in range(RUNS))
            shown = "train --small" if arguments is train else " ".join(arguments[:1])
            yield f"processor seconds of `tunesmith {shown}`", f"{best:.2f}"


def seconds(source: Source, folder: Path, arguments: list[str]) -> float:
    """Of the processor, of one command."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(source.path),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", PACKAGE, *arguments], cwd=folder, env=environment, capture_output=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def build_model(path: Path) -> None:
    """A Llama of two layers with random weights, and a tokenizer of 512 entries."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = (OURS / PACKAGE / "assets" / "shows.csv").read_text(encoding="utf-8")
    tokenizer.train_from_iterator(text.splitlines()[1:200], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    fast.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="The architecture in numbers, as a markdown table.")
    parser.add_argument("src", nargs="*", type=Path, default=[OURS], metavar="SRC")
    parser.add_argument("--no-start-up", action="store_true")
    asked = parser.parse_args()
    parts: list[Callable[[Source], Iterator[tuple[str, str]]]] = [hops, sizes, circle_rows, _private_row]
    if not asked.no_start_up:
        parts.append(start_up)
    sources = [Source(path.resolve()) for path in asked.src]
    columns: list[dict[str, Any]] = [dict(row for part in parts for row in part(source)) for source in sources]
    print(f"| | {' | '.join(source.label for source in sources)} |")
    print(f"|---|{'---|' * len(sources)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column.get(name, '-') for column in columns)} |")


def _private_row(source: Source) -> Iterator[tuple[str, str]]:
    yield "uses of private names of other libraries", f"{len(private_names(source))}"


if __name__ == "__main__":
    main()
