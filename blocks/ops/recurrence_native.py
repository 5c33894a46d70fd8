"""The C++ kernels of `linear_recurrence` and `delta_rule` (blocks/ops/native/recurrence.cpp), called through ctypes."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from blocks.ops import native
from blocks.ops.chunks import order_of
from blocks.ops.native.call import unfit
from blocks.ops.selective_scan.steps import fast_dtype

LIBRARY = "recurrence"
MOST_KEYS = 512
NO_DECAY, PER_HEAD, PER_KEY, PER_VALUE = range(4)


class Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("B", "L", "H", "K", "V", "kind", "reverse", "before_read", "behind_write", "sees_itself")
    ]


class Strided(ctypes.Structure):
    """(B, L, heads, width) or (B, L, heads), neighbouring channels side by side; no data for what is not there."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "step", "head", "heads")),
    ]

    def __init__(self, x: Tensor | None):
        if x is not None:
            super().__init__(x.data_ptr(), *x.stride()[:3], x.shape[2])
        else:
            super().__init__()


def refusal(*tensors: Tensor | None) -> str:
    """Why the kernels cannot take the tensors q, k or q, r, k, and so on; "" when they can."""
    if why_not := unfit(fast_dtype(*tensors), *tensors):
        return why_not
    first = tensors[0]
    if first is not None and first.shape[-1] > MOST_KEYS:
        return f"its keys are at most {MOST_KEYS} wide, not {first.shape[-1]}"
    return native.missing(LIBRARY)


def linear_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    reverse: bool,
    on_values: bool,
) -> tuple[Tensor, Tensor]:
    """What blocks.ops.linear_recurrence.reference computes, in float32."""
    decay, kind = _decay(log_decay, on_values)
    shape, dtype = _shape(k, v, kind, order, reverse), v.dtype
    q, k, v, state = _rows(q), _rows(k), _rows(v), _whole(state)
    o, last = v.new_empty(v.shape), v.new_empty(shape.B, shape.H, shape.K, shape.V)
    library().linear_recurrence(
        ctypes.byref(shape),
        *(ctypes.byref(Strided(x)) for x in (q, k, v, decay)),
        *(_pointer(x) for x in (state, o, last)),
        torch.get_num_threads(),
    )
    return o.to(dtype), last.to(dtype)


def delta_rule(
    q: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor | None,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What blocks.ops.delta_rule.reference computes, in float32; w is empty unless it is to be kept."""
    decay, kind = _decay(log_decay, False)
    shape, dtype = _shape(k, v, kind, order, False), v.dtype
    q, r, k, v, state = _rows(q), _rows(r), _rows(k), _rows(v), _whole(state)
    gain, beta = None if gain is None else gain.float(), beta.float()
    o, w = v.new_empty(v.shape), v.new_empty(v.shape if keep else 0)
    last = v.new_empty(shape.B, shape.H, shape.K, shape.V)
    library().delta_rule(
        ctypes.byref(shape),
        *(ctypes.byref(Strided(x)) for x in (q, r, k, v, gain, beta, decay)),
        *(_pointer(x) for x in (state, o, w if keep else None, last)),
        torch.get_num_threads(),
    )
    return o.to(dtype), w.to(dtype), last.to(dtype)


def library() -> ctypes.CDLL:
    loaded = native.library(LIBRARY)
    if loaded is None:
        raise RuntimeError(native.missing(LIBRARY))
    return loaded


def _decay(log_decay: Tensor | None, on_values: bool) -> tuple[Tensor | None, int]:
    if log_decay is None:
        return None, NO_DECAY
    decay = torch.exp(log_decay.float())
    return (decay, PER_HEAD) if decay.ndim == 3 else (_rows(decay), PER_VALUE if on_values else PER_KEY)


def _shape(k: Tensor, v: Tensor, kind: int, order: str, reverse: bool) -> Shape:
    batch, length, heads, values = v.shape
    return Shape(batch, length, heads, k.shape[-1], values, kind, reverse, *order_of(order))


def _rows(x: Tensor) -> Tensor:
    """The tensor in float32, which the kernels read. Any strides will do, if neighbouring channels are side by side."""
    x = x.float()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _whole(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.float().contiguous()


def _pointer(x: Tensor | None) -> ctypes.c_void_p | None:
    return None if x is None else ctypes.c_void_p(x.data_ptr())
