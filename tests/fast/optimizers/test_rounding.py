"""AdamW over bfloat16 weights: rounding right on average, torch's formula, bits that follow from the step."""

import copy

import pytest
import torch

from tunesmith.fast.optimizers import rounding
from tunesmith.fast.optimizers.rounding import RoundingAdamW, round_at_random


def parameters(dtype, *shapes):
    torch.manual_seed(3)
    made = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape).to(dtype)
    return made


def stepped(made, number=1, **options):
    optimizer = RoundingAdamW(made, lr=1e-2, **options)
    for _ in range(number):
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("value", [1.0 + 2**-10, -3.0 - 2**-7 * 0.3, 1e-30, -65504.7])
def test_rounding_goes_to_a_neighbour_and_is_right_on_average(value):
    number = 200_000
    bits = torch.randint(0, 65536, (number,), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    rounded = round_at_random(torch.full((number,), value), bits)
    assert torch.equal(rounded, rounded.bfloat16().float())
    low, high = rounded.min().item(), rounded.max().item()
    exact = torch.tensor(value).item()
    assert low < exact < high
    assert rounded.unique().numel() == 2
    assert rounded.double().mean().item() == pytest.approx(exact, abs=4 * (high - low) / 2 / number**0.5)


def test_what_bfloat16_holds_is_not_changed():
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 3e38, float("inf"), -float("inf")]).bfloat16().float()
    bits = torch.full(values.shape, 65535, dtype=torch.int32)
    assert torch.equal(round_at_random(values.clone(), bits), values)
    assert round_at_random(torch.tensor([float("nan")]), bits[:1]).isnan().all()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_float32_parameters_follow_torch(decay):
    ours, theirs = parameters(torch.float32, (5, 7), (3,)), parameters(torch.float32, (5, 7), (3,))
    stepped(ours, 5, weight_decay=decay)
    reference = torch.optim.AdamW(theirs, lr=1e-2, weight_decay=decay)
    for _ in range(5):
        reference.step()
    for ours_one, theirs_one in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_one, theirs_one, rtol=1e-6, atol=1e-7)


def test_many_small_updates_arrive():
    """Each is a sixth of the distance to the next bfloat16 number; to the nearest, none would be made."""
    weight = torch.nn.Parameter(torch.full((4096,), 1.0, dtype=torch.bfloat16))
    nearest = torch.nn.Parameter(weight.detach().clone())
    ours = RoundingAdamW([weight], lr=2**-8 / 6)
    theirs = torch.optim.AdamW([nearest], lr=2**-8 / 6, weight_decay=0.0)
    for _ in range(60):
        weight.grad = nearest.grad = torch.ones_like(weight)
        ours.step()
        theirs.step()
    assert (nearest == 1.0).all()
    assert weight.float().mean().item() == pytest.approx(1 - 10 * 2**-8, rel=2e-3)


def test_the_second_moment_decays():
    """A thousandth a step is less than bfloat16 can show."""
    weight = torch.nn.Parameter(torch.zeros(4096, dtype=torch.bfloat16))
    optimizer = RoundingAdamW([weight], lr=0.0)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    weight.grad = torch.zeros_like(weight)
    for _ in range(400):
        optimizer.step()
    assert optimizer.state[weight]["exp_avg_sq"].float().mean().item() == pytest.approx(1e-3 * 0.999**400, rel=2e-2)


def test_chunks_cover_every_number(monkeypatch):
    whole, parts = parameters(torch.float32, (40, 11)), parameters(torch.float32, (40, 11))
    stepped(whole)
    monkeypatch.setattr(rounding, "CHUNK", 7)
    stepped(parts)
    assert torch.equal(whole[0], parts[0])


def test_a_resumed_run_rounds_alike():
    straight = parameters(torch.bfloat16, (64, 64), (9,))
    optimizer = stepped(straight, 2, seed=5)
    resumed = [torch.nn.Parameter(parameter.detach().clone()) for parameter in straight]
    state = copy.deepcopy(optimizer.state_dict())
    for parameter, twin in zip(straight, resumed, strict=True):
        twin.grad = parameter.grad
    torch.rand(100)  # other random numbers do not matter
    again = RoundingAdamW(resumed, lr=1e-2, seed=5)
    again.load_state_dict(state)
    optimizer.step()
    again.step()
    assert all(torch.equal(one, two) for one, two in zip(straight, resumed, strict=True))
    assert all(value.dtype == torch.bfloat16 for value in (again.state[resumed[0]]["exp_avg_sq"], resumed[0]))


def test_the_seed_and_the_step_decide_the_bits():
    results = []
    for seed in (1, 1, 2):
        made = parameters(torch.bfloat16, (64, 64))
        stepped(made, 2, seed=seed)
        results.append(made[0].detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_rate_of_zero_changes_nothing():
    made = parameters(torch.bfloat16, (32, 32))
    before = made[0].detach().clone()
    optimizer = RoundingAdamW(made, lr=0.0)
    optimizer.step()
    assert torch.equal(made[0], before)


def test_transposed_parameters_are_refused():
    with pytest.raises(ValueError, match="contiguous"):
        RoundingAdamW([torch.nn.Parameter(torch.zeros(2, 3).t())], lr=0.1)


def test_one_pass_a_parameter_moves_weights_as_chunks_do():
    chunked, fused = (parameters(torch.bfloat16, (40, 50), (7,)) for _ in range(2))
    stepped(chunked, 3)
    optimizer = stepped(fused, 3, fused=True)
    for one, other in zip(fused, chunked, strict=True):
        assert (one - other).abs().max() <= 2 * 2.0**-7 * other.abs().max()
        assert not torch.equal(one, other)  # random bits of its own
    again = parameters(torch.bfloat16, (40, 50), (7,))
    assert stepped(again, 3, fused=True).seed == optimizer.seed
    assert all(torch.equal(one, other) for one, other in zip(again, fused, strict=True))


def test_one_pass_a_parameter_copies_nothing():
    made = parameters(torch.bfloat16, (40, 50), (7,))
    assert [RoundingAdamW(made, 1e-2, fused=value).scratch_numbers(made[0]) for value in (True, False)] == [0, 2000]
