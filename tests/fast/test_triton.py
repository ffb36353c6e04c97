"""The Triton kernel against torch, in Triton's interpreter where there is no GPU."""

import importlib.util
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F


@pytest.mark.filterwarnings("ignore:Conversion of an array")  # the interpreter
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_in_place_equals_torch(softcap, dtype, monkeypatch):
    if not torch.cuda.is_available():
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("without a GPU it needs TRITON_INTERPRET=1")
        if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
            pytest.skip("Triton's interpreter needs numpy before 2.4")
        monkeypatch.setattr("tunesmith.fast.cross_entropy.TRITON_BLOCK", 64)
    from tunesmith.fast.cross_entropy import gradient_in_place_triton

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    logits = (torch.randn(5, 150, device=device) * 4).to(dtype)
    targets = torch.randint(0, 150, (5,), device=device)
    targets[3] = -100
    leaf = logits.float().requires_grad_()
    scores = leaf if softcap is None else torch.tanh(leaf / softcap) * softcap
    expected = F.cross_entropy(scores, targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum() * 0.1, leaf)
    padded = torch.nn.functional.pad(logits, (0, 42), value=7.0)
    losses = gradient_in_place_triton(padded, targets, torch.tensor(0.1, device=device), 150, softcap)
    assert torch.count_nonzero(padded[:, 150:]) == 0
    logits = padded[:, :150]
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-5)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(logits.float(), gradient, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=tolerance)
