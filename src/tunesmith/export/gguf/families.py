"""The architectures that llama.cpp runs: what the file says of each, and how its tensors lie there.

Names of tensors come from the gguf package. What is left is here: hyperparameters, rows in another order, norms that
are stored less one. A value that llama.cpp would silently leave out is refused instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ModelError

Rows = Callable[[str, Any, Any], Any]
"""rows(name, tensor, config): the tensor with its rows in the file's order; the same for a weight, a bias and the
second matrix of an adapter."""


@dataclass(frozen=True)
class Family:
    """One architecture of transformers, and the one of GGUF that runs it."""

    arch: str
    describe: Callable[[Any, Any], None]
    """describe(writer, config): the hyperparameters."""
    rows: Rows = lambda _name, tensor, _config: tensor
    joins_qkv: bool = False
    """Query, key and value weights lie in one tensor there."""
    norm_plus_one: bool = False
    own_output: bool = False
    """The output head is written also where it is the embedding."""


def family_of(config: Any, architecture: str) -> Family:
    """Raises ModelError for an architecture, or a setting of one, that llama.cpp does not run."""
    if architecture not in FAMILIES:
        raise ModelError(
            f"export: llama.cpp runs no {architecture} that is known here. GGUF is written for: "
            f"{', '.join((*FAMILIES, 'GPTNeoForCausalLM', 'GPTJForCausalLM'))}. Export safetensors instead."
        )
    for setting, allowed, why in _LIMITS.get(architecture, ()):
        found = getattr(config, setting, allowed)
        if found != allowed:
            raise ModelError(
                f"export: {architecture} with {setting} {found!r} cannot leave as GGUF: llama.cpp {why}. "
                "Export safetensors instead."
            )
    _check_rope(config, architecture)
    return FAMILIES[architecture]


def context_length(config: Any) -> int | None:
    """What the file may read at once: never more than where llama.cpp would compute something else."""
    positions = getattr(config, "max_position_embeddings", None)
    window = getattr(config, "sliding_window", None) if config.model_type in ("mistral", "qwen2", "qwen3") else None
    if window is not None and not getattr(config, "use_sliding_window", True):
        window = None
    known = [int(value) for value in (positions, window) if value]
    return min(known) if known else None


def tensors(model: Any, family: Family) -> Iterator[tuple[str, Any]]:
    """(name in the file, tensor) of every weight, float32, as the file holds it before it is rounded."""
    import torch

    yield from placed(model, family, model.state_dict())
    if extra := _rope_factors(model.config):
        yield "rope_freqs.weight", torch.tensor(extra)


def placed(model: Any, family: Family, weights: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name in the file, tensor) of weights by their names in the model, their rows in the file's order."""
    import torch
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = model.config
    names = get_tensor_name_map(getattr(MODEL_ARCH, family.arch.upper()), config.num_hidden_layers)
    is_tied = getattr(config, "tie_word_embeddings", False) and not family.own_output
    left_out = {head_name(model)} if is_tied else set[str]()
    joined = dict[str, dict[str, Any]]()
    for name, weight in weights.items():
        if name in left_out:
            continue
        tensor = family.rows(name, laid_out(model, name, weight), config)
        if family.norm_plus_one and name.endswith("norm.weight"):
            tensor = tensor + 1
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(
                f"export: {name} has no place in a GGUF file of {family.arch}. Export safetensors instead."
            )
        kind = found.rsplit(".", 2)[-2]
        if family.joins_qkv and kind in ("attn_q", "attn_k", "attn_v"):
            at = found.replace(kind, "attn_qkv")
            joined.setdefault(at, {})[kind[-1]] = tensor
            if len(joined[at]) == 3:
                yield at, torch.cat([joined[at][part] for part in "qkv"])
            continue
        yield found, tensor


def head_name(model: Any) -> str:
    """The name of the output head's weight among the model's tensors."""
    head = model.get_output_embeddings()
    return next(f"{name}.weight" for name, module in model.named_modules() if module is head)


def laid_out(model: Any, name: str, weight: Any) -> Any:
    """[out, in], float32."""
    return (weight.t() if is_turned(model, name) else weight).detach().float()


def is_turned(model: Any, name: str) -> bool:
    """Whether a weight is kept as [in, out], as GPT-2 does."""
    from transformers.pytorch_utils import Conv1D

    owner, _, kind = name.rpartition(".")
    return kind == "weight" and isinstance(model.get_submodule(owner), Conv1D)


# ------------------------------------------------------------------------------------------------------ hyperparameters


def _common(writer: Any, config: Any) -> None:
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if positions := context_length(config):
        writer.add_context_length(positions)


def _rotary(writer: Any, config: Any, dimensions: int) -> None:
    rope = config.rope_parameters
    writer.add_rope_dimension_count(dimensions)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope.get("rope_type") == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _llama(writer: Any, config: Any) -> None:
    _common(writer, config)
    size = _head_size(config)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(size)
    writer.add_value_length(size)
    _rotary(writer, config, size)


def _gpt2(writer: Any, config: Any) -> None:
    _common(writer, config)
    writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _gpt_neox(writer: Any, config: Any) -> None:
    _common(writer, config)
    size = config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_parallel_residual(config.use_parallel_residual)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    _rotary(writer, config, int(size * config.rope_parameters.get("partial_rotary_factor", 1.0)))


def _phi(writer: Any, config: Any) -> None:
    _common(writer, config)
    size = config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    _rotary(writer, config, int(size * config.rope_parameters.get("partial_rotary_factor", 1.0)))


