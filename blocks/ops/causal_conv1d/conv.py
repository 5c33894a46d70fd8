"""The convolution as it is called, its reference, and the form in plain torch.

`eager` is torch's own depthwise convolution, which counters see and torch.compile fuses. On CPUs `native` is ten times
as fast: torch's kernel wants steps side by side in memory, while linear layers and the scan have channels there.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.autocast import as_autocast
from blocks.ops.dispatch import implementation, implements
from blocks.ops.selective_scan.steps import common_dtype
from blocks.ops.sequences import checked_borders, lengths_of

OP = "causal_conv1d"

Activation = Literal["silu"]


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    act: Activation | None = None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """y_t = act(bias + sum_i weight_i x_{t-k+1+i}) per channel, with `initial_state`, or zeros, before the first input.

    x (B, D, L), weight (D, 1, k) or (D, k), bias (D,), initial_state (S, D, k-1) -> (B, D, L), S = B. `cu_seqlens` (S+1,)
    packs S sequences into one sample, as in `selective_scan`. `conv_state` gives the state that continues a sequence.
    The result has the dtype of x, which under autocast is that of autocast; of several dtypes the widest is computed in.
    Any of B, D and L may be 0. Raises ValueError when shapes or borders do not fit.
    """
    weight = weight.reshape(weight.shape[0], weight.shape[-1])
    borders = checked_borders(cu_seqlens, x, x.shape[0], x.shape[2], "x")
    sequences = x.shape[0] if borders is None else len(borders) - 1
    expected = {
        "weight": (weight, (x.shape[1], weight.shape[1])),
        "bias": (bias, (x.shape[1],)),
        "initial_state": (initial_state, (sequences, x.shape[1], weight.shape[1] - 1)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"`{name}` has shape {tuple(tensor.shape)}; for x of shape {tuple(x.shape)} it should be {shape}"
            )
    if not weight.shape[1]:
        raise ValueError(
            f"`weight` has shape {tuple(weight.shape)}, a kernel without taps; it should have one at least"
        )
    x, weight, bias = as_autocast(x, weight, bias)  # type: ignore[assignment]
    run = implementation(OP, x, weight, bias, initial_state)
    y: Tensor = run(x, weight, bias, initial_state, act, borders)
    return y


def conv_state(x: Tensor, kernel_size: int, state: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
    """(S, D, k-1): the last inputs, which continue the convolution; zeros or `state` fill up a short sequence."""
    borders = checked_borders(cu_seqlens, x, x.shape[0], x.shape[2], "x")
    if borders is not None:
        lengths = lengths_of(x.transpose(1, 2), borders)
        if not lengths:
            return x.new_empty(0, x.shape[1], kernel_size - 1)
        parts = x.split(lengths, -1)
        states = [None] * len(parts) if state is None else state.split(1)
        return torch.cat([conv_state(part, kernel_size, h) for part, h in zip(parts, states, strict=True)])
    before = x.new_zeros(*x.shape[:2], kernel_size - 1) if state is None else state.to(x)
    joined = torch.cat([before, x[..., -(kernel_size - 1) :] if kernel_size > 1 else x[..., :0]], -1)
    return joined[..., joined.shape[-1] - (kernel_size - 1) :].clone()


@implements(OP, "reference")
def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    act: Activation | None,
    borders: Tensor | None,
) -> Tensor:
    """Tap by tap, in the dtype of its arguments."""
    if borders is not None:
        return _one_by_one(reference, x, weight, bias, state, act, borders)
    kernel_size, length = weight.shape[1], x.shape[-1]
    before = x.new_zeros(*x.shape[:2], kernel_size - 1) if state is None else state.to(x)
    joined = torch.cat([before, x], -1)
    y = sum(tap.unsqueeze(-1) * joined[..., lag : lag + length] for lag, tap in enumerate(weight.unbind(1)))
    assert isinstance(y, Tensor)  # there is a tap
    y = y if bias is None else y + bias.unsqueeze(-1)
    return (F.silu(y) if act else y).to(x.dtype)


@implements(OP, "eager")
def eager(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    act: Activation | None,
    borders: Tensor | None,
) -> Tensor:
    """torch's convolution; packed sequences one by one."""
    if borders is not None:
        return _one_by_one(eager, x, weight, bias, state, act, borders)
    if not x.numel():  # torch's convolutions know no channels or steps of which there are none
        return reference(x, weight, bias, state, act, None)
    (channels, kernel_size), dtype = weight.shape, common_dtype(x, weight, bias)
    joined = x if state is None else torch.cat([state.to(x), x], -1)
    padding = kernel_size - 1 if state is None else 0
    bias = None if bias is None else bias.to(dtype)
    y = F.conv1d(joined.to(dtype), weight.to(dtype).unsqueeze(1), bias, padding=padding, groups=channels)
    y = y[..., : x.shape[-1]]
    return (F.silu(y) if act else y).to(x.dtype)


def _one_by_one(run, x, weight, bias, state, act, borders) -> Tensor:  # type: ignore[no-untyped-def]
    """Each packed sequence from a state of its own."""
    lengths = lengths_of(x.transpose(1, 2), borders)
    if not x.shape[-1]:
        return run(x, weight, bias, None, act, None)  # type: ignore[no-any-return]
    parts = x.split(lengths, -1)
    states = [None] * len(parts) if state is None else state.split(1)
    alone = [run(part, weight, bias, h, act, None) for part, h in zip(parts, states, strict=True) if part.shape[-1]]
    return torch.cat(alone, -1)
