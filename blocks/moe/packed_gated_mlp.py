"""Gated MLPs of many experts in three parameters. Formula: arXiv:2002.05202; packing as in transformers 5.

E is here the number of experts, I the hidden width of each, R the number of rows.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.mlp.mlp import Ratio, Width
from blocks.moe.dispatch import by_slices
from blocks.ops.dispatch import watcher
from blocks.registry import block
from blocks.registry.slots import Act, slot


@block(
    "packed_gated_mlp",
    kind="channel_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2002.05202",
)
class PackedGatedMlp(nn.Module):
    """Row r of expert e: y_r = down_e(act(gate_e x_r) * up_e x_r), with gate, up (E, I, C) and down (E, C, I).

    As the expert of a `moe`, which says how many there are: rows (R, C) sorted by expert and how many each has -> (R, C), what `gated_mlp` repeated for
    each expert gives. On its own: (B, L, C) -> (B, L, C), every position through all experts, outputs summed, which is one
    gated MLP of hidden width E * I, with E = 1 unless stated. The hidden width is `hidden_dim`, or int(ratio * C) without one.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: Annotated[int, Meta(ge=1)] | None = None,
        ratio: Ratio = 8 / 3,
        hidden_dim: Width | None = None,
        act: Act | None = slot("silu"),
    ):
        super().__init__()
        self.hidden_dim = hidden_dim or int(dim * ratio)
        self.num_experts = num_experts = num_experts or 1
        self.gate = nn.Parameter(torch.empty(num_experts, self.hidden_dim, dim))
        self.up = nn.Parameter(torch.empty(num_experts, self.hidden_dim, dim))
        self.act = act(self.hidden_dim) if act else None
        self.down = nn.Parameter(torch.empty(num_experts, dim, self.hidden_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each expert as a linear layer of its own begins: uniform within 1 / sqrt(fan_in)."""
        for weight in (self.gate, self.up, self.down):
            nn.init.uniform_(weight, -(weight.shape[-1] ** -0.5), weight.shape[-1] ** -0.5)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Three matrices for each row of an expert (R, C), for each position (B, L, C) those of all experts."""
        experts = 1 if len(shape) == 2 else self.num_experts
        return {"matmul": 3 * math.prod(shape) * self.hidden_dim * experts}

    def forward(self, x: Tensor, counts: list[int] | None = None) -> Tensor:
        if counts is None:
            down = self.down.transpose(0, 1).flatten(1)
            return F.linear(self._hidden(x, self.gate.flatten(0, 1), self.up.flatten(0, 1)), down)
        # one unbind: the gradient of an indexed expert would be as large as all of them
        gates, ups, downs = self.gate.unbind(), self.up.unbind(), self.down.unbind()
        plain = not (watcher(x, self.down) or torch.is_autocast_enabled(x.device.type))

        def expert(e: int, rows: Tensor, out: Tensor | None) -> Tensor:
            hidden = self._hidden(rows.unsqueeze(0), gates[e], ups[e])[0]
            if out is not None and plain:
                return torch.mm(hidden, downs[e].t(), out=out)
            return F.linear(hidden, downs[e])

        return by_slices(x, counts, expert)

    def _hidden(self, x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        hidden = F.linear(x, gate)
        if self.act is not None:
            hidden = run(self.act, hidden)
        return hidden * F.linear(x, up)
