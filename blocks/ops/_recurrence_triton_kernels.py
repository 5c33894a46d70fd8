"""The Triton kernels of `linear_recurrence` and `delta_rule`: one program per sample, head and tile of values.

Imported only where Triton is installed, hence the underscore: the index leaves it out.

A program carries its tile of the state, (P, W) numbers with P the keys filled up to a power of 2, in registers and goes
through time step by step, in float32. Arguments ending in _b, _t and _h are strides of sample, step and head.
"""

from __future__ import annotations

import triton
import triton.language as tl

NONE, PER_HEAD, PER_KEY, PER_VALUE = (tl.constexpr(kind) for kind in range(4))


@triton.jit
def decay_of(a, key, value, some_keys, some_values, KIND: tl.constexpr):
    """The factors of one step, as they multiply (P, W) numbers."""
    if KIND == PER_HEAD:
        return tl.exp(tl.load(a).to(tl.float32))
    elif KIND == PER_KEY:
        return tl.exp(tl.load(a + key, some_keys, 0.0).to(tl.float32))[:, None]
    else:
        return tl.exp(tl.load(a + value, some_values, 0.0).to(tl.float32))[None, :]


@triton.jit
def recurrence_kernel(
    q, k, v, a, first, o, last,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, a_b, a_t, a_h,
    length, heads, q_heads, k_heads, v_heads, keys, values,
    KIND: tl.constexpr, REVERSE: tl.constexpr,
    BEFORE_READ: tl.constexpr, BEHIND_WRITE: tl.constexpr, SEES_ITSELF: tl.constexpr,
    P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    b, h = row // heads, row % heads
    key, value = tl.arange(0, P), tl.program_id(1) * W + tl.arange(0, W)
    some_keys, some_values = key < keys, value < values
    inside = some_keys[:, None] & some_values[None, :]
    tile = row * keys * values + key[:, None] * values + value[None, :]
    q += b * q_b + h * q_heads // heads * q_h
    k += b * k_b + h * k_heads // heads * k_h
    v += b * v_b + h * v_heads // heads * v_h
    a += b * a_b + h * a_h
    o += (b * length * heads + h) * values
    o_t = heads * values
    if REVERSE:
        end = row * 0 + length - 1  # in 64 bits
        q, k, v, a, o = q + end * q_t, k + end * k_t, v + end * v_t, a + end * a_t, o + end * o_t
        q_t, k_t, v_t, a_t, o_t = -q_t, -k_t, -v_t, -a_t, -o_t
    s = tl.load(first + tile, inside, 0.0).to(tl.float32)
    for _ in range(length):
        read_by = tl.load(q + key, some_keys, 0.0).to(tl.float32)[:, None]
        written = tl.load(k + key, some_keys, 0.0).to(tl.float32)[:, None]
        written = written * tl.load(v + value, some_values, 0.0).to(tl.float32)[None, :]
        if KIND != NONE:
            factor = decay_of(a, key, value, some_keys, some_values, KIND)
        if KIND != NONE and BEFORE_READ and not BEHIND_WRITE:
            s = s * factor
        if not SEES_ITSELF:
            read = tl.sum(read_by * s, 0)
        if KIND != NONE and not BEFORE_READ and not BEHIND_WRITE:
            s = s * factor
        s += written
        if SEES_ITSELF:
            read = tl.sum(read_by * s, 0)
        if KIND != NONE and BEHIND_WRITE:
            s = s * factor
        tl.store(o + value, read, some_values)
        q, k, v, a, o = q + q_t, k + k_t, v + v_t, a + a_t, o + o_t
    tl.store(last + tile, s, inside)


@triton.jit
def delta_kernel(
    q, r, k, v, gain, beta, a, first, o, w, last,
    q_b, q_t, q_h, r_b, r_t, r_h, k_b, k_t, k_h, v_b, v_t, v_h,
    gain_b, gain_t, gain_h, beta_b, beta_t, beta_h, a_b, a_t, a_h,
    length, heads, q_heads, r_heads, k_heads, keys, values,
    KIND: tl.constexpr, READ_FIRST: tl.constexpr, KEEP: tl.constexpr,
    P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    b, h = row // heads, row % heads
    key, value = tl.arange(0, P), tl.program_id(1) * W + tl.arange(0, W)
    some_keys, some_values = key < keys, value < values
    inside = some_keys[:, None] & some_values[None, :]
    tile = row * keys * values + key[:, None] * values + value[None, :]
    q += b * q_b + h * q_heads // heads * q_h
    r += b * r_b + h * r_heads // heads * r_h
    k += b * k_b + h * k_heads // heads * k_h
    v += b * v_b + h * v_h
    gain += b * gain_b + h * gain_h
    beta += b * beta_b + h * beta_h
    a += b * a_b + h * a_h
    at = (b * length * heads + h) * values + value
    s = tl.load(first + tile, inside, 0.0).to(tl.float32)
    for _ in range(length):
        shown_to = tl.load(q + key, some_keys, 0.0).to(tl.float32)[:, None]
        read_by = tl.load(r + key, some_keys, 0.0).to(tl.float32)[:, None]
        if not READ_FIRST:
            read = tl.sum(read_by * s, 0)
        if KIND != NONE:
            s = s * decay_of(a, key, value, some_keys, some_values, KIND)
        if READ_FIRST:
            read = tl.sum(read_by * s, 0)
        answer = tl.load(v + value, some_values, 0.0).to(tl.float32) * tl.load(gain).to(tl.float32)
        answer += tl.load(beta).to(tl.float32) * read
        s += tl.load(k + key, some_keys, 0.0).to(tl.float32)[:, None] * answer[None, :]
        tl.store(o + at, tl.sum(shown_to * s, 0), some_values)
        if KEEP:
            tl.store(w + at, answer, some_values)
        q, r, k, v, a = q + q_t, r + r_t, k + k_t, v + v_t, a + a_t
        gain, beta, at = gain + gain_t, beta + beta_t, at + heads * values
    tl.store(last + tile, s, inside)
