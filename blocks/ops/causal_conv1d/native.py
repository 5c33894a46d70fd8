"""The convolution in C++, for CPUs: native/causal_conv1d.cpp, with the activation and both passes."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.ops import native
from blocks.ops.causal_conv1d.conv import OP, Activation
from blocks.ops.dispatch import implements, wants_gradient
from blocks.ops.native.call import addresses, borders_at, row_stride, rows, unfit
from blocks.ops.selective_scan.steps import fast_dtype
from blocks.ops.sequences import lengths_of

MOST_TAPS = 64
POINTERS = (
    *("x", "weight", "bias", "state", "borders", "y", "grad_y"),
    *("grad_inner", "grad_x", "grad_weight", "grad_bias", "grad_state"),
)
NUMBERS = ("segments", "channels", "width", "x_row", "grad_y_row", "act", "threads")


class Call(ctypes.Structure):
    """`struct Conv` of the C++ file."""

    _fields_ = [(name, ctypes.c_void_p) for name in POINTERS] + [(name, ctypes.c_int64) for name in NUMBERS]


def refusal(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None) -> str:
    """Why this cannot run here, "" when it can; the library is looked for, and built, last."""
    if why_not := unfit(fast_dtype(x, weight, bias), x, weight, bias, state):
        return why_not
    if weight.shape[1] > MOST_TAPS:
        return f"the kernel has more than {MOST_TAPS} taps"
    return native.missing("causal_conv1d")


@implements(OP, "native", unless=refusal)
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    act: Activation | None,
    borders: Tensor | None,
) -> Tensor:
    """What eager computes; a float32 sum also where x is narrower. The result has channels side by side in memory."""
    lengths = lengths_of(x.transpose(1, 2), borders)
    if wants_gradient(x, weight, bias, state):
        y: Tensor = _Conv.apply(x, weight, bias, state, act, lengths)
        return y
    return _convolved(x, weight, bias, state, act, lengths)


def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, act: Activation | None, lengths: list[int]
) -> Tensor:
    y = x.new_empty(x.shape[0], x.shape[2], x.shape[1], dtype=torch.float32)
    _run("causal_conv1d", _inputs(x, weight, bias, state) | {"y": y}, lengths, act)
    return y.to(x.dtype).transpose(1, 2)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Any, state: Any, act: Any, lengths: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight, bias, state)
        ctx.act, ctx.lengths = act, lengths
        return _convolved(x, weight, bias, state, act, lengths)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, state = ctx.saved_tensors
        parts, inputs = torch.get_num_threads(), _inputs(x, weight, bias, state)
        grad_x = x.new_empty(x.shape[0], x.shape[2], x.shape[1], dtype=torch.float32)
        grad_weight = grad_x.new_zeros(parts, *reversed(weight.shape))
        grad_bias = None if bias is None else grad_x.new_zeros(parts, len(bias))
        first_state = inputs["state"]
        grad_state = None if first_state is None else torch.empty_like(first_state)
        grads = {"grad_x": grad_x, "grad_weight": grad_weight, "grad_bias": grad_bias, "grad_state": grad_state}
        along = {"grad_y": rows(grad.transpose(1, 2).float()), "grad_inner": torch.empty_like(grad_x)}
        _run("causal_conv1d_backward", inputs | along | grads, ctx.lengths, ctx.act)
        return (
            grad_x.transpose(1, 2).to(x.dtype),
            grad_weight.sum(0).t().to(weight.dtype),
            None if grad_bias is None else grad_bias.sum(0).to(bias.dtype),
            None if grad_state is None else grad_state.transpose(1, 2).to(state.dtype),
            None,
            None,
        )


def _inputs(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None) -> dict[str, Tensor | None]:
    return {
        "x": rows(x.transpose(1, 2).float()),
        "weight": weight.float().t().contiguous(),
        "bias": None if bias is None else bias.float().contiguous(),
        "state": None if state is None else state.float().transpose(1, 2).contiguous(),
    }


def _run(function: str, tensors: dict[str, Tensor | None], lengths: list[int], act: Activation | None) -> None:
    weight = tensors["weight"]
    assert weight is not None
    borders = borders_at(lengths)
    call = Call(
        **addresses(tensors | {"borders": borders}),
        x_row=row_stride(tensors["x"]),
        grad_y_row=row_stride(tensors.get("grad_y")),
        segments=len(lengths),
        channels=weight.shape[1],
        width=weight.shape[0],
        act=act is not None,
        threads=torch.get_num_threads(),
    )
    getattr(native.library("causal_conv1d"), function)(ctypes.byref(call))
