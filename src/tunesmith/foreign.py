"""Names that users of other tools type (transformers, TRL, PEFT, Axolotl, LLaMA-Factory), and ours.

They are refused, not guessed at: many count otherwise (rows instead of tokens), and a silent guess would train another
run.
docs/names.md is made from this table.
"""

from __future__ import annotations

from typing import NamedTuple


class Foreign(NamedTuple):
    """A setting of other tools. ours: a recipe key, an option, or empty where nothing has to be set."""

    names: tuple[str, ...]
    ours: str
    how: str


_BATCH = "tokens of one optimizer step: rows a device x devices x accumulation x mean tokens a row, or auto"

FOREIGN = (
    Foreign(("model_name_or_path", "base_model", "model_name", "model_id"), "model.name", "the same value"),
    Foreign(("torch_dtype",), "model.dtype", "float32, bfloat16, float16 or auto"),
    Foreign(
        ("dataset", "datasets", "dataset_name", "dataset_path", "train_file", "data_files", "dataset_dir"),
        "data.path",
        "a file, folder, glob or hub:owner/name",
    ),
    Foreign(("validation_file", "eval_file", "eval_dataset"), "data.eval_path", "the same value"),
    Foreign(("test_file", "test_dataset"), "data.test_path", "the same value"),
    Foreign(("dataset_text_field", "text_column", "text_field"), "data.text", "the column's name"),
    Foreign(("messages_field", "conversation_column"), "data.messages", "the column's name"),
    Foreign(("val_set_size", "val_size", "test_size", "eval_split"), "data.eval_fraction", "a share, such as 0.1"),
    Foreign(("validation_split_percentage",), "data.eval_fraction", "per cent / 100"),
    Foreign(("max_train_samples", "max_samples"), "data.max_rows", "the same value"),
    Foreign(
        ("train_on_inputs", "completion_only_loss", "assistant_only_loss", "train_on_prompt"),
        "",
        "prompts and user turns are read and not learned: name data.prompt and data.completion, or data.messages",
    ),
    Foreign(("chat_template", "template"), "", "the model's own chat template is used"),
    Foreign(("num_train_epochs", "num_epochs", "n_epochs"), "train.epochs", "the same value"),
    Foreign(("lr",), "train.learning_rate", "the same value, or auto"),
    Foreign(("lr_scheduler_type", "lr_scheduler", "scheduler_type"), "train.schedule", "linear, cosine or constant"),
    Foreign(("warmup_ratio",), "train.warmup_fraction", "the same value"),
    Foreign(("warmup_steps", "num_warmup_steps"), "train.warmup_fraction", "warm-up steps / all steps, such as 0.03"),
    Foreign(("gradient_clipping", "clip_grad_norm", "max_norm"), "train.max_grad_norm", "the same value"),
    Foreign(("optim", "optimizer_type"), "train.optimizer", "adamw, adamw8bit or auto"),
    Foreign(
        ("per_device_train_batch_size", "train_batch_size", "batch_size", "gradient_accumulation_steps"),
        "train.tokens_per_step",
        _BATCH,
    ),
    Foreign(("micro_batch_size",), "train.micro_batch_tokens", "tokens of one pass: rows x mean tokens a row, or auto"),
    Foreign(("per_device_eval_batch_size", "eval_batch_size"), "", "evaluation finds its own batch size"),
    Foreign(
        ("max_seq_length", "max_seq_len", "sequence_len", "cutoff_len", "model_max_length", "block_size"),
        "train.max_length",
        "the same value",
    ),
    Foreign(("bf16",), "train.precision", "bf16, or auto"),
    Foreign(("fp16",), "train.precision", "fp16, or auto"),
    Foreign(("tf32", "mixed_precision"), "train.precision", "auto takes the fastest type of the device"),
    Foreign(("torch_compile",), "train.compile", "the same value"),
    Foreign(("load_in_4bit", "use_qlora", "quantization_bit"), "train.method", "qlora"),
    Foreign(("load_in_8bit",), "train.method", "qlora, which holds the base in 4 bits"),
    Foreign(("adapter", "finetuning_type", "peft_type", "use_peft"), "train.method", "full, lora, qlora or auto"),
    Foreign(("lora_r", "lora_rank", "r"), "lora.rank", "the same value"),
    Foreign(("lora_alpha",), "lora.alpha", "the same value"),
    Foreign(("lora_dropout",), "lora.dropout", "the same value"),
    Foreign(
        ("lora_target_modules", "target_modules", "lora_target", "lora_target_linear"),
        "lora.target",
        "all-linear, or a list of module names",
    ),
    Foreign(("eval_steps", "evals_per_epoch", "eval_strategy", "evaluation_strategy"), "eval.every", "steps, or auto"),
    Foreign(("save_steps", "saves_per_epoch", "save_strategy"), "save.every", "steps, a duration such as 10m, or auto"),
    Foreign(("save_total_limit",), "save.keep", "the same value"),
    Foreign(("output_dir",), "--out", "an option of `tunesmith train`"),
    Foreign(("overwrite_output_dir",), "--fresh", "an option of `tunesmith train`"),
    Foreign(("resume_from_checkpoint", "auto_resume_from_checkpoints"), "--resume", "or just the same command again"),
    Foreign(("wandb_project", "use_wandb"), "train.report_to", "[wandb]"),
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
)
_BY_NAME = {name: entry for entry in FOREIGN for name in entry.names}


def explain_foreign(key: str) -> str | None:
    """`Another tool's name; here it is ...` for the last part of a recipe key; None when no tool calls it so."""
    entry = _BY_NAME.get(key.lower().replace("-", "_"))
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
