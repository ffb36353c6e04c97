"""What a forked child runs: tunesmith's own command line, or the plain Trainer as the control."""

from __future__ import annotations

import contextlib
import csv
import gc
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUM_PLAIN_STEPS = 12


def import_everything() -> None:
    """All that a case needs, before the first fork. No thread may be alive when forks begin."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.fsync = lambda fd: None  # what it adds, order after a power cut, no kill can show; it takes long
    import torch

    torch.set_num_threads(1)
    import peft  # noqa: F401
    from transformers import Trainer  # noqa: F401
    from transformers.models.gpt_neo import modeling_gpt_neo  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    import tunesmith.cli
    import tunesmith.data
    import tunesmith.evaluate
    import tunesmith.generate.text
    import tunesmith.models.load
    import tunesmith.pipeline
    import tunesmith.plan
    import tunesmith.report
    import tunesmith.show.progress
    import tunesmith.training.rehearsal  # noqa: F401

    gc.collect()
    gc.freeze()  # a child's collections need not look through all of this again: a third of its time
    threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    unknown = [name for name in threads[1:] if not name.startswith("jemalloc")]  # that one knows about forks
    if unknown:
        raise RuntimeError(f"threads before the first fork: {unknown}")


def command(arguments: list[str], cwd: str | None = None, environment: dict[str, str] | None = None) -> None:
    """`tunesmith ARGUMENTS`, as the console script runs it."""
    from tunesmith.cli import main

    os.environ.update(environment or {})
    if cwd is not None:
        os.chdir(cwd)
    sys.argv = ["tunesmith", *arguments]
    main()


def plain_trainer(model: str, data: str, out: str) -> None:
    """Train with transformers' Trainer as its guide does, from its last checkpoint on; then write `final.json`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(model)
    with Path(data).open(encoding="utf-8") as file:
        texts = [row["description"] for row in csv.DictReader(file)][:32]
    rows = [{"input_ids": ids, "labels": ids} for ids in (tokenizer(text)["input_ids"][:16] for text in texts)]
    arguments = TrainingArguments(
        output_dir=out,
        num_train_epochs=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        save_steps=2,
        save_total_limit=2,
        logging_steps=1,
        max_steps=NUM_PLAIN_STEPS,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=7,
    )
    trainer = Trainer(model=AutoModelForCausalLM.from_pretrained(model), args=arguments, train_dataset=rows)
    last = get_last_checkpoint(out) if Path(out).is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    digest = hashlib.sha256()
    for name, tensor in sorted(trainer.model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    (Path(out) / "final.json").write_text(json.dumps({"weights": digest.hexdigest(), "resumed": last}))


def hold_lock(run: str) -> None:
    """Hold the lock of a run until killed; `held` appears in the run directory's parent when it is taken."""
    import signal

    from tunesmith.run.directory import RunDir
    from tunesmith.run.lock import RunLock

    with RunLock(RunDir(Path(run))):
        Path(run).with_suffix(".held").touch()
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


ARMS: dict[str, Callable[..., Any]] = {"tunesmith": command, "plain": plain_trainer, "hold_lock": hold_lock}
