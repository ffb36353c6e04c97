"""A directory that plain transformers, vLLM and TGI load: sharded weights, tokenizer, generation config, template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.compat import quiet_transformers
from tunesmith.errors import ModelError
from tunesmith.models.load import save_whole
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.run.artefacts import Quant

DTYPES: dict[Quant, str] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
SHARD_SIZE = "5GB"


def default_type(config: Any) -> Quant:
    """The type of the base model's files; float32 where its config does not say."""
    name = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    return next((quant for quant, dtype in DTYPES.items() if dtype == name), "f32")


def write_model(folder: Path, model: Any, tokenizer: TextTokenizer, quant: Quant) -> None:
    """Write weights in shards of 5 GB, config, generation config and tokenizer. The model is then in that type.

    Raises ModelError for a type that safetensors are not written in.
    """
    import torch

    if quant not in DTYPES:
        raise ModelError(
            f"export --format safetensors --quant {quant}: expected {', '.join(DTYPES)}. {quant} is GGUF's."
        )
    model = model.to(getattr(torch, DTYPES[quant]))
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise ModelError(f"export: a weight is too large for {quant}. Use --quant bf16 or f32.")
    with quiet_transformers():
        save_whole(model, tokenizer, folder, max_shard_size=SHARD_SIZE)
    tokenizer.save(folder)


def load_plain(folder: Path) -> tuple[Any, Any]:
    """The model, computing in float32, and its tokenizer, as anyone would load them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.to(torch.float32).eval(), tokenizer


def check_tokenizer(folder: Path, loaded: Any, tokenizer: TextTokenizer, texts: list[str]) -> None:
    """Raise ModelError where ends, template, vocabulary or the tokens of a text are not those of the run."""
    own = tokenizer.backend
    generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    ends = generation.get("eos_token_id")
    ends = {*ends} if isinstance(ends, list) else {ends}
    differences = [
        f"{what}: {found!r}, expected {expected!r}"
        for what, found, expected in (
            ("EOS", loaded.eos_token_id, own.eos_token_id),
            ("ends of a text in generation_config.json that are missing", {*tokenizer.stop_ids} - ends, set()),
            ("chat template", loaded.chat_template, own.chat_template),
            ("vocabulary", len(loaded), len(own)),
        )
        if found != expected
    ]
    for text in texts:
        expected = [tokenizer.start_id, *tokenizer.encode_batch([text])[0]]
        found = list(loaded(text, split_special_tokens=True)["input_ids"])
        if found != expected:
            differences.append(f"tokens of {text[:40]!r}: {found[:8]}, expected {expected[:8]}")
            break
    if differences:
        raise ModelError(f"export: the tokenizer that was written is not the run's: {'; '.join(differences)[:800]}.")
