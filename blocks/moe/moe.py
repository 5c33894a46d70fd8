"""The mixture of experts: a router decides which channel mixers a token meets. Paper: arXiv:2101.03961.

E is here the number of experts, k how many a token goes to, T the number of tokens.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor, nn

from blocks import registry
from blocks.chain import run
from blocks.context import Context
from blocks.moe.dispatch import RepeatedExperts
from blocks.registry import block
from blocks.registry.slots import NONE, Router, Slot, slot

Expert = Annotated[Slot, Meta(extra_json_schema={"kinds": ["channel_mixer"]})]


@block(
    "moe",
    kind="channel_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2101.03961",
    covers=("mixture_of_experts",),
)
class Moe(nn.Module):
    """y = shared(x) + sum over the k experts e of each token of weight_e * expert_e(x), or what else the router says.

    (B, L, C) -> (B, L, C). With `shared_gate` shared(x) is weighed by sigmoid(w x), as in Qwen2. `expert` is built for
    each expert of the router, into `experts.0`, `experts.1`, …; if its signature names `num_experts` it is built once,
    holds the parameters of all, and is run as `experts(rows, counts)`: rows (R, C) sorted by expert, counts a list of E
    numbers of rows. With `expert_dims` the experts, of a block with a `hidden_dim`, have these hidden widths (AutoMoE, arXiv:2210.07535).
    Outputs are summed in float32. No token is dropped, except by routers with a capacity, which count
    what they drop. It is causal if its router is. Raises ValueError when the experts are not as many as the router's.
    On meta, where nothing is known of the routes, all T * k rows go through the first expert, which costs the same. While
    torch.export traces, every token goes through every expert and the weights of the others are 0: the exported program
    gives the same outputs at num_experts / k times the cost, since a graph cannot hold slices whose sizes come from data.
    """

    def __init__(
        self,
        dim: int,
        *,
        router: Router,
        expert: Expert = slot("gated_mlp"),
        shared: Expert | None = None,
        shared_gate: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        expert_dims: Annotated[
            Annotated[list[Annotated[int, Meta(ge=1)]], Meta(min_length=1)] | None,
            Meta(extra_json_schema={"added": "0.1"}),
        ] = None,
    ):
        super().__init__()
        if shared_gate and shared is None:
            raise ValueError("shared_gate weighs the shared expert, and there is none: state `shared` too")
        self.router = Slot(router.call, router.place.at("router"))(dim)
        self.num_experts = int(self.router.num_experts)  # type: ignore[arg-type]
        packed = _names_num_experts(expert.call)
        if expert_dims is not None and (packed or len(expert_dims) != self.num_experts):
            found = "a block that holds all experts in one" if packed else f"{len(expert_dims)} widths"
            raise ValueError(
                f"expert_dims names a width for each of {self.num_experts} experts with parameters of their own; found {found}"
            )
        self.experts: nn.Module = self._packed_expert(expert, dim) if packed else self._copies(expert, dim, expert_dims)
        self.shared = Slot(shared.call, shared.place.at("shared"))(dim) if shared else None
        self.shared_gate = nn.Linear(dim, 1, bias=False) if shared_gate else None

    def _copies(self, expert: Slot, dim: int, widths: list[int] | None) -> RepeatedExperts:
        places = [expert.place.at(f"experts.{index}") for index in range(self.num_experts)]
        calls = [expert.call] * self.num_experts
        if widths is not None:
            table: dict[str, Any] = expert.call if isinstance(expert.call, dict) else {"block": expert.call}
            calls = [{**table, "hidden_dim": width} for width in widths]
        return RepeatedExperts(Slot(call, place)(dim) for call, place in zip(calls, places, strict=True))

    def _packed_expert(self, expert: Slot, dim: int) -> nn.Module:
        call: dict[str, Any] = expert.call if isinstance(expert.call, dict) else {"block": expert.call}
        stated = call.get("num_experts", NONE)
        if stated not in (None, NONE, self.num_experts):
            raise ValueError(
                f"the experts are to be {stated}, and the router chooses among {self.num_experts}: state it there alone"
            )
        return Slot({**call, "num_experts": self.num_experts}, expert.place.at("experts"))(dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        routing = self.router(x, ctx) if getattr(self.router, "takes_ctx", False) else self.router(x)
        y: Tensor = routing.mix(x, self.experts, self.num_experts, ctx)
        if self.shared is None:
            return y
        shared = run(self.shared, x, ctx)
        return y + (shared if self.shared_gate is None else shared * self.shared_gate(x).sigmoid())

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """What mixing costs beside router and experts, where it is more than sorting."""
        mixing = getattr(self.router, "mixing_macs", None)
        routed = sum(parameter.numel() for parameter in self.experts.parameters())
        return {"matmul": mixing(shape, routed)} if callable(mixing) else {}

    def active_params(self) -> int:
        """Parameters that one token meets: all but those of the experts it does not go to."""
        routed = sum(parameter.numel() for parameter in self.experts.parameters())
        total = sum(parameter.numel() for parameter in self.parameters())
        return total - routed + int(routed * self.router.k / self.num_experts)  # type: ignore[operator]


def _names_num_experts(call: Any) -> bool:
    """Whether the block of a call holds the parameters of all experts."""
    name = call.get("block") if isinstance(call, dict) else call
    return isinstance(name, str) and "num_experts" in registry.describe(name).params
