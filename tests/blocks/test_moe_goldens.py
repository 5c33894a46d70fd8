"""Routers and mixtures of experts against public references: routing, weights, losses and outputs, in float64 and float32."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blocks.context import Context
from blocks.mlp.mlp import Mlp
from blocks.moe.balanced_assignment import balanced_assignment, sinkhorn
from blocks.moe.capacity import within_capacity
from blocks.moe.expert_choice_router import ExpertChoiceRouter
from blocks.moe.hyper_router import HyperRouter
from blocks.moe.moe import Moe
from blocks.moe.priority_router import PriorityRouter
from blocks.moe.relu_router import ReluRouter
from blocks.moe.routing import Routing
from blocks.moe.switch_router import SwitchRouter
from blocks.moe.topk_router import TopkRouter
from tests.blocks.conftest import Golden

Read = Callable[[str], Golden]

NAMES = {
    r"^gate\.weight$": "router.gate.weight",
    r"^router\.classifier\.weight$": "router.gate.weight",
    r"^(gate|router)\.e_score_correction_bias$": "router.balance_bias",
    r"\.w1\.": ".gate.",
    r"\.w2\.": ".down.",
    r"\.w3\.": ".up.",
    r"\.(gate|up|down)_proj\.": r".\1.",
    r"^shared_experts?\.": "shared.",
    r"^shared_expert_gate\.": "shared_gate.",
}
"""Key rules of the transformers checkpoints."""


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, value in state.items():
        for pattern, to in NAMES.items():
            name = re.sub(pattern, to, name)
        out[name] = value
    return out


def gated(hidden_dim: int, block: str = "gated_mlp") -> dict[str, Any]:
    return {"block": block, "hidden_dim": hidden_dim}


def packed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`experts.{e}.gate.weight` stacked into `experts.gate`, as a key rule with `stack` does."""
    out = {name: value for name, value in state.items() if not name.startswith("experts.")}
    for part in ("gate", "up", "down"):
        numbers = sorted(
            int(name.split(".")[1]) for name in state if re.fullmatch(rf"experts\.\d+\.{part}\.weight", name)
        )
        out[f"experts.{part}"] = torch.stack([state[f"experts.{e}.{part}.weight"] for e in numbers])
    return out


LAYERS = {
    "mixtral": ({"block": "topk_router", "num_experts": 8, "k": 2}, 48, {}),
    "olmoe": ({"block": "topk_router", "num_experts": 16, "k": 4, "renormalise": False}, 16, {}),
    "qwen3": ({"block": "topk_router", "num_experts": 8, "k": 2}, 24, {}),
    "deepseek_v3": (
        {
            "block": "topk_router", "num_experts": 16, "k": 4, "score": "sigmoid", "bias": "balanced", "groups": 4, "group_k": 2,
            "scale": 2.5, "balance_weight": 0.0,
        },
        16,
        {"shared": gated(16)},
    ),
    "longcat_zero_experts": ({"block": "zero_expert_router", "num_experts": 8, "zero_experts": 4, "k": 3, "scale": 3.0}, 16, {}),
}  # fmt: skip
"""Golden -> router, hidden width of the experts, further parameters of the layer."""


