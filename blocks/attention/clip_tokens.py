"""Transformers of pictures that see clips: the tokens of each frame, relations over time among them, and a summary of all frames.

Paper: arXiv:2211.09552 (UniFormerV2). Upstream: OpenGVLab/UniFormerV2 (Apache-2.0).
Clips are (B, C, T, H, W); the tokens of their frames are (B*T, N + H*W, C), N class tokens of each frame first.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.semantic_tokens import Looking
from blocks.chain import as_frames, run
from blocks.context import Context
from blocks.places import refuse_places
from blocks.primitives.views import Size, Tokens
from blocks.registry import block
from blocks.registry.slots import Mixer, Norm, slot

Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1)]
PAPER = "arXiv:2211.09552"


@block("clip_patches", kind="stem", layout="BCTHW", abilities=("noncausal", "3d"), paper=PAPER)
class ClipPatches(nn.Conv3d):
    """y = W * x: patches of `size` x `size` pixels, side by side, of `time` frames around every `time_stride`-th.

    (B, C, T, H, W) -> (B, out_dim, ceil(T / time_stride), H / size, W / size) for an odd `time`.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        size: Count = 16,
        time: Count = 1,
        time_stride: Count = 1,
        bias: bool = False,
    ):
        self.out_dim = out_dim or dim
        kernel, stride = (time, size, size), (time_stride, size, size)
        super().__init__(dim, self.out_dim, kernel, stride, ((time - 1) // 2, 0, 0), bias=bias)


@block("frame_tokens", kind="view", layout="BCTHW", abilities=("noncausal", "3d"), paper=PAPER)
class FrameTokens(Tokens):
    """Each frame as tokens, a class token first, with learned positions: (B, C, T, H, W) -> (B*T, 1 + H*W, C).

    On the way out `keep` decides: the `grid`, as a clip again, or the `cls` tokens of the frames alone, (B, T, C). Raises SizeError for
    frames of another size than it was built for.
    """

    def __init__(self, dim: int, *, keep: Literal["grid", "cls"] = "grid", input_size: Size = (8, 14, 14)):
        super().__init__(dim, cls_token="first", positions=True, keep=keep, input_size=tuple(input_size)[-2:])

    def inner_size(self, size: Size) -> Size:
        return (1 + math.prod(size[-2:]),)

    def enter(self, x: Tensor) -> tuple[Tensor, Size]:
        y, _ = super().enter(as_frames(x))
        return y, (x.shape[0], *x.shape[2:])

    def exit(self, y: Tensor, memo: Size) -> Tensor:
        return y[:, 0].unflatten(0, memo[:2]) if self.keep == "cls" else self.grid(y, memo)

    def grid(self, y: Tensor, memo: Size) -> Tensor:
        """The tokens as a clip, without the class tokens."""
        return super().grid(y, memo[2:]).unflatten(0, memo[:2]).transpose(1, 2)


@block("token_clip", kind="view", layout="BLC", abilities=("noncausal", "1d"), paper=PAPER)
class TokenClip(nn.Module):
    """The tokens of `frames` frames each as a clip, without class tokens: (B*T, N + H*W, C) -> (B, C, T, H, W), H*W the largest square.

    On the way out the N class tokens stand where they were, first. Raises ValueError for a batch that is no whole number of clips.
    """

    def __init__(self, *, frames: Count = 1):
        super().__init__()
        self.frames = frames

    def inner_size(self, size: Size) -> Size:
        side = math.isqrt(math.prod(size))
        return (side, side)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return clip_of(x, self.frames), x[:, : before_grid(x)]

    def exit(self, y: Tensor, memo: Tensor) -> Tensor:
        return torch.cat([memo, as_frames(y).flatten(2).transpose(1, 2)], 1)


def before_grid(tokens: Tensor) -> int:
    """How many of (B, N + H*W, C) tokens stand before the grid, which is the largest square."""
    return tokens.shape[1] - math.isqrt(tokens.shape[1]) ** 2


def clip_of(tokens: Tensor, frames: int) -> Tensor:
    """(B*T, N + H*W, C) -> (B, C, T, H, W). Raises ValueError for a batch that is no whole number of clips."""
    if tokens.shape[0] % frames:
        raise ValueError(f"{tokens.shape[0]} frames are no whole number of clips of {frames}")
    side = math.isqrt(tokens.shape[1])
    grid = tokens[:, before_grid(tokens) :].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return grid.unflatten(0, (-1, frames)).transpose(1, 2)


@block(
    "clip_summary",
    kind="channel_mixer",
    layout="BLC",
    abilities=("noncausal", "1d"),
    paper=PAPER,
    covers=("global_mhra",),
)
class ClipSummary(Looking):
    """y = x; the slot `writes` gets c + a + mlp(norm_2(c + a)), a = attend(norm_1 c; norm_3 z), z = x, its grids plus DW x: what the clip shows.

    (B*T, N + H*W, C) -> the same, with H*W the largest square; c (B, 1, C) is what the slot `reads` holds, without one a learned token.
    DW is depthwise over 3 x 3 x 3 tokens of neighbouring frames; all tokens of the `frames` frames are looked at. Raises ValueError when
    the slot is empty.
    """

    no_decay = ("token",)
    path = ""

    token: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        *,
        frames: Count = 1,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        norm: Norm = slot("layer_norm"),
        mlp: Mixer = slot("mlp"),
        reads: Name | None = None,
        writes: Name = "summary",
    ):
        super().__init__(dim, num_heads, head_dim, True, None)
        self.frames, self.reads, self.writes = frames, reads, writes
        self.register_parameter("token", nn.Parameter(torch.empty(1, 1, dim)) if reads is None else None)
        self.near = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1, self.norm2, self.norm3 = (norm(dim) for _ in range(3))
        self.mlp = mlp(dim)
        self._draw_token()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._draw_token()

    def _draw_token(self) -> None:
        token = self._parameters.get("token")
        if token is not None:
            nn.init.trunc_normal_(token, std=0.02)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums of one query: 2 T L num_heads head_dim."""
        return {"attention": 2 * shape[0] * shape[1] * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        if type(x) is Tensor and not x.numel():
            return x
        near = as_frames(self.near(clip_of(x, self.frames))).flatten(2).transpose(1, 2)
        z = (x + F.pad(near, (0, 0, before_grid(x), 0))).unflatten(0, (-1, self.frames)).flatten(1, 2)
        c = self._before(len(z), ctx)
        c = c + self.look(run(self.norm1, c), run(self.norm3, z))
        c = c + run(self.mlp, run(self.norm2, c))
        if ctx is not None:
            ctx.write(self.writes, self.path, c)
        return x

    def _before(self, batch: int, ctx: Context | None) -> Tensor:
        return latest(ctx, self.reads) if self.token is None else self.token.expand(batch, -1, -1)


def latest(ctx: Context | None, name: str | None) -> Tensor:
    """What was written to a slot last. Raises ValueError where nothing was."""
    written = ctx.read(name) if ctx is not None and name is not None else {}
    if not written:
        raise ValueError(f"nothing was written to the slot `{name}` before; put a `clip_summary` without `reads` there")
    return list(written.values())[-1]


@block("blend_summary", kind="pool", layout="BLC", abilities=("noncausal", "1d"), paper=PAPER)
class BlendSummary(nn.Module):
    """y = s * mean_T x + (1 - s) * c, s = sigmoid(balance) for each channel, c what the slot `reads` holds; without `balanced` y = c.

    (B, T, C), the class tokens of T frames -> (B, 1, C). Without `reads` c is 0. Raises ValueError when the slot is empty.
    """

    balance: nn.Parameter | None

    def __init__(self, dim: int, *, balanced: bool = True, reads: Name | None = None):
        super().__init__()
        self.reads = reads
        self.register_parameter("balance", nn.Parameter(torch.empty(dim)) if balanced else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.balance is not None:
            nn.init.zeros_(self.balance)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        if type(x) is Tensor and not x.numel():
            return x.new_zeros(x.shape[0], 1, x.shape[2])
        mean = x.mean(1, keepdim=True)
        c = torch.zeros_like(mean) if self.reads is None else latest(ctx, self.reads)
        return c if self.balance is None else torch.lerp(c, mean, self.balance.sigmoid())
