"""What routers change in themselves after a step of training: biases that even out load, the weight of a loss."""

from __future__ import annotations

from torch import nn

from blocks.context import Context


def adapt_routers(model: nn.Module, ctx: Context) -> None:
    """Calls `adapt(report)` of each router that has one, with what it reported in the pass of `ctx`; after optimizer.step()."""
    for module in model.modules():
        path = getattr(module, "path", None)
        if path in ctx.reports and callable(adapt := getattr(module, "adapt", None)):
            adapt(ctx.reports[path])
