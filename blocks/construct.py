"""From a filled call to a module: values get their Python types, slots learn their place, the builder's own arguments are supplied."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from blocks import registry
from blocks.chain import Chain, StandIn, run
from blocks.registry.calls import expand
from blocks.registry.errors import BlockError, Problem
from blocks.registry.schema import Issue
from blocks.registry.slots import NONE, Place
from blocks.signature import NO_CHANNELS, made


def construct(call: Any, place: Place, dim: int, out_dim: int | None = None, **supplied: Any) -> nn.Module | None:
    """The module of a call for `dim` input channels: None for "none", a Chain for a list.

    `out_dim` is the width asked for; it is handed to the first block that can change width and ignored by the others.
    Raises BlockError with the place when the constructor refuses, unless `place.failed` collects.
    """
    if call is None or call == NONE:
        return None
    if isinstance(call, list):
        return build_chain(call, place, dim, out_dim, **supplied)
    issues: list[Issue] = []
    table, _ = expand(call, (), issues)
    if table is None:
        raise BlockError(place.path, [Problem("", *issue[1:]) for issue in issues])
    cls = registry.get(table["block"])
    width = table.get("out_dim", out_dim)
    if width is not None and width < 1:
        raise ValueError(f"{NO_CHANNELS} (its `{table['block']}` of {dim} channels would give {width})")
    values: dict[str, Any] = {
        "dim": dim,
        "out_dim": width,
        "layer_dim": place.layer_dim or dim,
        "depth_index": place.depth_index,
        "num_classes": place.num_classes,
        "drop_path": place.drop_path,
        "stage_dims": place.stage_dims,
        **supplied,
    }
    info = registry.describe(table["block"])
    arguments = {key: value for key, value in values.items() if key in info.supplied and value is not None}
    if "input_size" in info.supplied and "input_size" not in arguments and place.sizes is not None:
        arguments["input_size"] = place.sizes()
    arguments |= {key: value for key, value in table.items() if key not in ("block", "name", "out_dim")}
    return _make(cls, arguments, place, dim, width)


def _make(cls: type, arguments: dict[str, Any], place: Place, dim: int, out_dim: int | None) -> nn.Module:
    try:
        module = made(cls, arguments, place)
    except BlockError:
        raise
    except (ValueError, TypeError, RuntimeError) as refusal:
        problem = Problem(place.path, found=f"block `{registry.info_of(cls).name}` cannot be built here: {refusal}")
        if place.failed is None:
            raise BlockError("", problem) from refusal
        place.failed.append(problem)
        return StandIn(dim, out_dim or dim)
    module.path = place.path  # type: ignore[assignment]
    return module


def build_chain(calls: list[Any], place: Place, dim: int, out_dim: int | None = None, **supplied: Any) -> Chain:
    """A chain of parts, each built for the width, and if it asks the size, that the ones before it leave."""
    chain = Chain()
    width = dim
    for step, call in enumerate(calls):
        name = step_name(call, step)
        width_asked = None if out_dim == width else out_dim
        sizes = functools.partial(_size_after, list(chain.children()), dim, place.sizes) if place.sizes else None
        part = construct(call, place.at(name, sizes=sizes), width, width_asked, **supplied)
        if part is not None:
            chain.add_module(name, part)
            width = getattr(part, "out_dim", width)
    chain.out_dim = width
    return chain


def _size_after(parts: list[nn.Module], dim: int, sizes: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """The size that `parts` leave of an input of `dim` channels and `sizes()`: found by running them."""
    size = sizes()
    if not parts:
        return size
    device = next((parameter.device for part in parts for parameter in part.parameters()), None)
    with torch.no_grad():
        x = torch.empty((1, dim, *size) if len(size) == 2 else (1, *size, dim), device=device)
        for part in parts:
            x = run(part, x)
    return tuple(x.shape[2:]) if x.ndim == 4 else (x.shape[1],)


def step_name(call: Any, position: int) -> str:
    """The path step of a part: its explicit name, else its position counting `none`."""
    return call["name"] if isinstance(call, dict) and "name" in call else str(position)
