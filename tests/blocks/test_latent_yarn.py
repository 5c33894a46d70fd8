"""Latent attention under yarn with two magnitudes, against DeepSeek-V2's formulas written out with complex numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from blocks.attention.latent_attention import LatentAttention
from blocks.attention.rotary import Rope
from blocks.context import Context

DIM, HEADS, NOPE, ROPE, V, RANK, LENGTH = 24, 2, 6, 8, 5, 10, 40
FACTOR, ORIGINAL, THETA = 8.0, 64, 10000.0


def get_mscale(scale: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(scale) + 1.0


def turns(positions: Tensor) -> Tensor:
    """e^(i angle) (L, ROPE / 2) of yarn with beta_fast 32 and beta_slow 1."""
    freq = THETA ** (torch.arange(0, ROPE, 2, dtype=torch.float64) / ROPE)

    def at(rotations: float) -> float:
        return ROPE * math.log(ORIGINAL / (rotations * 2 * math.pi)) / (2 * math.log(THETA))

    low, high = max(math.floor(at(32)), 0), min(math.ceil(at(1)), ROPE - 1)
    ramp = ((torch.arange(ROPE // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    inverse = ramp / (FACTOR * freq) + (1 - ramp) / freq
    return torch.polar(torch.ones_like(positions[:, None] * inverse), positions[:, None] * inverse)


def upstream(block: LatentAttention, x: Tensor, mscale: float, mscale_all_dim: float) -> Tensor:
    """DeepseekV2Attention, one query after the other, in float64."""
    factor = get_mscale(FACTOR, mscale) / get_mscale(FACTOR, mscale_all_dim)
    softmax_scale = (NOPE + ROPE) ** -0.5 * get_mscale(FACTOR, mscale_all_dim) ** 2
    turn = turns(torch.arange(LENGTH, dtype=torch.float64)) * factor
    q = (x @ block.q_proj.weight.T).view(LENGTH, HEADS, NOPE + ROPE)  # type: ignore[union-attr, operator]
    c, k_rope = (x @ block.kv_a_proj_with_mqa.weight.T).split([RANK, ROPE], -1)  # type: ignore[operator]
    c = c / (c.square().mean(-1, keepdim=True) + 1e-6).sqrt() * block.kv_a_layernorm.weight
    kv = (c @ block.kv_b_proj.weight.T).view(LENGTH, HEADS, NOPE + V)  # type: ignore[operator]
    turned_k = torch.view_as_complex(k_rope.reshape(LENGTH, -1, 2)) * turn
    out = torch.zeros(LENGTH, HEADS, V, dtype=torch.float64)
    for t in range(LENGTH):
        for h in range(HEADS):
            turned_q = torch.view_as_complex(q[t, h, NOPE:].reshape(-1, 2)) * turn[t]
            plain = kv[: t + 1, h, :NOPE] @ q[t, h, :NOPE]
            scores = plain + (turned_q * turned_k[: t + 1].conj()).real.sum(-1)
            out[t, h] = (scores * softmax_scale).softmax(-1) @ kv[: t + 1, h, NOPE:]
    return out.flatten(1) @ block.o_proj.weight.T  # type: ignore[operator]


def block(mscale: float, mscale_all_dim: float | None) -> LatentAttention:
    rope = Rope(THETA, "yarn", FACTOR, ORIGINAL, "neighbours", mscale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"num_heads": HEADS, "nope_dim": NOPE, "rope_dim": ROPE, "v_dim": V, "kv_rank": RANK}
        return LatentAttention(DIM, **sizes, rope=rope, mscale_all_dim=mscale_all_dim).double().eval()


@pytest.mark.parametrize(("mscale", "mscale_all_dim"), [(1.0, 0.707), (0.707, 1.0), (1.0, 0.0), (0.707, 0.707)])
@torch.no_grad()
def test_yarn_with_two_magnitudes_equals_deepseek_v2(mscale: float, mscale_all_dim: float) -> None:
    x = torch.randn(1, LENGTH, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    attention = block(mscale, mscale_all_dim)
    torch.testing.assert_close(attention(x)[0], upstream(attention, x[0], mscale, mscale_all_dim), rtol=0, atol=1e-12)
    ctx = Context(state={})
    pieces = [attention(piece, ctx) for piece in x.split([13, 1, 26], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), attention(x), rtol=0, atol=1e-12)


def test_one_magnitude_is_as_before() -> None:
    x = torch.randn(1, LENGTH, DIM, dtype=torch.float64)
    assert torch.equal(block(0.707, None)(x), block(0.707, 0.707)(x))
