"""Neurons that fire, as a token mixer that keeps their potential from token to token. Paper: arXiv:2402.04882 (LMUFormer)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor

from blocks.context import Context
from blocks.primitives.spikes import spike_train
from blocks.recurrent import Recurrent, State
from blocks.registry import block


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
        y, potential = spike_train(x, None if state is None else state[0], mask, self.tau, self.threshold)
        return y, (potential,)
