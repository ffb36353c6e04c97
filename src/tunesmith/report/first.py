"""What a reader wants first, in words that need no explanation: a quote, a sentence, what it took, what comes next."""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith.machine.gpus import gpu_of_device
from tunesmith.machine.prices import typical_prices
from tunesmith.report.artefacts import Artefacts
from tunesmith.report.numbers import fixed, number
from tunesmith.report.tables import Row
from tunesmith.report.verdict import judge
from tunesmith.run.artefacts import Comparison, Result, Sample
from tunesmith.units import format_seconds

QUOTED = 320
"""Characters of a quote."""
_LAST_YEAR_SECONDS = 253_402_300_799
"""The end of the year 9999, beyond which there are no dates."""


@dataclass(frozen=True)
class Quote:
    """How both models go on from the same words."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class First:
    """The top of the report; what is not known is empty."""

    quote: Quote | None = None
    sentence: str = ""
    about: tuple[Row, ...] = ()


def read_first(found: Artefacts) -> First:
    """From whatever the run directory holds."""
    return First(_quote(found.compare), _plain_sentence(found.result), tuple(_about(found)))


def _quote(comparison: Comparison | None) -> Quote | None:
    """The first prompt of the recipe that both answered; else the opening of a held-out row."""
    for kind in ("prompt", "opening"):
        for sample in comparison.samples if comparison is not None else ():
            if sample.kind == kind and sample.base.text.strip() and sample.tuned.text.strip():
                return _shown(sample)
    return None


def _shown(sample: Sample) -> Quote:
    return Quote(sample.prompt, _shortened(sample.base.text), _shortened(sample.tuned.text))


def _shortened(text: str) -> str:
    """At most `QUOTED` characters, cut between words."""
    text = " ".join(text.split()) if len(text) > QUOTED else text.strip("\n")
    return text if len(text) <= QUOTED else text[:QUOTED].rsplit(" ", 1)[0] + " …"


def _plain_sentence(result: Result | None) -> str:
    """What changed, for a reader who knows no measure of it. Empty where nothing was measured."""
    if result is None:
        return ""
    before, after = (number(value) for value in (result.eval_token_accuracy_base, result.eval_token_accuracy))
    if before is not None and after is not None and round(100 * before) != round(100 * after):
        return (
            "Shown the beginning of a text of yours that it never saw, the model now guesses the next piece of a word "
            f"right {round(100 * after)} times in 100; before training, {round(100 * before)} times."
        )
    before, after = number(result.eval_perplexity_base), number(result.eval_perplexity)
    if before is None or after is None:
        return ""
    return (
        "Reading a text of yours that it never saw, the model now hesitates between about "
        f"{_count(after)} possible next pieces of a word; before training, between {_count(before)}."
    )


def _count(value: float) -> str:
    return fixed(value, 0 if value >= 10 else 1)


def _about(found: Artefacts) -> Iterator[Row]:
    result = found.result
    if result is not None:
        if result.hardware:
            yield Row("Trained on", result.hardware)
        took = format_seconds(result.total_seconds)
        trained = format_seconds(result.train_seconds)
        yield Row("Took", took, f"{trained} of it in training steps" if trained != took else "")
        yield from _cost(result)
        ended = number(result.ended)
        if ended is not None and 0 < ended < _LAST_YEAR_SECONDS:
            day = datetime.datetime.fromtimestamp(ended, datetime.UTC)
            yield Row("Date", f"{day.day} {day:%B %Y}")
    yield Row("Next", *_next(found))


def _cost(result: Result) -> Iterator[Row]:
    """By the table of typical prices, where it knows what the run trained on."""
    prices = typical_prices()
    gpu = gpu_of_device(result.hardware or "")
    typical = prices.typical.get(gpu.key) if gpu is not None else None
    if typical is None:
        return
    several = re.match(r"(\d{1,6}) x ", result.hardware or "")
    hours = result.total_seconds / 3600 * (int(several[1]) if several else 1)
    cost = f"about {typical.price * hours:,.2f} {prices.currency}"
    yield Row("Cost", cost, f"{typical.price:.2f} an hour, typical in {typical.date}")


def _next(found: Artefacts) -> tuple[str, str]:
    """A command or an advice, and why."""
    run = shlex.quote(found.path)
    if not found.finished:
        return f"tunesmith train {run}/recipe.yaml --out {run} --resume", "goes on where it stopped"
    if found.data is not None and found.data.dry_run:
        return "the same command without --small", "trains on every row"
    if found.compare is None:
        return f"tunesmith compare {run}", "shows both models side by side, with intervals"
    verdict = judge(found.result, found.compare, found.data)
    flawed = next((fact for fact in verdict.facts if fact.status == "bad" and fact.fix), None)
    if flawed is not None:
        return str(flawed.fix), f"because of {flawed.name}"
    prompts = found.recipe.compare.prompts if found.recipe is not None else ()
    prompt = as_argument(prompts[0] if prompts else "One fine morning")
    return f"tunesmith generate {run} --prompt {prompt}", "lets the tuned model write"


def as_argument(text: str) -> str:
    """For a shell: in single quotes, or in double ones where an apostrophe would make those hard to read."""
    if "'" in text and not set(text) & set('"$`\\!'):
        return f'"{text}"'
    return shlex.quote(text)
