"""What nets for depth are made of: attention to a few places of several maps, keys that are shared out, waves of places, learned tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from blocks import get
from zoo.testing.block_cases import perturbed


def between(image: Tensor, column: float, row: float) -> Tensor:
    """The value (C,) of an image (C, H, W) at a place between its pixels, whose middles are whole numbers; zero beyond them."""
    y = torch.zeros_like(image[:, 0, 0])
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < image.shape[1] and 0 <= c < image.shape[2]:
                y = y + image[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return y


def looked(block: torch.nn.Module, queries: Tensor, stands: list[tuple[float, float]], maps: list[Tensor]) -> Tensor:
    """arXiv:2010.04159, eq. 3, place by place: queries (L, C) that stand at shares (column, row) of the sides, maps (C, H, W)."""
    rows = []
    for q, (across, down) in zip(queries, stands, strict=True):
        steps = (block.offsets.weight @ q + block.offsets.bias).view(block.num_heads, len(maps), block.points, 2)
        shares = (block.scores.weight @ q + block.scores.bias).view(block.num_heads, -1).softmax(-1)
        heads = []
        for h in range(block.num_heads):
            y = 0
            for n, x in enumerate(maps):
                values = torch.einsum("dc,chw->dhw", block.value.weight, x) + block.value.bias[:, None, None]
                part = values.unflatten(0, (block.num_heads, -1))[h]
                for k in range(block.points):
                    column = across * x.shape[2] - 0.5 + float(steps[h, n, k, 0])
                    row = down * x.shape[1] - 0.5 + float(steps[h, n, k, 1])
                    y = y + shares[h, n * block.points + k] * between(part, column, row)
            heads.append(y)
        rows.append(block.proj(torch.cat(heads)))
    return torch.stack(rows)


def middles(*sizes: tuple[int, int]) -> list[tuple[float, float]]:
    return [((c + 0.5) / W, (r + 0.5) / H) for H, W in sizes for r in range(H) for c in range(W)]


@torch.no_grad()
def test_deformable_attention_looks_at_places_between_the_pixels_of_all_maps() -> None:
    block = perturbed(get("deformable_attention")((8, 8, 8), num_heads=2, points=3)).double()
    maps = [torch.randn(1, 8, 3, 5, dtype=torch.float64), torch.randn(1, 8, 2, 2, dtype=torch.float64)]
    tokens = torch.randn(1, 19, 8, dtype=torch.float64)
    expected = looked(block, tokens[0], middles((3, 5), (2, 2)), [x[0] for x in maps])
    torch.testing.assert_close(block(tokens, *maps)[0], expected)
    image = torch.randn(1, 8, 4, 2, dtype=torch.float64)
    expected = looked(block, image[0].flatten(1).T, middles((4, 2)), [x[0] for x in maps])
    torch.testing.assert_close(block(image, *maps)[0].flatten(1).T, expected)


def test_each_head_looks_in_a_direction_of_its_own_at_first() -> None:
    block = get("deformable_attention")((8, 8), num_heads=4, points=2)
    steps = block.offsets.bias.view(4, 2, 2).round(decimals=5) + 0.0
    assert steps[:, 0].tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1]]
    assert torch.equal(steps[:, 1], 2 * steps[:, 0])


def test_tokens_that_are_not_the_pixels_of_the_maps_are_refused() -> None:
    block = get("deformable_attention")((8, 8), num_heads=2)
    with pytest.raises(ValueError, match="7 queries are not the pixels of maps of 2 x 3"):
        block(torch.zeros(1, 7, 8), torch.zeros(1, 8, 2, 3))


def test_queries_compete_for_keys() -> None:
    block, (q, k, v) = get("compete")((6, 6, 4), num_heads=2), (torch.randn(2, n, 6) for n in (3, 5, 5))
    y = block(q, k, v[..., :4])
    for h in range(2):
        scores = q[..., 3 * h : 3 * h + 3] @ k[..., 3 * h : 3 * h + 3].transpose(1, 2) / 3**0.5
        shares = scores.exp() / scores.exp().sum(1, keepdim=True) + 1e-6
        expected = shares / shares.sum(2, keepdim=True) @ v[..., 2 * h : 2 * h + 2]
        torch.testing.assert_close(y[..., 2 * h : 2 * h + 2], expected)


def test_waves_say_the_row_in_the_first_half_of_the_channels() -> None:
    x = torch.zeros(2, 8, 3, 5, dtype=torch.float64)
    y = get("grid_waves")(8)(x)
    for i, (wave, rate) in enumerate([(math.sin, 1), (math.cos, 1), (math.sin, 0.01), (math.cos, 0.01)]):
        assert float(y[1, i, 1, 3]) == pytest.approx(wave(2 * math.pi * 2 / 3 * rate), abs=1e-5)
        assert float(y[1, i + 4, 1, 3]) == pytest.approx(wave(2 * math.pi * 4 / 5 * rate), abs=1e-5)
    alone = get("grid_waves")(8, alone=True, vector=True)
    torch.testing.assert_close(alone(x + 7).float(), (y + alone.vector.detach()[:, None, None]).float())


def test_learned_tokens_are_the_same_for_every_sample() -> None:
    block = get("learned_tokens")(3, 4, count=5)
    assert torch.equal(block(torch.randn(2, 3, 6, 6))[1], block.tokens)
    assert block(torch.randn(0, 7, 3)).shape == (0, 5, 4)


def test_normals_have_length_one_and_a_positive_certainty() -> None:
    y = get("surface_normals")(4)(torch.randn(2, 4, 3, 3) * 5)
    torch.testing.assert_close(y[:, :3].norm(dim=1), torch.ones(2, 3, 3), atol=1e-4, rtol=0)
    assert (y[:, 3] >= 0.01).all()


def test_a_mean_is_that_of_all() -> None:
    x = torch.randn(3, 2, 4, 3, 3)
    torch.testing.assert_close(get("mean")((4, 4, 4))(*x), x.mean(0))