def _falcon_heads(config: Any) -> int:
    if config.new_decoder_architecture:
        return int(config.num_kv_heads)
    return 1 if config.multi_query else int(config.num_attention_heads)


def _falcon(writer: Any, config: Any) -> None:
    _common(writer, config)
    writer.add_feed_forward_length(config.ffn_hidden_size)
    writer.add_head_count_kv(_falcon_heads(config))
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    _rotary(writer, config, config.hidden_size // config.num_attention_heads)


def _gemma(writer: Any, config: Any) -> None:
    _common(writer, config)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    if config.model_type == "gemma":
        writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
        return
    writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
        writer.add_attn_logit_softcapping(float(config.attn_logit_softcapping))
        writer.add_final_logit_softcapping(float(config.final_logit_softcapping))
        return
    whole, local = (config.rope_parameters[f"{kind}_attention"] for kind in ("full", "sliding"))
    writer.add_rope_freq_base(float(whole["rope_theta"]))
    writer.add_rope_freq_base_swa(float(local["rope_theta"]))


# ---------------------------------------------------------------------------------------------------------- row orders


def _llama_rows(name: str, tensor: Any, config: Any) -> Any:
    """llama.cpp turns neighbouring dimensions of a head together, transformers those half a head apart."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    part = name.split(".")[-2] if "." in name else name
    if part not in heads:
        return tensor
    size = tensor.shape[0] // heads[part]
    return tensor.reshape(heads[part], 2, size // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _neox_rows(name: str, tensor: Any, config: Any) -> Any:
    """[head, qkv] -> [qkv, head]."""
    if ".query_key_value." not in name:
        return tensor
    heads = config.num_attention_heads
    size = tensor.shape[0] // heads // 3
    return tensor.reshape(heads, 3, size, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)


def _falcon_rows(name: str, tensor: Any, config: Any) -> Any:
    """Each group of query heads is followed by its key and value head -> all queries, all keys, all values."""
    import torch

    if ".query_key_value." not in name:
        return tensor
    groups = _falcon_heads(config)
    each = config.num_attention_heads // groups
    size = config.hidden_size // config.num_attention_heads
    parts = tensor.reshape(groups, each + 2, size, *tensor.shape[1:])
    order = [parts[:, :each], parts[:, each : each + 1], parts[:, each + 1 :]]
    return torch.cat([part.reshape(-1, *tensor.shape[1:]) for part in order])


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family("llama", _llama, _llama_rows),
    "MistralForCausalLM": Family("llama", _llama, _llama_rows),
    "Qwen2ForCausalLM": Family("qwen2", _llama),
    "Qwen3ForCausalLM": Family("qwen3", _llama),
    "GPT2LMHeadModel": Family("gpt2", _gpt2),
    "GPTNeoXForCausalLM": Family("gptneox", _gpt_neox, _neox_rows, own_output=True),
    "PhiForCausalLM": Family("phi2", _phi, joins_qkv=True, own_output=True),
    "FalconForCausalLM": Family("falcon", _falcon, _falcon_rows),
    "GemmaForCausalLM": Family("gemma", _gemma, norm_plus_one=True),
    "Gemma2ForCausalLM": Family("gemma2", _gemma, norm_plus_one=True),
    "Gemma3ForCausalLM": Family("gemma3", _gemma, norm_plus_one=True),
}

_Limit = tuple[str, object, str]
_LIMITS: dict[str, tuple[_Limit, ...]] = {
    "LlamaForCausalLM": (("hidden_act", "silu", "computes it with silu"),),
    "MistralForCausalLM": (("hidden_act", "silu", "computes it with silu"),),
    "Qwen2ForCausalLM": (("hidden_act", "silu", "computes it with silu"),),
    "Qwen3ForCausalLM": (
        ("hidden_act", "silu", "computes it with silu"),
        ("attention_bias", False, "has no biases in its attention"),
    ),
    "GPT2LMHeadModel": (
        ("activation_function", "gelu_new", "computes it with gelu_new"),
        ("scale_attn_weights", True, "scales its attention"),
        ("scale_attn_by_inverse_layer_idx", False, "scales all layers alike"),
    ),
    "PhiForCausalLM": (
        ("hidden_act", "gelu_new", "computes it with gelu_new"),
        ("qk_layernorm", False, "has no norms of queries and keys there"),
    ),
    "FalconForCausalLM": (
        ("alibi", False, "has no alibi there"),
        ("parallel_attn", True, "runs attention and MLP side by side"),
        ("bias", False, "has no biases there"),
        ("activation", "gelu", "computes it with gelu"),
    ),
    "GPTNeoXForCausalLM": (("attention_bias", True, "has biases in its attention"),),
}


def _check_rope(config: Any, architecture: str) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [value for value in rope.values() if isinstance(value, dict)] or [rope]
    for part in parts:
        kind = part.get("rope_type", "default")
        known = ("default", "linear", "llama3") if architecture == "LlamaForCausalLM" else ("default", "linear")
        if kind not in known:
            raise ModelError(
                f"export: positions of rope type {kind!r} are not written to GGUF here (known: {', '.join(known)}). "
                "Export safetensors instead."
            )


def _rope_factors(config: Any) -> list[float]:
    """Of rope type llama3: by what each frequency is divided, which the file holds as a tensor."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return []
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = _head_size(config)
    plain = 1.0 / float(rope["rope_theta"]) ** (torch.arange(0, size, 2).float() / size)
    return [float(value) for value in plain / scaled]
