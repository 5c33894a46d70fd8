"""PanGu-pi against its equations: attention beside an identity and a narrow MLP, and an activation that is a series."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import zoo


def rms(x: Tensor, norm: Any) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * norm.weight


def rotated(x: Tensor) -> Tensor:
    """(B, H, L, K) turned by its positions, the halves of a head as pairs."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * 10000 ** (-torch.arange(half, dtype=x.dtype) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def attended(x: Tensor, block: Any) -> Tensor:
    """Causal attention of heads 16 wide."""
    q, k, v = block.qkv(x).unflatten(-1, (3, -1, 16)).permute(2, 0, 3, 1, 4)
    scores = rotated(q) @ rotated(k).mT / math.sqrt(16)
    hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return block.proj((scores.masked_fill(hidden, -math.inf).softmax(-1) @ v).transpose(1, 2).flatten(2))


def series(x: Tensor, act: Any) -> Tensor:
    """sum_i a_i silu(x + b_i), equation 13."""
    return sum((a * F.silu(x + b) for a, b in zip(act.scale, act.shift, strict=True)), torch.zeros_like(x))


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[24], [5, 1, 18], [1] * 24], ids=str)
def test_the_logits_follow_the_equations_in_any_pieces(pieces: list[int]) -> None:
    torch.manual_seed(0)
    model: Any = zoo.create("pangu_pi_nano").double().eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.randint(256, (2, 24))
    x = model.stem.weight[ids]
    for layer in model.stages[0].layers:
        first, second = layer.get_submodule("0"), layer.get_submodule("1")
        attention, shortcut = first.get_submodule("1").children()
        normed = rms(x, first.get_submodule("0"))
        x = x + attended(normed, attention) + F.gelu(normed @ shortcut.fc1.weight.T) @ shortcut.fc2.weight.T
        normed, mlp = rms(x, second.get_submodule("0")), second.get_submodule("1")
        x = x + (series(normed @ mlp.gate.weight.T, mlp.act) * (normed @ mlp.up.weight.T)) @ mlp.down.weight.T
    expected = rms(x, model.head.norm) @ model.stem.weight.T
    found, state = [], {}
    for piece in ids.split(pieces, 1):
        logits, state = model(piece, state=state)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=1e-9, atol=1e-9)


def test_the_series_costs_next_to_no_weights() -> None:
    model = zoo.create("pangu_pi_1b_pro", device="meta")
    shares = {"series": 0, "shortcut": 0, "all": 0}
    for name, parameter in model.named_parameters():
        shares["series"] += parameter.numel() * (".act." in name)
        shares["shortcut"] += parameter.numel() * bool(re.search(r"layers\.\d+\.0\.1\.1\.", name))
        shares["all"] += parameter.numel()
    assert shares["series"] / shares["all"] < 5e-4
    assert shares["shortcut"] / shares["all"] < 0.01
    assert 0.9e9 < shares["all"] < 1.1e9
