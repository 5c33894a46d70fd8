"""Long short-term memory, torch's own recurrence. Paper: arXiv:1402.1128."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.context import Context
from blocks.registry import block


@block("lstm", kind="token_mixer", layout="BLC", abilities=("causal", "any_resolution", "1d"), paper="arXiv:1402.1128")
class Lstm(nn.Module):
    """i, f, g, o = W_ih x_t + b_ih + W_hh h_(t-1) + b_hh; c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g); y_t = h_t = sigmoid(o) tanh(c_t).

    (B, L, C) -> (B, L, out_dim), from a state of zeros, through `layers` of them. Names of the weights are torch's. Raises ValueError for
    padding, packed sequences and a state to go on with.
    """

    path = ""

    def __init__(self, dim: int, out_dim: int | None = None, *, layers: Annotated[int, Meta(ge=1, le=64)] = 1):
        super().__init__()
        self.layers, self.out_dim = layers, out_dim or dim
        for layer in range(layers):
            width = self.out_dim if layer else dim
            for name, shape in (("ih", (4 * self.out_dim, width)), ("hh", (4 * self.out_dim, self.out_dim))):
                self.register_parameter(f"weight_{name}_l{layer}", nn.Parameter(torch.empty(shape)))
                self.register_parameter(f"bias_{name}_l{layer}", nn.Parameter(torch.empty(shape[:1])))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(self.out_dim**-0.5), self.out_dim**-0.5)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Every weight meets every position."""
        return {"matmul": shape[0] * shape[1] * sum(p.numel() for p in self.parameters() if p.ndim == 2)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if ctx is not None and not (ctx.mask is None and ctx.cu_seqlens is None and ctx.state is None):
            raise ValueError(
                "an lstm reads whole sequences: no padding (ctx.mask), no packed ones, no state to go on with"
            )
        if type(x) is Tensor and not x.numel():
            return x.new_zeros(*x.shape[:2], self.out_dim)
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self, f"{kind}_l{layer}") for layer in range(self.layers) for kind in kinds]
        start = x.new_zeros(self.layers, x.shape[0], self.out_dim)
        y: Tensor = torch.lstm(x, (start, start), weights, True, self.layers, 0.0, False, False, True)[0]
        return y
