"""Mixers of language models against the outputs of upstream, or against their equations written as loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.attention.forgetting_attention import fading
from blocks.attention.ponet import pooled
from blocks.attention.scores import attended
from blocks.attention.seq_boat import SeqBoat
from blocks.context import Context
from blocks.linear_attention.delta_net import of_length_one
from blocks.linear_attention.gated_delta_net import GatedDeltaNet
from blocks.linear_attention.hgrn import LOWER_BOUNDS, Hgrn
from blocks.linear_attention.kimi_delta_attention import KimiDeltaAttention
from blocks.linear_attention.linear_attention import LinearAttention
from blocks.linear_attention.mesa import conjugate_gradients
from blocks.linear_attention.rwkv4 import Rwkv4
from blocks.ops.linear_recurrence import channel_recurrence
from blocks.registry.slots import Slot
from blocks.ssm.lmu import Lmu, discretised
from blocks.ssm.rg_lru import RgLru


def test_scores_that_fade_equal_upstream(golden):
    case = golden("op_forgetting_attention")
    q, k, v = (case.inputs[name] for name in "qkv")
    c = case.inputs["g"].cumsum(1)
    case.check(attended(q, k, v, fading(c, c, None), False, q.shape[-1] ** -0.5, shared=2))


def test_pooling_equals_upstream(golden):
    case = golden("op_ponet")
    given = [case.inputs[name] for name in ("q", "k", "o", "local", "segment")]
    case.check(pooled(*given, case.about["arguments"]["segments"], case.data["in.mask"].bool()))


def test_based_equals_upstream(golden):
    case = golden("layer_based")
    mixer = LinearAttention(32, num_heads=2, key_dim=8, feature_map="taylor", causal=True, eps=1e-12).to(case.dtype)
    qkv = torch.cat([case.state[f"{name}_proj.weight"] for name in "qkv"])
    mixer.load_state_dict({"qkv.weight": qkv, "proj.weight": case.state["o_proj.weight"]})
    with torch.no_grad():
        case.check(mixer(case.inputs["x"]))


@pytest.mark.parametrize("pieces", [[9], [4, 5], [1] * 9], ids=str)
def test_hgrn_of_ternary_maps_equals_upstream(golden, pieces):
    case = golden("layer_hgrn_bit")
    mixer = Hgrn(16, linear=Slot("bit_linear")).to(case.dtype)
    mixer.load_state_dict(case.state)
    ctx = Context(state={})
    ctx.write(LOWER_BOUNDS, "", case.inputs["lower_bound"].unsqueeze(0))
    with torch.no_grad():
        found = torch.cat([mixer(part, ctx) for part in case.inputs["x"].split(pieces, 1)], 1)
    case.check(found)
    case.check(ctx.state[""][0], "final_state")


@pytest.mark.parametrize("pieces", [[24], [7, 17], [1] * 24], ids=str)
def test_lmu_equals_upstream(golden, pieces):
    case = golden("layer_lmu")
    mixer = Lmu(12, 16, memory_dim=8, theta=24.0).to(case.dtype)
    mixer.load_state_dict(case.state)
    ctx = Context(state={})
    with torch.no_grad():
        found = torch.cat([mixer(part, ctx) for part in case.inputs["x"].split(pieces, 1)], 1)
    case.check(found)
    case.check(ctx.state[""][0], "final_state")
    A, B = discretised(8, 24.0)
    case.check(A.to(case.dtype), "A")
    case.check(B.to(case.dtype).view(case.data["B"].shape), "B")


def test_lmu_of_many_chunks_equals_its_steps():
    torch.manual_seed(0)
    mixer, x, ctx = Lmu(6, memory_dim=5, theta=40.0).double(), torch.randn(2, 150, 6).double(), Context(state={})
    with torch.no_grad():
        steps = torch.cat([mixer(part, ctx) for part in x.split(1, 1)], 1)
        torch.testing.assert_close(mixer(x), steps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 7, 63, 130])
def test_a_recurrence_per_channel_is_its_loop(length):
    torch.manual_seed(length)
    x, decay, h = torch.randn(2, length, 6).double(), -torch.rand(2, length, 6).double(), torch.randn(2, 6).double()
    given = [part.requires_grad_() for part in (x, decay, h)]
    found, last = channel_recurrence(x, decay, h, 2)
    steps, state = [], h
    for x_t, a_t in zip(x.unbind(1), decay.exp().unbind(1), strict=True):
        state = a_t * state + x_t
        steps.append(state)
    expected = torch.stack(steps, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(last, expected[:, -1], rtol=0, atol=1e-12)
    weight = torch.randn_like(expected)
    ours = torch.autograd.grad((found * weight).sum() + last.sum(), given)
    theirs = torch.autograd.grad((expected * weight).sum() + expected[:, -1].sum(), given)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def stepwise_delta(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
    """S' = diag(e^decay) S, S = S' + beta k (v - S'^T k)^T, o = S^T q, for one sample of one head: (L, K), (L, V), (L,), (L, K)."""
    S, outputs = q.new_zeros(q.shape[-1], v.shape[-1]), []
    for q_t, k_t, v_t, b_t, a_t in zip(q, k, v, beta, decay.exp(), strict=True):
        S = a_t[:, None] * S
        S = S + b_t * torch.outer(k_t, v_t - S.T @ k_t)
        outputs.append(S.T @ q_t)
    return torch.stack(outputs)


@torch.no_grad()
def test_kimi_delta_attention_is_its_equation():
    torch.manual_seed(0)
    mixer, x = KimiDeltaAttention(12, num_heads=1, head_dim=6, expand_v=1.5).double(), torch.randn(1, 15, 12).double()

    def conv(y: Tensor, taps: Tensor) -> Tensor:
        return F.silu(sum(F.pad(y, (0, 0, 3, 0))[:, i : i + y.shape[1]] * taps[:, 0, i] for i in range(4)))

    q, k, v = (conv(getattr(mixer, f"{n}_proj")(x), getattr(mixer, f"{n}_conv1d").weight)[0] for n in "qkv")
    decay = -mixer.A_log.exp() * F.softplus(mixer.f_proj(x) + mixer.dt_bias)[0]
    o = stepwise_delta(of_length_one(q) * 6**-0.5, of_length_one(k), v, mixer.b_proj(x).sigmoid()[0, :, 0], decay)
    o = F.rms_norm(o, (9,), mixer.o_norm.weight, mixer.o_norm.eps) * mixer.g_proj(x)[0].sigmoid()
    torch.testing.assert_close(mixer(x)[0], mixer.o_proj(o), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_token_of_several_householders_writes_one_after_the_other():
    torch.manual_seed(0)
    mixer = GatedDeltaNet(12, num_heads=1, head_dim=6, expand_v=1.0, householders=2).double()
    x = torch.randn(1, 9, 12).double()
    maps = mixer._apart(x, [None] * 3, None)
    q = of_length_one(maps.q)[0].repeat_interleave(2, 0) * 6**-0.5
    k, v = (part[0].unflatten(-1, (2, 6)).flatten(0, 1) for part in (maps.k, maps.v))
    decay = -mixer.A_log.exp() * F.softplus(maps.a[0] + mixer.dt_bias)
    decay = torch.stack([decay, torch.zeros_like(decay)], 1).flatten(0, 1).expand(-1, 6)
    o = stepwise_delta(q, of_length_one(k), v, maps.b[0].sigmoid().flatten(), decay)[1::2]
    o = F.rms_norm(o, (6,), mixer.o_norm.weight, mixer.o_norm.eps) * F.silu(maps.gate[0])
    torch.testing.assert_close(mixer(x)[0], mixer.o_proj(o), rtol=0, atol=1e-12)


def test_joint_maps_make_one_key_of_a_token(refused):
    with refused("`joint` maps, as in Qwen3-Next, make one key of a token; leave out `joint` or `householders`"):
        GatedDeltaNet(64, joint=True, householders=2)


def test_conjugate_gradients_solve_what_the_mesa_layer_asks():
    torch.manual_seed(0)
    root, b = torch.randn(3, 7, 7).double(), torch.randn(3, 7).double()
    system = root @ root.mT + torch.eye(7).double()
    found = conjugate_gradients(lambda p: (system @ p.unsqueeze(-1)).squeeze(-1), b, 40)
    torch.testing.assert_close(found, torch.linalg.solve(system, b), rtol=0, atol=1e-9)


@torch.no_grad()
def test_rwkv4_survives_large_exponents():
    torch.manual_seed(0)
    mixer = Rwkv4(8)
    mixer.key.weight.mul_(300)
    x = torch.randn(2, 40, 8)
    found, exact = mixer(x), mixer.double()(x.double())
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_unit_of_griffin_is_its_equation():
    torch.manual_seed(0)
    mixer, x = RgLru(8, num_heads=2).double(), torch.randn(1, 11, 8).double()
    unit, u = mixer.rg_lru, mixer.linear_x(x)
    padded = F.pad(u, (0, 0, 3, 0))
    u = sum(padded[:, i : i + 11] * mixer.conv_1d.weight[:, 0, i] for i in range(4)) + mixer.conv_1d.bias
    blocks = [torch.block_diag(*weight) for weight in (unit.input_gate_weight, unit.recurrent_gate_weight)]
    i, r = (
        (u @ W + b.flatten()).sigmoid()
        for W, b in zip(blocks, (unit.input_gate_bias, unit.recurrent_gate_bias), strict=True)
    )
    a = torch.exp(-8 * F.softplus(unit.recurrent_param) * r)
    h, steps = torch.zeros(1, 8).double(), []
    for t in range(11):
        factor = torch.ones(1, 8).double() if t == 0 else (1 - a[:, t] ** 2).sqrt()
        h = a[:, t] * h + factor * i[:, t] * u[:, t]
        steps.append(h)
    y = F.gelu(mixer.linear_y(x), approximate="tanh") * torch.stack(steps, 1)
    torch.testing.assert_close(mixer(x), mixer.linear_out(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["layer_seqboat", "layer_seqboat_bidirectional"])
@torch.no_grad()
def test_attention_among_active_tokens_equals_upstream(golden, name):
    case = golden(name)
    config = case.about["config"]
    sizes = {
        "z_dim": config["zdim"],
        "hidden_dim": config["hdim"],
        "state_dim": config["ndim"],
        "max_positions": config["max_positions"],
    }
    unit = SeqBoat(16, scores=config["attention_activation"], causal=config["causal"], **sizes).to(case.dtype)
    names = {"q_router.temp": "temp", "rel_pos_bias.rel_pos_bias": "rel_pos_bias"}
    unit.load_state_dict({names.get(key, key).replace("norm.norm", "norm"): value for key, value in case.state.items()})
    padding = case.data.get("in.padding_mask")
    ctx = Context(mask=None if padding is None else ~padding.bool())
    found = unit(case.inputs["x"].transpose(0, 1), ctx).transpose(0, 1)
    expected = case.data["output.f64" if case.dtype == torch.float64 else "output"]
    real = torch.ones(found.shape[:2], dtype=torch.bool) if padding is None else ~padding.bool().T
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-9 if case.dtype == torch.float64 else 5e-5)
