"""The model card of an export: that of the run, and how it did when it was loaded again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.export.job import Proof
from tunesmith.models.card import Leaves, model_card
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import DataAccount, Export, Plan, Result, RoundTrip

if TYPE_CHECKING:
    from tunesmith.models.find import ModelSource


def export_card(
    recipe: Recipe,
    plan: Plan,
    base: ModelSource,
    account: DataAccount,
    result: Result,
    record: Export,
    proof: Proof,
) -> str:
    """Markdown with the YAML header that model hubs read."""
    return model_card(recipe, plan, base, account, result, Leaves(proof.library, proof.use, _proof(record)))


def describe_trip(trip: RoundTrip) -> str:
    """One line: how it did when it was loaded again."""
    return (
        f"{trip.engine}: loss {trip.loss:.4f} on {trip.num_tokens:,} tokens, expected {trip.expected_loss:.4f} "
        f"(within {trip.loss_tolerance:g}), as trained {trip.tuned_loss:.4f}; "
        f"same likeliest token {trip.same_first:.1%}; {trip.same_texts} of {trip.num_texts} greedy texts the same"
    )


def describe_cost(record: Export) -> str | None:
    """One line: what the type of the weights costs on the rows of the run."""
    cost = record.cost
    if cost is None:
        return None
    more = round(cost.loss - cost.tuned_loss, 4) + 0.0  # no -0.0000
    return (
        f"{record.quant} costs {more:+.4f} nats a token: loss {cost.loss:.4f} on "
        f"{cost.num_tokens:,} tokens of {record.rows}, {cost.tuned_loss:.4f} as trained ({cost.measured_by})"
    )


def _proof(record: Export) -> str:
    lines = [f"- {describe_trip(trip)}; compared with {trip.against}" for trip in record.round_trips]
    cost = describe_cost(record)
    lines += [f"- {cost}"] if cost else []
    lines += [f"- {note}" for note in record.notes]
    if record.context_length is not None:
        lines.append(f"- reads {record.context_length:,} tokens")
    if record.weights != "model":
        lines.append(f"- from {record.weights} of a run that did not end")
    what = f"{record.format} ({record.architecture}, {record.quant})"
    return f"\n## Export\n\n{what}, loaded again and compared on {record.rows} before it was called done:\n\n" + (
        "\n".join(lines) + "\n"
    )
