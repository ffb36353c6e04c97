"""Names that users of other tools type (transformers, TRL, PEFT, Axolotl, LLaMA-Factory), and ours.

A recipe that holds one is refused, not guessed at: many count otherwise (rows instead of tokens), and a silent guess
would train another run. `tunesmith init --from` turns a whole configuration into a recipe that can be read before
anything is trained; each entry says how its value is taken over. docs/names.md is made from this table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class NoCounterpart(Exception):
    """A value that no recipe value means. The message says what happens instead."""


def same(value: object) -> object:
    """The value as it stands."""
    return value


class Foreign(NamedTuple):
    """A setting of other tools. ours: a recipe key, an option, or empty where nothing has to be set."""

    names: tuple[str, ...]
    ours: str
    how: str
    convert: Callable[[object], object] = same
    """Their value as ours. Raises NoCounterpart; values that a recipe refuses are left for it to refuse."""


def _never(why: str) -> Callable[[object], object]:
    def convert(_: object) -> object:
        raise NoCounterpart(why)

    return convert


def _number(text: object) -> float | None:
    """YAML 1.1 reads 1e-4 as text."""
    try:
        return float(str(text))
    except ValueError:
        return None


def number(value: object) -> object:
    """`1e-4` as the number that was meant."""
    found = _number(value)
    if isinstance(value, bool) or found is None:
        return value
    return int(found) if found.is_integer() and abs(found) >= 1 else found


def _share(value: object) -> object:
    found = _number(value)
    if found is not None and found >= 1:
        raise NoCounterpart(f"it counts rows, {value}; data.eval_fraction is a share of them")
    if found == 0:
        return 0
    return found if found is not None else value


def _percent(value: object) -> object:
    found = _number(value)
    return value if found is None else found / 100


def _when_set(ours: object, otherwise: str) -> Callable[[object], object]:
    """Our value where theirs is switched on."""

    def convert(value: object) -> object:
        if str(value).lower() == "auto":
            return "auto"
        if is_on(value):
            return ours
        raise NoCounterpart(otherwise)

    return convert


def is_on(value: object) -> bool:
    """Whether a switch is on: true, yes, auto, a number above 0."""
    return str(value).strip().lower() not in ("false", "no", "off", "none", "null", "0", "")


def _one_of(**ours: str) -> Callable[[object], object]:
    """Their word as ours, by how it begins; the longest beginning counts."""

    def convert(value: object) -> object:
        word = str(value).strip().lower().replace("-", "_").removeprefix("torch.")
        for begin in sorted(ours, key=len, reverse=True):
            if word.startswith(begin):
                return ours[begin]
        raise NoCounterpart(f"{value} has no counterpart; the default is used")

    return convert


_schedule = _one_of(linear="linear", cosine="cosine", constant="constant")
_dtype = _one_of(
    auto="auto", float32="float32", fp32="float32", bfloat16="bfloat16", bf16="bfloat16", float16="float16",
    fp16="float16", half="float16",
)  # fmt: skip
_method = _one_of(full="full", lora="lora", dora="dora", qlora="qlora", true="lora", none="full", false="full")


def _optimizer(value: object) -> object:
    word = str(value).lower()
    if "adam" in word and "8bit" in word:
        return "adamw8bit"
    word = word.removeprefix("optimizernames.")
    for ours in ("adamw", "adafactor", "muon"):
        if word.startswith(ours):
            return ours
    raise NoCounterpart(f"{value} has no counterpart; auto takes AdamW")


def _lora_init(value: object) -> object:
    word = str(value).lower()
    if word.startswith("pissa"):
        return "pissa"
    if word in ("true", "none"):
        return "zero"
    raise NoCounterpart(f"{value} has no counterpart; zero begins as the base model")


def _modules(value: object) -> object:
    if isinstance(value, list):
        return value
    if str(value).lower() in ("all", "all-linear", "true"):
        return "all-linear"
    if not is_on(value):
        raise NoCounterpart("nothing was named; all linear layers get an adapter")
    return [name.strip() for name in str(value).split(",") if name.strip()]


def _steps(value: object) -> object:
    found = _number(value)
    if found is None or found < 1:
        raise NoCounterpart(
            "counted in other units; auto spreads them over the run, in steps or a duration such as 10m"
        )
    return int(found)


def _kept(value: object) -> object:
    found = _number(value)
    if found is None or found < 1:
        raise NoCounterpart("the last two checkpoints are kept")
    return int(found)


_BATCH = "tokens of one optimizer step: rows a device x devices x accumulation x mean tokens a row, or auto"

FOREIGN = (
    Foreign(("model_name_or_path", "base_model", "model_name", "model_id"), "model.name", "the same value"),
    Foreign(("torch_dtype",), "model.dtype", "float32, bfloat16, float16 or auto", _dtype),
    Foreign(
        ("dataset", "datasets", "dataset_name", "dataset_path", "train_file", "data_files", "dataset_dir"),
        "data.path",
        "a file, folder, glob or hub:owner/name",
    ),
    Foreign(("validation_file", "eval_file", "eval_dataset"), "data.eval_path", "the same value"),
    Foreign(("test_file", "test_dataset"), "data.test_path", "the same value"),
    Foreign(("dataset_text_field", "text_column", "text_field"), "data.text", "the column's name"),
    Foreign(("messages_field", "conversation_column"), "data.messages", "the column's name"),
    Foreign(
        ("val_set_size", "val_size", "test_size", "eval_split"), "data.eval_fraction", "a share, such as 0.1", _share
    ),
    Foreign(("validation_split_percentage",), "data.eval_fraction", "per cent / 100", _percent),
    Foreign(("max_train_samples", "max_samples"), "data.max_rows", "the same value", number),
    Foreign(
        ("train_on_inputs", "completion_only_loss", "assistant_only_loss", "train_on_prompt"),
        "",
        "prompts and user turns are read and not learned: name data.prompt and data.completion, or data.messages",
    ),
    Foreign(("chat_template", "template"), "", "the model's own chat template is used"),
    Foreign(("num_train_epochs", "num_epochs", "n_epochs"), "train.epochs", "the same value", number),
    Foreign(("lr",), "train.learning_rate", "the same value, or auto", number),
    Foreign(
        ("lr_scheduler_type", "lr_scheduler", "scheduler_type"),
        "train.schedule",
        "linear, cosine or constant",
        _schedule,
    ),
    Foreign(("warmup_ratio",), "train.warmup_fraction", "the same value", number),
    Foreign(
        ("warmup_steps", "num_warmup_steps"),
        "train.warmup_fraction",
        "warm-up steps / all steps, such as 0.03",
        _never("warm-up steps; train.warmup_fraction is a share of all steps"),
    ),
    Foreign(("gradient_clipping", "clip_grad_norm", "max_norm"), "train.max_grad_norm", "the same value", number),
    Foreign(
        ("resize_vocab", "resize_token_embeddings", "resize_token_embeddings_to_32x"),
        "model.grow",
        "true, where the tokenizer has added tokens",
    ),
    Foreign(("optim", "optimizer_type"), "train.optimizer", "adamw, adamw8bit, adafactor, muon or auto", _optimizer),
    Foreign(
        ("per_device_train_batch_size", "train_batch_size", "batch_size", "gradient_accumulation_steps"),
        "train.tokens_per_step",
        _BATCH,
        _never("counts rows; train.tokens_per_step counts tokens, and auto is used"),
    ),
    Foreign(
        ("micro_batch_size",),
        "train.micro_batch_tokens",
        "tokens of one pass: rows x mean tokens a row, or auto",
        _never("counts rows; train.micro_batch_tokens counts tokens, and auto takes what fits"),
    ),
    Foreign(("per_device_eval_batch_size", "eval_batch_size"), "", "evaluation finds its own batch size"),
    Foreign(
        ("max_seq_length", "max_seq_len", "sequence_len", "cutoff_len", "model_max_length", "block_size"),
        "train.max_length",
        "the same value",
        number,
    ),
    Foreign(
        ("bf16",),
        "train.precision",
        "bf16, or auto",
        _when_set("bf16", "switched off; auto takes the fastest type of the device"),
    ),
    Foreign(
        ("fp16",),
        "train.precision",
        "fp16, or auto",
        _when_set("fp16", "switched off; auto takes the fastest type of the device"),
    ),
    Foreign(
        ("tf32", "mixed_precision"),
        "train.precision",
        "auto takes the fastest type of the device",
        _never("auto takes the fastest type of the device"),
    ),
    Foreign(
        ("layer_offloading", "cpu_offload", "fsdp_offload_params", "offload_params"),
        "train.offload",
        "layers, which keeps an adapter's frozen layers in RAM",
        _when_set("layers", "switched off"),
    ),
    Foreign(("torch_compile",), "train.compile", "the same value"),
    Foreign(
        ("load_in_4bit", "use_qlora", "quantization_bit"), "train.method", "qlora", _when_set("qlora", "switched off")
    ),
    Foreign(
        ("load_in_8bit",), "train.method", "qlora, which holds the base in 4 bits", _when_set("qlora", "switched off")
    ),
    Foreign(
        ("adapter", "finetuning_type", "peft_type", "use_peft"), "train.method", "full, lora, qlora or auto", _method
    ),
    Foreign(("lora_r", "lora_rank", "r"), "lora.rank", "the same value", number),
    Foreign(("lora_alpha",), "lora.alpha", "the same value", number),
    Foreign(("lora_dropout",), "lora.dropout", "the same value", number),
    Foreign(("use_rslora", "lora_use_rslora", "peft_use_rslora"), "lora.rslora", "the same value", is_on),
    Foreign(("use_dora", "peft_use_dora"), "train.method", "dora", _when_set("dora", "switched off")),
    Foreign(("init_lora_weights", "peft_init_lora_weights"), "lora.init", "zero or pissa", _lora_init),
    Foreign(("pissa_init",), "lora.init", "pissa", _when_set("pissa", "switched off")),
    Foreign(
        ("lora_target_modules", "target_modules", "lora_target", "lora_target_linear"),
        "lora.target",
        "all-linear, or a list of module names",
        _modules,
    ),
    Foreign(("eval_steps",), "eval.every", "steps, or auto", _steps),
    Foreign(
        ("evals_per_epoch", "eval_strategy", "evaluation_strategy"),
        "eval.every",
        "steps, or auto",
        _never("auto spreads evaluations over the run; steps are possible too"),
    ),
    Foreign(("save_steps",), "save.every", "steps, a duration such as 10m, or auto", _steps),
    Foreign(
        ("saves_per_epoch", "save_strategy"),
        "save.every",
        "steps, a duration such as 10m, or auto",
        _never("auto saves by the clock; steps or a duration such as 10m are possible too"),
    ),
    Foreign(
        ("early_stopping_patience", "early_stopping_rounds"),
        "train.early_stopping",
        "evaluations without a lower held-out loss, auto or false",
        _steps,
    ),
    Foreign(
        ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        "",
        "the model is that of the lowest held-out loss; train.early_stopping: false takes the last weights",
    ),
    Foreign(("save_total_limit",), "save.keep", "the same value", _kept),
    Foreign(("output_dir",), "--out", "an option of `tunesmith train`"),
    Foreign(("overwrite_output_dir",), "--fresh", "an option of `tunesmith train`"),
    Foreign(("resume_from_checkpoint", "auto_resume_from_checkpoints"), "--resume", "or just the same command again"),
    Foreign(("wandb_project", "use_wandb"), "train.report_to", "[wandb]", _when_set("wandb", "switched off")),
    Foreign(("logging_steps", "logging_strategy"), "", "every step is logged on a CPU, about 200 lines a run on a GPU"),
    Foreign(
        ("packing", "sample_packing", "group_by_length", "pad_to_sequence_len", "padding_free", "neat_packing"),
        "",
        "documents are always packed, and never see each other",
    ),
    Foreign(
        ("attn_implementation", "flash_attention", "flash_attn", "use_liger_kernel", "unsloth"),
        "",
        "the fastest exact kernels of the device are used",
    ),
    Foreign(("dataloader_num_workers", "dataset_num_proc", "preprocessing_num_workers"), "", "every core is used"),
    Foreign(("trust_remote_code",), "", "code that comes with a model is never run"),
    Foreign(("model_revision",), "model.revision", "the same value"),
    Foreign(("push_to_hub", "hub_model_id", "hub_strategy"), "", "a run stays here; model/ is what would be uploaded"),
    Foreign(("deepspeed", "fsdp", "fsdp_config", "ddp_timeout"), "", "processes are told by the launcher, torchrun"),
    Foreign(("tokenizer_name", "tokenizer_type", "model_type"), "", "the model's own tokenizer and class are used"),
    Foreign(
        ("do_train", "do_eval", "overwrite_cache", "plot_loss", "strict", "include_num_input_tokens_seen"),
        "",
        "always so, or not needed",
    ),
)
_BY_NAME = {name: entry for entry in FOREIGN for name in entry.names}


def find_foreign(key: str) -> Foreign | None:
    """The entry of another tool's name; None when no tool calls it so."""
    return _BY_NAME.get(key.lower().replace("-", "_"))


def explain_foreign(key: str) -> str | None:
    """`Another tool's name; here it is ...` for the last part of a recipe key; None when no tool calls it so."""
    entry = find_foreign(key)
    if entry is None:
        return None
    if not entry.ours:
        return f"another tool's name. Here nothing has to be set: {entry.how}."
    return f"another tool's name. Here: {entry.ours} ({entry.how})."


def document() -> str:
    """docs/names.md: the whole table."""
    rows = [
        f"| {', '.join(map(_code, entry.names))} | {_code(entry.ours) if entry.ours else '-'} | {entry.how} |"
        for entry in FOREIGN
    ]
    return "\n".join(
        [
            "# What other tools call it",
            "",
            "Names of transformers, TRL, PEFT, Axolotl and LLaMA-Factory. A recipe that holds one is refused with its",
            "line of this table: many of them count otherwise, rows a device where a recipe counts tokens a step.",
            "",
            "| there | here | how to convert |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _code(name: str) -> str:
    return f"`{name}`"


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201
