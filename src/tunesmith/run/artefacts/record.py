"""What every artefact is: a frozen value that is written whole and read with care."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tunesmith.errors import RunError

JsonObject = dict[str, Any]
"""A JSON object before it was checked, or after it was written out."""


class Record(BaseModel):
    """A frozen part of an artefact."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    OLDER: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Values of the fields that older versions did not write."""

    def to_json(self) -> JsonObject:
        """As it is written; numbers that are not finite are the writer's business (`disk.finite`)."""
        return self.model_dump(mode="json")

    @classmethod
    def parse(cls, values: JsonObject, where: str) -> Self:
        """Check what was read. Raises RunError that names every part of an unexpected shape."""
        try:
            return cls.model_validate({**cls.OLDER, **values})
        except ValidationError as error:
            raise RunError(f"{where}: {'; '.join(_problems(error))}. The file is damaged; write it again.") from None

    @classmethod
    def salvage(cls, values: JsonObject, where: str) -> tuple[Self | None, list[str]]:
        """What can be used of a damaged artefact, and a line for each kind of damage. None: nothing can be used.

        A part of an unexpected shape becomes null or empty; where that is not allowed, what holds it goes too.
        """
        kept: JsonObject | None = {**cls.OLDER, **values}
        told: dict[str, None] = {}
        tries: Counter[Place] = Counter()
        while kept is not None:
            try:
                return cls.model_validate(kept), _few(told)
            except ValidationError as error:
                told |= dict.fromkeys(f"{where}: a part has an unexpected shape ({line})." for line in _problems(error))
                kept = _without_damage(kept, error, tries)
        return None, _few(told)


class Artefact(Record):
    """A JSON file of the run directory."""

    FILE: ClassVar[str]
    VERSION: ClassVar[int]

    version: int
    """Of this file's format; a reader knows its own and all before it."""

    @classmethod
    def parse(cls, values: JsonObject, where: str) -> Self:
        """As of any record. Raises RunError for a version that is newer than this program's too."""
        version = values.get("version", 1)
        if isinstance(version, int) and version > cls.VERSION:
            raise RunError(
                f"{where}: was written by a newer tunesmith (version {version}; this one reads up to {cls.VERSION}). "
                "Update tunesmith."
            )
        return super().parse(values, where)


Place = tuple[int | str, ...]
"""Where a part lies: keys and list positions, from the outside in."""
_MAX_TOLD = 8


def _problems(error: ValidationError) -> list[str]:
    """`scores.ended.better: input should be ...`, each kind once: the items of a list are not told apart."""
    lines = []
    for problem in error.errors(include_url=False):
        place = ".".join("*" if isinstance(part, int) else part for part in problem["loc"])
        lines.append(f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}")
    return list(dict.fromkeys(lines))


def _few(lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    more = len(lines) - _MAX_TOLD
    return [*lines[:_MAX_TOLD], f"... and {more} more"] if more > 0 else lines


def _without_damage(values: JsonObject, error: ValidationError, tries: Counter[Place]) -> JsonObject | None:
    """One try at each part that `error` names: null, then gone, then gone with what holds it. None: all is gone."""
    empty: dict[str, object] = {"tuple_type": [], "dict_type": {}}
    changes: dict[Place, Any] = {}
    for problem in error.errors(include_url=False):
        place = _existing(values, problem["loc"])
        if problem["type"] in empty:
            changes[place] = empty[problem["type"]]
            continue
        while place and tries[place] > 1:
            place = place[:-1]
        changes[place] = _GONE if tries[place] or not place or isinstance(place[-1], int) else None
    if () in changes:
        return None
    tries.update(place for place in changes if isinstance(place[-1], str))  # a list's next item takes its position
    for place in sorted(changes, key=lambda place: [(isinstance(part, int), part) for part in place], reverse=True):
        values = _changed(values, place, changes[place])
    return values


_GONE = object()


def _existing(values: Any, location: Place) -> Place:
    """The part of `location` that is a place of `values`, or where a key is missing; the rest names types."""
    for depth, part in enumerate(location):
        if isinstance(values, dict) and isinstance(part, str):
            if part not in values:
                return location[: depth + 1] if depth + 1 == len(location) else location[:depth]
        elif not (isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)):
            return location[:depth]
        values = values[part]
    return location


def _changed(values: Any, place: Place, value: Any) -> Any:
    """A copy of `values` with another value at `place`, or without it."""
    first, *rest = place
    if rest:
        value = _changed(values[first], tuple(rest), value)
    if isinstance(values, dict):
        kept = {key: item for key, item in values.items() if key != first}
        return kept if value is _GONE else {**kept, first: value}
    at = int(first)
    return [*values[:at], *([] if value is _GONE else [value]), *values[at + 1 :]]
