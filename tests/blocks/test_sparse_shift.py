"""Shifts of channels: the paper's rounding forward and its interpolation backward."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import blocks
from blocks.context import Context


def shifted(x: Tensor, steps: list[list[int]]) -> Tensor:
    """x_c(i + a_c, j + b_c), pixel by pixel."""
    y = torch.zeros_like(x)
    _, C, H, W = x.shape
    for c in range(C):
        down, across = steps[c]
        for i in range(H):
            for j in range(W):
                if 0 <= i + down < H and 0 <= j + across < W:
                    y[:, c, i, j] = x[:, c, i + down, j + across]
    return y


def interpolated(x: Tensor, shift: Tensor) -> Tensor:
    """x at (i + a, j + b) between four pixels, differentiable in the shift."""
    y = torch.zeros_like(x)
    start = shift.detach().floor()
    for down in (0, 1):
        for across in (0, 1):
            steps = [[int(a) + down, int(b) + across] for a, b in start.tolist()]
            a, b = (shift - start).unbind(1)
            weight = (a if down else 1 - a) * (b if across else 1 - b)
            y = y + weight.view(1, -1, 1, 1) * shifted(x, steps)
    return y


def test_channels_move_by_whole_pixels_and_learn_as_if_between_them() -> None:
    torch.manual_seed(0)
    block = blocks.get("sparse_shift")(6, reach=2).double()
    with torch.no_grad():
        block.shift.copy_(torch.tensor([[0.4, -0.4], [0.6, 1.4], [-1.6, 0.2], [1.9, -1.1], [0.0, 0.3], [-0.9, -0.6]]))
    x, seen = torch.randn(2, 6, 5, 7, dtype=torch.float64), torch.randn(2, 6, 5, 7, dtype=torch.float64)
    moved = shifted(x, [[0, 0], [1, 1], [-2, 0], [2, -1], [0, 0], [-1, -1]])
    y = block(x)
    assert torch.equal(y, moved)
    (found,) = torch.autograd.grad((y * seen).sum(), block.shift)
    shift = block.shift.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad((interpolated(x, shift) * seen).sum(), shift)
    torch.testing.assert_close(found, expected)


def test_the_gradient_of_the_map_is_the_shift_back() -> None:
    block = blocks.get("sparse_shift")(1)
    with torch.no_grad():
        block.shift.copy_(torch.tensor([[1.0, 0.0]]))
    x = torch.randn(1, 1, 3, 2, requires_grad=True)
    block(x)[0, 0, 0, 1].backward()
    assert x.grad is not None and x.grad.flatten().tolist() == [0, 0, 0, 1, 0, 0]


def test_shifts_beyond_the_reach_stop_there() -> None:
    block, x = blocks.get("sparse_shift")(2), torch.randn(1, 2, 4, 4)
    with torch.no_grad():
        block.shift.copy_(torch.tensor([[3.0, 0.0], [0.0, -7.0]]))
    assert torch.equal(block(x), shifted(x, [[1, 0], [0, -1]]))


def test_training_pays_for_every_shift() -> None:
    block, ctx = blocks.get("sparse_shift")(3, penalty=0.5).train(), Context()
    with torch.no_grad():
        block.shift.copy_(torch.tensor([[1.0, 0.0], [0.0, -0.5], [0.25, 0.25]]))
    block(torch.randn(1, 3, 4, 4), ctx)
    (loss,) = ctx.losses[block.path].values()
    assert math.isclose(loss.item(), 0.5 * 2.0)
