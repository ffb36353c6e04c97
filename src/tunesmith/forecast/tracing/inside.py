"""What an operator takes for itself on a GPU and gives back before it returns: no trace of tensors sees it."""

from __future__ import annotations

from typing import Any

ROWS_APART = 128
"""Rows that flash attention's backward pass leaves between two documents, so that blocks need no bounds."""


def taken_inside(name: str, args: Any) -> list[int]:
    """Bytes of each buffer inside one call of the operator `name`."""
    return _varlen_backward(args[1], args[2], args[6]) if name == "_varlen_attn_backward" else []


def _varlen_backward(query: Any, key: Any, cu_seqlens: Any) -> list[int]:
    """Row sums and the gradient of the queries in float32, and with grouped heads those of keys and values per query
    head (mha_varlen_bwd of torch's aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp)."""
    num_rows, num_heads, width = query.shape
    spread = num_rows + ROWS_APART * (cu_seqlens.shape[0] - 1)
    multiple = 32 if width <= 128 else 64
    rounded = -(-width // multiple) * multiple
    buffers = [4 * num_heads * spread, 4 * num_heads * spread * rounded]
    if key.shape[1] != num_heads:
        buffers += [key.shape[0] * num_heads * width * key.element_size()] * 2
    return [int(buffer) for buffer in buffers]
