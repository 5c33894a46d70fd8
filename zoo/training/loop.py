"""The training loop: a rate that rises and falls once, clipped gradients, and a running average of the weights.

What differs between trainings stays with them: batches, losses, parameter groups, what they report and how they are evaluated.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from blocks.annealing import anneal
from blocks.context import Context
from blocks.moe.adaptation import adapt_routers

MAX_GRAD_NORM = 1.0

Progress = Callable[[int, int, float], None]
"""Called now and then with (epochs or steps so far, all of them, loss)."""
Loss = Callable[[Any, Any, Context], Tensor]
"""The loss of (model, batch, ctx), without what the blocks leave in the context."""


class RunningAverage:
    """A copy of a model in evaluation mode: average <- d * average + (1 - d) * model, with d = min(decay, step / (step + 10))."""

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay, self.step = copy.deepcopy(model).eval(), decay, 0

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """One step towards `model`, in place; what is no float is copied."""
        self.step += 1
        decay = min(self.decay, self.step / (self.step + 10))
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any], loss: Loss, *, steps: int, warmup: float,
    average: RunningAverage | None = None, adapts_routers: bool = False,
) -> Iterator[float]:  # fmt: skip
    """Trains in place, one step for each batch, and yields the loss of each step; a step begins when its loss is asked for.

    The rates of `optimizer` are multiplied by `cosine_rate`, for which `steps` is the number of batches. The losses that blocks leave
    in the context are added. With `adapts_routers` the routers even out their loads after each step (`adapt_routers`). Blocks with a
    schedule, in the model and in its average, know before each step how far training is (`anneal`).
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_rate(step, steps, warmup))
    model.train()
    for step, batch in enumerate(batches):
        for net in (model, *([average.model] if average is not None else [])):
            anneal(net, min(1.0, step / max(1, steps - 1)))
        ctx = Context()
        total = loss(model, batch, ctx) + ctx.total_loss()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        if adapts_routers:
            adapt_routers(model, ctx)
        if average is not None:
            average.follow(model)
        yield total.item()


def cosine_rate(step: int, steps: int, warmup: float) -> float:
    """The factor of the learning rate at a step: up in a straight line for the share `warmup` of all steps, then a cosine to 0."""
    rise = max(1, int(steps * warmup))
    return (step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
