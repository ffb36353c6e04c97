"""The blind test: two texts without names, a choice, and what all choices so far say. Choices are kept in the run."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from tunesmith.compare.intervals import wilson_interval
from tunesmith.disk import open_private
from tunesmith.errors import RunError
from tunesmith.generate.text import Decoding
from tunesmith.redact import redact
from tunesmith.run.artefacts import Vote
from tunesmith.run.directory import VOTES, RunDir

MAX_OPEN_PAIRS = 256
Side = Literal["a", "b"]
Choice = Literal["a", "b", "tie"]


@dataclass(frozen=True)
class Pair:
    """Two texts for one prompt; `tuned` says which is the tuned model's, and is told with the vote alone."""

    prompt: str
    tuned_text: str
    base_text: str
    tuned: Side
    seed: int
    decoding: Decoding

    @property
    def a(self) -> str:
        return self.tuned_text if self.tuned == "a" else self.base_text

    @property
    def b(self) -> str:
        return self.base_text if self.tuned == "a" else self.tuned_text


class Standing(BaseModel):
    """What all choices so far say; a tie counts half. low and high: Wilson's 95% interval of the win rate."""

    num_choices: int = 0
    wins: int = 0
    losses: int = 0
    ties: int = 0
    win_rate: float | None = None
    low: float | None = None
    high: float | None = None


class Ballot:
    """Pairs that wait for a choice, and the choices of a run."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._pairs: OrderedDict[str, Pair] = OrderedDict()

    def offer(self, prompt: str, tuned: str, base: str, seed: int, decoding: Decoding) -> tuple[str, Pair]:
        """A pair in random order and the name to vote under. The oldest pair without a choice may be forgotten."""
        side: Side = "a" if secrets.randbits(1) else "b"
        pair = Pair(prompt, tuned, base, side, seed, decoding)
        name = secrets.token_urlsafe(12)
        self._pairs[name] = pair
        while len(self._pairs) > MAX_OPEN_PAIRS:
            self._pairs.popitem(last=False)
        return name, pair

    def vote(self, name: str, choice: Choice) -> Pair:
        """Keep a choice, and tell which text was whose. Raises RunError for a pair that is unknown or was voted on."""
        pair = self._pairs.pop(name, None)
        if pair is None:
            raise RunError("This pair is not known, or was voted on already. Ask for another one.")
        vote = Vote(
            time=time.time(),
            prompt=pair.prompt,
            choice="tie" if choice == "tie" else "tuned" if choice == pair.tuned else "base",
            tuned=pair.tuned_text,
            base=pair.base_text,
            seed=pair.seed,
            max_new_tokens=pair.decoding.max_new_tokens,
            temperature=pair.decoding.temperature,
            top_p=pair.decoding.top_p,
        )
        with open_private(self.run_dir.file(VOTES), os.O_APPEND) as file:
            file.write(redact(json.dumps(vote.to_json(), ensure_ascii=False)) + "\n")
        return pair

    def standing(self) -> Standing:
        """Counted from the run's file; lines that cannot be read are left out."""
        choices = [vote.choice for vote in read_votes(self.run_dir)]
        if not choices:
            return Standing()
        wins, ties = choices.count("tuned"), choices.count("tie")
        rate, low, high = wilson_interval(wins + ties / 2, len(choices))
        losses = len(choices) - wins - ties
        return Standing(
            num_choices=len(choices), wins=wins, losses=losses, ties=ties, win_rate=rate, low=low, high=high
        )


def read_votes(run_dir: RunDir) -> list[Vote]:
    """The choices that a run keeps."""
    path, votes = run_dir.file(VOTES), list[Vote]()
    if not path.is_file():
        return votes
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            votes.append(Vote.parse(json.loads(line), VOTES))
        except (ValueError, RunError):
            continue
    return votes
