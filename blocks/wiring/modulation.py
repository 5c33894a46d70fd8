"""Conditions: a vector of each sample shifts, scales and gates a stream (adaptive norm, arXiv:2212.09748).

The vector holds several of the stream's width one behind the other, and a merge says by number which it reads.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import channels
from blocks.registry import block

Number = Annotated[int, Meta(ge=0, le=63)]


@block(
    "modulate",
    kind="merge",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2212.09748",
    covers=("adaln", "film"),
)
class Modulate(nn.Module):
    """y = x * (1 + c_scale) + c_shift, where c_i are the parts of a condition c that are as wide as x.

    (B, L, C), or (B, C, H, W), and c (B, 1, n C), or (B, L, n C) -> the shape of x. Without `shift` nothing is added. Raises ValueError
    for a condition without these parts.
    """

    def __init__(self, dims: tuple[int, ...], *, scale: Number = 0, shift: Number | None = None):
        super().__init__()
        self.out_dim = check_parts(dims, scale, shift or 0)
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        y = x * (1 + part_of(condition, self.scale, x))
        return y if self.shift is None else y + part_of(condition, self.shift, x)


@block(
    "gate_by",
    kind="merge",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2212.09748",
    covers=("adaln_zero",),
)
class GateBy(nn.Module):
    """y = x * c_part, or with `inverse` x * (1 - c_part), where c_i are the parts of a condition c that are as wide as x.

    (B, L, C), or (B, C, H, W), and c (B, 1, n C), or (B, L, n C) -> the shape of x. Raises ValueError for a condition without this part.
    """

    def __init__(self, dims: tuple[int, ...], *, part: Number = 0, inverse: bool = False):
        super().__init__()
        self.out_dim = check_parts(dims, part)
        self.part, self.inverse = part, inverse

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gate = part_of(condition, self.part, x)
        return x * (1 - gate if self.inverse else gate)


def check_parts(dims: tuple[int, ...], *parts: int) -> int:
    """The width of a stream that meets its condition. Raises ValueError where the condition has fewer parts."""
    if len(dims) != 2 or dims[1] % dims[0] or max(parts) >= dims[1] // dims[0]:
        widths = " and ".join(map(str, dims))
        raise ValueError(f"a stream and a condition of {max(parts) + 1} times its width are needed; there are {widths}")
    return dims[0]


def part_of(condition: Tensor, number: int, x: Tensor) -> Tensor:
    """Part `number` of a condition, as wide as x and shaped to meet it."""
    width = channels(x)
    part = condition.narrow(1 if condition.ndim > 3 else -1, number * width, width)
    return part.transpose(1, 2).unsqueeze(-1) if x.ndim > 3 and part.ndim == 3 else part
