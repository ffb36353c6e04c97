"""Two architectures that other engines do not run, written as ones that they do, with equal outputs.

- GPT-Neo as GPT-2: GPT-Neo does not divide attention scores by the square root of the head size; the queries are
  multiplied by it instead. Its local layers see `window_size` tokens, GPT-2's see all: equal up to that length, so the
  folded model has positions for no more.
- GPT-J as Phi: both run attention and MLP side by side behind one norm. GPT-J turns neighbouring dimensions of a head
  together, Phi those half a head apart: the rows of the query and key weights are put in that order. Equal at any
  length.
"""

from __future__ import annotations

import math
from typing import Any

from tunesmith.errors import ModelError

FOLDED = {"GPTNeoForCausalLM": "GPT2LMHeadModel", "GPTJForCausalLM": "PhiForCausalLM"}


def is_foldable(architecture: str) -> bool:
    """Whether `fold` knows this architecture."""
    return architecture in FOLDED


def context_when_folded(config: Any) -> int | None:
    """Positions of the folded model where they are fewer than the model's own."""
    if "GPTNeoForCausalLM" in (config.architectures or ()) or config.model_type == "gpt_neo":
        return min(config.max_position_embeddings, config.window_size) if "local" in config.attention_layers else None
    return None


def fold(model: Any) -> Any:
    """The same model as GPT-2 or Phi, in float32. Raises ModelError for another architecture."""
    import torch

    name = type(model).__name__
    if name not in FOLDED:
        raise ModelError(f"export: {name} is not folded. Foldable: {', '.join(FOLDED)}.")
    with torch.no_grad():
        folded = _neo_as_gpt2(model) if name == "GPTNeoForCausalLM" else _gptj_as_phi(model)
    folded.generation_config = model.generation_config
    return folded.eval()


def _neo_as_gpt2(model: Any) -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    old = model.config
    positions = context_when_folded(old) or old.max_position_embeddings
    config = GPT2Config(
        vocab_size=old.vocab_size,
        n_positions=positions,
        n_embd=old.hidden_size,
        n_layer=old.num_layers,
        n_head=old.num_heads,
        n_inner=old.intermediate_size or 4 * old.hidden_size,
        activation_function=old.activation_function,
        layer_norm_epsilon=old.layer_norm_epsilon,
        bos_token_id=old.bos_token_id,
        eos_token_id=old.eos_token_id,
        tie_word_embeddings=old.tie_word_embeddings,
    )
    weights, scale = model.state_dict(), math.sqrt(old.hidden_size // old.num_heads)
    new = {name: weights[f"transformer.{name}"] for name in ("wte.weight", "ln_f.weight", "ln_f.bias")}
    new["wpe.weight"] = weights["transformer.wpe.weight"][:positions]
    for layer in range(old.num_layers):
        at = f"h.{layer}."
        part = {name.removeprefix(f"transformer.{at}"): w for name, w in weights.items() if f".{at}" in f".{name}"}
        attention = "attn.attention."
        q, k, v = (part[f"{attention}{name}_proj.weight"] for name in "qkv")
        new[f"{at}attn.c_attn.weight"] = torch.cat([q * scale, k, v]).t()
        new[f"{at}attn.c_attn.bias"] = torch.zeros(3 * old.hidden_size)
        new[f"{at}attn.c_proj.weight"] = part[f"{attention}out_proj.weight"].t()
        new[f"{at}attn.c_proj.bias"] = part[f"{attention}out_proj.bias"]
        for name in ("mlp.c_fc", "mlp.c_proj"):
            new[f"{at}{name}.weight"], new[f"{at}{name}.bias"] = part[f"{name}.weight"].t(), part[f"{name}.bias"]
        for name in ("ln_1", "ln_2"):
            new |= {f"{at}{name}.{kind}": part[f"{name}.{kind}"] for kind in ("weight", "bias")}
    new = {f"transformer.{name}": weight for name, weight in new.items()}
    return _filled(GPT2LMHeadModel(config), {**new, "lm_head.weight": weights["lm_head.weight"]})


def _gptj_as_phi(model: Any) -> Any:
    import torch
    from transformers import PhiConfig, PhiForCausalLM

    old = model.config
    heads, size = old.n_head, old.n_embd // old.n_head
    turned = old.rotary_dim or size
    config = PhiConfig(
        vocab_size=old.vocab_size,
        hidden_size=old.n_embd,
        intermediate_size=old.n_inner or 4 * old.n_embd,
        num_hidden_layers=old.n_layer,
        num_attention_heads=heads,
        hidden_act=old.activation_function,
        max_position_embeddings=old.n_positions,
        layer_norm_eps=old.layer_norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": turned / size},
        tie_word_embeddings=False,
        bos_token_id=old.bos_token_id,
        eos_token_id=old.eos_token_id,
    )
    order = torch.cat([torch.arange(0, turned, 2), torch.arange(1, turned, 2), torch.arange(turned, size)])

    def reordered(weight: Any) -> Any:
        return weight.view(heads, size, -1)[:, order].reshape(heads * size, -1)

    weights, new = model.state_dict(), dict[str, Any]()
    new["model.embed_tokens.weight"] = weights["transformer.wte.weight"]
    new |= {f"lm_head.{kind}": weights[f"lm_head.{kind}"] for kind in ("weight", "bias")}
    new |= {f"model.final_layernorm.{kind}": weights[f"transformer.ln_f.{kind}"] for kind in ("weight", "bias")}
    zeros = torch.zeros(old.n_embd)
    for layer in range(old.n_layer):
        there, here = f"transformer.h.{layer}.", f"model.layers.{layer}."
        for name, change in (("q", reordered), ("k", reordered), ("v", lambda weight: weight)):
            new[f"{here}self_attn.{name}_proj.weight"] = change(weights[f"{there}attn.{name}_proj.weight"])
            new[f"{here}self_attn.{name}_proj.bias"] = zeros
        new[f"{here}self_attn.dense.weight"], new[f"{here}self_attn.dense.bias"] = (
            weights[f"{there}attn.out_proj.weight"],
            zeros,
        )
        for mine, theirs in (("mlp.fc1", "mlp.fc_in"), ("mlp.fc2", "mlp.fc_out"), ("input_layernorm", "ln_1")):
            new |= {f"{here}{mine}.{kind}": weights[f"{there}{theirs}.{kind}"] for kind in ("weight", "bias")}
    return _filled(PhiForCausalLM(config), new)


def _filled(model: Any, weights: dict[str, Any]) -> Any:
    model.load_state_dict({name: weight.float().contiguous() for name, weight in weights.items()}, strict=True)
    model.tie_weights()
    return model
