"""Rotary positions: pairs of channels turned by angles that grow with the position. Paper: arXiv:2104.09864.

Longer sequences than those of the training: all angles divided (`linear`), or those of the slow pairs (`yarn`,
arXiv:2309.00071, with the two borders of its paper).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from blocks.ops.dispatch import watcher


class Rope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pair i of d channels is turned by theta^(-2 i / d) at every step; `scaling` by `factor` from `original_length` tokens on.

    `pairs`: channel i goes with channel i + d / 2 (`halves`, as in Llama's checkpoints) or 2 i with 2 i + 1 (`neighbours`, as in
    DeepSeek's). `mscale` is how much `yarn` sharpens scores.
    """

    theta: Annotated[float, Meta(gt=0)] = 10000.0
    scaling: Literal["linear", "yarn"] | None = None
    factor: Annotated[float, Meta(ge=1)] = 1.0
    original_length: Annotated[int, Meta(ge=1)] | None = None
    pairs: Literal["halves", "neighbours"] = "halves"
    mscale: Annotated[float, Meta(ge=0)] = 1.0


def check_rope(rope: Rope | None, dims: int) -> None:
    """Raises ValueError for channels that make no pairs, and for a scaling that lacks what it needs."""
    if rope is not None and dims % 2:
        raise ValueError(f"rotary positions turn channels in pairs, and {dims} is odd; {dims + 1} would do")
    if rope is not None and rope.scaling == "yarn" and rope.original_length is None:
        raise ValueError("rotary positions scaled by `yarn` need `original_length`, the tokens of the training")


def score_scale(rope: Rope | None) -> float:
    """The factor by which `yarn` multiplies scores: m(mscale)^2."""
    return 1.0 if rope is None else magnitude(rope, rope.mscale) ** 2


def magnitude(rope: Rope, mscale: float) -> float:
    """m(mscale) = 1 + mscale ln(factor) / 10 of `yarn`, and 1 without it."""
    return 1 + mscale * math.log(rope.factor) / 10 if rope.scaling == "yarn" else 1.0


def positions_after(x: Tensor, seen: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(positions (B, L) of the tokens of x (B, L, ...), how many tokens there are then (B,)); `seen` (B,) came before."""
    before = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device) if seen is None else seen
    where = before.unsqueeze(1) + torch.arange(x.shape[1], device=x.device)
    return where, before + (x.shape[1] if mask is None else mask.sum(1))


def rotated(x: Tensor, positions: Tensor, rope: Rope, stretch: float = 1.0) -> Tensor:
    """x (B, L, H, K) turned by its positions (B, L) and `stretch` times as long, with angles in float32 at least."""
    return _turned(x, *rotary_waves(x, positions, rope, x.shape[-1], stretch), rope)


def rotary_waves(x: Tensor, positions: Tensor, rope: Rope, dims: int, stretch: float = 1.0) -> tuple[Tensor, Tensor]:
    """(cosines, sines) (B, L, 1, dims / 2) for whatever stands at these positions, on the device of x and as wide as it at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    angle = (positions.to(wide).unsqueeze(-1) * _turns_for(x, rope, dims, wide)).unsqueeze(2)
    cos, sin = angle.cos(), angle.sin()
    return (cos, sin) if stretch == 1 else (cos * stretch, sin * stretch)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, rope: Rope) -> Tensor:
    wide = cos.dtype
    if rope.pairs == "neighbours":
        left, right = x.to(wide).unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([left * cos - right * sin, right * cos + left * sin], -1).flatten(-2).to(x.dtype)
    left, right = x.to(wide).chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(x.dtype)


def rotated_parts(rows: Sequence[Tensor], positions: Tensor, rope: Rope, dims: int) -> list[Tensor]:
    """Each of `rows` (B, L, H, K) with the first `dims` channels of each head turned, as `rotated` turns them, by the same angles."""
    cos, sin = rotary_waves(rows[0], positions, rope, dims)
    return [
        _turned(x, cos, sin, rope)
        if dims == x.shape[-1]
        else torch.cat([_turned(x[..., :dims], cos, sin, rope), x[..., dims:]], -1)
        for x in rows
    ]


def _turns_for(x: Tensor, rope: Rope, dims: int, dtype: torch.dtype) -> Tensor:
    """`_turns`, kept on a CPU from call to call where nobody records what is made."""
    if x.is_cpu and not watcher(x):
        return _kept_turns(rope, dims, dtype)
    return _turns(rope, dims, x.device, dtype)


@functools.lru_cache(maxsize=256)
def _kept_turns(rope: Rope, dims: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _turns(rope, dims, torch.device("cpu"), dtype)


def _turns(rope: Rope, dims: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(dims / 2,) angles per step."""
    pairs = torch.arange(dims // 2, device=device, dtype=dtype)
    turns = rope.theta ** (-2 * pairs / dims)
    if rope.scaling == "linear":
        return turns / rope.factor
    if rope.scaling is None or rope.original_length is None:
        return turns

    def pair_of(count: int) -> float:
        """The pair that turns so often within the original length."""
        return dims * math.log(rope.original_length / (count * 2 * math.pi)) / (2 * math.log(rope.theta))  # type: ignore[operator]

    first, last = max(math.floor(pair_of(32)), 0), min(math.ceil(pair_of(1)), dims - 1)  # fast before, slow behind
    slow = ((pairs - first) / max(last - first, 1e-3)).clamp(0, 1)
    return turns * (1 - slow) + turns / rope.factor * slow
