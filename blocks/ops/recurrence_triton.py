"""`linear_recurrence` and `delta_rule` in Triton, for CUDA; with TRITON_INTERPRET=1 on a CPU, slowly, for tests.

Their gradients are calls of themselves, so these two kernels are all that training needs.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from blocks.ops.chunks import READ_FIRST, order_of
from blocks.ops.recurrence_native import NO_DECAY, PER_HEAD, PER_KEY, PER_VALUE

TILE, MOST_KEYS = 4096, 1024
"""Numbers in a program's tile of the state, 32 per thread of 4 warps; keys that still leave a tile of 4 values."""


def refusal(*tensors: Tensor | None) -> str:
    """Why the kernels cannot take the tensors q, k or q, r, k, and so on; "" when they can."""
    for tensor in tensors:
        if tensor is not None and not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            return f"the tensors are on {tensor.device}"
        if tensor is not None and tensor.dtype == torch.float64:
            return "it computes in float32, not float64"
    if tensors[0] is not None and tensors[0].shape[-1] > MOST_KEYS:
        return f"its keys are at most {MOST_KEYS} wide, not {tensors[0].shape[-1]}"
    return "" if importlib.util.find_spec("triton") else "triton is not installed"


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
    from blocks.ops._recurrence_triton_kernels import recurrence_kernel

    flags = {name.upper(): flag for name, flag in order_of(order)._asdict().items()}
    o, last = v.new_empty(v.shape), _first(k, v, state)
    _launch(
        recurrence_kernel,
        {"q": q, "k": k, "v": v, "a": log_decay},
        {"first": last, "o": o, "last": last},
        {"q_heads": q.shape[2], "k_heads": k.shape[2], "v_heads": v.shape[2]},
        {"KIND": _kind(log_decay, on_values), "REVERSE": reverse} | flags,
    )
    return o, last


def delta_rule(
    q: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    gain: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    order: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What blocks.ops.delta_rule.reference computes, in float32; w is empty unless it is to be kept."""
    from blocks.ops._recurrence_triton_kernels import delta_kernel

    o, w, last = v.new_empty(v.shape), v.new_empty(v.shape if keep else 0), _first(k, v, state)
    _launch(
        delta_kernel,
        {"q": q, "r": r, "k": k, "v": v, "gain": gain, "beta": beta, "a": log_decay},
        {"first": last, "o": o, "w": w, "last": last},
        {"q_heads": q.shape[2], "r_heads": r.shape[2], "k_heads": k.shape[2]},
        {"KIND": _kind(log_decay, False), "READ_FIRST": order == READ_FIRST, "KEEP": keep},
    )
    return o, w, last


def _kind(log_decay: Tensor | None, on_values: bool) -> int:
    if log_decay is None:
        return NO_DECAY
    return PER_HEAD if log_decay.ndim == 3 else PER_VALUE if on_values else PER_KEY


def _first(k: Tensor, v: Tensor, state: Tensor | None) -> Tensor:
    """The first state, in memory of its own, which the last one takes over."""
    if state is None:
        return v.new_zeros(v.shape[0], v.shape[2], k.shape[3], v.shape[3])
    return state.clone(memory_format=torch.contiguous_format)


def _launch(
    kernel: Any,
    inputs: dict[str, Tensor | None],
    rest: dict[str, Tensor],
    shared: dict[str, int],
    constants: dict[str, Any],
) -> None:
    """One program per sample, head and tile of values. Inputs may have any strides, if channels are side by side."""
    import triton

    v, last = inputs["v"], rest["last"]
    assert v is not None
    (batch, length, heads, values), keys = v.shape, last.shape[2]
    if not (v.numel() and keys):  # no state, or no step that reads it
        rest["o"].zero_()
        if (w := rest.get("w")) is not None and w.numel():
            torch.mul(v, inputs["gain"].unsqueeze(-1), out=w)  # type: ignore[union-attr]
        return
    rows = {name: None if x is None else x if x.ndim == 3 else _rows(x) for name, x in inputs.items()}
    strides = {
        f"{name}_{axis}": 0 if x is None else x.stride(index)
        for name, x in rows.items()
        for index, axis in enumerate("bth")
    }
    pointers = {name: v if x is None else x for name, x in rows.items()}  # what is not there is not looked at
    padded = triton.next_power_of_2(keys)
    width = min(triton.next_power_of_2(values), max(1, TILE // padded))
    sizes = {"length": length, "heads": heads, "keys": keys, "values": values} | shared
    with torch.cuda.device_of(v):
        kernel[(batch * heads, triton.cdiv(values, width))](
            **pointers, **rest, **strides, **sizes, **constants, P=padded, W=width
        )


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
