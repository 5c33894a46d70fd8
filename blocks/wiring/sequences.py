"""Several streams as one sequence, and the part of one of them again: how an image, a text and a class see each other."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import as_stream, as_tokens
from blocks.registry import block
from blocks.wiring.merges import one_width


@block("sequence", kind="merge", abilities=("any_resolution",))
class Sequence(nn.Module):
    """y = the tokens of x_1, then those of x_2, … along one sequence; an image is its pixels in rows.

    n x (B, L_i, C), or (B, C, H, W) -> (B, sum L_i, C). Raises ValueError for several widths.
    """

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        self.out_dim = one_width(dims)

    def forward(self, *tensors: Tensor) -> Tensor:
        return torch.cat([as_tokens(x) for x in tensors], 1)


@block("segment", kind="merge", abilities=("noncausal", "any_resolution"))
class Segment(nn.Module):
    """The tokens of x that stand where part `number` stands in the `sequence` of parts p_0, p_1, …; of an image as an image.

    x (B, L, C) and the parts, of any width -> (B, L_number, C), or (B, C, H, W). What lies behind the parts named is not read. Raises
    ValueError for a number without a part.
    """

    def __init__(self, dims: tuple[int, ...], *, number: Annotated[int, Meta(ge=0, le=63)] = 0):
        super().__init__()
        if number > len(dims) - 2:
            raise ValueError(f"part {number} is to be cut out, and {len(dims) - 1} parts are given")
        self.out_dim, self.number = dims[0], number

    def forward(self, x: Tensor, *parts: Tensor) -> Tensor:
        lengths = [part.shape[2:].numel() if part.ndim == 4 else part.shape[1] for part in parts]
        start = sum(lengths[: self.number])
        y = as_tokens(x)[:, start : start + lengths[self.number]]
        return as_stream(y, parts[self.number])


@block("repeat_like", kind="merge", abilities=("causal", "noncausal", "any_resolution"))
class RepeatLike(nn.Module):
    """A vector of each sample at every position of the stream that comes second.

    x (B, 1, C), and a stream (B, L, D) or (B, D, H, W) -> (B, L, C), or (B, C, H, W). An x that is a stream already stays as it is.
    """

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        self.out_dim = dims[0]

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        if x.ndim == 4 or x.shape[1] != 1:
            return x
        return as_stream(x.expand(-1, as_tokens(stream).shape[1], -1), stream)
