"""Queries, keys and values out of the rows [T, (H + 2 G) D] of one product, and their gradients back into such rows.

Dimension i of a head is paired with i + D/2. HEADS, GROUPS and HALF are powers of two, at least H + G, G and D/2.
Each key and value head is written REPEATS times where the attention kernel wants as many of them as of query heads.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def rotate_forward(  # type: ignore[no-untyped-def]
    qkv,
    cos,
    sin,
    q,
    k,
    v,
    num_heads,
    num_groups,
    size,
    REPEATS: tl.constexpr,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    HALF: tl.constexpr,
):
    """One token a program. With one repeat v is not written: it is a view of the product."""
    row = tl.program_id(0).to(tl.int64)
    half = size // 2
    head = tl.arange(0, HEADS)[:, None]
    place = tl.arange(0, HALF)[None, :]
    begin = qkv + row * (num_heads + 2 * num_groups) * size
    turned = (head < num_heads + num_groups) & (place < half)
    of_place = place < half
    c = tl.load(cos + row * size + place, mask=of_place, other=0.0).to(tl.float32)
    s = tl.load(sin + row * size + place, mask=of_place, other=0.0).to(tl.float32)
    low = tl.load(begin + head * size + place, mask=turned, other=0.0).to(tl.float32)
    high = tl.load(begin + head * size + half + place, mask=turned, other=0.0).to(tl.float32)
    new_low = (low * c - high * s).to(q.dtype.element_ty)
    new_high = (high * c + low * s).to(q.dtype.element_ty)
    is_query = turned & (head < num_heads)
    is_key = turned & (head >= num_heads)
    to_q = q + (row * num_heads + head) * size + place
    tl.store(to_q, new_low, mask=is_query)
    tl.store(to_q + half, new_high, mask=is_query)
    for repeat in tl.static_range(REPEATS):
        to_k = k + ((row * num_groups + head - num_heads) * REPEATS + repeat) * size + place
        tl.store(to_k, new_low, mask=is_key)
        tl.store(to_k + half, new_high, mask=is_key)
    if REPEATS > 1:
        group = tl.arange(0, GROUPS)[:, None]
        both = tl.arange(0, 2 * HALF)[None, :]
        kept = (group < num_groups) & (both < size)
        value = tl.load(begin + (num_heads + num_groups + group) * size + both, mask=kept, other=0.0)
        for repeat in tl.static_range(REPEATS):
            tl.store(v + ((row * num_groups + group) * REPEATS + repeat) * size + both, value, mask=kept)


@triton.jit  # type: ignore[untyped-decorator]
def rotate_backward(  # type: ignore[no-untyped-def]
    d_q,
    d_k,
    d_v,
    cos,
    sin,
    d_qkv,
    num_heads,
    num_groups,
    size,
    REPEATS: tl.constexpr,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    HALF: tl.constexpr,
):
    """One token a program; the gradients of repeated heads are summed in float32."""
    row = tl.program_id(0).to(tl.int64)
    half = size // 2
    head = tl.arange(0, HEADS)[:, None]
    place = tl.arange(0, HALF)[None, :]
    begin = d_qkv + row * (num_heads + 2 * num_groups) * size
    turned = (head < num_heads + num_groups) & (place < half)
    of_place = place < half
    c = tl.load(cos + row * size + place, mask=of_place, other=0.0).to(tl.float32)
    s = tl.load(sin + row * size + place, mask=of_place, other=0.0).to(tl.float32)
    is_query = turned & (head < num_heads)
    is_key = turned & (head >= num_heads)
    of_q = d_q + (row * num_heads + head) * size + place
    low = tl.load(of_q, mask=is_query, other=0.0).to(tl.float32)
    high = tl.load(of_q + half, mask=is_query, other=0.0).to(tl.float32)
    for repeat in tl.static_range(REPEATS):
        of_k = d_k + ((row * num_groups + head - num_heads) * REPEATS + repeat) * size + place
        low += tl.load(of_k, mask=is_key, other=0.0).to(tl.float32)
        high += tl.load(of_k + half, mask=is_key, other=0.0).to(tl.float32)
    to = begin + head * size + place
    tl.store(to, (low * c + high * s).to(d_qkv.dtype.element_ty), mask=turned)
    tl.store(to + half, (high * c - low * s).to(d_qkv.dtype.element_ty), mask=turned)
    group = tl.arange(0, GROUPS)[:, None]
    both = tl.arange(0, 2 * HALF)[None, :]
    kept = (group < num_groups) & (both < size)
    value = tl.zeros([GROUPS, 2 * HALF], dtype=tl.float32)
    for repeat in tl.static_range(REPEATS):
        of_v = d_v + ((row * num_groups + group) * REPEATS + repeat) * size + both
        value += tl.load(of_v, mask=kept, other=0.0).to(tl.float32)
    to = begin + (num_heads + num_groups + group) * size + both
    tl.store(to, value.to(d_qkv.dtype.element_ty), mask=kept)
