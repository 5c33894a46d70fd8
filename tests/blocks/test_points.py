"""Sets of points against their formulas, one pair at a time: neighbours, matrices that turn, attention that knows angles, voxels of windows."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import blocks
from blocks.points.distances import RadialBasis, TokenPool
from blocks.points.matrices import MatrixLinear, MatrixSquares, PairMatrices, kinds
from blocks.points.neighbour_attention import DirectionOrder, NeighbourAttention
from blocks.points.neighbours import (
    BEYOND,
    GroupSum,
    ListedRows,
    ListedSteps,
    NearestNeighbours,
    RelativeDistances,
    SoftDistances,
)
from blocks.points.voxel_attention import Signal, VoxelAttention

GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 1])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turn(seed: int = 5) -> Tensor:
    """A rotation of space."""
    q = torch.linalg.qr(normal(3, 3, seed=seed))[0]
    return q * torch.linalg.det(q)


def turned(x: Tensor, by: Tensor) -> Tensor:
    """Matrices (N, 9, C) as they are when space is turned: R X R^T."""
    return torch.einsum("ab,nbcf,dc->nadf", by, x.unflatten(1, (3, 3)), by).flatten(1, 2)


def test_neighbours_are_of_the_same_group_and_nearer_than_the_cutoff() -> None:
    places = normal(7, 3)
    distances = RelativeDistances((3, 1), cutoff=1.5)(places, GROUPS)
    index = NearestNeighbours((1,), count=4)(distances)
    for i in range(7):
        near = [j for j in range(7) if GROUPS[i] == GROUPS[j] and math.dist(places[i], places[j]) < 1.5]
        near.sort(key=lambda j: math.dist(places[i], places[j]))
        assert index[i].tolist() == (near + [-1] * 4)[:4]


def test_lists_have_the_length_that_is_asked_for_where_points_are_few() -> None:
    distances = RelativeDistances((3, 1), cutoff=9.0)(normal(3, 3), torch.zeros(3).long())
    assert NearestNeighbours((1,), count=5)(distances).shape == (3, 3)
    assert (NearestNeighbours((1,), count=5, pad=True)(distances)[:, 3:] == -1).all()


@pytest.mark.parametrize("reach", [None, 20])
def test_soft_distances_are_those_of_the_paper_written_out(reach: int | None) -> None:
    places, k, width, sharpness, cutoff = normal(7, 3), 3, 0.3, 0.1, 4.0
    found = SoftDistances((3, 1), cutoff=cutoff, count=k, width=width, sharpness=sharpness, reach=reach)(places, GROUPS)
    d = torch.cdist(places, places)

    def rank(i: int, j: int) -> float:
        steps = [float(d[i, j] - d[i, m]) / width for m in range(7) if GROUPS[m] == GROUPS[i]]
        if reach is None:
            return sum(1 / (1 + math.exp(-step)) for step in steps)
        return sum(0.5 + 0.5 * (math.sin(s / 2) if abs(s) < math.pi else math.copysign(1, s)) for s in steps)

    for i, j in itertools.product(range(7), repeat=2):
        if GROUPS[i] != GROUPS[j]:
            assert found[i, j] == BEYOND
        elif i == j:
            assert found[i, j] == 0
        else:
            powers = [rank(i, j) / k, rank(j, i) / k, float(d[i, j]) / cutoff]
            assert float(found[i, j]) == pytest.approx(
                sharpness * math.log(sum(math.exp(p / sharpness) for p in powers))
            )


def test_steps_lead_to_the_neighbour_and_back() -> None:
    places, index = normal(4, 3), torch.tensor([[0, 1], [1, 3], [2, -1], [3, 0]])
    steps = ListedSteps((3, 2))(places, index)
    torch.testing.assert_close(steps[1, 1], places[3] - places[1])
    assert not steps[2, 1].any()
    torch.testing.assert_close(ListedSteps((3, 2), back=True)(places, index), -steps)


def test_rows_are_those_of_the_neighbour_or_ones_own() -> None:
    x, index = normal(4, 5), torch.tensor([[0, 1], [1, 3], [2, -1], [3, 0]])
    torch.testing.assert_close(ListedRows((5, 2))(x, index)[1, 1], x[3])
    torch.testing.assert_close(ListedRows((5, 2), whose="own")(x, index)[1], x[[1, 1]])


def test_sums_are_of_each_group_in_any_order() -> None:
    x, groups = normal(6, 2), torch.tensor([2, 0, 2, 1, 0, 2])
    expected = torch.stack([x[groups == g].sum(0) for g in range(3)])
    torch.testing.assert_close(GroupSum((2, 1))(x, groups), expected)
    torch.testing.assert_close(GroupSum((1, 1), flat=True)(x[:, :1], groups), expected[:, 0])
    with pytest.raises(ValueError, match="one channel"):
        GroupSum((2, 1), flat=True)


def test_a_basis_is_bells_over_the_length() -> None:
    steps = normal(2, 3, 3)
    d = steps.norm(dim=-1, keepdim=True)
    means = torch.linspace(math.exp(-3.0), 1, 4, dtype=torch.float64)
    bells = torch.exp(-((2 / 4 * (1 - math.exp(-3.0))) ** -2) * (torch.exp(-5 / 3 * d) - means) ** 2)
    fading = torch.where(d < 3, 0.5 * (torch.cos(math.pi * d / 3) + 1), 0)
    torch.testing.assert_close(RadialBasis(3, cutoff=3.0, count=4)(steps), fading * bells, rtol=1e-6, atol=1e-7)
    even = torch.linspace(0, 3, 4, dtype=torch.float64)
    expected = torch.exp(-0.5 * ((d - even) / 2) ** 2)
    torch.testing.assert_close(RadialBasis(3, cutoff=3.0, count=4, law="gaussian", width=2.0)(steps), expected)


def test_a_length_of_nothing_has_a_gradient() -> None:
    steps = torch.zeros(1, 2, 3, requires_grad=True)
    (RadialBasis(3, cutoff=3.0, count=4)(steps).sum() + blocks.get("directions")(3)(steps).sum()).backward()
    assert steps.grad is not None
    assert steps.grad.isfinite().all()


def test_pairs_give_matrices_of_three_kinds() -> None:
    weights, u = normal(2, 4, 6), torch.nn.functional.normalize(normal(2, 4, 3, seed=1), dim=-1)
    found = PairMatrices((6, 3))(weights, u)
    for i, c in itertools.product(range(2), range(2)):
        expected = torch.zeros(3, 3, dtype=torch.float64)
        for k in range(4):
            x, y, z = u[i, k]
            skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
            square = torch.outer(u[i, k], u[i, k]) - torch.eye(3).double() / 3
            a, b, s = weights[i, k, c], weights[i, k, 2 + c], weights[i, k, 4 + c]
            expected += a * torch.eye(3).double() + b * skew + s * square
        torch.testing.assert_close(found[i, :, c].view(3, 3), expected)


def test_kinds_add_up_and_turn_by_themselves() -> None:
    x, by = normal(2, 9, 4), turn()
    mean, skew, symmetric = kinds(x)
    one = torch.eye(3).double().view(1, 9, 1)
    torch.testing.assert_close(mean * one + skew + symmetric, x)
    for part, other in zip((skew, symmetric), kinds(turned(x, by))[1:], strict=True):
        torch.testing.assert_close(turned(part, by), other)


CALLS: list[tuple[str, dict[str, Any], int]] = [
    ("matrix_linear", {}, 1),
    ("matrix_scale", {}, 1),
    ("matrix_product", {}, 2),
    ("matrix_product", {"both": True}, 2),
]


@pytest.mark.parametrize(("name", "params", "count"), CALLS)
def test_what_is_done_to_matrices_turns_with_them(name: str, params: dict[str, Any], count: int) -> None:
    torch.manual_seed(0)
    module = blocks.get(name)(4 if count == 1 else (4, 4), **params).double()
    given, by = [normal(2, 9, 4, seed=seed) for seed in range(count)], turn()
    with torch.no_grad():
        torch.testing.assert_close(module(*(turned(x, by) for x in given)), turned(module(*given), by))


def test_squares_stay_and_those_of_kinds_are_the_whole() -> None:
    x = normal(2, 9, 4)
    by_kind = MatrixSquares(4, by_kind=True)(x)
    torch.testing.assert_close(by_kind.unflatten(1, (3, 4)).sum(1), MatrixSquares(4)(x))
    torch.testing.assert_close(MatrixSquares(4, by_kind=True)(turned(x, turn())), by_kind)


def test_matrices_that_are_no_square_are_refused() -> None:
    with pytest.raises(ValueError, match="8 entries"):
        MatrixLinear(4)(torch.zeros(1, 8, 4))


def harmonics(v: Tensor) -> list[Tensor]:
    """Real spherical harmonics of degree 0, 1 and 2 as polynomials, the squares of a degree adding up to 1."""
    x, y, z = v.unbind(-1)
    root = math.sqrt(3)
    second = [root * x * z, root * x * y, y * y - (x * x + z * z) / 2, root * y * z, root / 2 * (z * z - x * x)]
    return [torch.ones_like(v[..., :1]), v, torch.stack(second, -1)]


def neighbours() -> tuple[Tensor, Tensor]:
    """Directions of 5 neighbours of 3 atoms, of which the first is none, and distances, of which some are beyond 1."""
    directions = torch.nn.functional.normalize(normal(3, 5, 3, seed=2), dim=-1)
    directions[:, 0] = 0
    distances = torch.rand(3, 5, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 1.3
    distances[:, 0] = 0
    return directions, distances


def test_attention_is_that_of_queries_and_keys_widened_by_harmonics() -> None:
    (directions, distances), channels = neighbours(), (1, 2, 1)
    q, k, v = (normal(3, 5, 8, seed=seed) for seed in (4, 5, 6))
    found = NeighbourAttention((8, 8, 8, 3, 1), num_heads=2, channels=channels)(q, k, v, directions, distances)
    waves = torch.cat([y.repeat(1, 1, n) for y, n in zip(harmonics(directions), channels, strict=True)], -1)

    def widened(x: Tensor) -> Tensor:
        parts = x.split(channels, -1)
        repeats = [part.repeat_interleave(2 * n + 1, -1) for n, part in enumerate(parts)]
        return torch.nn.functional.pad(torch.cat(repeats, -1) * waves, (0, 4))  # 1 + 6 + 5 channels, to a multiple of 8

    e = distances.squeeze(-1)
    fading = torch.where(e < 1, -(e**2) / (1 - e**2), -math.inf)
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        scores = widened(q[..., part]) @ widened(k[..., part]).mT / 4 + fading[:, None]
        torch.testing.assert_close(found[..., part], scores.softmax(-1) @ v[..., part])


def test_order_is_the_length_of_the_mean_harmonics() -> None:
    directions, distances = neighbours()
    found = DirectionOrder((3, 1), degree=2)(directions, distances)
    seen = (distances < 1).double()
    for n, values in enumerate(harmonics(directions)):
        mean = (values * seen).sum(1) / seen.sum(1)
        torch.testing.assert_close(found[:, n], mean.square().sum(-1).clamp_min(1e-6).sqrt())


def test_channels_that_make_no_head_are_refused() -> None:
    with pytest.raises(ValueError, match="make up a head of 4"):
        NeighbourAttention((8, 8, 8, 3, 1), num_heads=2, channels=(1, 2))


def test_voxels_attend_to_those_of_their_window_told_by_differences() -> None:
    torch.manual_seed(0)
    signals = (Signal("xyz", 3, 4), Signal("rgb", 2, 8))
    module = VoxelAttention((8, 1, 6), signals=signals, num_heads=2).double()
    for tables in (module.query, module.key, module.value):
        for table in tables.values():
            torch.nn.init.normal_(table)
    x, windows = normal(7, 8), torch.tensor([0, 1, 0, 0, 1, 2, 0])
    places = torch.cat([normal(7, 3, seed=1).abs() * 1.5, normal(7, 3, seed=2).clamp(-1, 1)], -1)
    q, k, v = module.qkv(x).unflatten(-1, (3, 2, 4)).unbind(1)
    q = q / 2

    def row(tables: Any, i: int, j: int, h: int) -> Tensor:
        total = torch.zeros(4, dtype=torch.float64)
        for place, (name, reach, steps) in enumerate((("xyz", 3, 4), ("rgb", 2, 8))):
            for axis in range(3):
                difference = float(places[i, 3 * place + axis] * steps) - float(places[j, 3 * place + axis] * steps)
                number = min(max(math.floor(difference) + reach * steps, 0), 2 * reach * steps - 1)
                total = total + tables[name][axis, number, h]
        return total

    rows = []
    for i in range(7):
        near = [j for j in range(7) if windows[j] == windows[i]]
        heads = []
        for h in range(2):
            scores = [
                q[i, h] @ k[j, h] + q[i, h] @ row(module.query, i, j, h) + k[j, h] @ row(module.key, i, j, h)
                for j in near
            ]
            shares = torch.stack(scores).softmax(0)
            heads.append(
                sum(share * (v[j, h] + row(module.value, i, j, h)) for share, j in zip(shares, near, strict=True))
            )
        rows.append(torch.cat(heads))
    with torch.no_grad():
        torch.testing.assert_close(module(x, windows, places), module.proj(torch.stack(rows)))


def test_the_first_token_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="has none"):
        TokenPool(4, law="first")(torch.zeros(2, 0, 4))
