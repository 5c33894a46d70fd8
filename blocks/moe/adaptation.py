"""What routers change in themselves after a step of training: biases that even out load, the weight of a loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from blocks.context import Context
from blocks.wiring.tied import Tied


def adapt_routers(model: nn.Module, ctx: Context) -> None:
    """Calls `adapt(report)` of each router that has one, with what it reported in the pass of `ctx`; after optimizer.step().

    A router that runs at several places of the model meets the mean of their reports."""
    borrowers = [(module.owner.path, module.path) for module in model.modules() if isinstance(module, Tied)]
    for module in model.modules():
        if callable(adapt := getattr(module, "adapt", None)):
            places = dict.fromkeys(_places(getattr(module, "path", ""), borrowers))
            if reports := [ctx.reports[path] for path in places if path in ctx.reports]:
                adapt(_mean(reports))


def _places(path: str, borrowers: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Under which paths the module at `path` has run: its own, and those of the places to which it is lent."""
    yield path
    for owner, place in borrowers:
        if path.startswith(f"{owner}."):
            yield place + path.removeprefix(owner)


def _mean(reports: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each figure over the reports, in its own dtype."""
    if len(reports) == 1:
        return reports[0]
    return {
        name: torch.stack([report[name] for report in reports]).double().mean(0).to(figure.dtype)
        for name, figure in reports[0].items()
    }
