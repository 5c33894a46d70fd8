"""The stem of models that read series of numbers: a gated map of each step. Paper: arXiv:2409.16040 (Time-MoE)."""

from __future__ import annotations

from torch import Tensor, nn

from blocks.chain import run
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Act, slot


@block(
    "gated_projection",
    kind="stem",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution", "1d"),
    paper="arXiv:2409.16040",
    covers=("point_wise_tokenization", "swiglu_embedding"),
)
class GatedProjection(nn.Module):
    """y = act(W_gate x) * W_emb x, at every step of a series.

    (B, L, dim) -> (B, L, out_dim), `dim` being the numbers that are measured at a step.
    """

    def __init__(self, dim: int, out_dim: int | None = None, *, act: Act = slot("silu"), bias: bool = False):
        super().__init__()
        self.out_dim = out_dim or dim
        self.gate, self.emb = (Dense(dim, self.out_dim, bias=bias) for _ in range(2))
        self.act = act(self.out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return run(self.act, self.gate(x)) * self.emb(x)
