"""The model card: what was tuned on what, how, and with which result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from tunesmith import __version__
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    from tunesmith.models.find import ModelSource


def model_card(recipe: Recipe, source: ModelSource, audit: dict[str, Any], result: dict[str, Any]) -> str:
    """Markdown with the YAML header that model hubs read."""
    licence = source.licence
    header = {
        "base_model": source.name,
        "library_name": "peft" if recipe.train.method in ("lora", "qlora") else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["tunesmith", recipe.train.method],
        **({"license": licence} if licence else {}),
    }
    rows = "\n".join(f"| {name} | {base} | {tuned} |" for name, base, tuned in _scores(result))
    splits = audit.get("splits", {})
    counts = ", ".join(f"{name} {split.get('documents', 0):,}" for name, split in splits.items())
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {source.name}, tuned on {_data_name(recipe)}

Tuned with tunesmith {__version__} ({recipe.train.method} fine-tuning).

| held-out | base | tuned |
|---|---|---|
{rows}

- **Base model**: {source.name}{f" (revision {source.revision})" if source.revision else ""}
- **Licence of the base model**: {licence or "not stated by its files; check before you share this model"}
- **Data**: {_data_name(recipe)}; documents: {counts or "unknown"}; fingerprint `{audit.get("fingerprint", "?")}`
- **Training**: {result["steps"]:,} steps, {result["train_tokens"]:,} target tokens, {result["train_seconds"]:,.0f} s
- **Limits**: it learned the style of its data and may repeat parts of it; it was not tested for anything else.

## Use

{_needs(recipe, source)}

```python
from transformers import pipeline

model = "path/to/model"
write = pipeline("text-generation", model, tokenizer=model)
print(write({(recipe.compare.prompts or ("The",))[0]!r}, max_new_tokens=80, do_sample=True)[0]["generated_text"])
```

## Recipe

```yaml
{recipe.to_yaml().strip()}
```
"""


def _needs(recipe: Recipe, source: ModelSource) -> str:
    if recipe.train.method not in ("lora", "qlora"):
        return "The folder is a whole model."
    return (
        f"The folder is an adapter: transformers loads {source.name} under it, which needs `pip install peft`. Its "
        "tokenizer is here too, so say so, or that of the base model is taken."
    )


def _scores(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    names = {
        "loss": "loss (nats a token)",
        "perplexity": "perplexity",
        "bits_per_byte": "bits per byte",
        "token_accuracy": "token accuracy",
    }
    return [
        (title, _number(result.get(f"eval_{name}_base")), _number(result.get(f"eval_{name}")))
        for name, title in names.items()
    ]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _data_name(recipe: Recipe) -> str:
    if isinstance(recipe.data.path, str):
        return recipe.data.path
    return " + ".join(source.path for source in recipe.data.path)
