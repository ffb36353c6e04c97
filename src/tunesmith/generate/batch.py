"""Texts to a file: a JSON line each, in order; what was written before is not written again."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from tunesmith.disk import open_private
from tunesmith.errors import DataError
from tunesmith.generate.request import Piece, Request
from tunesmith.generate.text import Decoding, Generation
from tunesmith.generate.voices import Speakers


@dataclass(frozen=True)
class TextStream:
    """A prompt and what follows it, piece by piece."""

    prompt: str
    is_answer: bool
    """It was asked as a user's turn, so that the text answers it and does not continue it."""
    pieces: Iterator[Piece]


@dataclass(frozen=True)
class Writing:
    """How texts are written: what is the same for all of a call."""

    voice: str
    decoding: Decoding
    seed: int
    raw: bool = False
    stop: tuple[str, ...] = ()

    def requests(self, speakers: Speakers, prompts: Sequence[str]) -> Iterator[Request]:
        """A request for each prompt; the same one given twice is written twice, differently."""
        seen: Counter[str] = Counter()
        for text in prompts:
            prompt = speakers.prompt(text, self.voice, raw=self.raw)
            yield Request(prompt, self.decoding, self.seed, self.voice, seen[text], self.stop)
            seen[text] += 1


class Line(BaseModel):
    """One text as a line of the output."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: str
    text: str
    num_tokens: int
    ended: bool
    """The model ended it; otherwise the limit did."""
    model: str
    voice: str
    seed: int
    max_new_tokens: int
    temperature: float
    top_p: float

    @classmethod
    def of(cls, prompt: str, text: Generation, model: str, how: Writing) -> Line:
        return cls(
            prompt=prompt,
            text=text.text,
            num_tokens=text.num_tokens,
            ended=text.ended,
            model=model,
            voice=how.voice,
            seed=how.seed,
            max_new_tokens=how.decoding.max_new_tokens,
            temperature=how.decoding.temperature,
            top_p=how.decoding.top_p,
        )

    def differs(self, prompt: str, model: str, how: Writing) -> str | None:
        """The first value of this line that is not what would be written now, if there is one."""
        now = Line.of(prompt, Generation(prompt, "", 0, False), model, how)
        names = [name for name in Line.model_fields if name not in ("text", "num_tokens", "ended")]
        return next((name for name in names if getattr(self, name) != getattr(now, name)), None)


def write_lines(
    speakers: Speakers,
    model: str,
    prompts: Sequence[str],
    how: Writing,
    out: Path | None,
    progress: Callable[[int, int], object] = lambda *_: None,
) -> int:
    """Write a line for each prompt to `out`, or standard output. Returns how many were there already.

    An `out` that holds the first texts of the same prompts, written by the same model in the same way, is gone on with.
    Raises DataError for one that holds anything else.
    """
    done = 0 if out is None else _resume(out, prompts, model, how)
    progress(done, len(prompts))
    requests = list(how.requests(speakers, prompts))[done:]
    with ExitStack() as stack:
        file: TextIO = sys.stdout if out is None else stack.enter_context(open_private(out, os.O_APPEND))
        for number, text in enumerate(speakers.engine.write_each(requests), done):
            file.write(Line.of(prompts[number], text, model, how).model_dump_json() + "\n")
            file.flush()
            progress(number + 1, len(prompts))
    return done


def _resume(out: Path, prompts: Sequence[str], model: str, how: Writing) -> int:
    """How many texts `out` holds already; a last line that was cut short is taken away."""
    if not out.exists():
        return 0
    content = out.read_bytes()
    whole, _, cut = content.rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    for number, line in enumerate(lines):
        try:
            found = Line.model_validate_json(line)
        except ValidationError:
            raise DataError(
                f"{out}:{number + 1}: is no line of texts that were written. Choose another --out."
            ) from None
        differs = "prompt" if number >= len(prompts) else found.differs(prompts[number], model, how)
        if differs is not None:
            raise DataError(
                f"{out}:{number + 1}: was written with another {differs}. Choose another --out, or remove the file."
            )
    if cut:
        os.truncate(out, len(content) - len(cut))
    return len(lines)
