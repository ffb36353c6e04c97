"""Whether steps are recorded as CUDA graphs: where they can be, and launches weigh against arithmetic."""

from __future__ import annotations

from typing import Any

from tunesmith.errors import PlanError
from tunesmith.fast.attending.rope import BY_LENGTH
from tunesmith.forecast.forecaster import Choice, Forecaster, Target
from tunesmith.run.artefacts import ASKED
from tunesmith.step import has_dropout

LAUNCHES_PER_LAYER = 90
"""Kernels of a layer, forward, backward and update; 77 and 120 were counted in GPT-Neo-125M and SmolLM2-135M."""
LAUNCH_SECONDS = 35e-6
"""Of the host, a kernel: 35 to 43 microseconds were measured beside one H200."""
EFFICIENCY = 0.5
"""Share of the data sheet's matrix rate that a large step reaches."""
WORTHWHILE = 0.1
"""Share of a step's arithmetic that launches must take, for recording and filling up to pay."""


def choose_graphs(
    forecaster: Forecaster, target: Target, choice: Choice, num_passes: int, reasons: dict[str, str]
) -> bool:
    """Raises PlanError when the recipe asks for graphs that cannot be on this machine."""
    asked = forecaster.recipe.train.cuda_graphs
    if asked is False:
        reasons["cuda_graphs"] = ASKED
        return False
    against = _cannot(forecaster, target, choice, num_passes)
    if asked is True and against and target.here:
        raise PlanError(f"train.cuda_graphs: true cannot be: {against}. Expected auto or false.")
    if against or asked is True:
        reasons["cuda_graphs"] = against or ASKED
        return not against
    share = launch_share(forecaster, target, choice)
    if share is not None and share < WORTHWHILE:
        reasons["cuda_graphs"] = f"launches take {share:.0%} of a step of {choice.tokens_per_step:,} tokens"
        return False
    reasons["cuda_graphs"] = "steps are small: without, the GPU would wait for its launches"
    return True


def launch_share(forecaster: Forecaster, target: Target, choice: Choice) -> float | None:
    """Seconds that the host takes to launch a step over those of its arithmetic; None for a GPU of unknown rate."""
    if target.gpu is None:
        return None
    layers: int = forecaster.shape.config.get_text_config().num_hidden_layers
    flops = (6 if choice.method == "full" else 4) * forecaster.shape.num_parameters * choice.tokens_per_step
    return layers * LAUNCHES_PER_LAYER * LAUNCH_SECONDS / (flops / (EFFICIENCY * target.gpu.matrix))


def _cannot(forecaster: Forecaster, target: Target, choice: Choice, num_passes: int) -> str:
    """Why a step cannot be recorded; empty where it can."""
    recipe = forecaster.recipe
    if target.device != "cuda":
        return "no CUDA device"
    if not target.flash:
        return "attention is padded without flash attention, and differs from batch to batch"
    if target.num_processes > 1:
        return f"{target.num_processes} processes exchange gradients in every step"
    if choice.precision != "bf16":
        return f"{choice.precision}: flash attention takes bfloat16"
    if choice.method == "qlora":
        return "quantised weights were not tried"
    if recipe.train.compile is True:
        return "train.compile was not tried with it"
    if num_passes > 1:
        return f"a step takes {num_passes} passes"
    adapter = recipe.lora if choice.method != "full" else None
    if choice.gradient_checkpointing and has_dropout(forecaster.shape.config.get_text_config(), adapter):
        return "checkpointed layers with dropout look at random numbers"
    return _attention_varies(forecaster.shape.config.get_text_config())


def _attention_varies(config: Any) -> str:
    """Why attention is another computation for every batch; empty where it is not."""
    for name in ("attention_dropout", "attn_pdrop"):
        if getattr(config, name, 0.0):
            return f"attention with dropout is padded, and differs from batch to batch (config.{name})"
    if getattr(config, "attn_logit_softcapping", None):
        return "attention with capped scores is padded, and differs from batch to batch"
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope.get("rope_type"), *(part.get("rope_type") for part in rope.values() if isinstance(part, dict))]
    if any(kind in BY_LENGTH for kind in kinds):
        return "rotary embedding depends on the length of each document"
    return ""
