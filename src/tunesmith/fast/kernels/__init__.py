"""Triton kernels. Import only where Triton is installed; it comes with CUDA builds of torch.

    loss.py      cross entropy and its gradient in place
    norm.py      residual sum, RMS norm or layer norm, and their gradients
    rotary.py    q, k and v out of one product, the first two turned
    adapter.py   the thin products of low-rank adapters
    embedding.py rows added to the rows of a matrix
    gate.py      SwiGLU and GELU with their gradients
    update.py    AdamW over bfloat16 weights, rounded at random

None uses atomics: a step gives the same bits each time. The operators of torch's that launch them stand in fast/fused/,
each beside the same computation in torch, which is what a CPU runs and what the kernels are tested against.
"""
