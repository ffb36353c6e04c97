"""What libraries take of a GPU's memory beside tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tunesmith.forecast.tracing.inside import taken_inside
from tunesmith.forecast.tracing.step import Step, trace_step
from tunesmith.forecast.workspaces import NEW_BYTES, OLD_BYTES, ROCM_BYTES, with_workspaces, workspace_bytes
from tunesmith.machine.gpus import find_gpu

MIB = 2**20


@pytest.mark.parametrize(
    ("gpu", "expected"), [("t4", OLD_BYTES), ("a100-80gb", OLD_BYTES), ("h200", NEW_BYTES), ("mi300x", ROCM_BYTES)]
)
def test_a_workspace_depends_on_the_gpu(gpu: str, expected: int) -> None:
    assert workspace_bytes(find_gpu(gpu).capability) == expected


def test_each_thread_takes_one_and_keeps_it(llama_config: Any) -> None:
    log = trace_step(llama_config, Step((32,) * 4, device="cuda", precision="bf16"))
    more = with_workspaces(log, MIB)
    before, after = log.phase_peaks(), more.phase_peaks()
    assert after["forward"] - before["forward"] == 2 * MIB  # the second step's, beside what backward of the first took
    assert after["evaluation"] - before["evaluation"] == 2 * MIB
    assert after["state"] == before["state"]
    events, old = list(more.events()), {event.storage for event in log.events()}
    taken = [event for event in events if event.storage not in old]
    assert [(event.num_bytes, event.born) for event in taken] == [(MIB, True)] * 2


def test_flash_attention_takes_row_sums_and_a_float32_gradient() -> None:
    q = torch.empty(100, 4, 40, dtype=torch.bfloat16, device="meta")
    cu_seqlens = torch.empty(3, dtype=torch.int32)
    sums, gradient = taken_inside("_varlen_attn_backward", (q, q, q, q, q, None, cu_seqlens))
    assert sums == 4 * 4 * (100 + 2 * 128)
    assert gradient == sums * 64  # 40 columns are rounded up to 64


def test_grouped_heads_take_their_gradients_per_query_head() -> None:
    q = torch.empty(100, 4, 64, dtype=torch.bfloat16, device="meta")
    k = torch.empty(100, 2, 64, dtype=torch.bfloat16, device="meta")
    found = taken_inside("_varlen_attn_backward", (q, q, k, k, q, None, torch.empty(2)))
    assert found[2:] == [100 * 4 * 64 * 2] * 2


def test_other_operators_take_nothing() -> None:
    assert taken_inside("mm", ()) == []
