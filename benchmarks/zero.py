"""The steps of a run once more under DeepSpeed's ZeRO: its losses must be those of the run.

    tunesmith train recipe.yaml --procs 2 --out runs/ddp
    torchrun --nproc-per-node 2 --standalone benchmarks/zero.py runs/ddp --stage 2    # moments and gradients are split
    torchrun --nproc-per-node 2 --standalone benchmarks/zero.py runs/ddp --stage 3    # weights too

Model, batches and learning rates come from tunesmith, engine and AdamW from DeepSpeed. Nothing is written. Needs
DeepSpeed: pip install setuptools wheel ninja, then DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

import torch

from tunesmith.pipeline import prepare_inputs
from tunesmith.run.artefacts import Plan
from tunesmith.run.directory import RunDir
from tunesmith.training import Job, build_model
from tunesmith.training.loop import rate_at
from tunesmith.training.steps.batches import Batches


def job_of(run_dir: RunDir) -> Job:
    """What the run was made of."""
    recipe = run_dir.recipe()
    prepared = prepare_inputs(recipe, lambda *doing: None, small=False, begun=run_dir.path)
    plan = run_dir.read(Plan)
    return Job(recipe, plan, prepared.source, prepared.tokenizer, prepared.data, run_dir, {}, None)


def engine_of(model: Any, plan: Plan, stage: int) -> Any:
    """DeepSpeed's engine, with torch's AdamW; weight decay on matrices only, as tunesmith has it."""
    import deepspeed

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
    rate = {"lr": plan.learning_rate, "betas": (0.9, 0.999), "eps": 1e-8, "torch_adam": True, "adam_w_mode": True}
    config = {
        "train_micro_batch_size_per_gpu": 1,  # batches are cut by tunesmith, and averaged over processes alone
        "optimizer": {"type": "AdamW", "params": rate},
        "gradient_clipping": plan.max_grad_norm or 0.0,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": plan.dtype == "bfloat16"},
    }
    engine, *_ = deepspeed.initialize(model=model, model_parameters=[g for g in groups if g["params"]], config=config)
    return engine


def step(engine: Any, batches: Batches, documents: Any, plan: Plan) -> float:
    """One optimizer step over all processes. Returns its loss."""
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    share = batches.num_targets(documents) / size
    passes = [(part, share) for part in batches.parts(documents, plan.micro_batch_tokens, rank, size)]
    while len(passes) < batches.num_passes(documents, plan.micro_batch_tokens, size):
        passes.append((documents[:1], math.inf))  # each pass is an exchange
    total = torch.zeros((), device=engine.device)
    for number, (part, over) in enumerate(passes):
        engine.set_gradient_accumulation_boundary(number + 1 == len(passes))
        loss = engine(flat=batches.flat(part), denominator=over).loss
        engine.backward(loss)
        total += loss.detach()
    engine.step()
    torch.distributed.all_reduce(total)
    return float(total) / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), default=2)
    parser.add_argument("--steps", type=int, help="the first of them alone")
    options = parser.parse_args()
    job = job_of(RunDir.open(options.run))
    plan = job.plan
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if plan.device == "cuda" else "cpu")
    import deepspeed

    deepspeed.init_distributed("nccl" if plan.device == "cuda" else "gloo")
    engine = engine_of(build_model(job), plan, options.stage)
    batches = Batches(job.data.train, plan, engine.device)
    lines, _ = job.run_dir.metrics_lines()
    own = {line.step: line.loss for line in lines if line.loss is not None}
    furthest = 0.0
    for number, documents in enumerate(batches.steps[: options.steps or plan.num_steps]):
        rate = rate_at(number, schedule=plan.schedule, warmup=plan.warmup_steps, total=plan.num_steps)
        for group in engine.optimizer.param_groups:
            group["lr"] = plan.learning_rate * rate
        loss = step(engine, batches, documents, plan)
        if number + 1 in own:
            furthest = max(furthest, abs(loss - own[number + 1]))
            if torch.distributed.get_rank() == 0:
                print(f"step {number + 1:>4}  run {own[number + 1]:.5f}  ZeRO-{options.stage} {loss:.5f}", flush=True)
    if torch.distributed.get_rank() == 0:
        print(f"largest difference {furthest:.1e} over {torch.distributed.get_world_size()} processes", flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
