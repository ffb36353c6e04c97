"""Low-rank adapters (Hu et al., 2021) through peft: put on a frozen model, or merged into its base."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.compat import quiet_transformers
from tunesmith.errors import ModelError
from tunesmith.models.find import ModelSource
from tunesmith.models.fingerprint import BASE_KEY, order_header, trained_on, weights_fingerprint
from tunesmith.models.grow import added_rows
from tunesmith.recipe import LoraSection
from tunesmith.redact import redact

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def attach_lora(model: PreTrainedModel, lora: LoraSection, method: str) -> PeftModel:
    """Freeze `model` and give its linear layers low-rank adapters (Hu et al., 2021), which alone are trained.

    The embeddings and the output head stay as they are, but for the rows that were added to them: these are trained
    whole, and saved in the adapter. `method` is lora, dora (weight-decomposed: Liu et al., 2024) or
    qlora (for a model loaded with `quantize=True`). Raises ModelError for target names that are not linear layers of
    this model, and for a start that needs weights which are not there.
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
    if method == "qlora" and lora.init == "pissa":
        raise ModelError(
            "lora.init pissa: decomposes weights, and those of train.method qlora are rounded to 4 bits. Use "
            "lora.init: zero, or train.method: lora."
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
        use_rslora=lora.rslora,
        use_dora=method == "dora",
        init_lora_weights="pissa" if lora.init == "pissa" else True,
        trainable_token_indices=_trained_rows(model),
    )
    with quiet_transformers():
        adapted = get_peft_model(model, config)
    if lora.init == "pissa":
        adapted.pissa_start = _matrices(adapted)
    return adapted


def _trained_rows(model: PreTrainedModel) -> dict[str, list[int]] | None:
    """Of the embedding, and of the head where that is a matrix of its own."""
    rows = list(added_rows(model))
    if not rows:
        return None
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ModelError(
            f"model.grow: {type(model).__name__} has an output head with a bias, whose new numbers no adapter trains. "
            "Use train.method: full."
        )
    tied = embedding.weight is head.weight
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(module)].rsplit(".", 1)[-1]: rows for module in ((embedding,) if tied else (embedding, head))}


def save_adapter(model: Any, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, with the fingerprint of the base in its header.

    A PiSSA adapter began with a part of the base's weights, which were lowered by it: twice as many columns, the second
    half what it began with and taken off, make it an ordinary adapter of the base as it was.
    """
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    model.save_pretrained(folder, save_embedding_layers=False)
    weights = load_file(path)
    start = getattr(model, "pissa_start", None)
    if start is not None:
        weights = {name: _without_start(name, weight, start) for name, weight in weights.items()}
        _describe_ordinary(folder / "adapter_config.json")
    fingerprint = weights_fingerprint(model.get_base_model().base_path)
    save_file(weights, path, metadata={"format": "pt", BASE_KEY: fingerprint})
    order_header(path)


def _matrices(model: Any) -> dict[str, Any]:
    """A copy of both matrices of every adapter, under the names that peft saves them by."""
    named = ((name.replace(".default.", "."), weight) for name, weight in model.named_parameters() if ".lora_" in name)
    return {name: weight.detach().float().cpu().clone() for name, weight in named}


def _without_start(name: str, weight: Any, start: Any) -> Any:
    import torch

    if name not in start:  # rows of the embedding, which are saved as they are
        return weight
    down = ".lora_A." in name
    return torch.cat([weight, (start[name] if down else -start[name]).to(weight.dtype)], 0 if down else 1).contiguous()


def _describe_ordinary(path: Path) -> None:
    """Twice the rank at the same scale."""
    config = json.loads(path.read_text(encoding="utf-8"))
    more = math.sqrt(2) if config["use_rslora"] else 2
    config.update(r=2 * config["r"], lora_alpha=config["lora_alpha"] * more, init_lora_weights=True)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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


def put_on(model: Any, source: ModelSource, name: str = "default") -> PeftModel:
    """The saved adapter of `source` on its base, called `name` and not merged.

    Its forward takes `adapter_names`, one a row, `__base__` for a row without it (peft's mixed batches).
    Raises ModelError when it does not fit, or was trained on another base.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            warnings.filterwarnings(
                "ignore", "fan_in_fan_out is set to"
            )  # GPT-2 in 4 bits turned its matrices; peft copes
            warnings.filterwarnings("error", "Found missing adapter keys")  # it would go on with random weights
            adapted = PeftModel.from_pretrained(model, source.adapter, adapter_name=name)
        _check_base(source)
    except (ValueError, OSError, RuntimeError, KeyError, SafetensorError, UserWarning) as error:
        raise ModelError(
            f"model {source.name}: its adapter does not fit the base {source.path} "
            f"({redact(str(error)).splitlines()[0][:300]}). Give the adapter the base it was trained on."
        ) from error
    return adapted.eval()


_NOT_BY_ROW = ("use_dora", "modules_to_save", "alora_invocation_tokens", "trainable_token_indices")


def can_switch_by_row(adapter: str) -> bool:
    """Whether rows of one batch can be written with and without the adapter: plain low-rank adapters, not DoRA's."""
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(adapter)
    simple = not any(getattr(config, name, None) for name in _NOT_BY_ROW)
    return config.peft_type == "LORA" and simple and getattr(config, "bias", "none") == "none"


def merge_adapter(model: Any, source: ModelSource) -> Any:
    """The base with the saved adapter of `source` added to its weights. Raises as `put_on` does."""
    return merged(put_on(model, source), source)


def merged(adapted: Any, source: ModelSource) -> Any:
    """What `put_on` made, as a plain model. Raises ModelError when the sum is not finite."""
    try:
        with quiet_transformers():
            whole = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(
            f"model {source.name}: its adapter cannot be merged ({redact(str(error)).splitlines()[0][:300]}). "
            "Its weights are damaged or diverged; train it again with a lower learning rate."
        ) from error
    whole.merged_adapter = source.adapter
    return whole.requires_grad_(True)


def _check_base(source: ModelSource) -> None:
    expected, found = trained_on(str(source.adapter)), weights_fingerprint(source.path)
    if expected is not None and expected != found:
        raise ModelError(
            f"model {source.name}: its adapter was trained on other weights than those of {source.path} (fingerprint "
            f"{expected}, found {found}). Give the adapter the base it was trained on."
        )


def _named_targets(asked: str | tuple[str, ...], linear: list[str]) -> list[str]:
    names = [asked] if isinstance(asked, str) else list(asked)
    unknown = [name for name in names if name.rsplit(".", 1)[-1] not in linear]
    if unknown:
        raise ModelError(
            f"lora.target: {', '.join(unknown)}: no linear layer of this model has that name. "
            f"Expected all-linear, or some of: {', '.join(linear)}."
        )
    return names
