"""Maps that read the leading weights of a supernet, against slices that are cut by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

import blocks
from blocks.conv.elastic import Axis
from blocks.folding import fuse

CONV, DENSE, NORM = (blocks.get(name) for name in ("elastic_conv", "elastic_dense", "elastic_norm"))


def drawn(block: Any) -> Any:
    """The block in float64, with values that are not those of its beginning."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*block.parameters(), *block.buffers()):
        tensor.data = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
    return block.eval()


def test_a_kernel_is_cut_and_turned_once_for_each_two_steps_that_it_loses() -> None:
    conv = drawn(CONV(4, 6, kernel_size=1, dilation=2, of=Axis(8), of_out=Axis(12), of_kernel=5))
    x = torch.randn(2, 9, 4, dtype=torch.float64)
    five = conv.weight[:6, :4]
    three = torch.einsum("oik,kj->oij", five[:, :, 1:4], conv.to_3)
    one = torch.einsum("oik,kj->oij", three[:, :, 1:2], conv.to_1)
    torch.testing.assert_close(conv(x), x @ one[:, :, 0].T)


def test_pieces_are_read_from_their_beginnings() -> None:
    dense = drawn(DENSE(6, 4, of=Axis(16, pieces=4, kept=3), of_out=Axis(8, pieces=2)))
    rows, columns = [0, 1, 4, 5], [0, 1, 4, 5, 8, 9]
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(dense(x), F.linear(x, dense.weight[rows][:, columns], dense.bias[rows]))


def test_only_moments_that_are_read_run() -> None:
    norm = drawn(NORM(4, of=Axis(8, pieces=2))).train()
    before = norm.running_mean.clone()
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    norm(x)
    read = [0, 1, 4, 5]
    torch.testing.assert_close(norm.running_mean[read], 0.9 * before[read] + 0.1 * x.mean((0, 1)))
    assert norm.running_mean[[2, 3, 6, 7]].equal(before[[2, 3, 6, 7]])


@pytest.mark.parametrize(
    "block",
    [
        CONV(4, 6, kernel_size=3, of=Axis(8), of_out=Axis(16, pieces=2), of_kernel=5),
        DENSE(4, 6, of=Axis(8, pieces=2), of_out=Axis(8)),
        NORM(4, of=Axis(12, pieces=3, kept=2)),
    ],
)
def test_deploy_form_holds_what_is_read_alone(block: Any) -> None:
    block, x = drawn(block), torch.randn(2, 7, 4, dtype=torch.float64)
    deployed = fuse(block)
    torch.testing.assert_close(deployed(x), block(x))
    read = block.cut()
    assert sum(tensor.numel() for tensor in deployed.state_dict().values()) == sum(
        tensor.numel() for tensor in (read if isinstance(read, tuple) else (read,))
    )


def test_a_subnet_runs_on_the_state_of_its_supernet_and_trains_it() -> None:
    whole = CONV(8, 8, kernel_size=5)
    sub = CONV(4, 6, kernel_size=3, of=Axis(8), of_out=Axis(8), of_kernel=5)
    functional_call(sub, dict(whole.named_parameters()), torch.randn(1, 6, 4)).sum().backward()
    assert (
        whole.weight.grad[:6, :4, 1:-1].all() and not whole.weight.grad[6:].any() and not whole.weight.grad[:, 4:].any()
    )


def test_more_than_the_supernet_has_is_refused() -> None:
    with pytest.raises(ValueError, match="6 channels are not the leading ones of 2 of 2 pieces of 4 channels"):
        DENSE(6, 4, of=Axis(4, pieces=2))
    with pytest.raises(ValueError, match="a kernel of 5 steps is not the middle of one of 3, both odd"):
        CONV(4, kernel_size=5, of_kernel=3)
