"""The fused loss = the loss over whole logits: masks, accumulation, precision, scaling, several chunks."""

import pytest
import torch
import torch.nn.functional as F

from tunesmith.fast import cross_entropy
from tunesmith.fast.cross_entropy import (
    Head,
    Workspace,
    linear_cross_entropy,
    module_cross_entropy,
    plain_logits,
    token_losses,
)

ROWS, WIDTH, VOCABULARY = 23, 16, 50


@pytest.fixture(params=[8, 512], ids=["chunks", "one-chunk"])
def _chunk(request, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK", request.param)
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_BYTES", 0)


def make(dtype=torch.float32, *, bias=False, rows=ROWS, seed=0):
    torch.manual_seed(seed)
    hidden = torch.randn(rows, WIDTH).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH).to(dtype).requires_grad_()
    offset = torch.randn(VOCABULARY).to(dtype).requires_grad_() if bias else None
    return hidden, weight, offset, torch.randint(0, VOCABULARY, (rows,))


def expected(hidden, weight, offset, targets, denominator, softcap=None):
    logits = F.linear(hidden.float(), weight.float(), None if offset is None else offset.float())
    if softcap:
        logits = torch.tanh(logits / softcap) * softcap
    return F.cross_entropy(logits, targets, reduction="sum") / denominator


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("grad_output", [1.0, 0.25])
def test_equals_whole_logits(bias, softcap, grad_output):
    hidden, weight, offset, targets = make(bias=bias)
    leaves = [leaf for leaf in (hidden, weight, offset) if leaf is not None]
    whole = expected(hidden, weight, offset, targets, 7.0, softcap)
    loss = linear_cross_entropy(hidden, Head(weight, offset, softcap), targets, 7.0, Workspace())
    torch.testing.assert_close(loss, whole, rtol=1e-6, atol=0)
    found = torch.autograd.grad(loss * grad_output, leaves)
    for gradient, other in zip(found, torch.autograd.grad(whole * grad_output, leaves), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-6)


def test_gradients_are_exact():
    hidden, weight, offset, targets = (x.detach().double() if x.is_floating_point() else x for x in make(bias=True))
    leaves = [leaf.requires_grad_() for leaf in (hidden, weight, offset)]

    def loss(hidden, weight, offset):
        # the float32 result limits finite differences; a large denominator keeps the loss where they are fine
        return linear_cross_entropy(hidden, Head(weight, offset), targets, 1.0, Workspace())

    found = torch.autograd.grad(loss(*leaves), leaves)
    logits = F.linear(hidden, weight, offset)
    exact = torch.autograd.grad(F.cross_entropy(logits, targets, reduction="sum"), leaves)
    for gradient, other in zip(found, exact, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_stay_near_float32(dtype):
    hidden, weight, _, targets = make(dtype)
    denominator = 50_000.0
    whole = expected(hidden, weight, None, targets, denominator)
    loss = linear_cross_entropy(hidden, Head(weight), targets, denominator, Workspace())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, whole, rtol=1e-2, atol=0)
    scale = 1024.0
    found = torch.autograd.grad(loss * scale, (hidden, weight))
    for gradient, other in zip(found, torch.autograd.grad(whole * scale, (hidden, weight)), strict=True):
        assert gradient.dtype == dtype
        allowed = 0.02 * other.abs().max().item()
        torch.testing.assert_close(gradient.float(), other.float(), rtol=0.02, atol=allowed)


def test_autocast_keeps_the_gradients_of_float32_weights_in_float32():
    hidden, weight, _, targets = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, Head(weight), targets, 5.0, Workspace())
    d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight))
    whole = expected(hidden, weight, None, targets, 5.0)
    assert (loss.dtype, d_hidden.dtype, d_weight.dtype) == (torch.float32,) * 3
    torch.testing.assert_close(loss, whole, rtol=1e-2, atol=0)
    other = torch.autograd.grad(whole, weight)[0]
    torch.testing.assert_close(d_weight, other, rtol=0.02, atol=0.02 * other.abs().max().item())


def test_frozen_head_gets_no_gradient():
    hidden, weight, _, targets = make()
    weight.requires_grad_(False)
    loss = linear_cross_entropy(hidden, Head(weight), targets, 5.0, Workspace())
    totals = loss.grad_fn.totals  # type: ignore[attr-defined]
    assert totals.weight is None
    loss.backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_no_target_gives_zero_loss_and_zero_gradients():
    hidden, weight, offset, targets = make(bias=True, rows=0)
    loss = linear_cross_entropy(hidden, Head(weight, offset), targets, 5.0, Workspace())
    loss.backward()
    assert loss.item() == 0.0
    assert torch.count_nonzero(weight.grad) == 0
    assert torch.count_nonzero(offset.grad) == 0


def test_accumulation_equals_one_batch():
    hidden, weight, _, targets = make()
    expected(hidden, weight, None, targets, ROWS).backward()
    whole, weight.grad = weight.grad, None
    workspace = Workspace()
    for rows in (slice(0, 5), slice(5, 6), slice(6, ROWS)):
        linear_cross_entropy(hidden[rows], Head(weight), targets[rows], ROWS, workspace).backward()
    torch.testing.assert_close(weight.grad, whole, rtol=1e-5, atol=1e-7)


