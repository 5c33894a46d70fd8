"""A net in the layout and the operators that graph runtimes like: a copy that computes the same.

The zoo's nets show each block the layout that it wants by permuting views, which costs nothing where memory is channels_last. In a graph
such a view is a transpose that a runtime executes, or has to cancel. Here the net is laid out anew:

- a linear map of the channels of an image becomes a 1 x 1 convolution;
- parts that want tokens (channel norms, attention, windows) run one after the other on tokens (B, H*W, C), and the image is turned
  into tokens and back where this takes the fewest turns: around a stage, a branch, or a single part;
- a strided 1 x 1 convolution is one, without the slices before it.

What is turned where follows from the layouts that blocks declare, by dynamic programming over the parts of each chain.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.window_attention import WindowAttention
from blocks.chain import Chain, as_tokens, run
from blocks.context import Context
from blocks.conv.conv import StridedPointwise
from blocks.conv.parameter_free import Pooling
from blocks.packing import unpacked
from blocks.primitives.linears import Dense
from blocks.primitives.norms import GroupNorm, LayerNorm, RmsNorm
from blocks.wiring.gated import Gated
from blocks.wiring.residual import Residual
from zoo.build.backbone import Backbone, Stage
from zoo.exporting.heads import PlainHeads, is_plain
from zoo.exporting.windows import Grid, TokenWindows
from zoo.specs.inputs import ImageInput

Layout = Literal["image", "tokens"]
LAYOUTS: tuple[Layout, Layout] = ("image", "tokens")
NEVER = 10_000
"""Turns that no net has: the cost of what cannot be."""


def lowered(net: nn.Module, prefers: Layout = "tokens") -> nn.Module:
    """A copy of a net in eval mode, with the same outputs up to rounding, laid out for graph runtimes. The net itself stays as it is.

    The tensors are those of the net. `prefers` decides for parts that run as well on an image as on tokens, where both take as many turns."""
    plain = unpacked(net)
    shared = {id(tensor): tensor for tensor in [*plain.parameters(), *plain.buffers()]}
    twin = copy.deepcopy(plain, shared).eval()
    _free_norms(twin)
    nets = [module for module in twin.modules() if isinstance(module, Backbone)]
    if all(
        isinstance(module.spec.input, ImageInput) for module in nets
    ):  # a stream of tokens alone has nothing to turn
        Arranger(prefers, any(module.levels_are_layers for module in nets)).arrange(twin)
    _write_heads(twin)
    for module in twin.modules():
        if type(module).forward is Dense.forward:
            module.__class__ = PointwiseMap
        elif isinstance(module, StridedPointwise):
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    return twin


def _free_norms(net: nn.Module) -> None:
    """Group norms without scale and shift where the part behind them takes these in: as graphs have them, they are passes of their own."""
    for chain in [module for module in net.modules() if is_chain(module)]:
        for norm, after in itertools.pairwise(parts_of(chain)):
            if type(norm) is GroupNorm and _takes_in(chain, after, norm):
                norm.weight = norm.bias = None  # type: ignore[assignment]


@torch.no_grad()
def _takes_in(chain: nn.Module, part: nn.Module, norm: GroupNorm) -> bool:
    """Whether a part has taken in the scale and the shift of the norm before it."""
    shift = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
    if isinstance(part, Pooling) and isinstance(chain, Residual) and parts_of(chain)[-1] is part:
        scale = (
            norm.weight if chain.scale is None else chain.scale * norm.weight
        )  # of a mean less x, shifts leave nothing
        chain.scale = nn.Parameter(scale, requires_grad=False)
        return True
    absorb: Any = getattr(part, "absorb_input", None)
    return bool(absorb is not None and absorb(norm.weight, shift))


def _write_heads(net: nn.Module) -> None:
    """Attention as graphs have it best, in place."""
    for owner in list(net.modules()):
        for name, part in list(owner.named_children()):
            if is_plain(part):
                setattr(owner, name, PlainHeads(part))  # type: ignore[arg-type]


class PointwiseMap(Dense):
    """y = W x + b along the channels: a 1 x 1 convolution of (B, C, H, W), a matrix product of tokens (B, L, C) and vectors (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return F.conv2d(x, self.weight[:, :, None, None], self.bias)
        return F.linear(x, self.weight, self.bias)


class TokenRun(nn.Module):
    """Parts that run on tokens, one after the other, in a stream of images: (B, C, H, W) -> (B, out_dim, H, W).

    A stream of tokens goes through as it is."""

    takes_ctx = True

    def __init__(self, parts: Sequence[nn.Module], grid: Grid):
        super().__init__()
        self.parts, self.grid = nn.ModuleList(parts), grid

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = x
        if x.ndim == 4:
            self.grid.size = x.shape[2], x.shape[3]
            y = as_tokens(x)
        for part in self.parts:
            y = run(part, y, ctx)
        return _as_image(y, self.grid) if x.ndim == 4 else y


class ImageRun(nn.Module):
    """Parts that run on the image, one after the other, in a stream of tokens: (B, L, C) -> (B, L, out_dim)."""

    takes_ctx = True

    def __init__(self, parts: Sequence[nn.Module], grid: Grid):
        super().__init__()
        self.parts, self.grid = nn.ModuleList(parts), grid

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = _as_image(x, self.grid)
        for part in self.parts:
            y = run(part, y, ctx)
        self.grid.size = y.shape[2], y.shape[3]
        return as_tokens(y)


def _as_image(tokens: Tensor, grid: Grid) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W)."""
    return tokens.reshape(tokens.shape[0], *grid.size, tokens.shape[-1]).permute(0, 3, 1, 2)


class Arranger:
    """Puts the parts of a net's chains into `TokenRun` and `ImageRun`. With `by_layer` the layers of a stage stay apart."""

    def __init__(self, prefers: Layout, by_layer: bool):
        self.prefers, self.by_layer, self.grid = prefers, by_layer, Grid()

    def arrange(self, module: nn.Module) -> None:
        """Arranges all chains inside a module that is shown images, in place."""
        inner = list(module.children())
        if isinstance(module, Stage) and module.view is None and not self.by_layer:
            module.layers = nn.ModuleList(self._arranged(list(module.layers), "image"))
            inner = [part for part in (module.downsample, module.post) if part is not None]
        elif isinstance(module, Backbone) and type(module.stem) is Chain:
            inner = [*module.stem.children(), *module.stages, *([module.head] if module.head is not None else [])]
        elif is_chain(module):
            self._arrange_chain(module, "image")
            inner = []
        for child in inner:
            self.arrange(child)

    def _arrange_chain(self, chain: nn.Module, stream: Layout) -> None:
        """The parts of a chain, or of a branch, whose input and output have the layout `stream`."""
        shortcut = chain._modules.get("shortcut")
        parts = self._arranged(parts_of(chain), stream)
        chain._modules.clear()
        for i, part in enumerate(parts):
            chain.add_module(str(i), part)
        if isinstance(chain, Residual):
            chain.shortcut = shortcut
            if shortcut is not None:
                self.arrange(shortcut)

    def _arranged(self, parts: Sequence[nn.Module], stream: Layout) -> list[nn.Module]:
        """The parts for a stream of this layout; those that are shown the other one stand in a `TokenRun` or an `ImageRun`."""
        layouts = self.cheapest(parts, stream)[1]
        arranged: list[nn.Module] = []
        others: list[nn.Module] = []
        kind = TokenRun if stream == "image" else ImageRun
        for part, layout in zip(parts, layouts, strict=True):
            part = self._inside(part, layout)
            if layout != stream:
                others.append(part)
                continue
            if others:
                arranged.append(kind(others, self.grid))
                others = []
            arranged.append(part)
        return [*arranged, kind(others, self.grid)] if others else arranged

    def _inside(self, part: nn.Module, layout: Layout) -> nn.Module:
        """A part that is shown this layout, itself arranged."""
        if is_chain(part):
            self._arrange_chain(part, layout)
        elif isinstance(part, WindowAttention) and layout == "tokens":
            return TokenWindows(part, self.grid)
        elif layout == "image":
            self.arrange(part)
        return part

    def cheapest(self, parts: Sequence[nn.Module], stream: Layout) -> tuple[float, list[Layout]]:
        """The fewest turns for parts that run one after the other in a stream of this layout, and the layout that each is shown."""
        paths: dict[Layout, tuple[float, list[Layout]]] = {stream: (0, [])}
        for part in parts:
            reached: dict[Layout, tuple[float, list[Layout]]] = {}
            for layout in LAYOUTS:
                cost = self.turns(part, layout)
                ways = [(so_far + (before != layout) + cost, path) for before, (so_far, path) in paths.items()]
                least, path = min(ways, key=lambda way: way[0])
                reached[layout] = least, [*path, layout]
            paths = reached
        return min(((cost + (end != stream), path) for end, (cost, path) in paths.items()), key=lambda way: way[0])

    def turns(self, part: nn.Module, layout: Layout) -> float:
        """How many times a part turns its input, or something inside it, when it is shown this layout."""
        if is_chain(part):
            cost = self.cheapest(parts_of(part), layout)[0]
            return cost if layout == "image" or part._modules.get("shortcut") is None else NEVER
        wanted = wanted_layouts(part)
        if layout not in wanted:
            return 2
        return 0.01 if len(wanted) > 1 and layout != self.prefers else 0


def is_chain(module: nn.Module) -> bool:
    """Whether a module does no more than to run its parts one after the other, and to join x and the result."""
    return isinstance(module, (Residual, Gated)) or type(module) is Chain


def parts_of(chain: nn.Module) -> list[nn.Module]:
    """What a chain, or a branch, runs one after the other."""
    return [part for name, part in chain._modules.items() if part is not None and name != "shortcut"]


def wanted_layouts(part: nn.Module) -> tuple[Layout, ...]:
    """The layouts in which a part turns nothing."""
    if isinstance(part, WindowAttention):
        return ("tokens",)
    modules = list(part.modules())
    if any(getattr(type(module), "layout", "any") == "BCHW" or isinstance(module, nn.Conv2d) for module in modules):
        return ("image",)
    if any(
        getattr(type(module), "layout", "any") == "BLC" or isinstance(module, (LayerNorm, RmsNorm))
        for module in modules
    ):
        return ("tokens",)
    leaves = [module for module in modules if not list(module.children())]
    free = all(isinstance(leaf, Dense) or getattr(type(leaf), "kind", "") == "act" for leaf in leaves)
    return LAYOUTS if free else ("image",)
