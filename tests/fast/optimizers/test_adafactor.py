"""Adafactor: as transformers has it, in pieces too; bfloat16 weights follow float32; runs go on bit for bit."""

import copy

import pytest
import torch
from torch import nn

from tunesmith.fast.optimizers import rounding
from tunesmith.fast.optimizers.adafactor import RoundingAdafactor
from tunesmith.step import StepSettings, make_optimizer

RATE = 1e-3


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 24)).to(dtype)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_that_of_transformers(decay, trained):
    from transformers.optimization import Adafactor

    ours, theirs = network(), network()
    trained(ours, RoundingAdafactor(ours.parameters(), RATE, weight_decay=decay))
    options = {"scale_parameter": False, "relative_step": False, "warmup_init": False, "weight_decay": decay}
    trained(theirs, Adafactor(theirs.parameters(), lr=RATE, **options))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_pieces_of_rows_change_only_the_last_digits(monkeypatch, trained):
    whole, parts = network(), network()
    trained(whole, RoundingAdafactor(whole.parameters(), RATE))
    monkeypatch.setattr(rounding, "CHUNK", 100)  # four rows of 24, two of 40
    trained(parts, RoundingAdafactor(parts.parameters(), RATE))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_bfloat16_weights_follow_float32_ones(trained):
    rate = 1e-4  # an update of less than half the last digit of most weights
    exact, ours = network(), network(torch.bfloat16)
    begin = trained(network(), RoundingAdafactor(network().parameters(), rate))
    goal = trained(exact, RoundingAdafactor(exact.parameters(), rate), number=400)
    found = trained(ours, RoundingAdafactor(ours.parameters(), rate), number=400)
    assert abs(found - goal) < 0.1 * (begin - goal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_on_from_its_state(dtype, trained):
    """torch's own way of loading would round row and column to the type of the weights."""
    settings = StepSettings(optimizer="adafactor", learning_rate=RATE, seed=5)
    whole = network(dtype)
    optimizer = make_optimizer(whole.parameters(), settings)
    trained(whole, optimizer, number=5)
    resumed = copy.deepcopy(whole)
    again = make_optimizer(resumed.parameters(), settings)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, one in ((whole, optimizer), (resumed, again)):
        trained(model, one, number=5, begin=5)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_it_holds_a_number_a_row_and_a_column():
    model = network(torch.bfloat16)
    optimizer = make_optimizer(model.parameters(), StepSettings(optimizer="adafactor"))
    held = sum(tensor.numel() for state in optimizer.state.values() for tensor in state.values())
    assert held == (40 + 24) + 40 + (24 + 40) + 24
    assert {tensor.dtype for state in optimizer.state.values() for tensor in state.values()} == {torch.float32}
