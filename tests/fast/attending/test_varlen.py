"""The CUDA path: its arguments against a stand-in for torch's kernel on a CPU, and the kernel itself on a GPU."""

import pytest
import torch
import torch.nn.attention.varlen

from tunesmith import fast
from tunesmith.fast.attending import attention, varlen
from tunesmith.fast.attending.options import AttentionOptions
from tunesmith.fast.device import CPU, Device


def stand_in(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    """What torch documents for varlen_attn, document by document."""
    assert q.shape[1] == k.shape[1] or enable_gqa
    assert window_size[1] == 0
    outputs = []
    for begin, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        assert end - begin <= max_q
        q_one, k_one, v_one = (x[begin:end].transpose(0, 1) for x in (q, k, v))
        distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        seen = (distance >= 0) & ((window_size[0] < 0) | (distance <= window_size[0]))
        out = torch.nn.functional.scaled_dot_product_attention(
            q_one, k_one, v_one, seen, scale=scale, enable_gqa=enable_gqa
        )
        outputs.append(out.transpose(0, 1))
    return torch.cat(outputs)


def without_gqa(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    return stand_in(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)


@pytest.fixture(params=[stand_in, without_gqa], ids=["torch-2.12", "torch-2.11"])
def kernel(request, monkeypatch):
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", request.param)
    varlen._arguments.cache_clear()
    yield
    varlen._arguments.cache_clear()


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("window", [None, 6, 100])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_varlen_equals_padded(window, kv_heads, documents_of):
    flat = fast.flatten(documents_of())
    torch.manual_seed(0)
    q = torch.randn(flat.num_tokens, 4, 8)
    k, v = torch.randn(2, flat.num_tokens, kv_heads, 8)
    options = AttentionOptions(scale=0.3, window=window)
    found = varlen.attend_varlen(q, k, v, flat, options, CPU)
    torch.testing.assert_close(found, attention.attend(q, k, v, flat, options, CPU), rtol=1e-5, atol=1e-6)


def operator(q, k, v, cu_q, cu_k, max_q, max_k, is_causal, scale, window, enable_gqa=False):
    assert is_causal == (window == [-1, 0])
    out = stand_in(q, k, v, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window, enable_gqa=enable_gqa)
    return out, torch.zeros(q.shape[1], len(q)), torch.zeros(2)


def backward_operator(grad, q, k, v, out, sums, cu_q, cu_k, max_q, max_k, is_causal, random, scale, window):
    assert (out.shape, sums.shape, random.shape) == (q.shape, (q.shape[1], len(q)), (2,))
    with torch.enable_grad():
        leaves = q, k, v = [x.detach().requires_grad_() for x in (q, k, v)]
        again = operator(q, k, v, cu_q, cu_k, max_q, max_k, is_causal, scale, window, enable_gqa=True)[0]
    return torch.autograd.grad(again, leaves, grad)


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_operators_behind_it_get_what_they_name(window, kv_heads, documents_of, monkeypatch):
    monkeypatch.setattr(varlen, "_operators", lambda: (operator, backward_operator))
    flat = fast.flatten(documents_of())
    torch.manual_seed(0)
    leaves = q, k, v = [torch.randn(flat.num_tokens, heads, 8).requires_grad_() for heads in (4, kv_heads, kv_heads)]
    options, found = AttentionOptions(scale=0.3, window=window), []
    for out in (
        varlen.attend_varlen(q, k, v, flat, options, Device("cpu", fused=True)),
        attention.attend(q, k, v, flat, options, CPU),
    ):
        found.append((out.detach(), *torch.autograd.grad(out.square().sum(), leaves)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_varlen_is_for_cuda_alone():
    q = torch.randn(4, 4, 8, dtype=torch.bfloat16)
    assert not varlen.varlen_fits(q.dtype, 8, AttentionOptions(1.0), CPU)


def test_installed_torch_has_the_arguments():
    assert {"scale", "window_size"} <= varlen._arguments()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt-neo", "gpt2"])
def test_cuda_equals_cpu(name, build, documents_of, take_gradients):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model, batch = build(name), fast.flatten(documents_of())
    applied = fast.apply(model)
    loss = model(flat=batch, denominator=9).loss
    loss.backward()
    expected = take_gradients(model)
    applied.restore()
    fast.apply(model.to("cuda"))
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.bfloat16, 5e-2)):
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            found = model(flat=batch.to("cuda"), denominator=9).loss
        found.backward()
        assert found.item() == pytest.approx(loss.item(), rel=tolerance)
        for parameter, gradient in take_gradients(model).items():
            largest = expected[parameter].abs().max().item()
            assert (gradient.cpu() - expected[parameter]).abs().max() <= 2 * tolerance * largest + 1e-5
