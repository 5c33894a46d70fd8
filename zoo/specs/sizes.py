"""Edits that decide about sizes: any picture size at each call, and a finer last map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blocks import registry
from blocks.registry.schema import Param
from zoo.errors import InputError, Problem, listed
from zoo.specs.model import Spec
from zoo.specs.patch import Edit
from zoo.specs.resolve import respec
from zoo.specs.tree import Origin, Path

OUTPUT_STRIDES = (8, 16, 32)
IN_A_ROW = ("parts", "convs")
"""Where a block holds what runs one after the other; each of its other parts meets the block's own input."""
MIXES = ("stem", "downsample", "token_mixer", "whole", "view")
"""Kinds whose blocks may look at neighbours, and so would have to look further where a stride went."""


def any_size(spec: Spec) -> Spec:
    """A Spec that takes pictures of any size at each call: `dynamic_size` in every block that has such a parameter.

    Nets whose blocks take any size as they are stay as they are. Raises InputError when a block is made for one size alone.
    """
    fixed = fixed_blocks(spec)
    if fixed:
        found = f"{listed(fixed)}, which has one weight for each position"
        next_step = "`img_size=` builds the model for another size, with weights of its own there"
        raise InputError(spec.name, Problem("dynamic_size", "blocks that take any size", found, next=next_step))
    names = [block for block in spec.blocks() if "dynamic_size" in _params(block)]
    edits = [Edit(f"**.<{name}>.dynamic_size", True, Origin("argument", "dynamic_size")) for name in names]
    return respec(spec, edits) if edits else spec


def fixed_blocks(spec: Spec) -> list[str]:
    """The names of blocks that work at the size alone that they are built for, whatever is asked."""
    infos = [registry.describe(block) for block in spec.blocks()]
    return [
        info.name
        for info in infos
        if "input_size" in info.supplied
        and "any_resolution" not in info.abilities
        and "dynamic_size" not in info.params
    ]


def _params(block: str) -> dict[str, Param]:
    return registry.describe(block).params


def with_output_stride(spec: Spec, most: int) -> Spec:
    """A Spec whose last map is at most `most` times smaller than the picture, of the same weights.

    A stride that leads beyond becomes 1; the kernels of all that follows are dilated by it, and so meet the pixels that they met
    (atrous convolution, arXiv:1706.05587). Raises InputError for another number than 8, 16 or 32, and for a net in which a block would
    have to be dilated, or to give up a stride, that cannot.
    """
    if most not in OUTPUT_STRIDES:
        raise InputError(spec.name, Problem("output_stride", "8, 16 or 32", repr(most)))
    walk = _Walk(most)
    walk.meet(spec.tree["stem"], ("stem",))
    for i, stage in enumerate(spec.tree["stages"]):
        for part in ("downsample", "view", "layers", "post"):
            walk.meet(stage[part], ("stages", i, part))
    if walk.unable:
        found = f"{listed(list(dict.fromkeys(walk.unable)))}, which cannot"
        expected = f"blocks that can be dilated where the map is {most} times smaller than the picture"
        raise InputError(spec.name, Problem("output_stride", expected, found))
    return respec(spec, walk.edits) if walk.edits else spec


class _Walk:
    """Goes through calls as data flows, with the stride so far and by how much what follows is dilated."""

    def __init__(self, most: int):
        self.most, self.stride, self.dilation = most, 1, 1
        self.edits: list[Edit] = []
        self.unable: list[str] = []

    def meet(self, node: Any, path: Path, owner: str = "") -> None:
        """A chain, a call, or an entry of a list of convolutions, whose block is the `owner`."""
        if isinstance(node, list):
            for i, part in enumerate(node):
                self.meet(part, (*path, i), owner)
        if not isinstance(node, dict):
            return
        owner = registry.describe(node["block"]).name if "block" in node else owner
        entered = self.stride, self.dilation
        for key in [key for key in node if key not in IN_A_ROW]:
            self.meet(node[key], (*path, key), owner)
            self.stride, self.dilation = entered
        if not any(key in node for key in IN_A_ROW):
            self._meet_one(node, path, owner)
        for key in IN_A_ROW:
            self.meet(node.get(key), (*path, key), owner)

    def _meet_one(self, node: dict[str, Any], path: Path, name: str) -> None:
        info = registry.describe(node["block"]) if "block" in node else None
        stride, dilation = node.get("stride", 1), self.dilation
        goes = self.stride * stride > self.most
        uncounted = info is not None and info.kind == "downsample" and "stride" not in node
        mixes = (info is None or info.kind in MIXES) and node.get("kernel_size") != 1
        if uncounted or (goes and (self.stride < self.most or "dilation" not in node)):
            self.unable.append(name)
            return
        if goes:
            self.dilation *= stride
            self._set(path, "stride", 1)
            if "padding" in node and node.get("kernel_size", 1) % 2 == 0:
                self._set(path, "padding", "same")
        else:
            self.stride *= stride
        if dilation > 1 and mixes:
            self._dilate(node, path, dilation, name)

    def _dilate(self, node: dict[str, Any], path: Path, dilation: int, name: str) -> None:
        """The kernel of a block further apart, and its border as much wider."""
        padding = node.get("padding", "none")
        if "dilation" not in node:
            self.unable.append(name)
            return
        self._set(path, "dilation", node["dilation"] * dilation)
        if isinstance(padding, int) and padding > 0:
            self._set(path, "padding", padding * dilation)

    def _set(self, path: Sequence[str | int], key: str, value: Any) -> None:
        self.edits.append(Edit(".".join(map(str, (*path, key))), value, Origin("argument", "output_stride")))
