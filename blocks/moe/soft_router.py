"""Soft MoE: experts work on slots, each a weighted mean of all tokens. Paper: arXiv:2308.00951.

B sequences of L tokens; E is here the number of experts, S the number of slots of each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.moe.routing import Slots, as_sequences
from blocks.moe.scoring import Count, real_rows, widened
from blocks.ops.masks import mean_over, token_mask
from blocks.registry import block


@block(
    "soft_router",
    kind="router",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2308.00951",
    covers=("soft_moe",),
)
class SoftRouter(nn.Module):
    """s = x_hat . (scale * phi_hat); dispatch = softmax of s over tokens, combine = softmax of s over the E * S slots.

    (B, C, H, W) or (B, L, C) -> Slots (B, L, E, S). x_hat and phi_hat have length 1; without `normalise` both are taken
    as they are, and there is no `scale`. `ctx.mask` keeps padding out of the slots. The cost does not depend on L but for
    the mixing: E * S rows go through the experts. Not causal: every slot sees every token.
    """

    path = ""

    def __init__(self, dim: int, *, num_experts: Count, slots: Count = 1, normalise: bool = True):
        super().__init__()
        self.num_experts: int = num_experts
        self.k: float = num_experts  # of every expert a token gets a share
        self.phi = nn.Parameter(torch.empty(num_experts, slots, dim))
        self.scale = nn.Parameter(torch.empty(())) if normalise else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.phi, std=self.phi.shape[-1] ** -0.5)
        if self.scale is not None:
            nn.init.ones_(self.scale)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """A score for each token and slot."""
        return {"matmul": math.prod(shape) * self.phi.shape[0] * self.phi.shape[1]}

    def mixing_macs(self, shape: tuple[int, ...], expert_params: int) -> int:
        """Tokens into slots, and slots into tokens."""
        return 2 * self.macs(shape)["matmul"]

    def forward(self, x: Tensor, ctx: Context | None = None) -> Slots:
        sequences = as_sequences(x)
        logits, mask = self.logits(sequences), token_mask(sequences, ctx)
        if mask is not None:
            logits = logits.masked_fill(~mask.bool()[..., None, None], torch.finfo(logits.dtype).min)
        dispatch = logits.softmax(1)
        combine = logits.flatten(2).softmax(-1).view_as(logits)
        if ctx is not None:
            importance = mean_over(combine.detach().flatten(0, 1), real_rows(ctx, combine[..., 0, 0].numel())).sum(-1)
            ctx.reports[self.path] = {
                "load": torch.full_like(importance, 1 / len(importance)),
                "importance": importance,
            }
        return Slots(dispatch.to(x.dtype), combine.to(x.dtype))

    def logits(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, E, S), in float32 or wider."""
        x, phi = widened(x), widened(self.phi)
        if self.scale is not None:
            x, phi = F.normalize(x, dim=-1), F.normalize(phi, dim=-1) * self.scale
        return F.linear(x, phi.flatten(0, 1)).unflatten(-1, phi.shape[:2])
