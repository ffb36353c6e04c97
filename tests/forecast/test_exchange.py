"""What several processes add to a step: what arithmetic hides of an exchange, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.forecast.exchange import BUCKET_BYTES, Exchange, Exchanged, exchange_of, with_buckets
from tunesmith.forecast.host import HostTime
from tunesmith.forecast.memory import MemoryForecast, sharded
from tunesmith.forecast.time import StepTime
from tunesmith.machine.gpus import find_gpu
from tunesmith.machine.interconnect import Network

MEMORY = MemoryForecast(
    "cuda",
    1000,
    800,
    900,
    100,
    {"weights": 100, "gradients": 100, "optimizer": 200, "activations": 400},
    {"forward": 1},
)
DDP = Exchange(num_processes=2, share=0.5, pass_tokens=1000, num_parts=4, sum_seconds=0.4)
FSDP = replace(DDP, sharded=True, gather_seconds=0.2)
STEP = StepTime(
    token_seconds=0.001, step_seconds=0.1, eval_token_seconds=0.0004, flops_per_token=1e9, origin="computed"
)


def test_one_process_exchanges_nothing() -> None:
    assert exchange_of(None, Exchanged(1, 1, 1), sharded=True, share=1, pass_tokens=1, checkpointed=False) == Exchange()
    assert Exchange().waited_seconds(1000, 1.0) == Exchange().link_seconds(1000) == 0
    assert STEP.of_processes(Exchange()) is STEP


def test_gradients_that_are_summed_beside_backward_leave_the_last_bucket() -> None:
    long, short = 3.0, 0.3  # of which backward is two thirds
    assert DDP.waited_seconds(2000, long) == pytest.approx(0.4 / 4)
    assert DDP.waited_seconds(2000, short) == pytest.approx(0.4 - 0.2 * 3 / 4)


def test_only_the_last_of_several_passes_hides_the_sum() -> None:
    assert DDP.waited_seconds(4000, 0.6) == DDP.waited_seconds(2000, 0.3)


def test_shards_are_gathered_twice_in_every_pass() -> None:
    assert FSDP.link_seconds(2000) == pytest.approx(2 * 0.2 + 0.4)
    assert FSDP.link_seconds(4000) == pytest.approx(4 * 0.2 + 0.4)
    hidden = 0.2 / 4 + (0.2 + 0.4) / 4
    assert FSDP.waited_seconds(2000, 30.0) == pytest.approx(hidden)
    assert FSDP.waited_seconds(2000, 0.0) == pytest.approx(2 * 0.2 + 0.4)


def test_a_step_is_shared_and_launches_stay() -> None:
    two = STEP.of_processes(DDP)
    assert two.of(2000) == pytest.approx(0.1 + 1.0 + 0.4 / 4)
    assert two.eval_token_seconds == STEP.eval_token_seconds / 2
    assert not two.is_launch_bound(2000)
    launched = replace(two, host=HostTime(step_seconds=0.5, pass_seconds=2.0, pass_tokens=1000))
    assert launched.of(2000) == pytest.approx(2.5 + 0.4 / 4)
    assert launched.is_launch_bound(2000)


def test_processes_that_share_a_processor_gain_nothing() -> None:
    two = STEP.of_processes(replace(DDP, takes_turns=2))
    assert two.of(2000) == pytest.approx(0.2 + 2.0 + 0.4 / 4)


def test_a_sharded_update_moves_its_own_part() -> None:
    assert STEP.of_processes(FSDP).step_seconds == STEP.step_seconds / 2


def test_buckets_and_layers_are_the_parts() -> None:
    network = Network.of_gpus(find_gpu("l4"), 4, 1)
    what = Exchanged(weight_bytes=10 * BUCKET_BYTES, gradient_bytes=8 * BUCKET_BYTES, num_layers=12)
    copies = exchange_of(network, what, sharded=False, share=0.25, pass_tokens=10, checkpointed=False)
    shards = exchange_of(network, what, sharded=True, share=0.25, pass_tokens=10, checkpointed=True)
    assert (copies.num_parts, copies.gather_seconds) == (8, 0)
    assert copies.sum_seconds == pytest.approx(8 * network.reduce_seconds(BUCKET_BYTES))
    assert shards.num_parts == 13
    assert shards.gather_seconds == pytest.approx(13 * network.gather_seconds(what.weight_bytes / 13))
    assert (copies.backward_share, shards.backward_share) == (2 / 3, 3 / 4)


def test_a_copy_holds_its_buckets_and_a_shard_its_part() -> None:
    copy = with_buckets(MEMORY, 130)  # of which 100 are there at the peak
    assert (copy.peak_bytes, copy.allocated_bytes, copy.components["gradients"]) == (1030, 830, 130)
    assert with_buckets(MEMORY, 100) == MEMORY
    assert sum(copy.components.values()) == copy.allocated_bytes
    shard = sharded(replace(MEMORY, components={**MEMORY.components, "temporary": 0}), 4, 50)
    assert shard.peak_bytes == 1000 - 300 + 50
    whole = sharded(replace(MEMORY, components={**MEMORY.components, "temporary": 0}), 4, 50, accumulates=True)
    assert whole.peak_bytes == 1000 - 225 + 50
