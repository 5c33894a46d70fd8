"""The convolution as it is called, its reference, and the form in plain torch.

`eager` is torch's own depthwise convolution, which counters see and torch.compile fuses. On CPUs `native` is ten times
as fast: torch's kernel wants steps side by side in memory, while linear layers and the scan have channels there.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.dispatch import implementation, implements
from blocks.ops.sequences import lengths_of

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
    Raises ValueError when shapes or borders do not fit.
    """
    weight = weight.reshape(weight.shape[0], weight.shape[-1])
    sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
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
    if cu_seqlens is not None and x.shape[0] != 1:
        raise ValueError(f"`cu_seqlens` packs sequences into one sample; x has {x.shape[0]}")
    run = implementation(OP, x, weight, bias, initial_state)
    y: Tensor = run(x, weight, bias, initial_state, act, cu_seqlens)
    return y


def conv_state(x: Tensor, kernel_size: int, state: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
    """(S, D, k-1): the last inputs, which continue the convolution; zeros or `state` fill up a short sequence."""
    if cu_seqlens is not None:
        parts = x.split(lengths_of(x.transpose(1, 2), cu_seqlens), -1)
        states = [None] * len(parts) if state is None else state.split(1)
        return torch.cat([conv_state(part, kernel_size, h) for part, h in zip(parts, states, strict=True)])
    before = x.new_zeros(*x.shape[:2], kernel_size - 1) if state is None else state.to(x)
    joined = torch.cat([before, x[..., max(0, x.shape[-1] - kernel_size + 1) :]], -1)
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
    """Step by step, in the dtype of x."""
    if borders is not None:
        return _one_by_one(reference, x, weight, bias, state, act, borders)
    kernel_size, length = weight.shape[1], x.shape[-1]
    before = x.new_zeros(*x.shape[:2], kernel_size - 1) if state is None else state.to(x)
    steps = torch.cat([before, x], -1).unbind(-1)
    outputs = [x[..., :0]]
    for t in range(length):
        y_t = sum(tap * x_t for tap, x_t in zip(weight.unbind(1), steps[t : t + kernel_size], strict=True))
        outputs.append((y_t if bias is None else y_t + bias).unsqueeze(-1))
    y = torch.cat(outputs, -1)
    return F.silu(y) if act else y


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
    channels, kernel_size = weight.shape
    if state is not None:
        y = F.conv1d(torch.cat([state.to(x), x], -1), weight.unsqueeze(1), bias, groups=channels)
    else:
        y = F.conv1d(x, weight.unsqueeze(1), bias, padding=kernel_size - 1, groups=channels)[..., : x.shape[-1]]
    return F.silu(y) if act else y


def _one_by_one(run, x, weight, bias, state, act, borders) -> Tensor:  # type: ignore[no-untyped-def]
    """Each packed sequence from a state of its own."""
    parts = x.split(lengths_of(x.transpose(1, 2), borders), -1)
    states = [None] * len(parts) if state is None else state.split(1)
    alone = [run(part, weight, bias, h, act, None) for part, h in zip(parts, states, strict=True) if part.shape[-1]]
    return torch.cat(alone, -1)
