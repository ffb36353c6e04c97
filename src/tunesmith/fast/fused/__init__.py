"""Whole layers in few launches, on GPUs with Triton and in 16 bits: a small step is as long as its launches.

    stream.py      the residual stream on its way through the layers, and which of them run so
    layers.py      the layers of Llama-like and of GPT-2-like models
    products.py    matrix products of several weights at once, their gradients straight in float32
    adapted.py     the same with low-rank adapters
    thin.py        the thin products of adapters
    norm.py        residual sum and norm
    rotary.py      queries, keys and values of one product
    gates.py       SwiGLU and GELU, computed again in backward
    rows.py        the gradient of an embedding
    update.py      AdamW over bfloat16 weights, a kernel a parameter
    operators.py   how the operators are made known to torch

Each pass is an operator of torch's: a Triton kernel on a GPU, the same computation in torch on a CPU, and only the
shapes of its results where the plan traces it.
"""
