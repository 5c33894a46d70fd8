"""Slots: the places of a block that hold other blocks. A slot is a call of the spec that is built when its host knows the width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from blocks.registry.errors import Problem

if TYPE_CHECKING:
    from torch import nn

NONE = "none"
"""The spelling of nothing, in every slot and for every optional value."""


@dataclass(frozen=True)
class Place:
    """Where a block is being built: what the builder supplies to constructors that name it.

    `sizes` gives the size of the input, (H, W) or (L,), and is asked only when a block needs it; `inputs` gives the tensors that a
    graph or a merge of several meets; `layer_dim` is 0 outside of layers. `failed` decides what happens to a block whose
    constructor refuses: None raises; a list collects the problems and puts stand-ins.
    """

    path: str = ""
    sizes: Callable[[], tuple[int, ...]] | None = None
    inputs: Callable[[], tuple[Any, ...]] | None = None
    depth_index: int = 0
    drop_path: float = 0.0
    num_classes: int = 0
    stage_dims: tuple[int, ...] = ()
    layer_dim: int = 0
    failed: list[Problem] | None = field(default=None, compare=False)

    def at(self, step: str, **changes: Any) -> Place:
        """The place one step further down the path."""
        return replace(self, path=f"{self.path}.{step}" if self.path else step, **changes)


class Slot:
    """A block yet to be built: `slot(dim)` makes the module, with all that the spec says of it.

    `call` is a spec value: a block's name, a table with `block`, or a list of these (a chain).
    """

    __slots__ = ("call", "place")

    def __init__(self, call: str | dict[str, Any] | list[Any], place: Place | None = None):
        self.call = call
        self.place = place or Place()

    def __call__(self, dim: int, out_dim: int | None = None, **supplied: Any) -> nn.Module:
        """The module for an input of `dim` channels; `supplied` adds what only the host knows (`input_size`, `bias`)."""
        from blocks.construct import construct

        module = construct(self.call, self.place, dim, out_dim, **supplied)
        if module is None:
            raise ValueError("an empty slot builds nothing: hold it as None")
        return module

    def __repr__(self) -> str:
        return f"slot({self.call!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and other.call == self.call

    __hash__ = None  # type: ignore[assignment]


def slot(block: str, **params: Any) -> Slot:
    """A slot's default, written in a signature: `act: Act | None = slot("gelu")`."""
    return Slot({"block": block, **params} if params else block)


Norm = Annotated[Slot, Meta(extra_json_schema={"kinds": ["norm"]})]
Act = Annotated[Slot, Meta(extra_json_schema={"kinds": ["act"]})]
Linear = Annotated[Slot, Meta(extra_json_schema={"kinds": ["linear"]})]
Mixer = Annotated[Slot, Meta(extra_json_schema={"kinds": ["token_mixer", "channel_mixer"]})]
Router = Annotated[Slot, Meta(extra_json_schema={"kinds": ["router"]})]
Pool = Annotated[Slot, Meta(extra_json_schema={"kinds": ["pool"]})]
View = Annotated[Slot, Meta(extra_json_schema={"kinds": ["view"]})]
