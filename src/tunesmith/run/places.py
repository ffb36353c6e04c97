"""Places of this machine never reach an artefact: a path that the recipe gives in full is called by its name.

recipe.yaml and the checkpoints alone keep what the user wrote, since a run that goes on reads it. A path that was
written relative stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from tunesmith.recipe import Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Places:
    """{"/home/anna/shows.csv": "shows.csv", ...}: the full paths of a run, each with its name."""

    names: Mapping[str, str]

    @classmethod
    def of(cls, run: Path, recipe: Recipe | None) -> Places:
        """Those of the run itself and of what its recipe names."""
        written = [str(run), str(run.resolve()), *(_paths(recipe) if recipe is not None else ())]
        return cls(dict(place for path in written for place in _named(path)))

    def by_name(self, value: T) -> T:
        """`value` (text, or lists and objects of it) with every full path, also inside a text, called by its name."""
        return self._changed(value, self._pattern()) if self.names else value

    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.names, key=len, reverse=True)
        return re.compile(rf"(?<![\w.~-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])")

    def _changed(self, value: T, pattern: re.Pattern[str]) -> T:
        changed: object = value
        if isinstance(value, str):
            changed = pattern.sub(lambda found: self.names[found[0]], value)
        elif isinstance(value, Mapping):
            changed = {key: self._changed(item, pattern) for key, item in value.items()}
        elif isinstance(value, list | tuple):
            changed = [self._changed(item, pattern) for item in value]
        return changed  # type: ignore[return-value]


def _paths(recipe: Recipe) -> list[str]:
    data = recipe.data
    paths = [data.path] if isinstance(data.path, str) else [source.path for source in data.path]
    return [path for path in (*paths, data.eval_path, data.test_path, recipe.model.name) if path is not None]


def _named(path: str) -> Iterator[tuple[str, str]]:
    """The path as it was written and with its `~` replaced, where that is a full one. The root has no name.

    Of a pattern: the folders before its first wildcard.
    """
    for spelt in dict.fromkeys((path, str(Path(path).expanduser()))):
        fixed = PurePath(spelt)
        while fixed.name and re.search(r"[*?\[]", str(fixed)):
            fixed = fixed.parent
        if fixed.name and (fixed.is_absolute() or spelt.startswith("~")):
            yield str(fixed), fixed.name
