"""The record of allocations and work."""

from __future__ import annotations

import pytest
import torch

from tunesmith.forecast.tracing.trace import COMPONENTS, Event, Trace

KIB = 1024


def test_births_and_deaths_are_logged_in_order() -> None:
    with Trace() as trace, trace.phase("forward"):
        a = torch.zeros(256)
        b = a + 1
        del a
        c = b.view(16, 16)  # no storage of its own
        del b
        del c
    assert [(event.num_bytes, event.born) for event in trace.log.events()] == [
        (KIB, True),
        (KIB, True),
        (KIB, False),
        (KIB, False),
    ]


def test_peak_of_each_phase() -> None:
    with Trace() as trace:
        with trace.phase("first"):
            kept = torch.zeros(256)
            torch.zeros(512)
        with trace.phase("second"):
            torch.zeros(256)
    assert trace.log.phase_peaks()["first"] == 3 * KIB
    assert trace.log.phase_peaks()["second"] == 2 * KIB
    assert trace.log.peak_bytes() == 3 * KIB
    del kept


def test_components_at_the_peak_sum_to_it() -> None:
    weight = torch.zeros(256, requires_grad=True)
    with Trace(logits_width=100) as trace:
        trace.hold([weight], "weights")
        with trace.phase("forward"):
            hidden = weight * 2
            logits = torch.zeros(8, 100)
        trace.name_alive("activations", "forward")
        with trace.phase("backward"):
            torch.zeros(256)
    parts = trace.log.components_at_peak()
    assert set(parts) == set(COMPONENTS)
    assert sum(parts.values()) == trace.log.peak_bytes()
    assert (parts["weights"], parts["activations"], parts["logits"], parts["temporary"]) == (KIB, KIB, 3200, KIB)
    del hidden, logits


def test_work_counts_arithmetic_and_traffic() -> None:
    left, right = torch.zeros(4, 8), torch.zeros(8, 16)
    with Trace() as trace, trace.phase("forward"):
        left @ right
    ((work, calls),) = trace.log.work("forward").items()
    assert (work.name, work.flops, work.gemm, calls) == ("mm", 2 * 4 * 8 * 16, (4, 8, 16, 1), 1)
    assert work.num_bytes == 4 * (4 * 8 + 8 * 16 + 4 * 16)
    assert not trace.log.work("backward")


def test_a_bias_is_not_an_operand_of_the_product() -> None:
    with Trace() as trace, trace.phase("forward"):
        torch.addmm(torch.zeros(16), torch.zeros(4, 8), torch.zeros(8, 16))
    gemms = [work.gemm for work in trace.log.work("forward") if work.gemm is not None]
    assert gemms == [(4, 8, 16, 1)]


def test_attention_on_a_cpu_is_counted() -> None:
    query = torch.zeros(2, 4, 10, 8)
    with Trace() as trace, trace.phase("forward"):
        torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert sum(work.flops * calls for work, calls in trace.log.work("forward").items()) == 4 * 2 * 4 * 10 * 10 * 8


def test_a_log_knows_storages_by_number_not_by_address() -> None:
    with Trace() as trace:
        for _ in range(3):
            torch.zeros(256)
    births = [event.storage for event in trace.log.events() if event.born]
    assert births == [1, 2, 3]
    assert list(trace.log.events())[1] == Event(1, KIB, False)


def test_storage_of_an_unknown_tensor_is_a_bug() -> None:
    with Trace() as trace, pytest.raises(KeyError):
        trace.storage_of(torch.empty(0))


def peak_of_two_gradients(size: int) -> int:
    """Most bytes alive while a tensor of `size` bytes gets two gradients."""
    x = torch.zeros(size // 4, requires_grad=True)
    with Trace() as trace:
        trace.hold([x], "weights")
        with trace.phase("forward"):
            loss = (x * 2.0).sum() + (x * 3.0).sum()
        with trace.phase("backward"):
            loss.backward()
    assert x.grad is not None
    assert x.grad.unique().tolist() == [5.0]
    return trace.log.phase_peaks()["backward"]


def test_a_second_gradient_is_added_into_the_first_in_place() -> None:
    """As autograd does outside of a trace: weight, both gradients, and no sum beside them."""
    assert peak_of_two_gradients(4 * KIB) < 3 * 4 * KIB + 512
