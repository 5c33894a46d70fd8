"""Gated channel mixers against upstream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks
from blocks.context import Context
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


def image(x: Tensor) -> Tensor:
    """Tokens (B, 6, C) as images of 3 rows and 2 columns."""
    return x.unflatten(1, (3, 2)).permute(0, 3, 1, 2)


def test_hourglass_goes_through_narrow_steps_in_a_wide_space():
    mixer, x = blocks.get("hourglass")(8, ratio=3, neck=0.25, depth=2), torch.randn(2, 6, 8)
    z = mixer.proj_in(x)
    assert z.shape[-1] == 24
    for step in mixer.steps:
        narrow = F.gelu(step.fc1(step.pre(z)))
        assert narrow.shape[-1] == 2
        z = z + step.fc2(narrow)
    torch.testing.assert_close(mixer(x), mixer.proj_out(z))
    torch.testing.assert_close(mixer(image(x)), image(mixer(x)))


def test_frozen_projection_of_an_hourglass_is_part_of_the_state_and_not_trained():
    mixer = blocks.get("hourglass")(8, frozen=True)
    trained = {name for name, parameter in mixer.named_parameters() if parameter.requires_grad}
    assert set(mixer.state_dict()) - trained == {"proj_in.weight", "proj_in.bias"}


def test_activator_gates_by_two_normed_maps():
    mixer, x = blocks.get("activator")(8, ratio=2), torch.randn(2, 6, 8)
    gate, value = mixer.norm(F.gelu(mixer.proj_1(x))), mixer.norm(mixer.proj_2(x))
    torch.testing.assert_close(mixer(x), mixer.proj_3(gate * value))
    torch.testing.assert_close(mixer(image(x)), image(mixer(x)))


def test_series_activation_sums_shifted_copies():
    act, x = blocks.get("series_activation")(8, terms=3, act="relu"), torch.randn(2, 6, 8)
    torch.nn.init.normal_(act.scale)
    expected = sum(act.scale[i] * F.relu(x + act.shift[i]) for i in range(3))
    torch.testing.assert_close(act(x), expected)
    torch.testing.assert_close(act(image(x)), image(act(x)))


def test_terms_of_a_series_begin_apart():
    act = blocks.get("series_activation")(4, terms=3)
    assert act.shift[:, 0].tolist() == [-1, 0, 1]
    assert blocks.get("series_activation")(4, terms=1).shift[0, 0] == 0


def test_an_mlp_takes_a_series_for_its_activation():
    mlp = blocks.get("mlp")(8, act={"block": "series_activation", "terms": 2})
    assert mlp.act.shift.shape == (2, 32)


def test_selective_channel_mixer_goes_along_the_channels():
    mixer, x = blocks.get("selective_channel_mixer")(input_size=(3, 2)), torch.randn(2, 6, 8)
    torch.testing.assert_close(mixer(x), mixer.mixer(x.mT).mT)
    assert mixer.mixer.in_proj.in_features == 6


def test_padding_is_no_feature_to_a_selective_channel_mixer():
    mixer, x = blocks.get("selective_channel_mixer")(input_size=(6,)), torch.randn(2, 6, 8)
    mask = torch.tensor([[True] * 4 + [False] * 2] * 2)
    other = x.clone()
    other[:, 4:] = 50.0
    torch.testing.assert_close(mixer(x, Context(mask=mask)), mixer(other, Context(mask=mask)))


def test_selective_channel_mixer_names_both_lengths(refused):
    with refused(
        "this selective_channel_mixer was built for 6 positions and meets 7; build the model with that input size"
    ):
        blocks.get("selective_channel_mixer")(input_size=(3, 2))(torch.zeros(1, 7, 8))


def test_branches_of_a_weighted_dense_layer_read_all_before_them():
    layer, x = blocks.get("weighted_dense")(8, parts=[["layer_norm", "mlp"], "mlp"]), torch.randn(2, 6, 8)
    torch.nn.init.normal_(layer.alpha)
    first, second, a = layer.get_submodule("0"), layer.get_submodule("1"), layer.alpha
    y_1 = first(a[0] * x)
    y_2 = second(a[1] * x + a[2] * y_1)
    torch.testing.assert_close(layer(x), a[3] * x + a[4] * y_1 + a[5] * y_2)


def test_weighted_dense_begins_as_residual_branches():
    layer, x = blocks.get("weighted_dense")(8, parts=["mlp"], repeat=3), torch.randn(2, 6, 8)
    expected = x
    for branch in list(layer.children()):
        expected = expected + branch(expected)
    torch.testing.assert_close(layer(x), expected)
    assert list(layer._modules) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "parts, message",
    [
        (["mlp", "none"], "branch 1 is empty; a sum needs none: leave it out"),
        ([{"block": "dense", "out_dim": 5}], "branch 0 leads from 8 to 5 channels, and the sums need 8"),
    ],
)
def test_branches_that_cannot_be_summed_are_refused(refused, parts, message):
    with refused(message):
        blocks.get("weighted_dense")(8, parts=parts)
