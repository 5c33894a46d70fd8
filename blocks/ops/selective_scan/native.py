"""The scan in C++, for CPUs: native/selective_scan.cpp. One pass over the inputs, the state in vector registers."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from blocks.ops import native
from blocks.ops.dispatch import implements
from blocks.ops.native.call import addresses, borders_at, row_stride, rows, unfit, whole_numbers
from blocks.ops.selective_scan.steps import BACKWARD, OP, Gradients, Scan, fast_dtype, first_blocks, kept_blocks
from blocks.ops.sequences import lengths_of

POINTERS = (
    *("u", "delta", "z", "A", "B", "C", "D", "bias", "borders", "blocks", "y", "state", "starts", "grad_y"),
    *(f"grad_{name}" for name in ("u", "delta", "z", "A", "B", "C", "D", "bias", "state")),
)
NUMBERS = (
    *("segments", "groups", "state_dim", "channels", "parts", "rows"),
    *("u_row", "delta_row", "z_row", "B_row", "B_group", "C_row", "C_group", "grad_y_row", "softplus", "threads"),
)


class Call(ctypes.Structure):
    """`struct Scan` of the C++ file."""

    _fields_ = [(name, ctypes.c_void_p) for name in POINTERS] + [(name, ctypes.c_int64) for name in NUMBERS]


def refusal(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *others: Tensor | None) -> str:
    """Why this cannot run here, "" when it can; the library is looked for, and built, last."""
    tensors = (u, delta, A, B, C, *others)
    return unfit(fast_dtype(*tensors), *tensors) or native.missing("selective_scan")


@implements(OP, "native", unless=refusal)
def forward(scan: Scan, keep: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """What `forward` of eager computes."""
    u, A, B, state, borders = scan.u, scan.A, scan.B, scan.state, scan.borders
    groups, lengths = B.shape[2], lengths_of(u, borders)
    inputs = _inputs(scan)
    first = u.new_zeros(len(lengths), *A.shape, dtype=torch.float32) if state is None else state.float()
    last = first.unflatten(1, (groups, -1)).transpose(-1, -2).contiguous()
    if state is not None and last.data_ptr() == state.data_ptr():
        last = last.clone()
    y = last.new_empty(u.shape)
    starts = last.new_empty(kept_blocks(u.shape[0], u.shape[1], borders) if keep else 0, *last.shape[1:])
    outputs = {"y": y, "state": last, "starts": starts if keep else None}
    _run("selective_scan", inputs | outputs, lengths, borders is not None, scan.softplus)
    return y.to(u.dtype), last.transpose(-1, -2).reshape(len(lengths), *A.shape), starts


@implements(BACKWARD, "native", unless=refusal)
def backward(grad_y: Tensor, grad_last: Tensor, scan: Scan, starts: Tensor) -> Gradients:
    """What `backward` of eager computes."""
    u, _, A, B, C, D, z, bias, softplus, _, borders = scan
    groups, lengths = B.shape[2], lengths_of(u, borders)
    inputs = _inputs(scan) | {"grad_y": rows(grad_y.float()), "starts": starts}
    parts, sequences = _parts(len(lengths) * groups, u.shape[2] // groups), len(lengths)
    grad_state = grad_last.float().unflatten(1, (groups, -1)).transpose(-1, -2).contiguous()
    if grad_state.data_ptr() == grad_last.data_ptr():
        grad_state = grad_state.clone()
    empty, zeros = grad_state.new_empty, grad_state.new_zeros  # float32 beside the operands, whatever the defaults are
    grads: dict[str, Tensor | None] = {
        "grad_u": empty(u.shape),
        "grad_delta": empty(u.shape),
        "grad_A": (grad_A := torch.zeros_like(grad_state)),
        "grad_B": empty(parts, *B.shape),
        "grad_C": empty(parts, *C.shape),
        "grad_D": None if D is None else zeros(sequences, len(D)),
        "grad_z": None if z is None else empty(u.shape),
        "grad_bias": None if bias is None else zeros(sequences, len(bias)),
        "grad_state": grad_state,
    }
    _run("selective_scan_backward", inputs | grads, lengths, borders is not None, softplus)
    for name in ("grad_B", "grad_C", "grad_D", "grad_bias"):
        grads[name] = None if (total := grads[name]) is None else total.sum(0)
    grads["grad_A"] = grad_A.sum(0).transpose(-1, -2).reshape(A.shape)
    grads["grad_state"] = grad_state.transpose(-1, -2).reshape(grad_last.shape)
    return Gradients(*grads.values())  # type: ignore[arg-type]


def _inputs(scan: Scan) -> dict[str, Tensor | None]:
    u, delta, A, B, C, D, z, bias, *_ = scan
    groups = B.shape[2]
    rates = A.float().unflatten(0, (groups, -1)).transpose(-1, -2) * (1 / math.log(2))
    return {
        "u": rows(u.float()),
        "delta": rows(delta.float()),
        "z": None if z is None else rows(z.float()),
        "A": rates.contiguous(),
        "B": rows(B.float()),
        "C": rows(C.float()),
        "D": None if D is None else D.float().contiguous(),
        "bias": None if bias is None else bias.float().contiguous(),
    }


def _parts(sequences: int, channels: int) -> int:
    """Parts of a group's channels, so that every thread has one; a part is no narrower than a vector."""
    parts = -(-torch.get_num_threads() // max(1, sequences))
    return max(1, min(parts, channels // 16))


def _run(function: str, tensors: dict[str, Tensor | None], lengths: list[int], packed: bool, softplus: bool) -> None:
    u, A, B, C = (tensors[name] for name in "uABC")
    assert u is not None and A is not None and B is not None and C is not None
    index = {"borders": borders_at(lengths), "blocks": whole_numbers(first_blocks(lengths, packed))}
    groups, state_dim, channels = A.shape
    strides = {f"{name}_row": row_stride(tensors.get(name)) for name in ("u", "delta", "z", "B", "C", "grad_y")}
    call = Call(
        **addresses(tensors | index),
        **strides,
        segments=len(lengths),
        groups=groups,
        state_dim=state_dim,
        channels=channels,
        parts=_parts(len(lengths) * groups, channels),
        rows=u.shape[0] * u.shape[1],
        B_group=B.stride(2),
        C_group=C.stride(2),
        softplus=softplus,
        threads=torch.get_num_threads(),
    )
    getattr(native.library("selective_scan"), function)(ctypes.byref(call))