def test_second_backward_is_refused():
    hidden, weight, _, targets = make()
    loss = linear_cross_entropy(hidden, Head(weight), targets, 5.0, Workspace())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backpropagated already"):
        loss.backward()


@pytest.mark.usefixtures("_chunk")
def test_a_head_of_several_modules_equals_its_merged_matrix():
    hidden, _weight, _, targets = make()
    plain = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
    low, high = torch.nn.Linear(WIDTH, 2, bias=False), torch.nn.Linear(2, VOCABULARY, bias=False)

    class Adapted(torch.nn.Module):
        def forward(self, x):
            return plain(x) + high(low(x))

    merged = plain.weight + high.weight @ low.weight
    whole = torch.autograd.grad(expected(hidden, merged, None, targets, 5.0), (hidden, low.weight, high.weight))
    loss = module_cross_entropy(hidden, Adapted(), None, targets, 5.0)
    for found, other in zip(torch.autograd.grad(loss, (hidden, low.weight, high.weight)), whole, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_chunk")
def test_evaluation_gives_losses_and_hits_per_position():
    hidden, weight, offset, targets = make(bias=True)
    logits = F.linear(hidden, weight, offset)
    targets[:5] = logits[:5].argmax(1)
    workspace = Workspace()
    head = Head(weight, offset)
    with torch.no_grad():
        losses, correct = token_losses(hidden, lambda h: plain_logits(h, head, workspace), None, targets)
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"), rtol=1e-5, atol=1e-6)
    assert torch.equal(correct, logits.argmax(1) == targets)


@pytest.mark.parametrize(
    ("length", "sizes"), [(0, []), (1, [1]), (10, [10]), (11, [6, 5]), (30, [10, 10, 10]), (31, [8, 8, 8, 7])]
)
def test_chunks_are_as_equal_as_they_can_be(length, sizes):
    chunks = list(cross_entropy._chunks(length, 10))
    assert [len(range(length)[chunk]) for chunk in chunks] == sizes
    assert [place for chunk in chunks for place in range(length)[chunk]] == list(range(length))


def test_the_logits_buffer_is_one_and_small(monkeypatch):
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK", 4)
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_BYTES", 0)
    hidden, weight, _, targets = make()
    workspace = Workspace()
    seen = set()
    original = cross_entropy._logits

    def spy(*args):
        logits = original(*args)
        seen.add(logits.data_ptr())
        return logits

    monkeypatch.setattr(cross_entropy, "_logits", spy)
    for _ in range(2):
        linear_cross_entropy(hidden, Head(weight), targets, 5.0, workspace).backward()
    assert len(seen) == 1
    assert workspace._buffer.numel() == 4 * VOCABULARY


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ignored_positions_add_nothing(dtype, softcap):
    hidden, weight, offset, targets = make(dtype, bias=True)
    kept = torch.ones(ROWS, dtype=torch.bool)
    kept[[0, 7, 8, ROWS - 1]] = False
    leaves = (hidden, weight, offset)
    filled = torch.where(kept, targets, cross_entropy.IGNORED)
    loss = linear_cross_entropy(hidden, Head(weight, offset, softcap), filled, 5.0, Workspace())
    without = linear_cross_entropy(hidden[kept], Head(weight, offset, softcap), targets[kept], 5.0, Workspace())
    torch.testing.assert_close(loss, without, rtol=1e-6, atol=0)
    found = torch.autograd.grad(loss, leaves)
    assert torch.count_nonzero(found[0][~kept]) == 0
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    for gradient, other in zip(found, torch.autograd.grad(without, leaves), strict=True):
        torch.testing.assert_close(gradient, other, rtol=tolerance, atol=tolerance)


def test_ignored_positions_are_scored_as_nothing():
    hidden, weight, _, targets = make()
    targets[[2, 5]] = cross_entropy.IGNORED
    with torch.no_grad():
        losses, correct = token_losses(hidden, lambda h: plain_logits(h, Head(weight), Workspace()), None, targets)
    whole = F.cross_entropy(F.linear(hidden, weight), targets, reduction="none")
    torch.testing.assert_close(losses, whole.detach(), rtol=1e-5, atol=1e-6)
    assert losses[[2, 5]].tolist() == [0.0, 0.0]
    assert not correct[[2, 5]].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_denominator_may_be_a_tensor(dtype, kind):
    found = []
    for denominator in (5.0, torch.tensor(5.0, dtype=kind)):
        hidden, weight, offset, targets = make(dtype, bias=True)
        loss = linear_cross_entropy(hidden, Head(weight, offset), targets, denominator, Workspace())
        found.append((loss.detach(), *torch.autograd.grad(loss, (hidden, weight, offset))))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("bias", [False, True])
def test_an_infinite_denominator_leaves_no_gradient(bias: bool) -> None:
    """A process without a document of its own takes part in the exchange with a pass that counts for nothing."""
    hidden = torch.randn(5, 8, requires_grad=True)
    head = torch.nn.Linear(8, 11, bias=bias)
    targets = torch.tensor([1, 2, -100, 4, 5])
    loss = linear_cross_entropy(hidden, Head(head.weight, head.bias), targets, float("inf"), Workspace())
    loss.backward()
    assert float(loss.detach()) == 0.0
    for tensor in (hidden, *head.parameters()):
        assert tensor.grad is not None
        assert torch.count_nonzero(tensor.grad) == 0
        assert bool(torch.isfinite(tensor.grad).all())
