"""Paths of which each sample takes one, and the information that their router gains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import zoo
from blocks.construct import construct
from blocks.context import Context
from blocks.registry.slots import Place
from blocks.wiring.trellis import Trellis, information_gain

CALL = {
    "block": "trellis",
    "parts": [{"block": "conv", "kernel_size": 3, "out_dim": 6}, "relu"],
    "paths": 3,
    "grid": 2,
    "hidden_dim": 8,
}


def made() -> tuple[Trellis, Tensor]:
    torch.manual_seed(0)
    trellis: Trellis = construct(CALL, Place(), 4).double()  # type: ignore[assignment, union-attr]
    torch.nn.init.normal_(trellis.fc2.weight)
    return trellis, torch.randn(24, 4, 6, 6, dtype=torch.float64)


@torch.no_grad()
def test_each_sample_takes_the_path_of_its_largest_score():
    trellis, x = made()
    trellis.eval()
    best = [int(trellis.scores(x[i : i + 1]).argmax()) for i in range(len(x))]
    expected = torch.cat([trellis.paths[r](x[i : i + 1]) for i, r in enumerate(best)])
    ctx = Context()
    torch.testing.assert_close(trellis(x, ctx), expected)
    assert len(set(best)) > 1
    torch.testing.assert_close(ctx.reports[""]["load"], torch.bincount(torch.tensor(best), minlength=3).double() / 24)


def naive_gain(p: Tensor, classes: Tensor, balance: float) -> float:
    """The entropies of the joint distribution, cell by cell."""
    cells = {(c, n): 0.0 for c in range(3) for n in range(p.shape[1])}
    for row, c in zip(p.tolist(), classes.tolist(), strict=True):
        for n, share in enumerate(row):
            cells[c, n] += share / len(p)

    def entropy(values: list[float]) -> float:
        return -sum(value * math.log(value) for value in values if value)

    paths = [sum(cells[c, n] for c in range(3)) for n in range(p.shape[1])]
    kinds = [sum(cells[c, n] for n in range(p.shape[1])) for c in range(3)]
    return balance * entropy(paths) + entropy(kinds) - entropy(list(cells.values()))


@pytest.mark.parametrize("balance", [1.0, 2.5])
def test_information_gain_is_that_of_the_joint_distribution(balance):
    torch.manual_seed(0)
    p, classes = torch.randn(12, 4, dtype=torch.float64).softmax(-1), torch.arange(12) % 3
    assert float(information_gain(p, classes, balance)) == pytest.approx(naive_gain(p, classes, balance), abs=1e-12)


def test_a_router_that_tells_classes_apart_gains_all_there_is():
    classes = torch.arange(12) % 3
    sure = torch.nn.functional.one_hot(classes, 3).double()
    assert float(information_gain(sure, classes)) == pytest.approx(math.log(3))
    assert float(information_gain(torch.full((12, 3), 1 / 3, dtype=torch.float64), classes)) == pytest.approx(
        0, abs=1e-9
    )


def test_classes_in_ctx_train_the_routers_of_a_model():
    torch.manual_seed(0)
    model = zoo.create("cigt_nano").train()
    targets = torch.arange(8) % 4
    ctx = Context(slots={"classes": {"": targets}})
    torch.nn.functional.cross_entropy(model(torch.randn(8, 1, 32, 32), ctx), targets).backward(retain_graph=True)
    assert len(ctx.losses) == 2
    routers = [module for module in model.modules() if isinstance(module, Trellis)]
    assert all(router.fc2.weight.grad.abs().sum() > 0 for router in routers)
    before = routers[0].fc1.weight.grad.clone()
    ctx.total_loss().backward()
    assert not routers[0].fc1.weight.grad.equal(before)
    assert not Context().losses
