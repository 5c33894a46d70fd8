"""Recurrent mixers against the outputs and states of upstream, whole and continued; and what is particular to each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blocks.ops
from blocks.context import Context
from blocks.linear_attention.delta_net import DeltaNet
from blocks.linear_attention.gated_delta_net import GatedDeltaNet
from blocks.linear_attention.gla import GatedLinearAttention
from blocks.linear_attention.hgrn2 import Hgrn2
from blocks.linear_attention.retention import Retention
from blocks.linear_attention.rwkv7 import FIRST_VALUES, Rwkv7
from blocks.ssm.mamba2 import Mamba2

State = dict[str, Tensor]


def qwen(state: State) -> State:
    """Qwen3-Next's keys of gated DeltaNet, which hold several of ours in one: 2 heads of keys of 8, 4 of values of 12."""
    by_key_head = state["in_proj_qkvz.weight"].unflatten(0, (2, -1)).split([8, 8, 24, 24], 1)
    q, k, v, g = (part.flatten(0, 1) for part in by_key_head)
    b, a = (part.flatten(0, 1) for part in state["in_proj_ba.weight"].unflatten(0, (2, -1)).split([2, 2], 1))
    convs = dict(zip("qkv", state["conv1d.weight"].split([16, 16, 48]), strict=True))
    names = {"q": q, "k": k, "v": v, "g": g, "a": a, "b": b, "o": state["out_proj.weight"]}
    own = {f"{name}_proj.weight": weight for name, weight in names.items()}
    own |= {f"{name}_conv1d.weight": weight for name, weight in convs.items()}
    return own | {"o_norm.weight": state["norm.weight"], "A_log": state["A_log"], "dt_bias": state["dt_bias"]}


def rwkv7(state: State) -> State:
    """BlinkDL's keys of RWKV-7, whose low-rank maps lie transposed."""
    own = {key: value for key, value in state.items() if key.startswith("x_") or key == "r_k"}
    own |= {key: state[key].flatten() for key in ("k_k", "k_a")}
    for ours, theirs in {"r": "receptance", "k": "key", "v": "value", "o": "output"}.items():
        own[f"{ours}_proj.weight"] = state[f"{theirs}.weight"]
    for name in "wavg":
        if f"{name}1" in state:
            own |= {f"{name}_lora.lora.{2 * i}.weight": state[f"{name}{i + 1}"].T for i in (0, 1)}
            own |= {f"{name}_lora.lora.2.bias": state[f"{name}0"].flatten()} if name != "g" else {}
    return own | {"g_norm.weight": state["ln_x.weight"], "g_norm.bias": state["ln_x.bias"]}


UPSTREAM: dict[str, tuple[Callable[..., nn.Module], dict[str, Any], Callable[[State], State]]] = {
    "layer_mamba2_mixer": (Mamba2, {"head_dim": 8, "state_dim": 8, "groups": 2}, dict),
    "layer_retention": (Retention, {"num_heads": 4}, dict),
    "layer_gla": (GatedLinearAttention, {"num_heads": 2, "gate_rank": 8}, dict),
    "layer_delta_net": (DeltaNet, {"num_heads": 2}, dict),
    "layer_gated_deltanet": (
        GatedDeltaNet,
        {"num_heads": 2, "head_dim": 8, "num_v_heads": 4, "expand_v": 1.5, "eps": 1e-6},
        qwen,
    ),
    "layer_hgrn2": (Hgrn2, {"expand_ratio": 8}, dict),
}


@pytest.mark.parametrize("name", UPSTREAM)
def test_mixer_equals_upstream_whole_and_continued(golden, name):
    case = golden(name)
    make, params, converted = UPSTREAM[name]
    mixer = make(32, **params).to(case.dtype)
    mixer.load_state_dict(converted(case.state))
    inputs, ctx = case.inputs.get("x", case.inputs.get("hidden_states")), Context(state={})
    with torch.no_grad():
        case.check(mixer(inputs))
        parts = inputs.split([9] + [1] * (inputs.shape[1] - 9), 1)
        case.check(torch.cat([mixer(part, ctx) for part in parts], 1))
    check_states(case, name, ctx.state[""])


def check_states(case: Any, name: str, state: tuple[Tensor, ...]) -> None:
    """Against the last states of upstream, in our layout: convolutions first, (B, H, K, V) behind them."""
    *convs, S = (part for part in state if part.is_floating_point())
    if "state.0.recurrent" in case.data:
        case.check(S.mT if name == "layer_mamba2_mixer" else S, "state.0.recurrent")
        kept = case.data["state.0.conv"][..., 1:].to(case.dtype)
        torch.testing.assert_close(torch.cat(convs, 1), kept, rtol=0, atol=2e-5)
        return
    case.check(S, "final_state")
    for part, conv in zip("qkv", convs, strict=False):
        case.check(conv, f"final_conv_state_{part}")


RANKS = {"decay_rank": 4, "a_rank": 4, "v_rank": 4, "gate_rank": 8}


@pytest.mark.parametrize("first", [True, False])
def test_rwkv7_equals_upstream_whole_and_continued(golden, first):
    case = golden("layer_rwkv7_time_mix_first" if first else "layer_rwkv7_time_mix")
    mixer = Rwkv7(32, head_dim=8, first=first, **RANKS).to(case.dtype)
    mixer.g_norm.eps = 64e-5
    names = rwkv7(case.state)
    mixer.load_state_dict({key: value for key, value in names.items() if not first or not key.startswith("v_lora")})
    ctx, parts = Context(state={}), []
    with torch.no_grad():
        for begin, end in ((0, 33), *((t, t + 1) for t in range(33))):
            if begin == 0 and end == 33:
                whole = Context()
                given = whole
            else:
                given = ctx
            if not first:
                given.write(FIRST_VALUES, "first", case.inputs["v_first"][:, begin:end])
            y = mixer(case.inputs["x"][:, begin:end], given)
            parts.append(y)
    case.check(parts[0])
    case.check(torch.cat(parts[1:], 1))
    if first:
        case.check(whole.slots[FIRST_VALUES][""], "v_first_out")


