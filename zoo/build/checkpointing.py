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

    The second run reads the ctx that the first one met, writes to a copy of it, and moves no statistics: running moments are after a
    step what they are without checkpointing.
    """
    if torch.compiler.is_compiling():  # a compiler sees the layer once, and its buffers change once
        return checkpoint(layer, x, ctx, use_reentrant=False)  # type: ignore[no-any-return]
    met, runs = _copied(ctx), itertools.count()

    def computed(x: Tensor) -> Tensor:
        if next(runs) == 0:
            return run(layer, x, ctx)
        with _on_copies(layer):
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


@contextmanager
def _on_copies(layer: nn.Module) -> Iterator[None]:
    """Meanwhile the modules of a layer hold copies of their buffers, since autograd may look at the real ones."""
    originals = [
        (module, name, buffer)
        for module in layer.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    for module, name, buffer in originals:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in originals:
            module._buffers[name] = buffer
