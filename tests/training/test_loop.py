"""The training loop that all trainings share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blocks.context import Context
from zoo.training.loop import RunningAverage, train


class Router(nn.Module):
    """A parameter, and a count of the reports that it adapted to."""

    path = "router"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.adaptations = 0

    def adapt(self, report: Any) -> None:
        self.adaptations += 1


def loss(model: Any, batch: float, ctx: Context) -> Tensor:
    """(weight - batch)^2, with a report of the router and a loss of its own, (weight + 1)^2."""
    ctx.reports["router"] = {}
    ctx.losses["router"] = {"own": (model.weight + 1).square()}
    return (model.weight - batch).square()


def losses(model: Router, count: int, **options: Any) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return list(train(model, optimizer, [3.0] * count, loss, steps=count, warmup=0.0, **options))


def test_a_step_waits_until_its_loss_is_asked_for() -> None:
    model = Router()
    steps = train(model, torch.optim.SGD(model.parameters(), lr=0.1), [3.0, 3.0], loss, steps=2, warmup=0.0)
    assert float(model.weight.detach()) == 0.0
    assert next(steps) == 9.0 + 1.0
    assert float(model.weight.detach()) > 0.0


def test_gradients_are_clipped_to_a_norm_of_one() -> None:
    model = Router()
    losses(model, 1)
    torch.testing.assert_close(model.weight.detach(), torch.tensor(0.1), rtol=0, atol=1e-6)


def test_routers_adapt_only_where_that_is_asked_for() -> None:
    plain, adaptive = Router(), Router()
    assert losses(plain, 3) == losses(adaptive, 3, adapts_routers=True)
    assert (plain.adaptations, adaptive.adaptations) == (0, 3)


def test_blocks_with_a_schedule_know_before_each_step_how_far_training_is() -> None:
    class Scheduled(Router):
        def __init__(self) -> None:
            super().__init__()
            self.shares: list[float] = []

        def anneal(self, share: float) -> None:
            self.shares.append(share)

    model = Scheduled()
    average = RunningAverage(model, decay=0.5)
    losses(model, 5, average=average)
    assert model.shares == average.model.shares == [0, 0.25, 0.5, 0.75, 1]


def test_the_average_follows_slowly_at_most_by_its_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = RunningAverage(model, decay=0.15)
    assert not average.model.training
    expected = float(model.weight.detach())
    for step, decay in ((1, 1 / 11), (2, 0.15), (3, 0.15)):
        with torch.no_grad():
            model.weight.fill_(step)
        average.follow(model)
        expected = decay * expected + (1 - decay) * step
        assert abs(float(average.model.weight.detach()) - expected) < 1e-6  # type: ignore[union-attr,operator]