@pytest.mark.parametrize("block", ["gated_mlp", "packed_gated_mlp"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_the_reference(golden: Read, name: str, block: str) -> None:
    case, (router, hidden_dim, params) = golden(f"layer_moe_{name}"), LAYERS[name]
    layer = Moe(32, router=router, expert=gated(hidden_dim, block), **params).to(case.dtype).train()
    state = {key: value for key, value in renamed(case.state).items() if not unused(key, layer.num_experts)}
    layer.load_state_dict(packed(state) if block == "packed_gated_mlp" else state)
    x, ctx = case.inputs["hidden_states"], Context()
    case.check(layer(x, ctx))
    check_routing(case, layer.router(x))
    if "aux_loss" in case.data:  # upstream's load sums to k, ours to 1
        case.check(ctx.losses["router"]["balance"] / layer.router.balance_weight * layer.router.k, "aux_loss")


def unused(key: str, num_experts: int) -> bool:
    """Gate and up maps of experts that return the token: upstream has them, and never runs them."""
    match = re.match(r"experts\.(\d+)\.", key)
    return match is not None and int(match[1]) >= num_experts


def check_routing(case: Golden, routing: Routing) -> None:
    """Experts and weights, sorted by expert, as the golden keeps them."""
    indices, order = routing.indices.sort(-1)
    assert torch.equal(indices, case.data["experts"])
    case.check(routing.weights.gather(-1, order), "expert_weights")


def test_shared_expert_with_a_gate_equals_qwen2(golden: Read) -> None:
    case = golden("layer_moe_qwen2_shared")
    router = {"block": "topk_router", "num_experts": 8, "k": 3, "renormalise": False}
    layer = Moe(32, router=router, expert=gated(24), shared=gated(40), shared_gate=True).to(case.dtype).train()
    layer.load_state_dict(renamed(case.state))
    ctx = Context()
    case.check(layer(case.inputs["hidden_states"], ctx))
    check_routing(case, layer.router(case.inputs["hidden_states"]))
    case.check(ctx.losses["router"]["balance"] / layer.router.balance_weight * 3, "aux_loss")


def test_attention_router_equals_yuan(golden: Read) -> None:
    case = golden("layer_moe_yuan_attention_router")
    layer = Moe(32, router={"block": "attention_router", "num_experts": 8}, expert=gated(24)).to(case.dtype)
    state = {}
    for key, value in case.state.items():
        if key.startswith("gate."):
            state[f"router.{key.removeprefix('gate.')}"] = value
        elif key.endswith("w1.weight"):
            gate, up = value.chunk(2)
            state |= {key.replace("w1", "gate"): gate, key.replace("w1", "up"): up}
        else:
            state[key.replace("w2", "down")] = value
    layer.load_state_dict(state)
    case.check(layer(case.inputs["hidden_states"]))
    check_routing(case, layer.router(case.inputs["hidden_states"]))


def test_hyper_router_equals_the_reference(golden: Read) -> None:
    case = golden("layer_moe_hyperrouter_gate")
    router = HyperRouter(32, num_experts=8, k=2, hidden_dim=24).to(case.dtype)
    router.load_state_dict({key: value for key, value in case.state.items() if not key.startswith("gate.")})
    check_routing(case, router(case.inputs["inp"].unsqueeze(0)))


def test_smear_equals_the_reference(golden: Read) -> None:
    case = golden("layer_moe_smear")
    expert = {"block": "mlp", "hidden_dim": 16, "act": "silu", "out_bias": False}
    router = {"block": "smear_router", "num_experts": 4, "norm": {"block": "layer_norm", "eps": 1e-5}}
    layer = Moe(32, router=router, expert=expert).to(case.dtype)
    own = {key.replace("multi_", ""): value for key, value in case.state.items()}
    columns = own["routers.router_weights"][0].T  # upstream normalises each expert's column; here it is done once
    g, b = (own[f"routers.router_weights_layer_norms.0.{part}"] for part in ("weight", "bias"))
    state = {
        "router.gate.weight": nn.functional.layer_norm(columns, (32,), g, b),
        "router.gate.bias": own["routers.router_bias"][0],
    }
    state |= {f"router.norm.{part}": own[f"routers.router_layer_norms.0.{part}"] for part in ("weight", "bias")}
    for e in range(4):
        state[f"experts.{e}.fc1.weight"] = own["adapters.down_samplers_weights"][0, e].T
        state[f"experts.{e}.fc1.bias"] = own["adapters.down_samplers_bias"][0, e]
        state[f"experts.{e}.fc2.weight"] = own["adapters.up_samplers_weights"][0, e].T
    layer.load_state_dict(state)
    x = case.inputs["inputs"]
    normed = nn.functional.layer_norm(x, (32,), case.state["pre_layer_norm.weight"], case.state["pre_layer_norm.bias"])
    case.check(layer.router(normed).weights, "expert_weights")
    case.check(x + layer(normed))


@pytest.mark.parametrize("name", ["soft", "soft_geglu_mask"])
def test_soft_router_equals_the_reference(golden: Read, name: str) -> None:
    case = golden(f"layer_moe_{name}")
    config = case.about["config"]
    dim, slots = config["dim"], config["num_slots"]
    expert = gated(case.state["experts.experts.0.3.weight"].shape[1]) | {"act": "gelu", "bias": True}
    if "geglu" not in config:
        expert = {"block": "mlp", "ratio": 2}
    router = {"block": "soft_router", "num_experts": config["num_experts"], "slots": slots, "normalise": False}
    layer = Moe(dim, router=router, expert=expert).to(case.dtype)

    def rms(x: Tensor, gamma: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=-1) * dim**0.5 * gamma

    state = {"router.phi": rms(case.state["slot_embeds"], case.state["slot_norm.gamma"])}
    for e in range(config["num_experts"]):
        for part in ("weight", "bias"):
            first, last = (case.state[f"experts.experts.{e}.{i}.{part}"] for i in (0, 3))
            if "geglu" in config:
                value, gate = first.chunk(2)
                state |= {
                    f"experts.{e}.up.{part}": value,
                    f"experts.{e}.gate.{part}": gate,
                    f"experts.{e}.down.{part}": last,
                }
            else:
                state |= {f"experts.{e}.fc1.{part}": first, f"experts.{e}.fc2.{part}": last}
    layer.load_state_dict(state)
    x = rms(case.inputs["x"], case.state["norm.gamma"])
    mask = case.inputs["mask"].bool() if "mask" in case.inputs else None
    case.check(layer(x, Context(mask=mask)))
    if mask is None:
        case.check(layer.router.logits(x), "router_logits")


def scored(router: nn.Module, scores: Tensor) -> nn.Module:
    """The router with the unit matrix for a gate: what it is given are the logits."""
    with torch.no_grad():
        router.gate.weight.copy_(torch.eye(scores.shape[-1]))  # type: ignore[union-attr, operator, arg-type]
    return router.to(scores.dtype).train()


@pytest.mark.parametrize("name", ["post_softmax", "pre_softmax_capacity"])
def test_routing_and_losses_equal_megatron(golden: Read, name: str) -> None:
    case = golden(f"op_moe_topk_{name}")
    given, logits = case.about["arguments"], case.inputs["logits"]
    losses = {"balance_weight": given["aux_loss_coeff"], "z_weight": given["z_loss_coeff"]}
    E, k = logits.shape[1], given["topk"]
    router: nn.Module = TopkRouter(E, num_experts=E, k=k, **losses)
    if "capacity_factor" in given:
        router = PriorityRouter(E, num_experts=E, k=k, capacity=given["capacity_factor"], by="choice", **losses)
    ctx = Context()
    routing = scored(router, logits)(logits.unsqueeze(0), ctx)
    weights, routed = as_matrix(routing, *logits.shape)
    case.check(weights, "expert_weights")
    assert torch.equal(routed, case.data["routing_map"].bool())
    case.check(ctx.losses[""]["balance"], "aux_loss")
    case.check(ctx.losses[""]["z"], "z_loss")
    assert ctx.reports[""].get("dropped", 0) == len(logits) * k - routed.sum()


def as_matrix(routing: Routing, T: int, E: int) -> tuple[Tensor, Tensor]:
    """(T, E) weights, and which experts a token goes to."""
    weights, routed = torch.zeros(T, E, dtype=routing.weights.dtype), torch.zeros(T, E, dtype=torch.bool)
    tokens = torch.arange(T).unsqueeze(-1).expand_as(routing.indices) if routing.tokens is None else routing.tokens
    kept = routing.indices >= 0
    weights[tokens[kept], routing.indices[kept]] = routing.weights[kept]
    routed[tokens[kept], routing.indices[kept]] = True
    return weights, routed


@pytest.mark.parametrize("name", ["expert_choice", "topk_batch_priority", "topk_capacity_vanilla"])
def test_capacity_equals_vmoe(golden: Read, name: str) -> None:
    case = golden(f"op_moe_{name}")
    given, gates, x, w = case.about["arguments"], *(case.inputs[key] for key in ("gates", "x", "w"))
    (T, E), capacity = gates.shape, given["capacity"]
    if given["kind"] == "items_per_expert":
        router: nn.Module = ExpertChoiceRouter(E, num_experts=E, k=capacity * E / T)
    else:
        kind = PriorityRouter if given["batch_priority"] else SwitchRouter
        router = kind(E, num_experts=E, k=given["k"], capacity=capacity * E / (T * given["k"]))
    routing = scored(router, gates)(gates.log().unsqueeze(0))
    owners = torch.arange(T).unsqueeze(-1) if routing.tokens is None else routing.tokens
    routing = routing._replace(weights=routing.weights * gates.sum(-1)[owners])  # float32 gates do not quite sum to 1
    weights, routed = as_matrix(routing, T, E)
    torch.testing.assert_close(weights, combined(case), rtol=0, atol=1e-5 if case.dtype == torch.float32 else 1e-10)
    assert torch.equal(routed, case.data["dispatch"].sum(-1).bool())
    case.check(routing.mix(x.unsqueeze(0), Matrices(w), E)[0])


def combined(case: Golden) -> Tensor:
    """(T, E) of the (T, E, capacity) weights: the order of slots is the reference's own."""
    return case.data["combine_weights.f64" if case.dtype == torch.float64 else "combine_weights"].sum(-1)


class Matrices(nn.Module):
    """Experts that are matrices (E, C, D)."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = weight

    def forward(self, rows: Tensor, counts: list[int]) -> Tensor:
        return torch.cat([part @ weight for part, weight in zip(rows.split(counts), self.weight, strict=True)])


def test_relu_router_equals_remoe(golden: Read) -> None:
    case = golden("op_moe_remoe_relu")
    router = ReluRouter(16, num_experts=8, k=2, l1_start=0.01).to(case.dtype).train()
    router.l1_weight = torch.tensor(0.01, dtype=case.dtype)
    with torch.no_grad():
        router.gate.weight.copy_(case.inputs["weight"])
    x, ctx = case.inputs["x"].unsqueeze(0), Context()
    routing = router(x, ctx)
    case.check(router.logits(x), "router_logits")
    case.check(routing.weights, "expert_weights")
    assert torch.equal(routing.indices >= 0, case.data["routing_map"].bool())
    case.check(ctx.losses[""]["l1"], "l1_reg_loss")
    case.check(ctx.reports[""]["sparsity"], "sparsity")
    layer = Moe(
        16, router={"block": "relu_router", "num_experts": 8}, expert={"block": "mlp", "hidden_dim": 24, "bias": False}
    )
    for e in range(8):
        expert: Any = layer.to(case.dtype).experts[e]  # type: ignore[index]
        assert isinstance(expert, Mlp)
        expert.load_state_dict({"fc1.weight": case.inputs["fc1"][e], "fc2.weight": case.inputs["fc2"][e]})
    case.check(routing.mix(x, layer.experts, 8)[0])


def test_balanced_assignment_finds_the_optimum(golden: Read) -> None:
    case = golden("op_moe_base_assignment")
    scores = case.inputs["scores"]
    experts = balanced_assignment(scores, precision=1e-4)
    assert torch.equal(experts, case.data["experts"])
    case.check(scores.gather(1, experts.unsqueeze(-1)).sum(), "total_score")


def test_sinkhorn_equals_megatron(golden: Read) -> None:
    case = golden("op_moe_sinkhorn")
    case.check(sinkhorn(case.inputs["cost"]))


def test_tokens_served_first_keep_the_room_of_an_expert() -> None:
    indices, order = torch.tensor([[0, 0, 1, 0]]), torch.tensor([[3, 2, 1, 0]])
    assert within_capacity(indices, order, 2).tolist() == [[-1, 0, 1, 0]]
