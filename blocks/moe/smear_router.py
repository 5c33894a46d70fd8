"""SMEAR: for each sequence the experts are averaged in parameter space, and one runs. Paper: arXiv:2306.03745."""

from __future__ import annotations

from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.moe.routing import Merging, as_sequences
from blocks.moe.scoring import Count
from blocks.ops.masks import mean_over, token_mask
from blocks.recurrent import zero_padding
from blocks.registry import block
from blocks.registry.slots import Norm, slot


@block(
    "smear_router",
    kind="router",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2306.03745",
    covers=("smear",),
)
class SmearRouter(nn.Module):
    """p = softmax(W norm(mean of the sequence's tokens) + b): the share of each expert's parameters in the one that runs.

    (B, C, H, W) or (B, L, C) -> Merging (B, E). `ctx.mask` keeps padding out of the mean. It costs the tokens one
    expert, and each sequence a sum over all parameters of the experts. Not causal: the mean sees every token.
    """

    path = ""

    def __init__(self, dim: int, *, num_experts: Count, norm: Norm | None = slot("layer_norm")):
        super().__init__()
        self.num_experts: int = num_experts
        self.k: float = num_experts  # every expert's parameters are met
        self.norm = norm(dim) if norm else None
        self.gate = nn.Linear(dim, num_experts)

    def mixing_macs(self, shape: tuple[int, ...], expert_params: int) -> int:
        """Each sequence sums the parameters of all experts."""
        return shape[0] * expert_params

    def forward(self, x: Tensor, ctx: Context | None = None) -> Merging:
        sequences = as_sequences(x)
        mask = token_mask(sequences, ctx)
        mean = _mean(sequences, mask)
        if self.norm is not None:
            mean = run(self.norm, mean)
        weights = self.gate(mean).squeeze(1).softmax(-1)
        if ctx is not None:
            importance = mean_over(weights.detach(), None if mask is None else mask.bool().any(1))
            ctx.reports[self.path] = {"load": importance, "importance": importance}
        return Merging(weights)


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, L, C) -> (B, 1, C), over the real tokens; 0 where there are none."""
    if mask is None:
        return x.mean(1, keepdim=True) if x.shape[1] else x.sum(1, keepdim=True)
    real = mask.to(x.dtype).unsqueeze(-1)
    return zero_padding(x, mask.bool()).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1)
