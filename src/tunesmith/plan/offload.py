"""Whether frozen layers stay in RAM."""

from __future__ import annotations

import psutil

from tunesmith.errors import PlanError
from tunesmith.forecast.forecaster import Choice, Forecaster, Target
from tunesmith.run.artefacts import ASKED, Offload
from tunesmith.units import format_bytes


def choose_offload(forecaster: Forecaster, choice: Choice, target: Target, reasons: dict[str, str]) -> Offload:
    """Raises PlanError where several processes train, or RAM is short."""
    if forecaster.recipe.train.offload == "none":
        reasons["offload"] = ASKED
        return "none"
    if target.num_processes > 1:
        raise PlanError("train.offload: layers: goes with one process. Expected none, or one GPU.")
    if not choice.offload:
        reasons["offload"] = (
            "a processor's weights are in RAM already" if target.device == "cpu" else "every weight trains"
        )
        return "none"
    needed = forecaster.bytes_in_ram(choice)
    free = psutil.virtual_memory().available
    if target.here and needed > free:
        raise PlanError(
            f"train.offload: layers: {format_bytes(needed)} of frozen weights are to stay in RAM, which has "
            f"{format_bytes(free)} free. Use train.method: qlora, or a smaller model."
        )
    reasons["offload"] = (
        f"{ASKED}; {format_bytes(needed)} stay in RAM and are copied twice a pass, which the forecast of time "
        "leaves out (not measured on a GPU); eval.samples writes nothing"
    )
    return "layers"
