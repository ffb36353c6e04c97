"""The model card: what was tuned on what, how, and with which result. Files are named without their folders."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import yaml

from tunesmith import __version__
from tunesmith.recipe import Recipe
from tunesmith.run.artefacts import DataAccount, Plan, Result

if TYPE_CHECKING:
    from tunesmith.models.find import ModelSource

KINDS = {"full": "full fine-tuning", "lora": "LoRA", "dora": "DoRA", "qlora": "QLoRA"}


@dataclass(frozen=True)
class Leaves:
    """What the card of an exported model says besides."""

    library: str
    """transformers, peft or gguf."""
    use: str
    """Markdown: how to run it."""
    proof: str
    """Markdown: how it did when it was loaded again."""


def model_card(
    recipe: Recipe, plan: Plan, source: ModelSource, account: DataAccount, result: Result, leaves: Leaves | None = None
) -> str:
    """Markdown with the YAML header that model hubs read. What the plan decided is taken from the plan."""
    licence, base, data = source.licence, source.title, _data_name(recipe)
    header = {
        "base_model": base,
        "library_name": leaves.library if leaves else "transformers" if plan.lora is None else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["tunesmith", plan.method],
        **({"license": licence} if licence else {}),
    }
    rows = "\n".join(f"| {name} | {base} | {tuned} |" for name, base, tuned in _scores(result))
    counts = ", ".join(f"{name} {split.documents:,}" for name, split in account.splits.items())
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {base}, tuned on {data}

Tuned with tunesmith {__version__} ({KINDS[plan.method]}).{_dry_run(account)}

| held-out | base | tuned |
|---|---|---|
{rows}

- **Base model**: {base}{f" (revision {source.revision})" if source.revision else ""}
- **Licence of the base model**: {licence or "not stated by its files; check before you share this model"}
- **Data**: {data}; documents: {counts}; fingerprint `{account.fingerprint}`
- **Training**: {result.steps:,} steps of {plan.tokens_per_step:,} tokens, learning rate {plan.learning_rate:g} \
({plan.schedule}), {plan.precision}; {result.train_tokens:,} target tokens, {result.train_seconds:,.0f} s
- **Limits**: it learned the style of its data and may repeat parts of it; it was not tested for anything else.
{leaves.proof if leaves else ""}
## Use

{leaves.use if leaves else _use(recipe, plan, source)}

## Recipe

```yaml
{portable(recipe, source).to_yaml().strip()}
```
"""


def _use(recipe: Recipe, plan: Plan, source: ModelSource) -> str:
    prompt = (recipe.compare.prompts or ("The",))[0]
    if plan.lora is None:
        return f"The folder is a whole model.\n\n{snippet(prompt)}"
    if source.kind in ("embedded", "gguf"):  # transformers has no way to their weights
        where = "" if source.kind == "embedded" else f" when {source.title} lies beside the folder"
        return (
            f"The folder is an adapter of {source.title}, which tunesmith finds and puts under it{where}.\n\n"
            f"```sh\ntunesmith generate path/to/model --prompt {shlex.quote(prompt)}\n```"
        )
    if not source.is_public:
        return (
            f"The folder is an adapter of {source.title}, a model in a folder that is not part of it. Loading it needs "
            f"`pip install peft` and that folder; tunesmith finds it beside this one.\n\n"
            f"{snippet(prompt, f'path/to/{source.title}', grown=source.rows is not None)}"
        )
    if source.rows is not None:
        return (
            f"The folder is an adapter of {source.title} with embedding rows for added tokens. Loading it needs "
            f"`pip install peft`, and a base that has room for them.\n\n{snippet(prompt, source.title, grown=True)}"
        )
    return (
        f"The folder is an adapter: transformers loads {source.title} under it, which needs `pip install peft`. Its "
        f"tokenizer is here too, so say so, or that of the base model is taken.\n\n{snippet(prompt)}"
    )


def snippet(prompt: str, base: str | None = None, *, grown: bool = False) -> str:
    """base: the model to put under an adapter, where that has to be said. grown: rows are added to it first."""
    room = "base.resize_token_embeddings(len(AutoTokenizer.from_pretrained(model)))\n" * grown
    under = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

model = "path/to/model"
base = AutoModelForCausalLM.from_pretrained({base!r})
{room}tuned = PeftModel.from_pretrained(base, model).merge_and_unload()
write = pipeline("text-generation", tuned, tokenizer=AutoTokenizer.from_pretrained(model))"""
    whole = """from transformers import pipeline

model = "path/to/model"
write = pipeline("text-generation", model, tokenizer=model)"""
    return f"""```python
{whole if base is None else under}
print(write({prompt!r}, max_new_tokens=80, do_sample=True)[0]["generated_text"])
```"""


def _scores(result: Result) -> list[tuple[str, str, str]]:
    return [
        ("loss (nats a token)", _number(result.eval_loss_base), _number(result.eval_loss)),
        ("perplexity", _number(result.eval_perplexity_base), _number(result.eval_perplexity)),
        ("bits per byte", _number(result.eval_bits_per_byte_base), _number(result.eval_bits_per_byte)),
        ("token accuracy", _number(result.eval_token_accuracy_base), _number(result.eval_token_accuracy)),
        *(
            [("loss on the test rows", "not measured", _number(result.test_loss))]
            if result.test_loss is not None
            else ()
        ),
    ]


def _dry_run(account: DataAccount) -> str:
    return f" This was a {account.dry_run}: it shows that all works, not what the data can teach." * bool(
        account.dry_run
    )


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _data_name(recipe: Recipe) -> str:
    path = recipe.data.path
    return _file_name(path) if isinstance(path, str) else " + ".join(_file_name(source.path) for source in path)


def _file_name(path: str) -> str:
    """The name of a file or folder; what lies elsewhere (hub:owner/name, s3://...) is named in full."""
    return path if path.startswith("hub:") or "://" in path else PurePath(path).name or path


def portable(recipe: Recipe, source: ModelSource) -> Recipe:
    """The recipe with names of files in place of paths of this machine."""
    data = recipe.data
    path = data.path
    names = {
        "path": _file_name(path)
        if isinstance(path, str)
        else tuple(one.model_copy(update={"path": _file_name(one.path)}) for one in path),
        "eval_path": data.eval_path and _file_name(data.eval_path),
        "test_path": data.test_path and _file_name(data.test_path),
    }
    model = recipe.model.model_copy(update={"name": source.title})
    return recipe.model_copy(update={"model": model, "data": data.model_copy(update=names)})
