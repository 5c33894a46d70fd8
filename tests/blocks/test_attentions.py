"""Softmax and linear attention: heads, forms, masks, states, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks.ops
from blocks.attention.attention import Attention
from blocks.attention.rotary import Rope, _turns, rotated, score_scale
from blocks.context import Context
from blocks.linear_attention.linear_attention import LinearAttention
from blocks.ops.linear_attention import causal_linear_attention, linear_attention

LENGTHS = [1, 2, 7, 64, 129]


def x(length: int = 21, dim: int = 64) -> Tensor:
    return torch.randn(2, length, dim, generator=torch.Generator().manual_seed(5))


def positive(length: int, heads: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, 2, heads, length, 6, generator=generator, dtype=torch.float64)
    return [F.elu(q) + 1, F.elu(k) + 1, v]


def padded(tokens: Tensor, side: str) -> tuple[Tensor, Tensor, slice]:
    """(tokens among 5 paddings of large numbers, mask, where the tokens are)."""
    length = tokens.shape[1]
    real = slice(5, None) if side == "left" else slice(None, length)
    out = torch.full((len(tokens), length + 5, tokens.shape[2]), 9.0)
    out[:, real] = tokens
    mask = torch.zeros(out.shape[:2], dtype=torch.bool)
    mask[:, real] = True
    return out, mask, real


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_softmax_of_its_heads(kv, causal):
    block = Attention(64, num_heads=4, num_kv_heads=kv, causal=causal, bias=True)
    qkv = block.qkv(x()).unflatten(-1, (4 + 2 * kv, 16)).transpose(1, 2)
    q, k, v = qkv.split([4, kv, kv], 1)
    k, v = (side.repeat_interleave(4 // kv, 1) for side in (k, v))
    scores = q @ k.transpose(-1, -2) / 4
    if causal:
        scores = scores.masked_fill(torch.ones(21, 21).triu(1).bool(), -torch.inf)
    expected = block.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(block(x()), expected, rtol=1e-4, atol=1e-5)


def test_attention_of_metaformer_has_heads_of_32_and_no_bias():
    block = Attention(64)
    assert (block.num_heads, block.head_dim) == (2, 32)
    assert list(block.state_dict()) == ["qkv.weight", "proj.weight"]


def test_heads_may_be_wider_than_the_stream():
    assert Attention(64, num_heads=3, head_dim=40)(x()).shape == (2, 21, 64)


def test_cross_attention_looks_at_the_memory_only():
    block, memory = Attention(64, cross=True), x(9).flip(0)
    y = block(x(), Context(memory=memory))
    q = block.q(x()).unflatten(-1, (2, 32)).transpose(1, 2)
    k, v = block.kv(memory).unflatten(-1, (2, 2, 32)).permute(2, 0, 3, 1, 4)
    expected = ((q @ k.transpose(-1, -2) / 32**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(y, block.proj(expected), rtol=1e-4, atol=1e-5)


def test_qk_norm_norms_each_head_by_itself():
    block = Attention(64, qk_norm="rms_norm")
    q, k, v = block.qkv(x()).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
    q, k = (F.rms_norm(side, (32,), eps=1e-6) for side in (q, k))
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block(x()), block.proj(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Attention, LinearAttention])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(kind, causal, side):
    block = kind(64, causal=causal)
    tokens, mask, real = padded(x(), side)
    y = block(tokens, Context(mask=mask))
    assert y.isfinite().all()
    torch.testing.assert_close(y[:, real], block(x()), rtol=1e-4, atol=1e-5)


def test_yarn_slows_the_slow_pairs_only_and_sharpens_scores():
    rope = Rope(theta=10000.0, scaling="yarn", factor=40.0, original_length=4096)
    plain, scaled = (_turns(each, 64, torch.device("cpu"), torch.float64) for each in (Rope(), rope))
    ratio = plain / scaled
    torch.testing.assert_close(ratio[:10], torch.ones(10, dtype=torch.float64))  # 32 turns: pair 10.5
    torch.testing.assert_close(ratio[23:], torch.full((9,), 40.0, dtype=torch.float64))  # 1 turn: pair 22.5
    assert ratio[11:23].diff().gt(0).all() and score_scale(rope) == pytest.approx((0.1 * math.log(40) + 1) ** 2)
    half = _turns(Rope(scaling="linear", factor=2.0), 64, torch.device("cpu"), torch.float64)
    torch.testing.assert_close(half, plain / 2)


def test_sample_of_padding_alone_has_something_to_look_at():
    block, mask = Attention(64, causal=True), torch.tensor([[False, False, True, True], [False] * 4])
    y = block(x(4), Context(mask=mask))
    y.sum().backward()
    assert y.isfinite().all() and block.qkv.weight.grad.isfinite().all()


def test_window_sees_itself_and_what_is_before_it():
    block = Attention(64, causal=True, window=3)
    tokens = x(10).requires_grad_()
    (grad,) = torch.autograd.grad(block(tokens)[0, 6].square().sum(), tokens)
    assert grad[0].abs().sum(1).gt(0).tolist() == [4 <= t <= 6 for t in range(10)]


@pytest.mark.parametrize("causal", [False, True])
def test_rotary_attention_sees_distances_not_positions(causal):
    block, tokens = Attention(64, rope=Rope(theta=100.0), causal=causal).double(), x(9).double()
    q, k, v, _ = block._queries_keys_values(tokens, None)
    where = torch.arange(9)
    scores = torch.stack(
        [
            torch.einsum("blhk,bmhk->bhlm", rotated(q, at, Rope(theta=100.0)), rotated(k, at, Rope(theta=100.0)))
            for at in (where.expand(2, -1), where.expand(2, -1) + 50)
        ]
    )
    torch.testing.assert_close(scores[0], scores[1])
    weights = (scores[0] / 32**0.5).masked_fill(
        torch.ones(9, 9).triu(1).bool() if causal else torch.zeros(9, 9).bool(), -torch.inf
    )
    expected = block.proj((weights.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2).flatten(2))
    torch.testing.assert_close(block(tokens), expected)


def test_rotation_turns_channels_of_the_two_halves_together():
    turned = rotated(torch.tensor([1.0, 0, 0, 1]).view(1, 1, 1, 4), torch.tensor([[2]]), Rope())
    one, other = torch.tensor(2.0), torch.tensor(0.02)
    expected = torch.stack([one.cos(), -other.sin(), one.sin(), other.cos()])
    torch.testing.assert_close(turned.flatten(), expected)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"num_heads": 5}, "num_heads 5 does not divide dim 64; the nearest that does is 4"),
        ({"head_dim": 24}, "head_dim 24 does not divide dim 64; the nearest that does is 16"),
        ({"num_kv_heads": 4}, "num_kv_heads 4 does not divide num_heads 2; the nearest that does is 2"),
        (
            {"causal": True, "cross": True},
            "a causal attention looks at its own past and a cross attention at the memory; choose one",
        ),
        ({"window": 4}, "a window is of the tokens before: it needs a causal attention"),
        (
            {"rope": Rope(), "num_heads": 1, "head_dim": 15},
            "rotary positions turn channels in pairs, and 15 is odd; 16 would do",
        ),
        ({"rope": Rope(), "cross": True}, "a cross attention has no rotary positions: a memory has none"),
        (
            {"rope": Rope(scaling="yarn", factor=4)},
            "rotary positions scaled by `yarn` need `original_length`, the tokens of the training",
        ),
    ],
)
def test_heads_and_forms_that_do_not_fit_are_refused(refused, params, message):
    with refused(message):
        Attention(64, **params)


def test_cross_attention_without_memory_is_refused(refused):
    with refused("a cross attention looks at ctx.memory (B, M, C), and there is none"):
        Attention(64, cross=True)(x(), Context())


def test_attention_refuses_a_state_rather_than_forget_the_past(refused):
    with refused("a sequence cannot be continued here (ctx.state): that needs an attention with `causal`"):
        Attention(64)(x(), Context(state={}))


def test_noncausal_op_equals_upstream(golden):
    case = golden("op_linear_attention_noncausal")
    case.check(linear_attention(**case.inputs, eps=0.0))


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("name", ["causal", "causal_norm"])
def test_causal_op_equals_upstream(golden, name, backend):
    case = golden(f"op_linear_attention_{name}")
    q, k, v = (case.inputs[part].transpose(1, 2) for part in "qkv")
    eps = 1e-10 if case.about["arguments"]["normalize"] else None
    with blocks.ops.backend(backend):
        y, (S, z) = causal_linear_attention(q * q.shape[-1] ** -0.5, k, v, eps)
    case.check(y.transpose(1, 2))
    case.check(S, "final_state")
    if eps:
        case.check(z.unsqueeze(1), "final_normalizer")


@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_equal_the_recurrence_and_its_gradients(length):
    results = []
    for backend in ("reference", "eager"):
        inputs = [side.requires_grad_() for side in positive(length)]
        state = [torch.ones(2, 2, 6, 6, dtype=torch.float64), torch.ones(2, 2, 6, dtype=torch.float64)]
        with blocks.ops.backend(backend):
            y, (S, z) = causal_linear_attention(*inputs, initial_state=tuple(state))
        results.append([y, S, z, *torch.autograd.grad(y.square().sum() + S.sum() + z.sum(), inputs)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_last_position_of_causal_sees_what_noncausal_sees():
    q, k, v = positive(70)
    torch.testing.assert_close(causal_linear_attention(q, k, v)[0][:, :, -1], linear_attention(q, k, v)[:, :, -1])


@pytest.mark.parametrize("lengths", [[1] * 70, [69, 1], [64, 6], [3, 67]])
@pytest.mark.parametrize("feature_map", ["elu", "relu"])
def test_whole_equals_any_split(lengths, feature_map):
    block, ctx = LinearAttention(64, causal=True, feature_map=feature_map), Context(state={})
    parts = [block(part, ctx) for part in x(70).split(lengths, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), block(x(70)), rtol=1e-4, atol=1e-5)


def test_image_is_attended_like_its_tokens():
    block, tokens = LinearAttention(64), x(15)
    image = tokens.view(2, 3, 5, 64).permute(0, 3, 1, 2)
    torch.testing.assert_close(block(image).permute(0, 2, 3, 1).flatten(1, 2), block(tokens))


def test_local_block_adds_what_it_makes_of_the_values():
    block = LinearAttention(64, local={"block": "conv", "kernel_size": 3, "groups": 64})
    image = x(15).view(2, 3, 5, 64).permute(0, 3, 1, 2)
    local, block.local = block.local, None
    plain = block(image)
    block.local = local
    values = block.qkv(x(15)).chunk(3, -1)[2].view(2, 3, 5, 64).permute(0, 3, 1, 2)
    added = F.linear(local(values).permute(0, 2, 3, 1), block.proj.weight).permute(0, 3, 1, 2)
    torch.testing.assert_close(block(image), plain + added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("params", [{}, {"causal": True, "local": "mlp"}])
def test_linear_attention_that_cannot_continue_says_what_can(refused, params):
    with refused(
        "a sequence cannot be continued here (ctx.state): "
        "that needs a linear_attention with `causal` and without `local`"
    ):
        LinearAttention(64, **params)(x(), Context(state={}))
