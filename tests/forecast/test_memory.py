"""Memory of a traced step on a device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tunesmith.forecast.memory import CONTEXT_BYTES, FRAGMENTATION, WORKSPACE_BYTES, forecast_memory
from tunesmith.forecast.tracing.step import Step, trace_step
from tunesmith.forecast.workspaces import NEW_BYTES


def test_a_gpu_shows_its_context_and_what_is_reserved(llama_config: Any) -> None:
    log = trace_step(llama_config, Step((32,) * 8, device="cuda", precision="bf16"))
    memory = forecast_memory(log, "cuda")
    assert memory.allocated_bytes == log.peak_bytes() + 2 * NEW_BYTES <= memory.reserved_bytes
    assert memory.peak_bytes == memory.reserved_bytes + CONTEXT_BYTES
    assert sum(memory.components.values()) == memory.allocated_bytes
    assert max(memory.phases.values()) == memory.allocated_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cpu_shows_the_process_and_what_its_heap_wastes(llama_config: Any, precision: Any) -> None:
    log = trace_step(llama_config, Step((32,) * 8, precision=precision))
    memory = forecast_memory(log, "cpu", precision=precision, base_bytes=500_000_000)
    weights = memory.components["weights"]
    wasted = int((memory.allocated_bytes - weights) * FRAGMENTATION[precision])
    assert memory.peak_bytes == 500_000_000 + memory.allocated_bytes + wasted + WORKSPACE_BYTES
    assert forecast_memory(log, "cpu").base_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


MEASURE = """
import ctypes, gc, json, os, sys
import torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, LlamaConfig
from tunesmith.forecast.tracing import simulate
from tunesmith.forecast.tracing.step import Step, trace_step
from tunesmith.step import prepare_model

config = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)
step = Step(tuple([48] * 10 + [33] * 14))
if sys.argv[1] == "forecast":
    print(trace_step(config, step).peak_bytes())
    sys.exit()
model = AutoModelForCausalLM.from_config(config)
model.config.use_cache = False
model.get_input_embeddings().padding_idx = None
model = prepare_model(model, step.settings)
batch = simulate.traced_batch(step.micro_batch)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

def resident(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

gc.collect()
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")
weights = sum(parameter.numel() * 4 for parameter in model.parameters())
before = resident("VmRSS")
for _ in range(2):
    model(flat=batch, denominator=batch.num_targets).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.zero_grad()
print(resident("VmHWM") - before + weights)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's own count of resident memory")
def test_resident_memory_above_a_gigabyte_is_within_three_per_cent() -> None:
    """With a heap that gives freed memory back at once, so that only what is allocated is resident."""
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

    def run(what: str) -> int:
        command = [sys.executable, "-W", "ignore", "-c", MEASURE, what]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **settings})
        return int(json.loads(done.stdout))

    forecast = run("forecast") + WORKSPACE_BYTES
    assert forecast > 1e9
    assert run("measure") == pytest.approx(forecast, rel=0.03)
