"""Moments of 8 bits over bfloat16 weights: small updates arrive, runs go on bit for bit, pieces change nothing."""

import copy

import pytest
import torch
from torch import nn

from tunesmith.fast.optimizers import rounding
from tunesmith.fast.optimizers.eight_bit import RoundingAdamW8bit
from tunesmith.step import StepSettings, make_optimizer
from tunesmith.training.checkpoints.state import load_optimizer, save_tree

bitsandbytes = pytest.importorskip("bitsandbytes")

RATE = 2e-4
STEPS = 400


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 80), nn.Tanh(), nn.Linear(80, 64)).to(dtype)


def batches(number):
    torch.manual_seed(1)
    target = torch.randn(64, 64) / 8
    for _ in range(number):
        x = torch.randn(32, 64)
        yield x, torch.tanh(x @ target)


def trained(model, optimizer, number=STEPS):
    """The mean loss of the last tenth of so many steps."""
    losses = []
    for x, y in batches(number):
        output = torch.func.functional_call(model, {n: p.float() for n, p in model.named_parameters()}, (x,))
        loss = nn.functional.mse_loss(output, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return sum(losses[-number // 10 :]) / (number // 10)


def test_it_follows_float32_where_rounding_to_nearest_does_not():
    exact, ours, theirs = network(), network(torch.bfloat16), network(torch.bfloat16)
    start = trained(network(), torch.optim.SGD(network().parameters(), lr=0.0))
    goal = trained(exact, torch.optim.AdamW(exact.parameters(), lr=RATE, weight_decay=0.0))
    settings = StepSettings(optimizer="adamw8bit", learning_rate=RATE)
    found = trained(ours, make_optimizer(ours.parameters(), settings))
    nearest = trained(theirs, bitsandbytes.optim.AdamW8bit(theirs.parameters(), lr=RATE))
    gained = start - goal
    assert abs(found - goal) < 0.05 * gained
    assert nearest - goal > 0.2 * gained


def test_float32_weights_follow_bitsandbytes():
    ours, theirs = network(), network()
    trained(ours, make_optimizer(ours.parameters(), StepSettings(optimizer="adamw8bit", learning_rate=RATE)), 20)
    trained(theirs, bitsandbytes.optim.AdamW8bit(theirs.parameters(), lr=RATE, weight_decay=0.0), 20)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("way", ["file", "state_dict"])
def test_a_run_that_goes_on_is_the_one_that_was_never_stopped(way, dtype, tmp_path):
    settings = StepSettings(optimizer="adamw8bit", learning_rate=RATE, seed=5)
    whole = network(dtype)
    optimizer = make_optimizer(whole.parameters(), settings)
    trained(whole, optimizer, 10)
    resumed = copy.deepcopy(whole)
    again = make_optimizer(resumed.parameters(), settings)
    if way == "file":
        save_tree(optimizer.state_dict(), tmp_path / "optimizer.safetensors")
        load_optimizer(again, tmp_path / "optimizer.safetensors")
    else:
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, one in ((whole, optimizer), (resumed, again)):
        trained(model, one, 10)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_pieces_change_nothing_but_the_random_bits(monkeypatch):
    whole, parts = network(), network()
    trained(whole, RoundingAdamW8bit(whole.parameters(), lr=RATE), 10)
    monkeypatch.setattr(rounding, "CHUNK", 512)
    trained(parts, RoundingAdamW8bit(parts.parameters(), lr=RATE), 10)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_what_it_holds_is_a_quarter():
    model = network(torch.bfloat16)
    optimizer = make_optimizer(model.parameters(), StepSettings(optimizer="adamw8bit"))
    large = optimizer.state[model[0].weight]
    held = sum(tensor.numel() * tensor.element_size() for tensor in large.values())
    assert held == model[0].weight.numel() * (2 + 8 / 256)
    assert {tensor.dtype for tensor in optimizer.state[model[0].bias].values()} == {torch.float32}
