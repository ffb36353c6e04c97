import pytest
import torch
import torch.nn.functional as F

from tunesmith.fast.pointwise import gate, rms_norm, rotate


def plain_norm(x, weight, epsilon):
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def plain_rotation(x, cos, sin):
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


def tables(rows, size):
    angle = torch.randn(rows, 1, size // 2)
    return torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)


def compare(function, other, *leaves, tolerance=1e-5):
    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    found, expected = function(*leaves), other(*leaves)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    upstream = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(found, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("shape", [(1, 7, 16), (7, 3, 16)])
def test_rms_norm(dtype, tolerance, shape):
    torch.manual_seed(0)
    x, weight = torch.randn(shape).to(dtype) * 3, torch.randn(16).to(dtype)
    compare(lambda x, w: rms_norm(x, w, 1e-5), lambda x, w: plain_norm(x, w, 1e-5), x, weight, tolerance=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-2)])
def test_rotation(dtype, tolerance):
    torch.manual_seed(0)
    cos, sin = (table.to(dtype) for table in tables(7, 8))
    compare(
        lambda x: rotate(x, cos, sin).to(dtype),
        lambda x: plain_rotation(x, cos, sin),
        torch.randn(7, 3, 8).to(dtype),
        tolerance=tolerance,
    )


def test_rotation_gives_the_type_of_attention_and_its_gradient_the_type_of_its_input():
    cos, sin = tables(7, 8)
    x = torch.randn(7, 3, 8).bfloat16().requires_grad_()
    turned = rotate(x, cos, sin)
    turned.sum().backward()
    assert (turned.dtype, x.grad.dtype) == (torch.float32, torch.bfloat16)


def test_a_norm_under_autocast_gives_the_type_of_the_products_that_follow():
    x, weight = torch.randn(5, 16), torch.randn(16)
    exact = rms_norm(x, weight, 1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rms_norm(x, weight, 1e-5), exact.bfloat16())
    assert exact.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_gate(dtype, tolerance):
    torch.manual_seed(0)
    gates, up = torch.randn(5, 12).to(dtype), torch.randn(5, 12).to(dtype)
    compare(gate, lambda g, u: F.silu(g) * u, gates, up, tolerance=tolerance)
