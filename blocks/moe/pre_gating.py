"""One router ahead of a whole model: it reads the token numbers, and its expert is that of the token in all layers. Paper: arXiv:2410.19123.

Upstream: VITA-Group/READ-ME. N is here the number of experts.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.mlp.mlp import GatedMlp
from blocks.moe.routing import Routing, as_rows
from blocks.moe.scoring import Count, ScoringRouter, Weight, widened
from blocks.primitives.linears import Dense
from blocks.primitives.token_embedding import TokenEmbedding
from blocks.registry import block
from blocks.registry.slots import Norm, slot
from blocks.wiring.parts import Parts, add_parts

SlotName = Annotated[str, Meta(min_length=1)]


class _Gate(nn.Module):
    """The parts of a router, one behind the other."""


@block(
    "pre_gating_embedding",
    kind="stem",
    layout="BLC",
    abilities=("causal", "any_resolution", "1d"),
    paper="arXiv:2410.19123",
    covers=("read_me", "pre_gating"),
)
class PreGatingEmbedding(TokenEmbedding):
    """y = scale * W[ids], and scores W_o norm(f(E[ids])) of N experts for each token stand in the slot `writes` of ctx.

    f runs the parts, layers of a small causal transformer `gate_dim` wide. (B, L) integers -> (B, L, out_dim); scores (B, L, N). All layers
    of a model can read them (`given_router`): which experts a batch will need is known before it runs.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        parts: Parts,
        num_experts: Count = 4,
        gate_dim: Count = 64,
        norm: Norm = slot("rms_norm"),
        scale: Annotated[float, Meta(gt=0)] = 1.0,
        std: Annotated[float, Meta(gt=0)] = 0.02,
        writes: SlotName = "experts",
    ):
        super().__init__(dim, out_dim, scale=scale, std=std)
        self.writes = writes
        self.embed = nn.Parameter(torch.empty(dim, gate_dim))
        self.gate = _Gate()
        add_parts(self.gate, parts, gate_dim)
        self.norm, self.proj_out = norm(gate_dim), Dense(gate_dim, num_experts)
        nn.init.normal_(self.embed, std=std)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if "embed" in self._parameters:  # not yet while the constructor of the base fills its own
            nn.init.normal_(self.embed, std=self.std)

    def forward(self, ids: Tensor, ctx: Context | None = None) -> Tensor:
        y = super().forward(ids)
        if ctx is not None:
            ctx.write(self.writes, self.path, self.scores(ids, ctx))
        return y

    def scores(self, ids: Tensor, ctx: Context | None = None) -> Tensor:
        """(B, L) -> (B, L, N)."""
        x = F.embedding(ids, self.embed)
        for part in self.gate.children():
            x = run(part, x, ctx)
        return self.proj_out(run(self.norm, x, ctx))


@block(
    "given_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2410.19123",
)
class GivenRouter(ScoringRouter):
    """The expert of the largest score, with weight 1, scores being what stands in the slot `reads` of ctx: a choice that was made ahead.

    (B, C, H, W) or (B, L, C) -> Routing (T, 1); the weight has the gradient of the softmax of the scores. Without `reads` all tokens go to
    expert 0. Losses and report as in `topk_router`. Raises ValueError where nothing was written, and for scores of other tokens or experts.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Count,
        reads: SlotName | None = None,
        balance_weight: Weight = 0.01,
        z_weight: Weight = 0.0,
    ):
        super().__init__(num_experts, 1, balance_weight, z_weight)
        self.reads = reads

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing:
        rows = as_rows(x)
        logits = widened(self._given(rows, ctx))
        scores = logits.softmax(-1)
        best = scores.max(-1, keepdim=True)
        self.tell(ctx, logits, scores, best.indices)
        return Routing((1 + best.values - best.values.detach()).to(x.dtype), best.indices)

    def _given(self, rows: Tensor, ctx: Context | None) -> Tensor:
        if self.reads is None:
            return F.one_hot(rows.new_zeros(rows.shape[0], dtype=torch.int64), self.num_experts).to(rows.dtype)
        written = list(ctx.read(self.reads).values()) if ctx is not None else []
        expected = f"scores of {rows.shape[0]} tokens for {self.num_experts} experts in the slot `{self.reads}`"
        if not written:
            raise ValueError(
                f"a given_router needs {expected}; found nothing: put a pre_gating_embedding into the stem"
            )
        found = written[-1].flatten(0, -2)
        if found.shape != (rows.shape[0], self.num_experts):
            raise ValueError(f"a given_router needs {expected}; found {tuple(written[-1].shape)}")
        return found


@torch.no_grad()
def cut_experts(dense: GatedMlp, masks: Tensor) -> list[dict[str, Tensor]]:
    """The state dicts of N gated MLPs whose units are some of those of `dense`, by masks (1 + N, hidden) of zeros and ones.

    Row 0 are the units that all experts share, row 1 + e the further ones of expert e; experts may overlap. What an expert computes is what
    `dense` does with all other units 0: no weight is new. Raises ValueError for masks of another width, or experts of different widths.
    """
    units = [(masks[0] + row).nonzero().flatten() for row in masks[1:]]
    widths = {len(rows) for rows in units}
    if dense.gate is None or dense.up is None or masks.shape[1] != dense.down.weight.shape[1] or len(widths) != 1:  # type: ignore[union-attr, index]
        raise ValueError(
            f"masks of {tuple(masks.shape)} cut experts of {sorted(widths)} units; they should be as wide as the hidden layer of an MLP "
            "whose gate is a map of its own, and all experts equally wide"
        )
    gate, up, down = (part.weight for part in (dense.gate, dense.up, dense.down))
    return [{"gate.weight": gate[rows], "up.weight": up[rows], "down.weight": down[:, rows]} for rows in units]  # type: ignore[index]
