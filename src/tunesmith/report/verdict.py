"""What came of the run, in one sentence with numbers, and the facts behind it. Honest when it got worse or copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.report.numbers import by_unit, fixed, number, percent, signed

Level = Literal["good", "note", "bad"]
ARROW = "\u00a0→\u00a0"
NO_CHANGE = 0.005
"""Nats below which a change of the held-out loss without an interval is called none."""
OVERFIT = 0.02
"""Nats by which the last held-out loss may lie above the best one."""


@dataclass(frozen=True)
class Fact:
    """One thing to know, with its numbers. `advice` says what to do, when there is something."""

    level: Level
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Verdict:
    """`kind` names the outcome; `sentence` stands at the top of the report."""

    kind: Literal["better", "same", "worse", "unfinished", "unmeasured"]
    sentence: str
    facts: tuple[Fact, ...]

    @property
    def level(self) -> Level:
        if self.kind == "worse":
            return "bad"
        return "good" if self.kind == "better" and all(fact.level != "bad" for fact in self.facts) else "note"


def judge(result: dict[str, Any], comparison: dict[str, Any]) -> Verdict:
    """The verdict on a run from result.json and compare.json; both may be empty."""
    if not result and not comparison:
        return Verdict("unfinished", "This run has no result yet: the report shows what was recorded so far.", ())
    if result.get("stopped"):
        sentence = f"This run is not finished: {result['stopped']} after {fixed(result.get('steps'), 0)} steps."
        return Verdict("unfinished", sentence, tuple(_loss_facts(result)))
    scores = comparison.get("scores") or {}
    facts = [*_loss_facts(result), *_score_facts(scores), *_blind_facts(comparison.get("blind") or {})]
    return _headline(result, scores, facts)


def _headline(result: dict[str, Any], scores: dict[str, Any], facts: list[Fact]) -> Verdict:
    before, after = number(result.get("eval_loss_base")), number(result.get("eval_loss"))
    if before is None or after is None:
        before, after = _value(scores, "heldout_loss", "base"), _value(scores, "heldout_loss", "tuned")
    if before is None or after is None:
        sentence = "Training finished, but no held-out rows were scored, so there is no saying what it brought."
        return Verdict("unmeasured", sentence, tuple(facts))
    low, high = _change(scores, "heldout_loss") or (after - before - NO_CHANGE, after - before + NO_CHANGE)
    numbers = f"held-out loss {fixed(before, 3)}{ARROW}{fixed(after, 3)}{_perplexities(result, scores)}"
    copies = _copying(scores)
    but = f", but {copies.text[0].lower()}{copies.text[1:].rstrip('.')}" if copies and copies.level == "bad" else ""
    if high < 0:
        sentence = f"The tuned model predicts your text better than the base: {numbers}{but or _style(scores)}."
        return Verdict("better", sentence, tuple(facts))
    if low > 0:
        return Verdict("worse", f"The tuned model got worse at your text: {numbers}{but}.", tuple(facts))
    sentence = f"Training changed little: {numbers}, a difference that chance could make{but}."
    return Verdict("same", sentence, tuple(facts))


def _perplexities(result: dict[str, Any], scores: dict[str, Any]) -> str:
    before, after = number(result.get("eval_perplexity_base")), number(result.get("eval_perplexity"))
    if before is None or after is None:
        before, after = _value(scores, "heldout_perplexity", "base"), _value(scores, "heldout_perplexity", "tuned")
    return (
        f" (perplexity {fixed(before, 1)}{ARROW}{fixed(after, 1)})" if before is not None and after is not None else ""
    )


def _style(scores: dict[str, Any]) -> str:
    before, after = _value(scores, "style_auc", "base"), _value(scores, "style_auc", "tuned")
    if before is None or after is None:
        return ""
    harder = "harder" if after < before else "no harder"
    return f", and its texts are {harder} to tell from real ones (AUC {fixed(before, 2)}{ARROW}{fixed(after, 2)})"


def _loss_facts(result: dict[str, Any]) -> Iterator[Fact]:
    best, last = number(result.get("best_eval_loss")), number(result.get("eval_loss"))
    if best is not None and last is not None and last > best + OVERFIT:
        yield Fact(
            "bad",
            f"The held-out loss was lowest at step {fixed(result.get('best_step'), 0)} ({fixed(best, 3)}) and rose to "
            f"{fixed(last, 3)} by the end: the model began to learn its rows by heart.",
            "Train for fewer epochs, with a lower learning rate, or on more rows.",
        )
    memory = [event for event in result.get("events") or [] if isinstance(event, dict)]
    for event in memory[:3]:
        yield Fact("note", f"Step {fixed(event.get('step'), 0)}: {event.get('note') or event.get('kind')}")


def _score_facts(scores: dict[str, Any]) -> Iterator[Fact]:
    yield from filter(None, (_style_fact(scores), _copying(scores), _ending(scores), _repeating(scores)))
    yield from filter(None, (_forgetting(scores),))


def _style_fact(scores: dict[str, Any]) -> Fact | None:
    before, after = _value(scores, "style_auc", "base"), _value(scores, "style_auc", "tuned")
    if before is None or after is None:
        return None
    low, high = _change(scores, "style_auc") or (0.0, 0.0)
    told = f"A classifier tells its texts from real ones with AUC {fixed(after, 2)}; the base's with {fixed(before, 2)}"
    if high < 0:
        ending = "they are hard to tell apart" if after < 0.6 else "it moved towards your style"
        return Fact("good", f"{told}: {ending} (0.50 cannot tell, 1.00 always can).")
    if low > 0:
        return Fact("bad", f"{told}: it moved away from your style (0.50 cannot tell, 1.00 always can).")
    return Fact("note", f"{told}: no clear change of style (0.50 cannot tell, 1.00 always can).")


def _copying(scores: dict[str, Any]) -> Fact | None:
    """More than real texts do, or no more."""
    tuned, real = _value(scores, "copied_texts", "tuned"), _value(scores, "copied_texts", "real")
    if tuned is None or real is None:
        return None
    above, _ = _interval(scores, "copied_texts", "gap")
    rates = (
        f"{percent(tuned)} of its texts hold 8 or more words in a row from one training row, "
        f"{percent(real)} of real texts do"
    )
    if tuned > real and above > 0:
        advice = "Look at the marked spans below. Train for fewer epochs, or remove near-duplicates from the data."
        return Fact("bad", f"It copies: {rates}.", advice)
    if tuned > real:
        return Fact("note", f"It may copy a little: {rates}; so few samples do not decide it.")
    return Fact("good", f"It copies no more than real texts share anyway: {rates}.")


def _ending(scores: dict[str, Any]) -> Fact | None:
    tuned, real = _value(scores, "ended", "tuned"), _value(scores, "ended", "real")
    if tuned is None or real is None or tuned >= real - 0.1:
        return None
    return Fact(
        "bad" if tuned < 0.5 * real else "note",
        f"Only {percent(tuned)} of its texts end by themselves; {percent(real)} of the real ones fit in the limit.",
        "Train longer, or look at the data audit: every row should end where its text ends.",
    )


def _repeating(scores: dict[str, Any]) -> Fact | None:
    tuned, real = _value(scores, "repetition", "tuned"), _value(scores, "repetition", "real")
    if tuned is None or real is None or tuned < real + 0.05:
        return None
    return Fact(
        "bad" if tuned > real + 0.2 else "note",
        f"It repeats itself: {percent(tuned)} of a text's runs of four words stood in it before "
        f"(real texts: {percent(real)}).",
        "Try another temperature; a very low one makes any model loop.",
    )


def _forgetting(scores: dict[str, Any]) -> Fact | None:
    change = _value(scores, "general_loss", "change")
    if change is None:
        return None
    low, _ = _change(scores, "general_loss") or (0.0, 0.0)
    amount = signed(by_unit(change, "nats per token"))
    if low > 0:
        return Fact(
            "bad" if change > 0.5 else "note",
            f"It forgot some of what it knew: the loss on general text changed by {amount}.",
            "If that matters to you: a lower learning rate, LoRA, or some general text mixed into the data.",
        )
    return Fact("good", f"It did not forget measurably: the loss on general text changed by {amount}.")


def _blind_facts(blind: dict[str, Any]) -> Iterator[Fact]:
    rate, low, high = (number(blind.get(key)) for key in ("win_rate", "low", "high"))
    if rate is None or low is None or high is None:
        return
    level: Level = "good" if low > 0.5 else "bad" if high < 0.5 else "note"
    yield Fact(
        level,
        f"In a blind test of {fixed(blind.get('num_choices'), 0)} pairs the tuned model won {percent(rate)} "
        f"(95% interval {percent(low)} to {percent(high)}).",
    )


def _value(scores: dict[str, Any], name: str, side: str) -> float | None:
    return number(((scores.get(name) or {}).get(side) or {}).get("value"))


def _interval(scores: dict[str, Any], name: str, side: str) -> tuple[float, float]:
    found = (scores.get(name) or {}).get(side) or {}
    value = number(found.get("value")) or 0.0
    low, high = number(found.get("low")), number(found.get("high"))
    return (value if low is None else low, value if high is None else high)


def _change(scores: dict[str, Any], name: str) -> tuple[float, float] | None:
    return _interval(scores, name, "change") if _value(scores, name, "change") is not None else None
