"""Mixers of whole sequences and of channels: long convolutions, feature maps, latent and kernelized attention."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import blocks.ops
from blocks.attention.latent_attention import LatentAttention
from blocks.attention.restormer_attention import RestormerAttention
from blocks.attention.rotary import Rope, rotated
from blocks.context import Context
from blocks.conv.causal_conv import CausalConv
from blocks.linear_attention.feature_maps import Favor, plain, reweighted
from blocks.linear_attention.hyena import Hyena
from blocks.linear_attention.kernelized_attention import KernelizedAttention
from blocks.linear_attention.linear_attention import LinearAttention
from blocks.linear_attention.monarch_mixer import MonarchMixer
from blocks.ops.linear_attention import causal_linear_attention


def tokens(length: int = 21, dim: int = 64) -> Tensor:
    return torch.randn(2, length, dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("name", ["layer_hyena", "layer_hyena_order3_short"])
def test_hyena_equals_upstream(golden, name):
    case = golden(name)
    given = case.about["config"]
    mixer = Hyena(
        given["d_model"],
        order=given["order"],
        max_length=given["l_max"],
        filter_dim=given["filter_order"],
        position_dim=given["emb_dim"],
    ).to(case.dtype)
    state = {key: value for key, value in case.state.items() if not key.endswith(".freq")}
    state["filter_fn.freq"] = case.state["filter_fn.implicit_filter.1.freq"]
    mixer.load_state_dict(state)
    with torch.no_grad():
        case.check(mixer.filter_fn(case.inputs["u"].shape[1]).unsqueeze(0), "filter")
        case.check(mixer(case.inputs["u"]))


def test_initial_positions_and_rates_of_hyena_are_upstream_s(golden):
    case = golden("layer_hyena")
    fresh = Hyena(16, max_length=40, filter_dim=12, position_dim=5)
    for key in ("filter_fn.pos_emb.z", "filter_fn.pos_emb.t", "filter_fn.modulation.deltas"):
        torch.testing.assert_close(fresh.state_dict()[key], case.state[key].float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mixer", [Hyena, MonarchMixer, KernelizedAttention])
def test_longer_sequences_than_there_are_weights_for_are_refused(mixer):
    name = mixer.block_id.removeprefix("core/").removesuffix("@1")
    with pytest.raises(ValueError, match=rf"^an? {name} of max_length 20 has no (kernels|weights) for 21 tokens$"):
        mixer(64, max_length=20).double()(tokens())


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", [Hyena, MonarchMixer, KernelizedAttention, lambda dim: MonarchMixer(dim, causal=True)])
def test_padding_changes_nothing(make, side):
    mixer, x = make(64).double(), tokens()
    real = slice(9, None) if side == "left" else slice(None, 21)
    padded, mask = torch.full((2, 30, 64), 50.0, dtype=torch.float64), torch.zeros(2, 30, dtype=torch.bool)
    padded[:, real], mask[:, real] = x, True
    torch.testing.assert_close(mixer(padded, Context(mask=mask))[:, real], mixer(x))


@pytest.mark.parametrize("mixer", [Hyena, MonarchMixer, KernelizedAttention])
def test_mixers_of_whole_sequences_refuse_a_state_and_name_one_that_takes_it(mixer):
    with pytest.raises(ValueError, match=r"^a sequence cannot be continued here \(ctx\.state\): its .* can continue$"):
        mixer(64).double()(tokens(), Context(state={}))


@pytest.mark.parametrize("name", ["layer_monarch_mixer", "layer_monarch_mixer_causal"])
def test_monarch_mixer_equals_upstream(golden, name):
    case = golden(name)
    given = case.about["config"]
    mixer = MonarchMixer(
        given["d_model"],
        causal=not given["bidirectional"],
        max_length=given["l_max"],
        filter_dim=given["hyena_filter_order"],
        position_dim=given["hyena_emb_dim"],
        shared=given["bidirectional"],
        residual=given["residual_long_conv"],
    ).to(case.dtype)
    mixer.load_state_dict({_monarch_name(key): value for key, value in case.state.items()})
    length = case.inputs["u"].shape[1]
    with torch.no_grad():
        case.check(mixer.filter_fn(length).unsqueeze(0), "filter")
        if given["bidirectional"]:
            case.check(mixer.filter_fn(length, mixer.filter_fn2).unsqueeze(0), "filter_rev")
        case.check(mixer(case.inputs["u"]))


def _monarch_name(key):
    """Upstream's `filter_fn2` is the residual's filter, `implicit_filter_rev` the future's; the frequencies of one filter are one parameter."""
    key = re.sub(r"implicit_filter(_rev)?\.\d\.freq", "freq", key.replace("filter_fn2", "residual_fn"))
    return re.sub(r"(filter|residual)_fn\.implicit_filter_rev", r"\1_fn2", key)


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_monarch_mixer_gates_a_convolution_to_its_sides(causal):
    mixer, x = MonarchMixer(64, causal=causal, kernel_size=1).double(), tokens()
    there, bias = mixer.filter_fn(21), mixer.filter_fn.bias
    back = torch.zeros_like(there) if causal else mixer.filter_fn2(21)
    u = mixer.short_filter(mixer.in_linear(x).mT).mT
    gate, out_gate, v = u.chunk(3, -1)
    v, y = v * gate, torch.zeros_like(x)
    for t in range(21):
        for s in range(21):
            y[:, t] += (there[t - s] if s <= t else back[s - t - 1]) * v[:, s]
    torch.testing.assert_close(mixer(x), mixer.out_linear((y + bias * v) * out_gate))


