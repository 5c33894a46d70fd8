"""Linear maps of learned tokens, of few bits, of low rank and with adapters, against upstream; and what each of them promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.context import Context
from blocks.structured.adapters import RoutedLora, SkilledLora, TaskLora
from blocks.structured.bit_linear import BitLinear, in_steps, ternary
from blocks.structured.dynamic_low_rank import DynamicLowRank
from blocks.structured.ordered_low_rank import OrderedLowRank
from blocks.structured.pattention import Pattention


@pytest.mark.parametrize("name", ["layer_pattention", "layer_pattention_gelu_l2"])
@torch.no_grad()
def test_pattention_equals_upstream(golden, name):
    case = golden(name)
    config = case.about["config"]
    layer = Pattention(config["in"], config["out"], tokens=config["tokens"], theta=config["norm_activation_type"]).to(
        case.dtype
    )
    layer.load_state_dict(case.state)
    case.check(layer(case.inputs["x"]))


@pytest.mark.parametrize("theta", ["l2_norm_gelu", "gelu_l2_norm"])
@torch.no_grad()
def test_a_grown_pattention_keeps_its_function(theta):
    torch.manual_seed(0)
    layer, x = Pattention(12, 8, tokens=20, theta=theta).double(), torch.randn(3, 12).double()
    before = layer(x)
    layer.grow(7)
    assert layer.key_param_tokens.shape == (27, 12)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-15)


@torch.no_grad()
def test_growing_as_upstream_does_changes_the_function(golden):
    case = golden("layer_pattention")
    layer = Pattention(32, 24, tokens=40).to(case.dtype)
    layer.load_state_dict(case.state)
    layer.grow(8)
    layer.value_param_tokens[40:] = case.inputs["new_values"]
    layer.counted = 48
    case.check(layer(case.inputs["x"]), "output_grown")


def test_a_softmax_of_tokens_does_not_grow(refused):
    with refused("a softmax gives new keys of zeros a weight; grow one of `l2_norm_gelu` or `gelu_l2_norm`"):
        Pattention(8, theta="softmax").grow(1)


def test_quantised_maps_equal_upstream(golden):
    case = golden("op_bitlinear")
    x, weight = case.inputs["x"], case.inputs["weight"]
    case.check(F.linear(in_steps(x), ternary(weight)))
    steps = in_steps(x) * 127 / x.abs().amax(-1, keepdim=True)
    assert torch.equal(steps.round().long(), case.data["quantised_x"])
    assert torch.equal(ternary(weight).sign().long(), case.data["ternary_weight"])


def test_gradients_pass_the_rounding():
    torch.manual_seed(0)
    layer, x = BitLinear(8, 6, bias=False), torch.randn(4, 8, requires_grad=True)
    layer(x).sum().backward()
    plain = in_steps(layer.norm(x)).detach().sum(0).expand(6, 8)
    torch.testing.assert_close(layer.weight.grad, plain)
    assert x.grad is not None and x.grad.abs().sum() > 0


@torch.no_grad()
def test_ordered_low_rank_equals_upstream(golden):
    case = golden("layer_maestro_linear")
    config, x = case.about["config"], case.inputs["x"]
    layer = OrderedLowRank(config["in"], config["out"]).to(case.dtype)
    layer.load_state_dict(case.state)
    case.check(layer(x))
    for figure in ("importance", "group_lasso"):
        case.check(getattr(layer, figure)(hierarchical=False), figure)
        case.check(getattr(layer, figure)(hierarchical=True), f"{figure}_hierarchical")
    layer.width = config["p"]
    case.check(layer(x), "output_width")
    layer.width = 1.0
    kept = layer.prune(config["threshold"])
    assert torch.equal(kept, case.data["kept"].bool()) and layer.rank == int(kept.sum())
    case.check(layer(x), "output_pruned")


@torch.no_grad()
def test_ordered_low_rank_takes_a_given_map():
    torch.manual_seed(0)
    layer, weight = OrderedLowRank(6, 9, bias=False).double(), torch.randn(9, 6).double()
    layer.factorise(weight)
    torch.testing.assert_close(layer.out_network.weight @ layer.in_network.weight, weight, rtol=0, atol=1e-12)


@torch.no_grad()
def test_dynamic_low_rank_equals_upstream(golden):
    case = golden("layer_dlrt_linear")
    layer = DynamicLowRank(14, 18, rank=4).to(case.dtype)
    layer.load_state_dict(case.state)
    case.check(layer(case.inputs["x"]))
    K, L = layer.U @ layer.S_hat, layer.V @ layer.S_hat.T
    layer.rebase(K + case.inputs["grad_K"], L + case.inputs["grad_L"])
    case.check(layer.U @ layer.S_hat @ layer.V.T, "projected_weight")


def test_steps_along_the_rank_find_a_map_and_its_rank():
    torch.manual_seed(0)
    layer, x = DynamicLowRank(10, 12, rank=6, bias=False).double(), torch.randn(200, 10).double()
    target = torch.randn(12, 2).double() @ torch.randn(2, 10).double()

    def loss() -> Tensor:
        return (layer(x) - x @ target.T).square().mean()

    first = float(loss())
    for _ in range(60):
        layer.step(loss, lr=1.0, tau=0.02)
    assert float(loss()) < 1e-2 * first
    assert layer.S_hat.shape == (2, 2)
    torch.testing.assert_close(layer.U.T @ layer.U, torch.eye(2).double(), rtol=0, atol=1e-9)


@torch.no_grad()
def test_skilled_lora_equals_upstream(golden):
    case = golden("layer_mhr")
    layer = SkilledLora(16, 24, rank=3, skills=4, splits=4, num_tasks=5, alpha=6.0).to(case.dtype)
    layer.load_state_dict({key.removeprefix("layer."): value for key, value in case.state.items()})
    tasks = case.data["in.task_ids"]
    case.check(layer(case.inputs["x"], Context(slots={"task": {"": tasks}})))
    weights = layer.weights(tasks)
    case.check(weights.view(case.data["routing_weights"].shape), "routing_weights")


@torch.no_grad()
def test_task_lora_equals_upstream_for_a_task_and_for_none(golden):
    case = golden("layer_mtlora_matrix")
    layer = TaskLora(16, 20, rank=4, num_tasks=2, scale=0.5, task_scale=1.5).to(case.dtype)
    state = case.state
    layer.load_state_dict(
        {
            "weight": state["linear.weight"],
            "bias": state["linear.bias"],
            "lora_a": torch.stack([state["lora_shared_A"], *(_rows(state[f"lora_tasks_A.{t}"], 4) for t in "ab")]),
            "lora_b": torch.stack([state["lora_shared_B"], *(_rows(state[f"lora_tasks_B.{t}"].T, 4).T for t in "ab")]),
        }
    )
    x = case.inputs["x"]
    case.check(layer(x))
    base = F.linear(x, layer.weight, layer.bias)
    of_a = layer(case.inputs["x_tasks.a"], Context(slots={"task": {"": torch.tensor([1, 1])}}))
    case.check(of_a - F.linear(case.inputs["x_tasks.a"], layer.weight, layer.bias) + base, "output.a")


def _rows(x: Tensor, count: int) -> Tensor:
    return torch.cat([x, x.new_zeros(count - len(x), x.shape[1])])


@torch.no_grad()
def test_routed_lora_equals_upstream(golden):
    case = golden("layer_glider")
    layer = RoutedLora(24, 20, rank=4, num_experts=5, k=2).to(case.dtype)
    state = case.state
    factors = {
        f"lora_{name.lower()}": torch.stack([state[f"lora_experts.default.{e}.lora_{name}.weight"] for e in range(5)])
        for name in "AB"
    }
    layer.load_state_dict(
        {"weight": state["weight"], "bias": state["bias"], "gate": state["lora_gate.default.weight"], **factors}
    )
    bias = case.inputs["routing_bias"] * case.about["config"]["bias_routing_scale"]
    ctx, x = Context(slots={"routing_bias": {"": bias}}), case.inputs["hidden_states"]
    case.check(layer(x, ctx))
    logits = layer.scores(x, ctx)
    case.check(logits.view(case.data["router_logits"].shape), "router_logits")
