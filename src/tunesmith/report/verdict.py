"""What came of the run, in one sentence with numbers, and the facts behind it. Honest when it got worse or copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tunesmith.report.numbers import by_unit, fixed, number, percent, signed
from tunesmith.run.artefacts import BlindResult, Comparison, DataAccount, Finding, Interval, Result, Score

Level = Literal["good", "note", "bad"]
ARROW = "\u00a0→\u00a0"
NO_CHANGE = 0.005
"""Nats below which a change of the held-out loss without an interval is called none."""
MUCH = 0.1
"""Share of copied texts from which copying is never called good, whatever real texts share."""
MUCH_COPIED = "much copied"
OVERFIT = 0.02
"""Nats by which the last held-out loss may lie above the best one."""


Scores = Mapping[str, Score]
Side = Literal["base", "tuned", "real", "change", "gap"]


@dataclass(frozen=True)
class Verdict:
    """`kind` names the outcome; `sentence` stands at the top of the report."""

    kind: Literal["better", "same", "worse", "unfinished", "unmeasured"]
    sentence: str
    facts: tuple[Finding, ...]
    """Each good, note or bad."""
    dry_run: str = ""
    """`dry run: 100 rows, 22 held out`, which shows that all works and little more; empty for a whole run."""

    @property
    def level(self) -> Level:
        if self.kind == "worse":
            return "bad"
        flawed = any(
            fact.status == "bad" or (fact.name == MUCH_COPIED and fact.status != "good") for fact in self.facts
        )
        return "good" if self.kind == "better" and not flawed and not self.dry_run else "note"


def judge(result: Result | None, comparison: Comparison | None, data: DataAccount | None = None) -> Verdict:
    """The verdict on a run from result.json, compare.json and data.json; each may be missing."""
    verdict = _judge(result, comparison, data)
    if data is None or not data.dry_run:
        return verdict
    return replace(verdict, sentence=f"This was a {data.dry_run}. {verdict.sentence}", dry_run=data.dry_run)


def _judge(result: Result | None, comparison: Comparison | None, data: DataAccount | None) -> Verdict:
    if result is None and comparison is None:
        return Verdict("unfinished", "This run has no result yet: the report shows what was recorded so far.", ())
    if result is not None and not result.finished:
        sentence = f"This run is not finished: {result.stopped} after {fixed(result.steps, 0)} steps."
        if result.eval_loss is None and result.eval_loss_base is not None:
            sentence += f" Its held-out loss is not measured yet; the base's is {fixed(result.eval_loss_base, 3)}."
        return Verdict("unfinished", sentence, tuple(_loss_facts(result)))
    scores: Scores = comparison.scores if comparison is not None else {}
    facts = list(_loss_facts(result)) if result is not None else []
    facts += _score_facts(scores)
    if comparison is not None and comparison.blind is not None:
        facts.append(_blind_fact(comparison.blind))
    return _headline(result, scores, tuple(facts), _held_out_rows(comparison, data))


def _headline(result: Result | None, scores: Scores, facts: tuple[Finding, ...], rows: str) -> Verdict:
    before, after = (None, None) if result is None else (number(result.eval_loss_base), number(result.eval_loss))
    if before is None or after is None:
        before, after = _value(scores, "heldout_loss", "base"), _value(scores, "heldout_loss", "tuned")
    if before is None or after is None:
        sentence = "Training finished, but no held-out rows were scored, so there is no saying what it brought."
        return Verdict("unmeasured", sentence, facts)
    measured = _change(scores, "heldout_loss")
    low, high = measured or (after - before - NO_CHANGE, after - before + NO_CHANGE)
    numbers = f"held-out loss {fixed(before, 3)}{ARROW}{fixed(after, 3)}{_perplexities(result, scores)}{rows}"
    numbers += _certainty(after - before, measured)
    copies = _copying(scores)
    told = copies is not None and (copies.status == "bad" or (copies.name == MUCH_COPIED and copies.status != "good"))
    but = f", but {copies.found[0].lower()}{copies.found[1:].rstrip('.')}" if copies is not None and told else ""
    if high < 0:
        sentence = f"The tuned model predicts your text better than the base: {numbers}{but or _style(scores)}."
        return Verdict("better", sentence, facts)
    if low > 0:
        return Verdict("worse", f"The tuned model got worse at your text: {numbers}{but}.", facts)
    sentence = f"Training changed little: {numbers}, a difference that chance could make{but}."
    return Verdict("same", sentence, facts)


def _held_out_rows(comparison: Comparison | None, data: DataAccount | None) -> str:
    """` on 141 held-out rows`."""
    number = data.num_held_out if data is not None else 0
    number = number or (comparison.counts.held_out_documents if comparison is not None else 0)
    return f" on {fixed(number, 0)} held-out {'row' if number == 1 else 'rows'}" if number else ""


def _certainty(change: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ", without an interval until both models are compared"
    low, high = (signed(fixed(edge, 3)) for edge in interval)
    return f", a change of {signed(fixed(change, 3))} (95% interval {low} to {high})"


def _perplexities(result: Result | None, scores: Scores) -> str:
    before, after = (None, None) if result is None else (result.eval_perplexity_base, result.eval_perplexity)
    if before is None or after is None:
        before, after = _value(scores, "heldout_perplexity", "base"), _value(scores, "heldout_perplexity", "tuned")
    return (
        f" (perplexity {fixed(before, 1)}{ARROW}{fixed(after, 1)})" if before is not None and after is not None else ""
    )


def _style(scores: Scores) -> str:
    before, after = _value(scores, "style_auc", "base"), _value(scores, "style_auc", "tuned")
    if before is None or after is None:
        return ""
    harder = "harder" if after < before else "no harder"
    return f", and its texts are {harder} to tell from real ones (AUC {fixed(before, 2)}{ARROW}{fixed(after, 2)})"


def _loss_facts(result: Result) -> Iterator[Finding]:
    best, last = number(result.best_eval_loss), number(result.eval_loss)
    yield from filter(None, (_best_fact(result),))
    if best is not None and last is not None and last > best + OVERFIT:
        yield _fact(
            "overfitting",
            "bad",
            f"The held-out loss was lowest at step {fixed(result.best_step, 0)} ({fixed(best, 3)}) and rose to "
            f"{fixed(last, 3)} by the end: the model began to learn its rows by heart.",
            "Train for fewer epochs, with a lower learning rate, or on more rows.",
        )
    for event in result.events[:3]:
        yield _fact(event.kind, "note", f"Step {fixed(event.step, 0)}: {event.note or event.kind}")


def _best_fact(result: Result) -> Finding | None:
    """Where the best was, what the steps after it cost, and what a minimum over many is worth."""
    best, last, step, steps = result.best_eval_loss, result.last_eval_loss, result.best_step, result.steps
    if best is None or last is None or step is None or step >= steps or result.eval_loss == last:
        return None
    after = (
        f"the {fixed(steps - step, 0)} steps after it, {percent((steps - step) / steps)} of the training, gave nothing"
    )
    how = "ended there, because it no longer fell" if result.ended_early else "went to its last step"
    told = (
        f"The model is that of step {fixed(step, 0)}, where the held-out loss was lowest ({fixed(best, 3)}); it was "
        f"{fixed(last, 3)} at step {fixed(steps, 0)}. The run {how}: {after}."
    )
    return _fact("best_step", "note", f"{told} {_flattery(result)}", "More epochs of these rows cost time alone.")


def _flattery(result: Result) -> str:
    lowest = f"The lowest of {fixed(result.num_evaluations or 0, 0)} evaluations of the same rows flatters"
    if result.test_loss is not None:
        return f"{lowest}; the test rows, which decided nothing, say {fixed(result.test_loss, 3)}."
    return f"{lowest}; rows that decide nothing (data.test_fraction) would tell by how much."


def _fact(name: str, level: Level, found: str, advice: str | None = None) -> Finding:
    return Finding(name=name, status=level, found=found, fix=advice)


def _score_facts(scores: Scores) -> Iterator[Finding]:
    yield from filter(None, (_style_fact(scores), _copying(scores), _ending(scores), _repeating(scores)))
    yield from filter(None, (_forgetting(scores),))


def _style_fact(scores: Scores) -> Finding | None:
    before, after = _value(scores, "style_auc", "base"), _value(scores, "style_auc", "tuned")
    if before is None or after is None:
        return None
    low, high = _change(scores, "style_auc") or (0.0, 0.0)
    told = f"A classifier tells its texts from real ones with AUC {fixed(after, 2)}; the base's with {fixed(before, 2)}"
    if high < 0:
        ending = "they are hard to tell apart" if after < 0.6 else "it moved towards your style"
        return _fact("style", "good", f"{told}: {ending} (0.50 cannot tell, 1.00 always can).")
    if low > 0:
        return _fact("style", "bad", f"{told}: it moved away from your style (0.50 cannot tell, 1.00 always can).")
    return _fact("style", "note", f"{told}: no clear change of style (0.50 cannot tell, 1.00 always can).")


def _copying(scores: Scores) -> Finding | None:
    """More than real texts do, or no more."""
    tuned, real = _value(scores, "copied_texts", "tuned"), _value(scores, "copied_texts", "real")
    if tuned is None or real is None:
        return None
    above, _ = _interval(scores, "copied_texts", "gap")
    rates = (
        f"{percent(tuned)} of its texts hold 8 or more words in a row from one training row, "
        f"{percent(real)} of real texts do"
    )
    advice = "Look at the marked spans below. Train for fewer epochs, or remove near-duplicates from the data."
    if tuned > real and above > 0:
        return _fact("copying", "bad", f"It copies: {rates}.", advice)
    if tuned >= MUCH:
        why = "so few samples do not decide it" if tuned > real else "the rows repeat each other, so this cannot tell"
        return _fact(
            MUCH_COPIED, "note", f"Much of what it writes stands in the training rows: {rates}; {why}.", advice
        )
    if tuned > real:
        return _fact("copying", "note", f"It may copy a little: {rates}; so few samples do not decide it.")
    return _fact("copying", "good", f"It copies no more than real texts share anyway: {rates}.")


def _ending(scores: Scores) -> Finding | None:
    tuned, real = _value(scores, "ended", "tuned"), _value(scores, "ended", "real")
    if tuned is None or real is None or tuned >= real - 0.1:
        return None
    return _fact(
        "ending",
        "bad" if tuned < 0.5 * real else "note",
        f"Only {percent(tuned)} of its texts end by themselves; {percent(real)} of the real ones fit in the limit.",
        "Train longer, or look at the data audit: every row should end where its text ends.",
    )


def _repeating(scores: Scores) -> Finding | None:
    tuned, real = _value(scores, "repetition", "tuned"), _value(scores, "repetition", "real")
    if tuned is None or real is None or tuned < real + 0.05:
        return None
    return _fact(
        "repetition",
        "bad" if tuned > real + 0.2 else "note",
        f"It repeats itself: {percent(tuned)} of a text's runs of four words stood in it before "
        f"(real texts: {percent(real)}).",
        "Try another temperature; a very low one makes any model loop.",
    )


def _forgetting(scores: Scores) -> Finding | None:
    change = _value(scores, "general_loss", "change")
    if change is None:
        return None
    low, _ = _change(scores, "general_loss") or (0.0, 0.0)
    amount = signed(by_unit(change, "nats per token"))
    if low > 0:
        return _fact(
            "forgetting",
            "bad" if change > 0.5 else "note",
            f"It forgot some of what it knew: the loss on general text changed by {amount}.",
            "If that matters to you: a lower learning rate, LoRA, or some general text mixed into the data.",
        )
    return _fact("forgetting", "good", f"It did not forget measurably: the loss on general text changed by {amount}.")


def _blind_fact(blind: BlindResult) -> Finding:
    level: Level = "good" if blind.low > 0.5 else "bad" if blind.high < 0.5 else "note"
    return _fact(
        "blind test",
        level,
        f"In a blind test of {fixed(blind.num_choices, 0)} pairs the tuned model won {percent(blind.win_rate)} "
        f"(95% interval {percent(blind.low)} to {percent(blind.high)}).",
    )


def _value(scores: Scores, name: str, side: Side) -> float | None:
    found: Interval | None = getattr(scores.get(name), side, None)
    return number(found.value) if found is not None else None


def _interval(scores: Scores, name: str, side: Side) -> tuple[float, float]:
    found: Interval | None = getattr(scores.get(name), side, None)
    if found is None:
        return 0.0, 0.0
    value = number(found.value) or 0.0
    low, high = number(found.low), number(found.high)
    return (value if low is None else low, value if high is None else high)


def _change(scores: Scores, name: str) -> tuple[float, float] | None:
    return _interval(scores, name, "change") if _value(scores, name, "change") is not None else None