@torch.no_grad()
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_kernelized_attention_weighs_by_features_and_distance(causal, short, monkeypatch):
    monkeypatch.setattr(KernelizedAttention, "_is_short", lambda self, length: short)
    torch.manual_seed(0)
    mixer, x = KernelizedAttention(64, causal=causal, max_length=30).double(), tokens()
    mixer.distances.normal_()
    q, k, v = mixer.qkv(x).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
    phi_q, phi_k = mixer.features(F.normalize(q, dim=-1), True), mixer.features(F.normalize(k, dim=-1), False)
    apart = torch.arange(21).unsqueeze(1) - torch.arange(21)
    weights = mixer.distances[:, apart.clamp(min=0) if causal else apart + 29].exp()
    weights = weights.tril() if causal else weights
    scores = (phi_q @ phi_k.mT) * weights
    expected = (scores @ v) / (scores.sum(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(mixer(x), mixer.proj(expected.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("length", [64, 4000])
def test_kernelized_attention_counts_the_way_that_it_takes(length):
    with torch.device("meta"):
        mixer = KernelizedAttention(16, head_dim=8, max_length=4000)
        with FlopCounterMode(display=False) as counter:
            mixer(torch.empty(2, length, 16))
    said = mixer.macs((2, length, 16))
    assert ("fft" in said) == (length == 4000)
    linears = 2 * length * 16 * (48 + 16) + 2 * mixer.features.macs((2, length, 2, 8))["matmul"]
    assert counter.get_total_flops() == 2 * (said["matmul"] + linears) + said.get("fft", 0)


@torch.no_grad()
def test_restormer_attends_between_channels():
    block = RestormerAttention(64, num_heads=4).double()
    block.temperature.copy_(torch.rand(4, 1, 1))
    image = tokens(15).view(2, 3, 5, 64).permute(0, 3, 1, 2)
    qkv = block.qkv_dwconv(torch.einsum("oc,bchw->bohw", block.qkv.weight, image))
    q, k, v = qkv.unflatten(1, (3, 4, 16)).flatten(-2).unbind(1)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * block.temperature
    y = (scores.softmax(-1) @ v).flatten(1, 2).unflatten(-1, (3, 5))
    torch.testing.assert_close(block(image), torch.einsum("oc,bchw->bohw", block.project_out.weight, y))


@torch.no_grad()
def test_latent_attention_is_attention_with_keys_made_from_few_numbers():
    block, x = LatentAttention(64, q_rank=24, v_dim=20).double(), tokens()
    where = torch.arange(21).expand(2, -1)
    q = block.q_b_proj(block.q_a_layernorm(block.q_a_proj(x))).unflatten(-1, (4, 48))
    latent, k_r = block.kv_a_proj_with_mqa(x).split([64, 16], -1)
    k, v = block.kv_b_proj(block.kv_a_layernorm(latent)).unflatten(-1, (4, 52)).split([32, 20], -1)
    k_r = rotated(k_r.unsqueeze(2), where, Rope()).expand(-1, -1, 4, -1)
    q = torch.cat([q[..., :32], rotated(q[..., 32:], where, Rope())], -1)
    scores = torch.einsum("blhk,bmhk->bhlm", q, torch.cat([k, k_r], -1)) / 48**0.5
    weights = scores.masked_fill(torch.ones(21, 21).triu(1).bool(), -torch.inf).softmax(-1)
    torch.testing.assert_close(block(x), block.o_proj(torch.einsum("bhlm,bmhv->blhv", weights, v).flatten(2)))


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("name, feature_map", [("op_based", "taylor"), ("op_rebased", "rebased")])
def test_feature_maps_of_second_order_equal_upstream(golden, name, feature_map, backend):
    case = golden(name)
    q, k = (plain(case.inputs[part], feature_map) for part in "qk")
    with blocks.ops.backend(backend):
        y, _ = causal_linear_attention(q, k, case.inputs["v"], 1e-6)
    if name == "op_rebased" and case.dtype == torch.float32:  # sums of squares, which upstream takes as squares of sums
        assert (y - case.data["output.f64"]).norm() <= 1e-5 * case.data["output.f64"].norm()
    else:
        case.check(y)


def test_based_equals_upstream_whole_and_continued(golden):
    case = golden("layer_based")
    mixer = LinearAttention(32, num_heads=2, key_dim=8, feature_map="taylor", causal=True, eps=1e-12).to(case.dtype)
    qkv = torch.cat([case.state[f"{part}_proj.weight"] for part in "qkv"])
    mixer.load_state_dict({"qkv.weight": qkv, "proj.weight": case.state["o_proj.weight"]})
    x, ctx = case.inputs["x"], Context(state={})
    with torch.no_grad():
        case.check(mixer(x))
        case.check(torch.cat([mixer(part, ctx) for part in x.split([9] + [1] * (x.shape[1] - 9), 1)], 1))


def test_favor_is_the_exponential_on_average_and_its_features_are_orthogonal():
    torch.manual_seed(1)
    features, x, y = Favor(16).double(), tokens(9, 16) / 2, tokens(9, 16).flip(1) / 2
    rows = F.normalize(features.omega[:16], dim=-1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(16, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    estimates = []
    for _ in range(400):
        features.redraw()
        estimates.append((features(x, False) * features(y, False)).sum(-1))
    exact = ((x * y).sum(-1) / 4).exp()
    ratio = torch.stack(estimates).mean(0) / exact
    assert ratio.min() > 0.8 and ratio.max() < 1.2


def test_cosformer_weighs_near_positions_more():
    x = torch.ones(1, 1, 5, 3, dtype=torch.float64)
    features = reweighted(x, torch.arange(5).unsqueeze(0), 10.0)[0, 0]
    expected = 3 * torch.cos(torch.pi / 20 * (torch.arange(5.0).unsqueeze(1) - torch.arange(5.0))).double()
    torch.testing.assert_close(features @ features.T, expected, rtol=1e-6, atol=1e-6)


def test_hedgehog_begins_as_a_softmax_of_both_signs():
    mixer, x = LinearAttention(64, feature_map="hedgehog").double(), tokens()
    with torch.no_grad():
        features = mixer._mapped(x.unflatten(-1, (2, 32)).transpose(1, 2), True)
    expected = torch.cat([x[..., :32], -x[..., :32]], -1).softmax(-1)
    torch.testing.assert_close(features[:, 0], expected)


def test_causal_cosformer_needs_a_length(refused):
    with refused("a causal linear_attention with the feature map `cosformer` needs `max_length`"):
        LinearAttention(64, feature_map="cosformer", causal=True)


def test_a_causal_convolution_weighs_a_token_and_those_before_it():
    conv = CausalConv(3, kernel_size=2).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    before, now = conv.conv1d.weight[:, 0].T
    earlier = torch.cat([torch.zeros(2, 1, 3, dtype=x.dtype), x[:, :-1]], 1)
    assert torch.allclose(conv(x), F.silu(now * x + before * earlier + conv.conv1d.bias), atol=1e-12)
