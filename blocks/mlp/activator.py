"""Activator: a gated linear unit in the place of attention; and, with no MLP behind it, all there is of a layer.

Paper: arXiv:2405.15953. Upstream: Abdullah-88/Activator.
"""

from __future__ import annotations

from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.mlp.mlp import Ratio
from blocks.registry import block
from blocks.registry.slots import Act, Linear, Norm, slot


@block("activator", kind="token_mixer", abilities=("causal", "noncausal", "any_resolution"), paper="arXiv:2405.15953")
class Activator(nn.Module):
    """y = W_3(norm(act(W_1 x)) * norm(W_2 x)), one norm for both factors: a gate stands where tokens are mixed, and mixes none.

    (B, C, H, W) or (B, L, C) -> the same shape. The hidden width is int(ratio * C).
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: Ratio = 4.0,
        act: Act | None = slot("gelu"),
        norm: Norm | None = slot("layer_norm", eps=1e-5),
        bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        hidden_dim = int(ratio * dim)
        self.proj_1 = linear(dim, hidden_dim, bias=bias)
        self.proj_2 = linear(dim, hidden_dim, bias=bias)
        self.act = act(hidden_dim) if act else None
        self.norm = norm(hidden_dim) if norm else None
        self.proj_3 = linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        gate, value = run(self.proj_1, x, ctx), run(self.proj_2, x, ctx)
        if self.act is not None:
            gate = run(self.act, gate, ctx)
        if self.norm is not None:
            gate, value = run(self.norm, gate, ctx), run(self.norm, value, ctx)
        return run(self.proj_3, gate * value, ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj_3.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.proj_1.absorb_input(scale, shift) and self.proj_2.absorb_input(scale, shift))  # type: ignore[operator]
