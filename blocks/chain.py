"""How modules are run in sequence: layouts adapted by views, ctx passed to those that name it, nothing else in between."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from blocks.context import Context
from blocks.places import check_places, has_places
from blocks.registry.errors import SizeError
from blocks.registry.words import short_name


def run(module: nn.Module, x: Tensor, ctx: Context | None = None) -> Tensor:
    """`module(x)` in the layout that the module wants: (B, C, H, W) is shown to a BLC block as (B, H*W, C) and back, and a clip
    (B, C, T, H, W) to a BCHW block as its frames (B*T, C, H, W), as views.

    Raises ValueError when a BCHW block meets tokens, when a block would ignore padding or packed sequences (`blocks.places`), and for
    an image of no pixels. A batch, and a sequence, may be empty.
    """
    if type(x) is Tensor and x.ndim > 3 and not x.numel() and not math.prod(x.shape[2:]):
        name = getattr(module, "block_id", type(module).__name__)
        raise ValueError(f"block `{name}` meets {_names(x)} = {tuple(x.shape)}")
    layout = getattr(type(module), "layout", "any")  # of a module, an attribute that is not there takes microseconds
    if layout == "BLC":
        if getattr(type(module), "one_grid", False):
            _refuse_other_grid(module, x)
        if x.ndim == 3:
            return _call(module, x, ctx)
        return as_stream(_call(module, as_tokens(x), ctx), x)
    if layout == "BCHW":
        if type(x) is Tensor and x.ndim == 5:
            return as_clip(_call(module, as_frames(x), ctx), x)
        x = an_image(x, getattr(module, "block_id", type(module).__name__))
    return _call(module, x, ctx)


def _names(x: Tensor) -> str:
    return "an image without pixels, (B, C, H, W)" if x.ndim == 4 else "a clip without pixels, (B, C, T, H, W)"


def as_tokens(x: Tensor) -> Tensor:
    """An image as (B, H*W, C), a view where it is channels_last; tokens as they are."""
    if x.ndim != 4:
        return x
    B, C, H, W = x.shape
    return x.permute(0, 2, 3, 1).reshape(B, H * W, C)


def as_stream(y: Tensor, x: Tensor) -> Tensor:
    """Tokens in the layout of the stream `x` that they were made of."""
    if x.ndim != 4:
        return y
    B, _, H, W = x.shape
    return y.reshape(B, H, W, y.shape[-1]).permute(0, 3, 1, 2)


def as_frames(x: Tensor) -> Tensor:
    """A clip (B, C, T, H, W) as its frames (B*T, C, H, W), a view where channels are last in memory."""
    return x.transpose(1, 2).flatten(0, 1)


def as_clip(y: Tensor, x: Tensor) -> Tensor:
    """Frames as the clip that they are of, as many to each as in `x`."""
    return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def an_image(x: Tensor, block: str) -> Tensor:
    """x, which must be an image. Raises ValueError for tokens, naming the block that they meet."""
    if x.ndim == 3:
        raise ValueError(
            f"block `{block}` works on images (B, C, H, W), and here stand tokens (B, L, C) = {tuple(x.shape)}: "
            "take it out of the token view, or use a mixer of tokens"
        )
    return x


def _refuse_other_grid(module: Any, x: Tensor) -> None:
    """Raises SizeError for an image of as many positions as the block was built for, in other rows and columns."""
    size, grid = tuple(x.shape[2:]) if type(x) is Tensor else (), module.input_size
    if len(size) == len(grid) == 2 and size != grid and math.prod(size) == math.prod(grid):
        name = short_name(module.block_id)
        raise SizeError(
            f"this {name} was built for {grid} positions and meets {size}; build the model with that input size"
        )


def _call(module: nn.Module, x: Tensor, ctx: Context | None) -> Tensor:
    if ctx is not None and has_places(ctx):
        check_places(module, ctx)
    return module(x, ctx) if getattr(type(module), "takes_ctx", False) else module(x)


class Chain(nn.Module):
    """Parts in sequence, each under its position (counting `none`) or its explicit name."""

    takes_ctx = True
    out_dim: int

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        ours = False
        for part in self._modules.values():
            kind: Any = type(part)
            # an activation may write over what nobody else holds and no gradient needs: a `fresh` output of the part before
            x = part.over(x) if ours and hasattr(kind, "over") else run(part, x, ctx)  # type: ignore[arg-type, union-attr, operator]
            ours = getattr(kind, "fresh", False)
        return x

    def fuse(self) -> nn.Module:
        """Batch norms and scales folded into their neighbours; see blocks.folding."""
        from blocks.folding import fold_neighbours

        fold_neighbours(self, list(self._modules))
        return self


def is_fresh(part: nn.Module) -> bool:
    """Whether the outputs of a part are its own: new memory that nothing else holds and no gradient needs."""
    while isinstance(part, Chain) and part._modules:
        part = next(reversed(part._modules.values()))  # type: ignore[assignment]
    return getattr(type(part), "fresh", False)


def may_overwrite(x: Tensor) -> bool:
    """Whether a block may write over memory of its own, as `x`: nobody records the pass, for gradients, a trace or a compiler."""
    recorded = torch.compiler.is_compiling() or torch.is_grad_enabled() or torch._C._is_tracing()
    return type(x) is Tensor and not recorded


class StandIn(nn.Module):
    """Takes the place of a block that could not be built, so that the rest of a spec can still be checked."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.dim, self.out_dim = dim, out_dim

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.out_dim) if x.ndim == 3 else (x.shape[0], self.out_dim, *x.shape[2:])
        return torch.empty(shape, dtype=x.dtype, device=x.device)


def channels(x: Tensor) -> int:
    """The width of a stream: axis 1 of (B, C, H, W) and of clips, the last axis of (B, L, C)."""
    return x.shape[1] if x.ndim > 3 else x.shape[-1]


def per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """A (C,) parameter shaped to multiply `x` along its channels."""
    return parameter.view(-1, *[1] * (x.ndim - 2)) if x.ndim > 3 else parameter


for _function in (as_tokens, as_stream, an_image):  # they ask for the number of axes, which no symbolic trace knows
    torch.fx.wrap(_function.__name__)
