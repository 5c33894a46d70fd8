"""Efficient local attention: the paper's equations, pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks

FORMS = {"t": (5, 1, 32), "b": (7, 1, 16), "s": (5, 8, 16), "l": (7, 8, 16)}


def along(means: Tensor, weight: Tensor, norm: tuple[int, Tensor, Tensor], group_dim: int) -> Tensor:
    """sigmoid(GN(w * means)) tap by tap, (B, C, L)."""
    C, _, taps = weight.shape
    y = torch.zeros_like(means)
    for c in range(C):
        first = c // group_dim * group_dim
        for i in range(group_dim):
            for tap in range(taps):
                for place in range(means.shape[2]):
                    at = place + tap - taps // 2
                    if 0 <= at < means.shape[2]:
                        y[:, c, place] += weight[c, i, tap] * means[:, first + i, at]
    groups, scale, shift = norm
    return torch.sigmoid(F.group_norm(y, groups, scale, shift))


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_a_pixel_is_weighed_by_its_row_and_its_column(form: str) -> None:
    taps, group_dim, groups = FORMS[form]
    torch.manual_seed(0)
    mixer = blocks.get("efficient_local_attention")(64, kernel_size=taps, group_dim=group_dim, groups=groups).double()
    mixer.gn.weight.uniform_(0.5, 1.5)
    mixer.gn.bias.normal_()
    x = torch.randn(2, 64, 5, 7, dtype=torch.float64)
    norm = groups, mixer.gn.weight, mixer.gn.bias
    rows, columns = (along(x.mean(axis), mixer.conv.weight, norm, group_dim) for axis in (3, 2))
    torch.testing.assert_close(mixer(x), x * rows[..., :, None] * columns[..., None, :])


def test_the_widest_form_has_few_weights_for_each_channel() -> None:
    mixer = blocks.get("efficient_local_attention")(256)
    assert sum(parameter.numel() for parameter in mixer.parameters()) == 256 * (8 * 7 + 2)


def test_channels_that_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="groups 32 does not divide dim 144; the nearest that does is 36"):
        blocks.get("efficient_local_attention")(144, groups=32)
