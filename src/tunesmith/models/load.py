"""Load a model safely, attach an adapter, save what was trained.

Weights come from safetensors alone and code that comes with a model is never run. What `save_model` writes is what
plain transformers (and peft, for an adapter) reads: `from_pretrained(path)` and `pipeline("text-generation", path)`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.compat import quiet_transformers
from tunesmith.disk import replace_directory, write_text
from tunesmith.errors import ModelError
from tunesmith.models.adapters import merge_adapter, save_adapter
from tunesmith.models.find import ModelSource, find_model
from tunesmith.models.gguf import forget_quantisation
from tunesmith.models.grow import add_rows
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.redact import redact

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(
    source: ModelSource,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    attn_implementation: str | None = None,
    quantize: bool = False,
) -> PreTrainedModel:
    """The causal language model of `source` on `device`, in evaluation mode, its weights in `dtype`.

    An adapter of the source is merged into the weights. `quantize` stores linear weights as NF4 (QLoRA, Dettmers et
    al., 2023) and computes in `dtype`. Every row of the input embedding learns, the pad token's too: start or end may
    share its id. Raises ModelError when weights are missing, damaged, or not those of a causal language model.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "use_safetensors": True, "trust_remote_code": False}
    if quantize:
        if source.adapter is not None:
            raise ModelError(f"model {source.name}: is an adapter. Export it as a merged model before quantising it.")
        options |= {"quantization_config": _nf4(getattr(torch, dtype)), "device_map": {"": device}}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    try:
        with quiet_transformers():
            model, info = AutoModelForCausalLM.from_pretrained(
                source.path, local_files_only=True, output_loading_info=True, **options
            )
    except (ValueError, OSError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise _explain_failure(source, error) from error
    _check_loaded(source, info)
    _name_base(model, source)
    add_rows(model, source.rows or 0)
    model.get_input_embeddings().padding_idx = None
    if source.adapter is not None:
        model = merge_adapter(model, source)
    if quantize:
        _keep_gradients(model)
    else:
        forget_quantisation(model)
        model = model.to(device)
    return model.eval()


def count_parameters(model: Any) -> tuple[int, int]:
    """Number of trained parameters and of all parameters; a weight packed into 4 bits counts in full."""
    trained = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        number = parameter.numel() if state is None else state.shape.numel()
        total += number
        trained += number if parameter.requires_grad else 0
    return trained, total


def save_model(model: Any, tokenizer: TextTokenizer, path: str | Path, card: str) -> None:
    """Write a model directory: weights, config, generation config, tokenizer and `card` as README.md.

    Of a model with an adapter its weights alone are written, with the name of the base. The directory appears whole or
    not at all, with private files.
    """
    with replace_directory(Path(path)) as staging:
        with quiet_transformers():
            if hasattr(model, "get_base_model"):  # peft's; its import alone takes a second
                save_adapter(model, staging)
                _generation_config(model.get_base_model().generation_config, tokenizer).save_pretrained(staging)
            else:
                save_whole(model, tokenizer, staging)
        tokenizer.save(staging)
        write_text(staging / "README.md", card)


def load_for_generation(
    run_or_model: str, *, revision: str | None = None, device: str | None = None, dtype: str | None = None
) -> tuple[PreTrainedModel, TextTokenizer]:
    """Model and tokenizer of a run, directory, hub id, GGUF file or the embedded name; adapters are merged.

    Unless told otherwise: float32 on the CPU, bfloat16 on the first GPU where there is one that has it.
    """
    source = find_model(run_or_model, revision)
    device, dtype = usual_device(device, dtype)
    return load_model(source, dtype=dtype, device=device), load_tokenizer(source)


def usual_device(device: str | None = None, dtype: str | None = None) -> tuple[str, str]:
    """Where a model writes and in which type, unless told otherwise: as `load_for_generation` says."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return device, dtype or ("bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32")


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """The model without dropout, and afterwards as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _nf4(compute_dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("train.method qlora: bitsandbytes is not installed. Run: pip install 'tunesmith[qlora]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def _keep_gradients(model: Any) -> None:
    """On processors with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first evaluation for a kernel without a
    backward pass; training that goes on afterwards would get no gradient through these layers, and no error."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _explain_failure(source: ModelSource, error: Exception) -> Exception:
    """The ModelError for a failed load; an allocation that failed keeps its own type."""
    import torch

    text = redact(str(error)) or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in text:
        return ModelError(
            f"model {source.name}: does not fit in memory ({text.splitlines()[0]}). "
            "Use a smaller model, a smaller dtype, or train.method qlora."
        )
    if "Unrecognized configuration class" in text or "Unrecognized model" in text or "does not recognize" in text:
        return ModelError(
            f"model {source.name}: its architecture is not a causal language model of the installed transformers. "
            "Use a text generation model, or a newer transformers if the model is newer."
        )
    return ModelError(
        f"model {source.name}: cannot be loaded ({text.splitlines()[0][:300]}). "
        "Expected intact safetensors that fit its config.json; download or save the model again."
    )


def _check_loaded(source: ModelSource, info: Any) -> None:
    """transformers gives weights that a file lacks random values; tuning those would go unnoticed."""
    missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelError(
            f"model {source.name}: {len(missing)} weights are missing from its files ({shown}). "
            "The files are incomplete, or belong to another kind of model; download or save the model again."
        )


def _name_base(model: Any, source: ModelSource) -> None:
    """How an adapter trained on this model will cite it: a name that is found elsewhere too, or an absolute path."""
    model.name_or_path = source.base_name
    model.config.name_or_path = source.base_name
    model.base_revision, model.base_path = source.revision, source.path


def save_whole(model: Any, tokenizer: TextTokenizer, path: Path, **options: Any) -> None:
    """Weights, config and generation config, which names every token that ends a text. options: of save_pretrained."""
    generation, use_cache = model.generation_config, model.config.use_cache
    model.generation_config, model.config.use_cache = _generation_config(generation, tokenizer), True
    try:
        model.save_pretrained(path, **options)
    finally:
        model.generation_config, model.config.use_cache = generation, use_cache


def _generation_config(generation: Any, tokenizer: TextTokenizer) -> Any:
    """A model's generation config with the tokenizer's start and pad, and every end: of a document, and of a turn."""
    values = {key: value for key, value in generation.to_dict().items() if not key.startswith("_")}
    own = type(generation).from_dict(values)  # a copy that no longer counts as derived from the model's config
    also = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = list(dict.fromkeys([*tokenizer.stop_ids, *(token for token in also if token is not None)]))
    own.eos_token_id = ends if len(ends) > 1 else ends[0]
    own.bos_token_id, own.pad_token_id, own.use_cache = tokenizer.start_id, tokenizer.pad_id, True
    if own.temperature not in (None, 1.0) or own.top_p not in (None, 1.0):
        own.do_sample = True  # some published files set one without the other, which is refused when saving
    return own
