"""The Triton kernels of fused/ against the same computation in torch, in Triton's interpreter where there is no GPU."""

import importlib.util
import os

import numpy as np
import pytest
import torch

from tunesmith.fast.fused import gates, norm, rotary, rows, thin

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(
        not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
        reason="without a GPU it needs TRITON_INTERPRET=1",
    ),
    pytest.mark.skipif(
        not torch.cuda.is_available() and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
        reason="Triton's interpreter needs numpy before 2.4",
    ),
    pytest.mark.filterwarnings("ignore:Conversion of an array"),  # the interpreter
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16
"""The interpreter cuts bfloat16 off where a GPU rounds."""
ROWS = 5
WIDTHS = [32, 100, *([576, 768, 2048, 2560, 4096] if torch.cuda.is_available() else [])]
HEADS = [(4, 4, 16), (6, 2, 12), (3, 1, 8), (9, 3, 64)]
if torch.cuda.is_available():
    HEADS += [(32, 32, 96), (32, 8, 128), (8, 1, 256), (15, 5, 64)]


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, device=DEVICE).to(dtype)


def assert_near(found, expected):
    """Both come from float32; a number of 16 bits may be rounded to its neighbour."""
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        wide = one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2e-5 if wide else 1e-2, atol=2e-5 if wide else 1e-2)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("stream", [torch.float32, HALF])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("added", ["nothing", "values", "values and bias"])
def test_add_norm(width, stream, centred, added):
    x = random(ROWS, width, dtype=stream)
    more = None if added == "nothing" else random(ROWS, width, dtype=HALF)
    more_bias = random(width) if added == "values and bias" else None
    weight, bias = random(width), random(width) if centred else None
    arguments = (x, more, more_bias, weight, bias, 1e-5, centred, HALF)
    assert_near(norm._forward_kernel(*arguments), norm._forward_reference(*arguments))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("stream", [torch.float32, HALF])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize(("trained", "summed"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("programs", [2, 256])
def test_add_norm_backward(width, stream, centred, outer, trained, summed, programs, monkeypatch):
    monkeypatch.setattr(norm, "_num_programs", lambda total: min(len(total), programs))
    total, weight = random(ROWS, width, dtype=stream), random(width)
    _, _, mean, rate = norm._forward_reference(total, None, None, weight, None, 1e-5, centred, HALF)
    d_out, d_total = random(ROWS, width, dtype=HALF), random(ROWS, width, dtype=stream) if outer else None
    added = HALF if stream == torch.float32 else None
    arguments = (d_out, d_total, total, weight, mean, rate, centred, added, trained, summed)
    d_x, d_added, parts = norm._backward_kernel(*arguments)
    expected = norm._backward_reference(*arguments)
    assert_near((d_x, d_added), expected[:2])
    if trained or summed:
        assert parts.shape == (min(ROWS, programs), norm._num_sums(centred, trained, summed), width)
        assert_near([parts.sum(0)], [expected[2][0]])


@pytest.mark.parametrize(("num_heads", "num_groups", "size"), HEADS)
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_turned_heads(num_heads, num_groups, size, repeated, dtype):
    repeats = num_heads // num_groups if repeated else 1
    qkv = random(ROWS, (num_heads + 2 * num_groups) * size, dtype=dtype)
    angles = random(ROWS, size // 2).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    arguments = (qkv, cos, sin, num_heads, num_groups, repeats)
    made = rotary._forward_kernel(*arguments)
    assert_near(made, rotary._forward_reference(*arguments))
    d_q, d_k = random(*made[0].shape, dtype=dtype), random(*made[1].shape, dtype=dtype)
    d_v = random(*made[1].shape, dtype=dtype)
    arguments = (d_q, d_k, d_v, cos, sin, repeats)
    assert_near([rotary._backward_kernel(*arguments)], [rotary._backward_reference(*arguments)])


@pytest.mark.parametrize("shape", [(3, 16), (5, 1000), (7, 333)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates(shape, dtype):
    number, size = shape
    both, grad = random(number, 2 * size, dtype=dtype), random(number, size, dtype=dtype)
    assert_near([gates._swiglu_kernel(both)], [gates._swiglu_reference(both)])
    assert_near(gates._swiglu_backward_kernel(grad, both), gates._swiglu_backward_reference(grad, both))
    x = random(number, size, dtype=dtype)
    assert_near(gates._gelu_backward_kernel(grad, x), gates._gelu_backward_reference(grad, x))


@pytest.mark.parametrize("searched", [4, 64])
def test_add_rows(searched, monkeypatch):
    monkeypatch.setattr(rows, "_SEARCHED", searched)
    numbers = torch.tensor([3, 0, 3, 3, 6, 1, 0, 3, 5, 3], device=DEVICE)
    total, added = random(7, 20), random(len(numbers), 20)
    expected = total.clone()
    rows._reference(expected, added, numbers)
    rows._kernel(total, added, numbers)
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize(
    ("columns", "width", "rank"),
    [([0, 96, 96, 128, 128, 160], 160, 16), ([0, 40, 56, 70], 70, 3), ([0, 33], 33, 20), ([5, 70], 90, 16)],
)
@pytest.mark.parametrize("extended", [False, True])
def test_thin_products(columns, width, rank, extended):
    number, tokens, inputs = len(columns) // 2, 70, 37
    stacked = sum(end - begin for begin, end in thin._pairs(columns))
    both = random(tokens, width + number * rank, dtype=HALF)
    values, inner = both[:, :width], both[:, width:]
    up, x, grad = (
        random(stacked, rank, dtype=HALF),
        random(tokens, inputs, dtype=HALF),
        random(tokens, width, dtype=HALF),
    )
    add = (values, inner, up, columns, 2.0)
    assert_near(thin._add_kernel(*add), thin._add_reference(*add))
    inwards = (grad, up, columns, 0.5, extended)
    found, expected = thin._inner_kernel(*inwards), thin._inner_reference(*inwards)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=3e-2)
    last = (grad, x, inner.contiguous(), found[:, -number * rank :], columns)
    for one, other in zip(thin._gradients_kernel(*last), thin._gradients_reference(*last), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("number", [7, 1024, 3000])
def test_rounding_adamw(number):
    """To the bit with the kernel's own random bits, but where sums differ in the last place."""
    from tunesmith.fast.fused.update import Rates, launch, update_by_bits

    rates = Rates(0.99, 1e-2, 0.1, 0.9, 0.999, 1e-8)
    made = [random(number, dtype=torch.bfloat16) for _ in range(3)]
    made.append(random(number).square().to(torch.bfloat16))
    found, expected = [tensor.clone() for tensor in made], [tensor.clone() for tensor in made]
    bits = random_bits(number, 11)
    launch(*found, *rates, 11)
    weight, gradient, first, second = expected
    update_by_bits(weight, gradient, first, second, rates, bits & 0xFFFF, (bits >> 16) & 0xFFFF)
    for one, other in zip(found, expected, strict=True):
        assert (one == other).float().mean() > (0.99 if DEVICE == "cuda" or one is not found[2] else 0.3)
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


def random_bits(number, seed):
    """int32: what the kernel draws for each place."""
    import triton
    import triton.language as tl

    out = torch.empty(number, dtype=torch.int32, device=DEVICE)
    places = triton.next_power_of_2(number)

    @triton.jit
    def draw(out, number, seed, PLACES: tl.constexpr):
        place = tl.arange(0, PLACES)
        tl.store(out + place, tl.randint(seed, place).to(tl.int32, bitcast=True), mask=place < number)

    draw[(1,)](out, number, seed, PLACES=places)
    return out
