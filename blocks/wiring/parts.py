"""The parts of a wiring become its children, under their position or name: state-dict paths read branch.part."""

from __future__ import annotations

from torch import nn

from blocks.construct import build_chain, step_name
from blocks.registry.slots import NONE, Place, Slot

Parts = list[Slot | None]


def add_parts(host: nn.Module, parts: Parts, dim: int, out_dim: int | None = None) -> int:
    """Builds the parts as a chain from `dim` channels to `out_dim` (or back to `dim`) and adds each to `host`.

    Returns the width of the last.

    Raises ValueError when two parts share a name, or when a name is one that the host itself needs.
    """
    calls = [NONE if part is None else part.call for part in parts]
    check_names(host, calls)
    chain = build_chain(calls, place_of(parts), dim, out_dim or dim)
    for name, part in chain.named_children():
        host.add_module(name, part)
    return chain.out_dim


def place_of(parts: Parts) -> Place:
    """Where the host of these parts stands: its slots all know it."""
    return next((part.place for part in parts if part is not None), Place())


def check_names(host: nn.Module, calls: list) -> None:
    names = [step_name(call, position) for position, call in enumerate(calls)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two parts are called `{name}`; give each another name")
        if hasattr(host, name):
            raise ValueError(f"no part can be called `{name}` here: the wiring has a member of that name")
