"""The scan in Triton, for CUDA; with TRITON_INTERPRET=1 the same kernels run on a CPU, slowly, for tests."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from blocks.ops.dispatch import implements
from blocks.ops.native.call import row_stride, rows
from blocks.ops.selective_scan import eager
from blocks.ops.selective_scan.steps import BACKWARD, OP, STEPS, Gradients, Scan, fast_dtype, kept_blocks
from blocks.ops.sequences import lengths_of

TILE, TILE_BACK = 2048, 1024
"""Numbers in a tile of steps, channels and states: 16 and 8 per thread of a program of 4 warps. Going back needs thrice
the registers for each."""


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def refusal(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *others: Tensor | None) -> str:
    """Why this cannot run here, "" when it can."""
    if not u.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on {u.device}"
    if (dtype := fast_dtype(u, delta, A, B, C, *others)) != torch.float32:
        return f"it computes in float32, not {str(dtype).removeprefix('torch.')}"
    return "" if _installed() else "triton is not installed"


@implements(OP, "triton", unless=refusal)
def forward(scan: Scan, keep: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """What `forward` of eager computes."""
    u, A, B, state, borders = scan.u, scan.A, scan.B, scan.state, scan.borders
    if not (u.numel() and A.numel()):
        return eager.forward(scan, keep)  # type: ignore[no-any-return]
    from blocks.ops.selective_scan._triton_kernels import forward_kernel

    inputs = _inputs(scan)
    at, blocks = _segments(u, borders)
    y, last = torch.empty_like(u, memory_format=torch.contiguous_format), A.new_empty(len(blocks), *A.shape).float()
    groups, (channels, size) = B.shape[2], A.shape
    count = kept_blocks(u.shape[0], u.shape[1], borders) if keep else 0
    starts = last.new_empty(count, groups, size, channels // groups)
    outputs = {"y": y, "last": last, "starts": starts if keep else None}
    states = {"state": None if state is None else state.contiguous(), "borders": at, "blocks": blocks}
    _launch(forward_kernel, inputs | states | outputs, inputs, scan.softplus, TILE)
    return y, last, starts


@implements(BACKWARD, "triton", unless=refusal)
def backward(grad_y: Tensor, grad_last: Tensor, scan: Scan, starts: Tensor) -> Gradients:
    """What `backward` of eager computes; the gradients of B and C are added up in no fixed order."""
    u, delta, A, B, C, D, z, bias, softplus, _, borders = scan
    if not (u.numel() and A.numel()):
        return eager.backward(grad_y, grad_last, scan, starts)  # type: ignore[no-any-return]
    from blocks.ops.selective_scan._triton_kernels import backward_kernel

    inputs = _inputs(scan)
    at, blocks = _segments(u, borders)
    dtype = starts.dtype
    grads: dict[str, Tensor | None] = {
        "grad_u": u.new_empty(u.shape),
        "grad_delta": delta.new_empty(u.shape),
        "grad_A": A.new_empty(len(blocks), *A.shape, dtype=dtype),
        "grad_B": B.new_zeros(B.shape, dtype=dtype),
        "grad_C": C.new_zeros(C.shape, dtype=dtype),
        "grad_D": None if D is None else D.new_empty(len(blocks), *D.shape, dtype=dtype),
        "grad_z": None if z is None else z.new_empty(u.shape),
        "grad_bias": None if bias is None else bias.new_empty(len(blocks), *bias.shape, dtype=dtype),
        "grad_state": A.new_empty(len(blocks), *A.shape, dtype=dtype),
    }
    along = inputs | {"grad_y": rows(grad_y)}
    rest = {"borders": at, "blocks": blocks, "starts": starts, "grad_last": grad_last.contiguous()}
    _launch(backward_kernel, along | rest | grads, along, softplus, TILE_BACK)
    for name in ("grad_A", "grad_D", "grad_bias"):
        grads[name] = None if (total := grads[name]) is None else total.sum(0)
    return Gradients(*grads.values())  # type: ignore[arg-type]


def _inputs(scan: Scan) -> dict[str, Tensor | None]:
    u, delta, A, B, C, D, z, bias, *_ = scan
    along = {"u": u, "delta": delta, "B": B, "C": C, "z": z}
    vectors = {"A": A, "D": D, "bias": bias}
    return {name: None if x is None else rows(x) for name, x in along.items()} | {
        name: None if x is None else x.contiguous() for name, x in vectors.items()
    }


def _segments(u: Tensor, borders: Tensor | None) -> tuple[Tensor, Tensor]:
    """(rows where sequences start and end, places of their first kept states), without a look at the borders' values.

    Borders on a GPU that do not rise are not refused here, since a look would stop it; they are kept within the rows.
    """
    samples, length = u.shape[:2]
    if borders is not None and not borders.is_cuda:
        lengths_of(u, borders)
    if borders is None:
        index = torch.arange(samples + 1, device=u.device)
        return index * length, index[:-1] * -(-length // STEPS)
    at = borders.to(torch.int64).clamp(0, length)
    return at, at[:-1] // STEPS + torch.arange(len(at) - 1, device=u.device)


def _launch(
    kernel: Any, tensors: dict[str, Tensor | None], along: dict[str, Tensor | None], softplus: bool, tile: int
) -> None:
    """One program per sequence, group and tile of channels, with a stride for each tensor that runs along time."""
    import triton

    A, B, C = (along[name] for name in "ABC")
    assert A is not None and B is not None and C is not None
    groups, (channels, size) = B.shape[2], A.shape
    padded = triton.next_power_of_2(size)
    width = max(1, min(tile // (STEPS * padded), triton.next_power_of_2(channels // groups)))
    strides = {f"{name}_row": row_stride(x) for name, x in along.items() if name not in ("A", "D", "bias")}
    blocks = tensors["blocks"]
    assert blocks is not None
    grid = len(blocks), groups, triton.cdiv(channels // groups, width)
    with torch.cuda.device_of(B):
        kernel[grid](
            **tensors,
            **strides,
            B_group=B.stride(2),
            C_group=C.stride(2),
            groups=groups,
            channels=channels // groups,
            size=size,
            SOFTPLUS=softplus,
            T=STEPS,
            W=width,
            P=padded,
        )
