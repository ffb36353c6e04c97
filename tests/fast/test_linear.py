"""float32 products by oneDNN: the same values and gradients, in training only."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tunesmith import fast
from tunesmith.fast import device, linear
from tunesmith.fast.cross_entropy import CPU_CHUNK
from tunesmith.fast.device import Device

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def calls(monkeypatch):
    """oneDNN is taken to be faster here, for products of any size. Holds the shapes of its results."""
    shapes = []
    product = linear.product

    def counted(*operands):
        out = product(*operands)
        shapes.append(tuple(out.shape))
        return out

    monkeypatch.setattr(device, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(linear, "MIN_ROWS", 1)
    monkeypatch.setattr(linear, "product", counted)
    monkeypatch.setattr(fast.cross_entropy, "product", counted)
    monkeypatch.setattr(fast.cross_entropy, "CPU_CHUNK_BYTES", 0)
    return shapes


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch has no MKL")
@pytest.mark.parametrize(
    ("capability", "maker", "faster"),
    [("AVX512", "AuthenticAMD", True), ("AVX2", "AuthenticAMD", False), ("AVX512", "GenuineIntel", False)],
)
def test_the_kind_of_processor_decides(capability, maker, faster, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(device.Path, "read_text", lambda *_, **__: f"vendor_id: {maker}")
    assert device.onednn_is_faster.__wrapped__() is faster


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 70, 24), (9, 24)])
def test_a_layer_and_its_gradients(with_bias, shape, calls):
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=with_bias)
    x, upstream = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 40)
    parameters = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer(x), parameters, upstream)
    y = linear.linear_forward(layer, Device(onednn=True), layer.forward, x)
    torch.testing.assert_close(y, F.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(torch.autograd.grad(y, parameters, upstream), expected)
    assert len(calls) == 2, "forward, and the gradient of the input"


def test_frozen_weights_get_no_gradient(calls):
    layer = nn.Linear(24, 40).requires_grad_(False)
    x = torch.randn(70, 24, requires_grad=True)
    linear.linear_forward(layer, Device(onednn=True), layer.forward, x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(70, 24))


def test_a_whole_model_computes_the_same(build, documents_of, take_gradients, assert_close_gradients, calls):
    documents = documents_of(lengths=(CPU_CHUNK - 20, 30, 25))
    model = build("llama", max_position_embeddings=2 * CPU_CHUNK)
    losses, gradients = [], []
    for faster in (True, False):
        applied = fast.apply(model, device=Device(onednn=faster))
        loss = model(flat=fast.flatten(documents), denominator=100.0).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append(take_gradients(model))
        applied.restore()
    assert calls
    torch.testing.assert_close(*losses)
    assert_close_gradients(*gradients)


def test_other_calls_and_other_types_keep_their_arithmetic(build, calls):
    model = build("llama")
    fast.apply(model)
    with torch.no_grad():
        model(torch.zeros(2, 40, dtype=torch.int64))
    batch = fast.flatten([([1, 2, 3, 4], None)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(flat=batch, denominator=1.0)
    assert not calls
    model(flat=batch, denominator=1.0)
    assert calls
