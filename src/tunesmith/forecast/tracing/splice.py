"""Repeat the record of one group of layers, so that a model of many like layers is traced as one of five groups.

The groups of the short model are numbered 0 to 4; copies of group 2 are inserted behind it. In the long model the
places are 0 1 2 c1 .. cr 3 4. A storage is called by (pass, place, number of its birth there). What an event of group g
refers to in group g + d, the same event at another place refers to d places away: the hidden states that the layer
before it made, or what its own forward pass kept for its backward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tunesmith.forecast.tracing.trace import Event, Log, Segment

MIN_GROUPS = 5
TEMPLATE = 2


class NotAlike(Exception):
    """The groups differ, so that one cannot stand for the others. The whole model is traced instead."""


class _Origin(NamedTuple):
    """Where a storage was born: which pass (phase, round), which group, and as which of the births there."""

    phase: str
    round: int
    group: int
    number: int


@dataclass
class _Splice:
    repeats: int
    labels: dict[int, str]
    next_id: int
    origins: dict[int, _Origin] = field(default_factory=dict)
    born_at: dict[tuple[str, int, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    """(phase, round, place) -> storages in order of birth."""
    alive: set[int] = field(default_factory=set)

    def place(self, group: int) -> int:
        return group if group <= TEMPLATE else group + self.repeats

    def copies_before(self, segment: Segment) -> list[int]:
        """Places of the copies that stand before a segment: ascending going forward, descending going backward."""
        places = list(range(TEMPLATE + 1, TEMPLATE + 1 + self.repeats))
        if segment.phase == "backward":
            return places[::-1] if segment.group == TEMPLATE else []
        return places if segment.group == TEMPLATE + 1 else []

    def record(self, segment: Segment, pass_round: int) -> None:
        """Note the births of a segment of the short model."""
        assert segment.group is not None
        key = (segment.phase, pass_round, self.place(segment.group))
        for event in segment.events:
            if event.born:
                number = len(self.born_at[key])
                self.origins[event.storage] = _Origin(segment.phase, pass_round, segment.group, number)
                self.born_at[key].append(event.storage)

    def moved(self, segment: Segment, pass_round: int, place: int) -> Segment:
        """The template's segment as it happens at the place of a copy."""
        births = self.born_at[segment.phase, pass_round, place]
        events = []
        for event in segment.events:
            if event.born:
                storage = self._new_id(event.storage)
                births.append(storage)
                events.append(Event(storage, event.num_bytes, True))
            else:
                found = self._relative(event.storage, TEMPLATE, place)
                if found is not None:
                    events.append(Event(found, event.num_bytes, False))
        return Segment(segment.phase, segment.group, self._keep(events), segment.work)

    def kept(self, segment: Segment) -> Segment:
        """A segment of the short model, with what it refers to across the copies."""
        events = []
        for event in segment.events:
            if event.born:
                events.append(event)
                continue
            if segment.group is None:
                events += [Event(storage, event.num_bytes, False) for storage in self._all_copies(event.storage)]
            found = event.storage
            if segment.group is not None:
                found = self._relative(event.storage, segment.group, self.place(segment.group)) or event.storage
            events.append(Event(found, event.num_bytes, False))
        return Segment(segment.phase, segment.group, self._keep(events), segment.work)

    def _new_id(self, template: int) -> int:
        self.next_id += 1
        if template in self.labels:
            self.labels[self.next_id] = self.labels[template]
        return self.next_id

    def _relative(self, storage: int, group: int, place: int) -> int | None:
        """What `storage`, seen from `group` in the short model, is seen from `place` in the long one."""
        origin = self.origins.get(storage)
        if origin is None:
            return None
        births = self.born_at[origin.phase, origin.round, place + origin.group - group]
        if origin.number >= len(births):
            raise NotAlike
        return births[origin.number]

    def _all_copies(self, storage: int) -> Iterator[int]:
        origin = self.origins.get(storage)
        if origin is not None and origin.group == TEMPLATE:
            for place in range(TEMPLATE + 1, TEMPLATE + 1 + self.repeats):
                yield self.born_at[origin.phase, origin.round, place][origin.number]

    def _keep(self, events: list[Event]) -> list[Event]:
        """Without the deaths of what is dead already."""
        kept = []
        for event in events:
            if event.born:
                self.alive.add(event.storage)
            elif event.storage not in self.alive:
                continue
            else:
                self.alive.remove(event.storage)
            kept.append(event)
        return kept


def repeat_layers(log: Log, repeats: int) -> Log:
    """The log of a model with `repeats` more groups, from the log of one with five.

    Raises NotAlike when the middle groups do not do the same.
    """
    _check_alike(log)
    last = max((event.storage for event in log.events()), default=0)
    splice = _Splice(repeats, dict(log.labels), last)
    segments: list[Segment] = []
    rounds: dict[str, int] = defaultdict(int)
    template: dict[tuple[str, int], Segment] = {}
    for segment in log.segments:
        if segment.group is None:
            segments.append(splice.kept(segment))
            continue
        if segment.group == (MIN_GROUPS - 1 if segment.phase == "backward" else 0):
            rounds[segment.phase] += 1
        now = rounds[segment.phase]
        splice.record(segment, now)
        if segment.group == TEMPLATE:
            template[segment.phase, now] = segment
        for place in splice.copies_before(segment):
            segments.append(splice.moved(template[segment.phase, now], now, place))
        segments.append(splice.kept(segment))
    _check_lives(splice)
    return Log(segments, splice.labels)


def _check_alike(log: Log) -> None:
    """The three middle groups must create the same storages in the same order, in every pass."""
    births: dict[str, list[list[list[int]]]] = defaultdict(lambda: [[] for _ in range(MIN_GROUPS)])
    for segment in log.segments:
        if segment.group is not None:
            sizes = [event.num_bytes for event in segment.events if event.born]
            births[segment.phase][segment.group].append(sizes)
    for groups in births.values():
        if not groups[TEMPLATE - 1] == groups[TEMPLATE] == groups[TEMPLATE + 1]:
            raise NotAlike


def _check_lives(splice: _Splice) -> None:
    """A copy of a storage must live to the end exactly when the storage does."""
    for storage, origin in splice.origins.items():
        if origin.group == TEMPLATE:
            copies = list(splice._all_copies(storage))
            if any((copy in splice.alive) != (storage in splice.alive) for copy in copies):
                raise NotAlike
