"""Muon: as torch has it in the layers, AdamW around them; bfloat16 weights follow float32; runs go on bit for bit."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tunesmith.fast.optimizers.muon import is_hidden_matrix, mark_layers, orthogonal
from tunesmith.fast.optimizers.rounding import RoundingAdamW
from tunesmith.step import ReadyRoundingMuon, StepSettings, make_optimizer

RATE = 1e-3


class Network(nn.Module):
    """An embedding, two layers in a list, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(24, 16, bias=False)
        self.layers = nn.ModuleList([nn.Linear(16, 40), nn.Linear(40, 16)])
        self.head = nn.Linear(16, 24, bias=False)

    def forward(self, x):
        return self.head(self.layers[1](torch.tanh(self.layers[0](self.embedding(x)))))


def network(dtype=torch.float32):
    torch.manual_seed(0)
    model = Network().to(dtype)
    mark_layers(model)
    return model


def muon_of(model, rate=RATE, **settings):
    return make_optimizer(model.parameters(), StepSettings(optimizer="muon", learning_rate=rate, **settings))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_that_of_torch_beside_adamw(decay, trained):
    ours, theirs = network(), network()
    trained(ours, muon_of(ours, weight_decay=decay))
    hidden = [layer.weight for layer in theirs.layers]
    rest = [theirs.embedding.weight, theirs.head.weight]
    biases = [layer.bias for layer in theirs.layers]
    muon = torch.optim.Muon(hidden, lr=RATE, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [{"params": rest, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}], lr=RATE
    )
    trained(theirs, muon, adamw)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (8, 8)])
def test_singular_values_become_nearly_one(shape):
    torch.manual_seed(3)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * 1e-4).float())
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3


def test_a_gradient_of_zero_moves_nothing():
    """The first matrix of an adapter has none before the second one moved."""
    assert not orthogonal(torch.zeros(4, 8)).any()


def test_which_matrices_are_its_own():
    model = network()
    assert [name for name, p in model.named_parameters() if is_hidden_matrix(p)] == [
        "layers.0.weight",
        "layers.1.weight",
    ]
    optimizer = muon_of(model)
    assert isinstance(optimizer, ReadyRoundingMuon)
    assert [(group.get("muon", False), len(group["params"])) for group in optimizer.param_groups] == [
        (True, 2),
        (False, 2),
        (False, 2),
    ]
    held: dict[int, list[Any]] = {len(state): [] for state in optimizer.state.values()}
    for parameter, state in optimizer.state.items():
        held[len(state)].append(parameter.ndim)
    assert held == {1: [2, 2], 2: [2, 2, 1, 1]}


def test_bfloat16_weights_follow_float32_ones(trained):
    rate = 1e-4
    exact, ours = network(), network(torch.bfloat16)
    begin = trained(network(), RoundingAdamW(network().parameters(), 0.0))
    goal, found = trained(exact, muon_of(exact, rate), number=400), trained(ours, muon_of(ours, rate), number=400)
    assert abs(found - goal) < 0.1 * (begin - goal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_on_from_its_state(dtype, trained):
    whole = network(dtype)
    optimizer = muon_of(whole, seed=5)
    trained(whole, optimizer, number=5)
    resumed = copy.deepcopy(whole)
    mark_layers(resumed)
    again = muon_of(resumed, seed=5)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, one in ((whole, optimizer), (resumed, again)):
        trained(model, one, number=5, begin=5)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))
