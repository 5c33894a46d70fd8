"""Gated channel mixers against upstream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks
from blocks.mlp.mlp import GatedMlp

State = dict[str, Tensor]
TANH_GELU = {"block": "gelu", "approximate": "tanh"}


def split_keys(state: State) -> State:
    """Upstream's keys in ours; Phi-3 holds gate and up in one matrix."""
    fused = state.get("gate_up_proj.weight")
    gate, up = (state["gate_proj.weight"], state["up_proj.weight"]) if fused is None else fused.chunk(2)
    return {"gate.weight": gate, "up.weight": up, "down.weight": state["down_proj.weight"]}


@pytest.mark.parametrize(
    "name, params",
    [
        ("layer_swiglu_llama", {"hidden_dim": 88}),
        ("layer_swiglu_fused_phi3", {"hidden_dim": 48}),
        ("layer_geglu_gemma", {"hidden_dim": 64, "act": TANH_GELU}),
    ],
)
def test_gated_mlp_equals_upstream(golden, name, params):
    case = golden(name)
    mixer = GatedMlp(32, **params).to(case.dtype)
    mixer.load_state_dict(split_keys(case.state))
    with torch.no_grad():
        case.check(mixer(case.inputs["hidden_states"]))


@pytest.mark.parametrize(
    "act, function", [("sigmoid", torch.sigmoid), ("relu", F.relu), ("gelu", F.gelu), (None, lambda x: x)]
)
def test_gated_mlp_is_the_gate_of_its_activation(act: str | None, function: Any):
    mixer, x = blocks.get("gated_mlp")(8, act=act), torch.randn(2, 5, 8)
    gate, up = F.linear(x, mixer.gate.weight), F.linear(x, mixer.up.weight)
    torch.testing.assert_close(mixer(x), F.linear(function(gate) * up, mixer.down.weight))
