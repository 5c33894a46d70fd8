"""The mixture of experts: a router sends each token to a few channel mixers. Paper: arXiv:2101.03961.

E is here the number of experts, k how many a token goes to, T the number of tokens.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks import registry
from blocks.chain import run
from blocks.context import Context
from blocks.moe.routing import Routing
from blocks.registry import block
from blocks.slots import Router, Slot, slot

Expert = Annotated[Slot, Meta(extra_json_schema={"kinds": ["channel_mixer"]})]


@block(
    "moe",
    kind="channel_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2101.03961",
)
class Moe(nn.Module):
    """y = shared(x) + sum over the k experts e of each token of weight_e * expert_e(x).

    (B, L, C) -> (B, L, C). `expert` is built for each expert of the router, into `experts.0`, `experts.1`, …; if its
    signature names `num_experts` it is built once, holds the parameters of all, and is run as `experts(rows, counts)`:
    rows (R, C) sorted by expert, counts (E,) rows for each. No token is dropped; outputs are summed in float32.
    On meta, where nothing is known of the routes, all T * k rows go through the first expert, which costs the same. While
    torch.export traces, every token goes through every expert and the weights of the others are 0: the exported program
    gives the same outputs at num_experts / k times the cost, since a graph cannot hold slices whose sizes come from data.
    """

    def __init__(self, dim: int, *, router: Router, expert: Expert = slot("gated_mlp"), shared: Expert | None = None):
        super().__init__()
        self.router = Slot(router.call, router.place.at("router"))(dim)
        self.num_experts = int(self.router.num_experts)  # type: ignore[arg-type]
        self.packed = _names_num_experts(expert.call)
        self.experts = self._packed_expert(expert, dim) if self.packed else self._copies(expert, dim)
        self.shared = Slot(shared.call, shared.place.at("shared"))(dim) if shared else None

    def _copies(self, expert: Slot, dim: int) -> nn.ModuleList:
        places = [expert.place.at(f"experts.{index}") for index in range(self.num_experts)]
        return nn.ModuleList(Slot(expert.call, place)(dim) for place in places)

    def _packed_expert(self, expert: Slot, dim: int) -> nn.Module:
        call: dict[str, Any] = expert.call if isinstance(expert.call, dict) else {"block": expert.call}
        return Slot({**call, "num_experts": self.num_experts}, expert.place.at("experts"))(dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        routing = self.router(x, ctx) if getattr(self.router, "takes_ctx", False) else self.router(x)
        route = self._masked_dense if torch.compiler.is_exporting() and not self.packed else self._routed
        y = route(x.reshape(-1, x.shape[-1]), routing, ctx).view(x.shape)
        return y if self.shared is None else y + run(self.shared, x, ctx)

    def _routed(self, tokens: Tensor, routing: Routing, ctx: Context | None) -> Tensor:
        """(T, C) -> (T, C): the rows are sorted by expert once, so that each expert works on one slice."""
        choices = routing.indices.flatten()
        order = choices.argsort(stable=True)
        token = order // routing.indices.shape[1]
        rows = self._run_experts(tokens.index_select(0, token), choices, ctx)
        wide = torch.promote_types(rows.dtype, torch.float32)
        weighted = rows.to(wide) * routing.weights.flatten()[order].unsqueeze(-1).to(wide)
        return torch.zeros_like(tokens, dtype=wide).index_add(0, token, weighted).to(tokens.dtype)

    def _masked_dense(self, tokens: Tensor, routing: Routing, ctx: Context | None) -> Tensor:
        """The same sum over all experts, those that were not chosen with weight 0."""
        wide = torch.promote_types(tokens.dtype, torch.float32)
        weights = tokens.new_zeros(tokens.shape[0], self.num_experts, dtype=wide)
        weights = weights.scatter_add(1, routing.indices, routing.weights.to(wide))
        y = torch.zeros_like(tokens, dtype=wide)
        experts: Any = self.experts
        for index, expert in enumerate(experts):
            y = y + run(expert, tokens.unsqueeze(0), ctx).squeeze(0).to(wide) * weights[:, index, None]
        return y.to(tokens.dtype)

    def _run_experts(self, rows: Tensor, choices: Tensor, ctx: Context | None) -> Tensor:
        """Rows (T * k, C), sorted by expert, each through its own."""
        if self.packed:
            tally = choices.new_zeros(self.num_experts).index_add(0, choices, torch.ones_like(choices))
            return self.experts(rows, tally)
        if rows.is_meta:
            return run(self.experts[0], rows.unsqueeze(0), ctx).squeeze(0)  # type: ignore[index]
        counts = torch.bincount(choices, minlength=self.num_experts).tolist()
        slices = zip(self.experts, rows.split(counts), strict=True)  # type: ignore[call-overload]
        parts = [run(expert, part.unsqueeze(0), ctx).squeeze(0) for expert, part in slices if len(part)]
        return torch.cat(parts) if parts else rows

    def active_params(self) -> int:
        """Parameters that one token meets: all but those of the experts it does not go to."""
        routed = sum(parameter.numel() for parameter in self.experts.parameters())
        total = sum(parameter.numel() for parameter in self.parameters())
        return total - routed + routed * int(self.router.k) // self.num_experts  # type: ignore[arg-type]


def _names_num_experts(call: Any) -> bool:
    """Whether the block of a call holds the parameters of all experts."""
    name = call.get("block") if isinstance(call, dict) else call
    return isinstance(name, str) and "num_experts" in registry.describe(name).params
