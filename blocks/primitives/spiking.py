"""Neurons that answer with spikes, 0 or 1, and keep a potential from token to token. Papers: arXiv:1901.09948, arXiv:2402.04882.

The rule and its gradient are those of SpikingJelly's MultiStepLIFNode.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor

from blocks.context import Context
from blocks.recurrent import Recurrent, State
from blocks.registry import block

SHARPNESS = 4.0
"""The slope of the sigmoid whose gradient stands for that of a step."""


class _Spike(torch.autograd.Function):
    """1 where x >= 0, else 0, with the gradient of sigmoid(4 x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        y = torch.sigmoid(SHARPNESS * x)
        return gradient * SHARPNESS * y * (1 - y)


def spikes(
    x: Tensor, potential: Tensor | None, mask: Tensor | None = None, tau: float = 2.0, threshold: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(spikes (B, L, C), the potential (B, C) after the last token): v_t = v_{t-1} + (x_t - v_{t-1}) / tau, s_t = [v_t >= threshold].

    A neuron that spikes begins again at 0; through that no gradient flows. `mask` (B, L): padding leaves the potential as it is.
    """
    v = x.new_zeros(x.shape[0], x.shape[2]) if potential is None else potential.to(x.dtype)
    found = []
    for t, step in enumerate(x.unbind(1)):
        charged = v + (step - v) / tau
        spike = _Spike.apply(charged - threshold)
        after = charged * (1 - spike.detach())
        v = after if mask is None else torch.where(mask[:, t, None], after, v)
        found.append(spike)
    return (torch.stack(found, 1) if found else x), v


@block(
    "sequence_lif",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:1901.09948",
    covers=("leaky_integrate_and_fire", "spiking_neuron"),
)
class Lif(Recurrent):
    """s_t = [v_t >= threshold], v_t = u_{t-1} + (x_t - u_{t-1}) / tau, u_t = (1 - s_t) v_t: each channel a neuron that leaks, spikes and resets.

    (B, L, C) -> (B, L, C) of zeros and ones; the gradient of a step is that of sigmoid(4 (v - threshold)). The state is u (B, C).
    """

    def __init__(
        self, dim: int, *, tau: Annotated[float, Meta(gt=1)] = 2.0, threshold: Annotated[float, Meta(gt=0)] = 1.0
    ):
        super().__init__()
        self.dim, self.tau, self.threshold = dim, tau, threshold

    def state_size(self, length: int = 0) -> int:
        return self.dim

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        y, potential = spikes(x, None if state is None else state[0], mask, self.tau, self.threshold)
        return y, (potential,)
