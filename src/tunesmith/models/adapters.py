"""Low-rank adapters (Hu et al., 2021) through peft: put on a frozen model, or merged into its base."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tunesmith.compat import quiet_transformers
from tunesmith.errors import ModelError
from tunesmith.models.find import ModelSource
from tunesmith.recipe import LoraSection
from tunesmith.redact import redact

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def attach_lora(model: PreTrainedModel, lora: LoraSection, method: str) -> PeftModel:
    """Freeze `model` and give its linear layers low-rank adapters (Hu et al., 2021), which alone are trained.

    The embeddings and the output head stay as they are. `method` is lora or qlora (for a model loaded with
    `quantize=True`). Raises ModelError for target names that are not linear layers of this model.
    """
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers.pytorch_utils import Conv1D

    if method == "qlora" and not getattr(model, "is_quantized", False):
        raise ModelError("train.method qlora: the model was not loaded with quantised weights.")
    if getattr(model, "merged_adapter", None):
        raise ModelError(
            f"model {model.merged_adapter}: is an adapter; a second one on top could not name its base. "
            "Export it as a merged model and tune that, or use train.method full."
        )
    linear = linear_layer_names(model)
    targets = linear if lora.target == "all-linear" else _named_targets(lora.target, linear)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        bias="none",
        revision=getattr(model, "base_revision", None),
    )
    with quiet_transformers():
        return get_peft_model(model, config)


def linear_layer_names(model: PreTrainedModel) -> list[str]:
    """Short names (`q_proj`) of the linear layers, the output head left out, in the order of the model."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return list(
        dict.fromkeys(
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        )
    )


def merge_adapter(model: Any, source: ModelSource) -> Any:
    """`model` with the adapter of `source` in its weights."""
    with _adapter_errors(source):
        merged = _attached(model, source, "default").merge_and_unload(safe_merge=True)
    merged.merged_adapter = source.adapter
    return merged.requires_grad_(True)


def attach_saved(model: Any, source: ModelSource, name: str) -> PeftModel:
    """`model` with the adapter of `source` beside its weights, called `name`: rows can be written with or without it.

    Forward takes `adapter_names`, one a row, `__base__` for none (peft's mixed batches).
    """
    with _adapter_errors(source):
        return _attached(model, source, name).eval()


def can_switch_by_row(adapter: str) -> bool:
    """Whether rows of one batch can be written with and without the adapter: plain low-rank adapters, not DoRA's."""
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(adapter)
    simple = not any(getattr(config, name, None) for name in ("use_dora", "modules_to_save", "alora_invocation_tokens"))
    return config.peft_type == "LORA" and simple and getattr(config, "bias", "none") == "none"


def _attached(model: Any, source: ModelSource, name: str) -> PeftModel:
    from peft import PeftModel

    with quiet_transformers():
        warnings.filterwarnings("error", "Found missing adapter keys")  # it would go on with random weights
        return PeftModel.from_pretrained(model, source.adapter, adapter_name=name)


@contextmanager
def _adapter_errors(source: ModelSource) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (ValueError, OSError, RuntimeError, KeyError, SafetensorError, UserWarning) as error:
        raise ModelError(
            f"model {source.name}: its adapter does not fit the base {source.path} "
            f"({redact(str(error)).splitlines()[0][:300]}). Give the adapter the base it was trained on."
        ) from error


def _named_targets(asked: str | tuple[str, ...], linear: list[str]) -> list[str]:
    names = [asked] if isinstance(asked, str) else list(asked)
    unknown = [name for name in names if name.rsplit(".", 1)[-1] not in linear]
    if unknown:
        raise ModelError(
            f"lora.target: {', '.join(unknown)}: no linear layer of this model has that name. "
            f"Expected all-linear, or some of: {', '.join(linear)}."
        )
    return names
