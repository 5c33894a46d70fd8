"""The training loop: a rate that rises and falls once, clipped gradients, and a running average of the weights.

What differs between trainings stays with them: batches, losses, parameter groups, what they report and how they are evaluated.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, Protocol

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
Shape = Literal["cosine", "linear", "constant"]


class Engine(Protocol):
    """What runs a step, on one device or many: accelerate's `Accelerator` does."""

    def backward(self, loss: Tensor) -> None: ...

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> Any: ...

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Within it gradients stay with their process."""
        ...


class Plain:
    """This process, and nothing around it."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        return nullcontext()


class Course(NamedTuple):
    """How a training goes beyond the usual: the shape of the rate, the step that it begins at, the parts of a batch that come one after
    the other, the norm of gradients (0 leaves them), the engine, and what puts a model into training mode."""

    shape: Shape = "cosine"
    start: int = 0
    accumulate: int = 1
    clip: float = MAX_GRAD_NORM
    engine: Engine = Plain()
    enter: Callable[[nn.Module], Any] = nn.Module.train


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
    average: RunningAverage | None = None, adapts_routers: bool = False, course: Course = Course(),
) -> Iterator[float]:  # fmt: skip
    """Trains in place, one step for each batch, and yields the loss of each step; a step begins when its loss is asked for.

    The rates of `optimizer` are multiplied by `rate_factor`, for which `steps` is the number of steps of the whole training. The losses
    that blocks leave in the context are added. With `adapts_routers` the routers even out their loads after each step (`adapt_routers`).
    Blocks with a schedule, in the model and in its average, know before each step how far training is (`anneal`). Where a batch comes in
    several parts, `batches` gives one after the other, all of one size.
    """
    engine, parts = course.engine, iter(batches)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    course.enter(model)
    for step in range(course.start, steps):
        for net in (model, *([average.model] if average is not None else [])):
            anneal(net, min(1.0, step / max(1, steps - 1)))
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate_factor(step, steps, warmup, course.shape)
        optimizer.zero_grad(set_to_none=True)
        total, contexts = 0.0, [Context() for _ in range(course.accumulate)]
        for ctx in contexts:
            try:
                batch = next(parts)
            except StopIteration:
                return
            with nullcontext() if ctx is contexts[-1] else engine.no_sync(model):
                part = (loss(model, batch, ctx) + ctx.total_loss()) / course.accumulate
                engine.backward(part)
            total += part.item()
        if course.clip:
            engine.clip_grad_norm_(model.parameters(), course.clip)
        optimizer.step()
        if adapts_routers:
            for ctx in contexts:
                adapt_routers(model, ctx)
        if average is not None:
            average.follow(model)
        yield total


def rate_factor(step: int, steps: int, warmup: float, shape: Shape = "cosine") -> float:
    """The factor of the learning rate at a step: up in a straight line for the share `warmup` of all steps, then down to 0 in a cosine
    or in a straight line, or not at all."""
    rise = max(1, int(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    past, rest = step - rise, max(1, steps - rise)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * past / rest)), "linear": 1 - past / rest, "constant": 1.0}[shape]
