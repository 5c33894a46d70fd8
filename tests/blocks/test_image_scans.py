"""Scans of images along routes with weights of their own: against the recurrence, step by step."""

from __future__ import annotations

import torch
from torch.nn import functional as F

import blocks
from tests.blocks.test_fuse_forms import randomised


def recurrence(mixer: torch.nn.Module, image: torch.Tensor, route: int) -> torch.Tensor:
    """S_k of one image (H, W, E) -> (H, W, E): h <- exp(delta A) h + delta B u, y = C h + D u."""
    H, W, E = image.shape
    tokens = image.transpose(0, 1).flatten(0, 1) if route % 2 else image.flatten(0, 1)
    tokens = tokens.flip(0) if route >= 2 else tokens
    rank, state = mixer.dt_rank, mixer.state_dim
    step, B, C = (tokens @ mixer.x_proj[route].T).split([rank, state, state], -1)
    delta = F.softplus(step @ mixer.dt_proj[route].T + mixer.dt_bias[route])
    A = -mixer.A_log.view(4, E, state)[route].exp()
    h, out = torch.zeros(E, state, dtype=image.dtype), []
    for t, u in enumerate(tokens):
        h = torch.exp(delta[t, :, None] * A) * h + delta[t, :, None] * B[t] * u[:, None]
        out.append(h @ C[t] + mixer.D.view(4, E)[route] * u)
    y = torch.stack(out)
    y = y.flip(0) if route >= 2 else y
    return y.view(W, H, E).transpose(0, 1) if route % 2 else y.view(H, W, E)


def test_ss2d_is_the_sum_of_four_recurrences() -> None:
    mixer = randomised(blocks.get("ss2d")(6, expand=2, state_dim=3)).double().eval()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    u = F.silu(mixer.conv(mixer.in_proj(x))).permute(0, 2, 3, 1)
    y = torch.stack([sum(recurrence(mixer, image, route) for route in range(4)) for image in u])
    expected = mixer.out_proj(mixer.norm(y.permute(0, 3, 1, 2)))
    torch.testing.assert_close(mixer(x), expected)
