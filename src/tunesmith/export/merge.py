"""The adapter added to its base in float32, and proof that something was learned.

A base that was trained in 4 bits was loaded again in full precision before: rounding the sum to 4 bits would undo most
of what was learned.
"""

from __future__ import annotations

import math
from typing import Any

from tunesmith.compat import quiet_transformers
from tunesmith.errors import ModelError
from tunesmith.models.find import ModelSource
from tunesmith.models.load import load_model


def merge(tuned: Any) -> tuple[Any, float]:
    """A plain model, and the norm of what was added / the norm of the weights that it was added to.

    Raises ModelError when the sum equals the base, or is not finite.
    """
    before = {name: layer.base_layer.weight.detach().clone() for name, layer in _adapted(tuned)}
    try:
        with quiet_transformers():
            model = tuned.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(
            f"export: the adapter's weights are not finite ({error}). Train again at a lower rate."
        ) from None
    after = dict(model.named_modules())
    change = norm = 0.0
    for name, weight in before.items():
        new = after[name.removeprefix("base_model.model.")].weight.detach()
        change += float((new - weight).double().square().sum())
        norm += float(weight.double().square().sum())
    if change == 0.0:
        raise ModelError(
            "export: the merged model equals its base, so the adapter learned nothing (its second matrix is zero). "
            "Train longer or at a higher rate, and look at result.json: eval_loss beside eval_loss_base."
        )
    return model, math.sqrt(change / norm)


def change_of(model: Any, base: ModelSource) -> float:
    """Norm of the change of all weights / norm of the base's, for a model whose every weight trained.

    Raises ModelError when nothing changed.
    """
    change = norm = 0.0
    before = {name: weight.detach() for name, weight in load_model(base).named_parameters()}
    for name, weight in model.named_parameters():
        start = before.get(name)
        if start is None or start.shape != weight.shape:
            continue
        change += float((weight.detach() - start).double().square().sum())
        norm += float(start.double().square().sum())
    if change == 0.0:
        raise ModelError(
            "export: the model equals its base: training changed no weight. Look at result.json and log.txt of the run."
        )
    return math.sqrt(change / norm)


def _adapted(tuned: Any) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in tuned.named_modules() if hasattr(module, "lora_A")]
