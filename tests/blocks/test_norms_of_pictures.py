"""Instance norms, IBN-Net's and EvoNorms against torch's, timm's and their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blocks


def picture(dim: int = 16) -> Tensor:
    x = torch.randn(3, dim, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return 2 * x + 1


def drawn(norm: Any) -> Any:
    generator = torch.Generator().manual_seed(2)
    for tensor in norm.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5)
    return norm


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_an_instance_norm_is_that_of_torch() -> None:
    ours, theirs = drawn(blocks.get("instance_norm")(16).double()), nn.InstanceNorm2d(16, affine=True).double()
    theirs.load_state_dict(ours.state_dict())
    close(ours(picture()), theirs(picture()))


def test_ibn_norms_its_first_half_by_itself() -> None:
    norm, x = drawn(blocks.get("instance_batch_norm")(16).double()).eval(), picture()
    close(norm(x), torch.cat([norm.instance(x[:, :8]), norm.batch(x[:, 8:])], 1))


def test_ibn_of_too_few_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="a share of 0.5 of 1 channels leaves one of the two norms none"):
        blocks.get("instance_batch_norm")(1)


@pytest.mark.parametrize("training", [False, True])
def test_evo_norm_b0_divides_by_the_larger_deviation(training: bool) -> None:
    norm, x = drawn(blocks.get("evo_norm_b0")(16).double()).train(training), picture()
    before = norm.running_var.clone()
    batch, own = x.var((0, 2, 3), correction=0), x.var((2, 3), correction=0, keepdim=True)
    weight, bias, v = (tensor.view(-1, 1, 1) for tensor in (norm.weight, norm.bias, norm.v))
    spread = (batch if training else before).add(1e-3).sqrt().view(-1, 1, 1)
    close(norm(x), weight * x / torch.maximum(spread, v * x + (own + 1e-3).sqrt()) + bias)
    moved = 0.9 * before + 0.1 * x.var((0, 2, 3)) if training else before
    close(norm.running_var, moved)


def test_evo_norm_s0_divides_by_the_deviation_of_a_group() -> None:
    norm, x = drawn(blocks.get("evo_norm_s0")(16, groups=4).double()), picture()
    spread = x.unflatten(1, (4, 4)).var((2, 3, 4), correction=0, keepdim=True).add(1e-5).sqrt()
    weight, bias, v = (tensor.view(-1, 1, 1) for tensor in (norm.weight, norm.bias, norm.v))
    y = (x * torch.sigmoid(v * x)).unflatten(1, (4, 4)) / spread
    close(norm(x), weight * y.flatten(1, 2) + bias)


@pytest.mark.parametrize("name", ["instance_norm", "instance_batch_norm", "evo_norm_b0", "evo_norm_s0"])
def test_tokens_are_a_map_of_one_column(name: str) -> None:
    norm, x = drawn(blocks.get(name)(32).double()).eval(), picture(32)
    close(norm(x.flatten(2).mT), norm(x).flatten(2).mT)
