"""Neurons that fire: values that are 0 or 1, and what lets pictures run through them in several time steps.

Papers: arXiv:2404.03663 (Meta-SpikeFormer), arXiv:2007.05785 (the neuron), arXiv:1901.09948 (the gradient of a jump).
Upstream: BICLab/Spike-Driven-Transformer-V2, on spikingjelly.
Time is axis 2 of clips (B, C, T, H, W) and axis 1 of tokens (B, T, C); an image is one time step.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.context import Context
from blocks.ops.masks import token_mask
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
SLOPE = 4.0
"""How steep the sigmoid is that stands in the place of the step, in gradients."""


class Step(torch.autograd.Function):
    """1 where x >= 0, else 0; its gradient is that of sigmoid(SLOPE x)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (x >= 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        share = torch.sigmoid(SLOPE * x)
        return grad * SLOPE * share * (1 - share)


def fired(x: Tensor) -> Tensor:
    """1 where x >= 0, else 0; with the gradient of a steep sigmoid."""
    spikes: Tensor = Step.apply(x) if torch.is_grad_enabled() and x.requires_grad else (x >= 0).to(x.dtype)
    return spikes


def spike_train(
    x: Tensor, potential: Tensor | None, mask: Tensor | None, tau: float = 2.0, threshold: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(spikes like x (B, T, ...), the potential (B, ...) after the last step) of neurons that leak, add up, fire and begin again at 0.

    v_t = u_{t-1} + (x_t - u_{t-1}) / tau, s_t = [v_t >= threshold], u_t = (1 - s_t) v_t; no gradient flows through what sets u back.
    Where `mask` (B, T) is False, u stays as it is.
    """
    u = x.new_zeros(x.shape[0], *x.shape[2:]) if potential is None else potential.to(x.dtype)
    spikes: list[Tensor] = []
    for t, now in enumerate(x.unbind(1)):
        charged = u + (now - u) / tau
        spikes.append(fired(charged - threshold))
        left = charged * (1 - spikes[-1].detach())
        u = left if mask is None else torch.where(mask[:, t].view(-1, *[1] * (left.ndim - 1)), left, u)
    return (torch.stack(spikes, 1) if spikes else x), u


@block(
    "lif",
    kind="act",
    abilities=("causal",),
    paper="arXiv:2404.03663",
    covers=("spiking_neuron", "leaky_integrate_and_fire"),
)
class Lif(nn.Module):
    """v <- v + (x_t - v) / tau; y_t = 1 and v <- 0 where v >= threshold, else y_t = 0: a neuron that leaks, adds up and fires.

    (B, C, T, H, W) or (B, T, C) -> the same shape, v being 0 before the first step; an image (B, C, H, W) is one step. Gradients are those
    of sigmoid(4 (v - threshold)) in the place of the jump, and none of what sets v back. Padding (`ctx.mask`) leaves v as it is.
    """

    def __init__(self, *, tau: Annotated[float, Meta(ge=1)] = 2.0, threshold: Positive = 1.0):
        super().__init__()
        self.tau, self.threshold = tau, threshold

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if x.ndim in (2, 4):
            return fired(x / self.tau - self.threshold)
        time = 2 if x.ndim == 5 else 1
        mask = token_mask(x, ctx) if x.ndim == 3 else None
        known = None if mask is None else mask.bool()
        spikes, _ = spike_train(x.movedim(time, 1), None, known, self.tau, self.threshold)
        return spikes.movedim(1, time)


@block(
    "time_steps",
    kind="whole",
    layout="BCHW",
    abilities=("any_resolution", "2d"),
    paper="arXiv:2404.03663",
)
class TimeSteps(nn.Module):
    """The same picture in each of `count` time steps: (B, C, H, W) -> (B, C, count, H, W)."""

    def __init__(self, *, count: Count = 4):
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2).expand(-1, -1, self.count, -1, -1)


@block(
    "step_means", kind="pool", layout="BCTHW", abilities=("noncausal", "any_resolution", "3d"), paper="arXiv:2404.03663"
)
class StepMeans(nn.Module):
    """The mean over the positions of each time step, as a sequence: (B, C, T, H, W) -> (B, T, C); an image is one step."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-1, -2)).unsqueeze(1) if x.ndim == 4 else x.mean((-1, -2)).transpose(1, 2)