def test_later_rwkv7_without_a_first_one_says_so(refused):
    with refused("a later rwkv7 mixes its values with those of a first one, and ctx carries none; set `first`"):
        Rwkv7(64, first=False)(torch.zeros(1, 3, 64), Context())


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True])
def test_later_rwkv7_finds_each_sequence_s_first_values(packed):
    torch.manual_seed(0)
    layers, x = [Rwkv7(64, first=index == 0) for index in range(2)], torch.randn(1, 12, 64)
    layers[1].path = "second"

    def run(x: Tensor, **given: Tensor) -> Tensor:
        ctx = Context(**given)  # type: ignore[arg-type]
        return layers[1](layers[0](x, ctx), ctx)

    apart = torch.cat([run(x[:, :5]), run(x[:, 5:])], 1)
    if packed:
        found = run(x, cu_seqlens=torch.tensor([0, 5, 12]))
    else:
        rows, mask = torch.zeros(2, 9, 64), torch.zeros(2, 9, dtype=torch.bool)
        mask[0, 4:], mask[1, :7] = True, True
        rows[mask] = x[0]
        found = run(rows, mask=mask)[mask].unsqueeze(0)
    torch.testing.assert_close(found, apart, rtol=1e-4, atol=1e-5)


def test_decays_of_hgrn2_are_above_their_lower_bound():
    plain, bounded, x = Hgrn2(32), Hgrn2(32, lower_bound=0.999), torch.randn(1, 200, 32)
    bounded.load_state_dict(plain.state_dict())
    states = [Context(state={}), Context(state={})]
    with torch.no_grad():
        for mixer, ctx in zip((plain, bounded), states, strict=True):
            mixer(x, ctx)
    small, large = (ctx.state[""][0].norm() for ctx in states)
    assert large < 0.2 * small  # what is kept longer is written more weakly


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_mamba2_from_its_projection_on_equals_upstream(golden, backend):
    case = golden("op_mamba2_split_scan")
    given, width = case.inputs, 32
    mixer = Mamba2(16, head_dim=8, groups=2, norm_groups=1, state_dim=6).to(case.dtype)
    mixer.in_proj = nn.Identity()
    mixer.load_state_dict(
        {
            "dt_bias": given["dt_bias"],
            "A_log": torch.log(-given["A"]),
            "D": given["D"],
            "conv1d.weight": given["conv1d_weight"].unsqueeze(1),
            "conv1d.bias": given["conv1d_bias"],
            "norm.weight": given["rmsnorm_weight"],
            "out_proj.weight": given["outproj_weight"],
        }
    )
    assert mixer.hidden_dim == width
    with torch.no_grad(), blocks.ops.backend(backend):
        case.check(mixer(given["zxbcdt"]))


@pytest.mark.parametrize("name, groups", [("op_gated_rms_norm", 1), ("op_gated_rms_norm_groups", 4)])
def test_norm_of_mamba2_equals_upstream(golden, name, groups):
    case = golden(name)
    given, gate_first = case.inputs, not case.about["arguments"]["norm_before_gate"]
    mixer = Mamba2(16, head_dim=8, norm_groups=groups, eps=case.about["arguments"]["eps"]).to(case.dtype)
    mixer.norm.weight.data = given["weight"]
    gate = F.silu(given["z"])
    with torch.no_grad():
        case.check(mixer._normed(given["x"] * gate) if gate_first else mixer._normed(given["x"]) * gate)


def test_mamba2_norms_each_group_where_asked_to():
    whole, parted = Mamba2(32, head_dim=16, norm_groups=1), Mamba2(32, head_dim=16, norm_groups=4)
    y = torch.randn(2, 5, 64)
    torch.testing.assert_close(whole._normed(y), F.rms_norm(y, (64,), eps=1e-5))
    torch.testing.assert_close(parted._normed(y)[..., 16:32], F.rms_norm(y[..., 16:32], (16,), eps=1e-5))


def test_mamba2_keeps_steps_within_its_limits():
    mixer, x = Mamba2(32, head_dim=16, dt_limit=[0.5, 0.5]), torch.randn(2, 9, 32)
    other = Mamba2(32, head_dim=16, dt_limit=[0.5, 0.5])
    other.load_state_dict(mixer.state_dict() | {"dt_bias": mixer.dt_bias + 3})
    with torch.no_grad():
        torch.testing.assert_close(other(x), mixer(x))


def test_initial_rates_of_mamba2_are_those_of_the_paper():
    mixer = Mamba2(1024, head_dim=8)
    steps, rates = F.softplus(mixer.dt_bias), mixer.A_log.exp()
    assert steps.min() >= 0.9e-3 and steps.max() <= 1.1e-1 and steps.log().std() > 1
    assert rates.min() >= 1 and rates.max() <= 16 and rates.std() > 3


def test_heads_that_do_not_divide_name_the_nearest(refused):
    with refused("head_dim 48 does not divide expand * dim 128; the nearest that does is 32"):
        Mamba2(64, head_dim=48)
