"""Experts of several widths, experts that take half of a sequence, and layers on the spectrum of an image, against upstream."""

from __future__ import annotations

import torch

from blocks.construct import construct
from blocks.conv.transform_once import SpectralLayer, TransformOnce, cosines
from blocks.moe.moe import Moe
from blocks.registry.slots import Place, Slot


@torch.no_grad()
def test_experts_of_several_widths_equal_upstream(golden):
    case = golden("layer_automoe")
    config, state = case.about["config"], case.state
    width, count, dims = config["width"], config["n_experts"], config["expert_dims"]
    router = {
        "block": "topk_router", "num_experts": count, "k": config["k"], "renormalise": False, "gate_bias": True,
    }  # fmt: skip
    layer = Moe(width, router=Slot(router), expert=Slot({"block": "mlp", "act": "relu"}), expert_dims=dims).to(
        case.dtype
    )
    own = {
        "router.gate.weight": state["switch.weight"][:count, :width],
        "router.gate.bias": state["switch.bias"][:count],
    }
    for e, hidden in enumerate(dims):
        own |= {
            f"experts.{e}.fc1.weight": state[f"experts.{e}.0.weight"][:hidden, :width],
            f"experts.{e}.fc1.bias": state[f"experts.{e}.0.bias"][:hidden],
            f"experts.{e}.fc2.weight": state[f"experts.{e}.1.weight"][:width, :hidden],
            f"experts.{e}.fc2.bias": state[f"experts.{e}.1.bias"][:width],
        }
    layer.load_state_dict(own)
    case.check(layer(case.inputs["x"]))


def test_widths_are_as_many_as_experts(refused):
    router = Slot({"block": "topk_router", "num_experts": 3})
    with refused("expert_dims names a width for each of 3 experts with parameters of their own; found 2 widths"):
        Moe(8, router=router, expert=Slot("mlp"), expert_dims=[8, 16])


@torch.no_grad()
def test_experts_that_take_half_of_a_sequence_equal_upstream(golden):
    case = golden("layer_moe_uoe")
    config, state = case.about["config"], case.state
    router = {
        "block": "union_router", "num_experts": config["n_experts"], "k": config["topk"], "capacity": config["capacity"],
    }  # fmt: skip
    expert = {"block": "mlp", "hidden_dim": config["transformer_hidden_dim"] // config["n_experts"]}
    layer = Moe(config["transformer_dim"], router=Slot(router), expert=Slot(expert)).to(case.dtype)
    own = {
        "router.gate.weight": state["switch_gate.w_gate.weight"],
        "router.gate.bias": state["switch_gate.w_gate.bias"],
    }
    for e in range(config["n_experts"]):
        own |= {
            f"experts.{e}.fc1.weight": state["linear1.weight.0"][e].T,
            f"experts.{e}.fc1.bias": state["linear1.bias.0"][e, 0],
            f"experts.{e}.fc2.weight": state["linear2.weight.0"][e].T,
            f"experts.{e}.fc2.bias": state["linear2.bias"][e],
        }
    layer.load_state_dict(own)
    x = case.inputs["x"]
    case.check(layer(x))
    scores = layer.router.logits(x).softmax(-1)
    best = scores.topk(config["topk"], -1)
    kept = torch.zeros_like(scores).scatter(-1, best.indices, best.values).view(*x.shape[:2], -1)
    case.check(layer.router.routes(kept).view(case.data["route"].shape), "route")


@torch.no_grad()
def test_layers_on_a_spectrum_equal_upstream(golden):
    case = golden("layer_t1_2d")
    layer = SpectralLayer(6, 5, "sin", False).to(case.dtype)
    layer.load_state_dict(case.state)
    case.check(layer(case.inputs["z"]))


def test_the_cosine_transform_equals_upstream_and_undoes_itself(golden):
    case = golden("op_dct")
    waves = cosines(16, case.dtype, torch.device("cpu"))
    case.check(case.inputs["x"] @ waves.T)
    torch.testing.assert_close(waves @ waves.T, torch.eye(16, dtype=case.dtype), rtol=0, atol=1e-6)


@torch.no_grad()
def test_transform_once_of_idle_layers_keeps_the_low_modes():
    block: TransformOnce = construct({"block": "transform_once", "modes": 9, "keep_high": True}, Place(), 3)  # type: ignore[assignment]
    for weight in block.parameters():
        weight.zero_()
    x = torch.randn(2, 3, 9, 12)
    torch.testing.assert_close(block(x), x, rtol=0, atol=1e-5)
