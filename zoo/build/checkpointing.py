"""Layers that keep no activations: they are run once more in the backward pass, as they ran, and leave no second trace."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blocks.chain import run
from blocks.context import Context


def checkpointed(layer: nn.Module, x: Tensor, ctx: Context | None) -> Tensor:
    """layer(x, ctx), of which the backward pass keeps x alone and computes the rest again.

    The second run reads the ctx and the buffers that the first one met, since a norm may read the running moments that it has moved, and
    writes to copies of both: running moments are after a step what they are without checkpointing, and so are gradients.
    """
    if torch.compiler.is_compiling():  # a compiler sees the layer once, and its buffers change once
        return checkpoint(layer, x, ctx, use_reentrant=False)  # type: ignore[no-any-return]
    met, buffers, runs = _copied(ctx), _buffers_of(layer), itertools.count()

    def computed(x: Tensor) -> Tensor:
        if next(runs) == 0:
            return run(layer, x, ctx)
        with _on_copies(buffers):
            return run(layer, x, _copied(met))

    return checkpoint(computed, x, use_reentrant=False)  # type: ignore[no-any-return]


def _copied(ctx: Context | None) -> Context | None:
    """A ctx with tables of its own, of the same tensors."""
    if ctx is None:
        return None
    return replace(
        ctx,
        state=None if ctx.state is None else dict(ctx.state),
        losses=dict(ctx.losses),
        reports=dict(ctx.reports),
        slots={slot: dict(values) for slot, values in ctx.slots.items()},
    )


Buffers = list[tuple[nn.Module, str, Tensor]]
"""Each with its module and its name there."""


def _buffers_of(layer: nn.Module) -> Buffers:
    """Copies of the buffers as they are now."""
    return [
        (module, name, buffer.clone())
        for module in layer.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


@contextmanager
def _on_copies(buffers: Buffers) -> Iterator[None]:
    """Meanwhile the modules hold copies of these buffers, since autograd may look at their own."""
    own = [(module, name, module._buffers[name]) for module, name, _ in buffers]
    for module, name, buffer in buffers:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, held in own:
            module._buffers[name] = held
