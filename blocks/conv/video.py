"""Convolutions of clips, whole or frame by frame. Paper: arXiv:2103.11511 (MoViNet).

Clips are (B, C, T, H, W). In space a kernel has TensorFlow's border, whose longer side is below and to the right. In time a causal kernel
sees the frames before, of which `ctx.state` keeps as many as the next clip needs, so that a clip in pieces gives what it gives as a whole.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import Chain
from blocks.context import Context
from blocks.conv.universal_inverted_residual import rounded
from blocks.folding import scale_output
from blocks.registry import block
from blocks.registry.slots import Act, Norm, slot

Count = Annotated[int, Meta(ge=1)]
State = tuple[Tensor, ...]


class ClipConv(nn.Conv3d):
    """y = W * x + b with a border that keeps ceil(H / stride) rows, and all frames unless the caller has put those before in front."""

    def __init__(
        self, dim: int, out_dim: int, size: tuple[int, int], stride: int, groups: int, bias: bool, causal: bool
    ):
        time, space = size
        before = 0 if causal else (time - 1) // 2
        super().__init__(
            dim, out_dim, (time, space, space), (1, stride, stride), (before, 0, 0), groups=groups, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, same_border(x, self.kernel_size[1], self.stride[1])))

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Outputs times taps; torch's formula would know nothing of the border."""
        B, _, T, H, W = shape
        frames = T + 2 * self.padding[0] - self.kernel_size[0] + 1  # type: ignore[operator]
        places = frames * -(-H // self.stride[1]) * -(-W // self.stride[2])
        return {"convolution": B * places * self.weight.numel()}

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        scale_output(self, scale, shift)
        return True


def same_border(x: Tensor, kernel_size: int, stride: int) -> tuple[int, int, int, int]:
    """(left, right, above, below) of a map, as `torch.nn.functional.pad` takes them."""
    missing = [max((size - 1) // stride * stride + kernel_size - size, 0) for size in x.shape[-1:-3:-1]]
    return missing[0] // 2, missing[0] - missing[0] // 2, missing[1] // 2, missing[1] - missing[1] // 2


@block(
    "video_conv",
    kind="whole",
    layout="BCTHW",
    abilities=("noncausal", "any_resolution", "3d"),
    paper="arXiv:2103.11511",
)
class VideoConv(Chain):
    """y = act(norm(W * x + b)), a kernel of `time` frames of kernel_size x kernel_size pixels.

    (B, C, T, H, W) -> (B, out_dim, T, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        kernel_size: Count = 3,
        time: Count = 1,
        stride: Count = 1,
        groups: Count = 1,
        bias: bool = False,
        norm: Norm | None = None,
        act: Act | None = None,
    ):
        super().__init__()
        self.out_dim = out_dim or dim
        add_unit(self, ClipConv(dim, self.out_dim, (time, kernel_size), stride, groups, bias, causal=False), norm, act)


def add_unit(unit: Chain, conv: ClipConv, norm: Norm | None, act: Act | None) -> Chain:
    """A convolution with what follows it."""
    unit.conv = conv
    for name, part in (("norm", norm), ("act", act)):
        if part is not None:
            unit.add_module(name, part(conv.out_channels))
    return unit


class ClipSqueeze(nn.Module):
    """y = x * gate(W_2 act(W_1 s)), s the mean of the clip, or of causal nets the mean so far beside that of the frame itself."""

    def __init__(self, dim: int, causal: bool, act: Act, gate: Act):
        super().__init__()
        width = 2 * dim if causal else dim
        hidden_dim = rounded(dim // 4 * (width // dim), 8)
        self.causal = causal
        self.down = ClipConv(width, hidden_dim, (1, 1), 1, 1, True, causal)
        self.act = act(hidden_dim)
        self.up = ClipConv(hidden_dim, dim, (1, 1), 1, 1, True, causal)
        self.gate = gate(dim)

    def forward(self, x: Tensor, past: State | None) -> tuple[Tensor, State]:
        summary = x.mean((3, 4) if self.causal else (2, 3, 4), keepdim=True)
        after: State = ()
        if self.causal:
            mean, after = mean_so_far(summary, past)
            summary = torch.cat((mean, summary), 1)
        return x * self.gate(self.up(self.act(self.down(summary)))), after


def mean_so_far(x: Tensor, past: State | None) -> tuple[Tensor, State]:
    """(the mean of each frame and all before it, (their sum (B, C), their number (B, 1))) of x (B, C, T, 1, 1)."""
    total, count = past if past else (x.new_zeros(x.shape[:2]), x.new_zeros(x.shape[0], 1))
    sums = x.cumsum(2) + total[:, :, None, None, None]
    counts = count + torch.arange(1, x.shape[2] + 1, device=x.device, dtype=x.dtype)
    return sums / counts[:, None, :, None, None], (sums[:, :, -1, 0, 0], counts[:, -1:])


@block(
    "video_inverted_residual",
    kind="whole",
    layout="BCTHW",
    abilities=("noncausal", "any_resolution", "3d"),
    paper="arXiv:2103.11511",
    covers=("movinet",),
)
class VideoInvertedResidual(nn.Module):
    """y = s(x) + alpha P squeeze(D act(E x)), a norm behind each map; D depthwise over `time` frames, E and P pointwise, alpha one number.

    (B, C, T, H, W) -> (B, out_dim, T, H', W'). s is x, or where width or size change the mean of 3 x 3 pixels and a pointwise map. A `causal`
    one convolves in space, then in time, and squeezes by what it has seen so far; `ctx.state` keeps the last frames, their sum and number.
    """

    path = ""
    alpha: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        hidden_dim: Count,
        kernel_size: Count = 3,
        time: Count = 3,
        stride: Count = 1,
        causal: bool = False,
        norm: Norm = slot("batch_norm"),
        act: Act = slot("silu"),
        gate: Act = slot("sigmoid"),
    ):
        super().__init__()
        self.out_dim, self.stride, self.time = out_dim or dim, stride, time if causal else 1
        self.expand = _unit(dim, hidden_dim, norm, act)
        size = (1 if causal else time, kernel_size)
        self.deep = _unit(hidden_dim, hidden_dim, norm, act, size, stride, hidden_dim)
        self.deep_time = (
            _unit(hidden_dim, hidden_dim, norm, act, (time, 1), 1, hidden_dim, True) if self.time > 1 else None
        )
        self.squeeze = ClipSqueeze(hidden_dim, causal, act, gate)
        self.project = _unit(hidden_dim, self.out_dim, norm, None)
        self.shortcut = _unit(dim, self.out_dim, norm, None) if stride > 1 or self.out_dim != dim else None
        self.alpha = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.alpha is not None:
            nn.init.zeros_(self.alpha)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        past = ctx.state.get(self.path) if ctx is not None and ctx.state is not None else None
        y = self.deep(self.expand(x))
        frames: State = ()
        if self.deep_time is not None:
            before = past[0] if past else y.new_zeros(*y.shape[:2], self.time - 1, *y.shape[3:])
            y = torch.cat((before, y), 2)
            frames = (y[:, :, y.shape[2] - self.time + 1 :].clone(),)
            y = self.deep_time(y)
        y, sums = self.squeeze(y, past[len(frames) :] if past else None)
        if ctx is not None and ctx.state is not None:
            ctx.state[self.path] = (*frames, *sums)
        y = self.project(y)
        return self._skipped(x) + (y if self.alpha is None else self.alpha * y)

    def _skipped(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = mean_pool(x, 3, self.stride)
        return x if self.shortcut is None else self.shortcut(x)

    def fuse(self) -> nn.Module:
        """`alpha` becomes part of the last map, whose norm is folded by now."""
        if self.alpha is not None and list(self.project._modules) == ["conv"]:
            scale_output(self.project.conv, self.alpha.detach(), torch.zeros_like(self.alpha))  # type: ignore[arg-type]
            self.alpha = None
        return self


def _unit(
    dim: int, out_dim: int, norm: Norm, act: Act | None, size: tuple[int, int] = (1, 1), stride: int = 1, groups: int = 1,
    causal: bool = False,
) -> Chain:  # fmt: skip
    return add_unit(Chain(), ClipConv(dim, out_dim, size, stride, groups, False, causal), norm, act)


def mean_pool(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """The mean of those of the k x k pixels that are inside the frame, with TensorFlow's border."""
    border, size = same_border(x, kernel_size, stride), (1, kernel_size, kernel_size)
    inside = F.avg_pool3d(F.pad(torch.ones_like(x[:1, :1, :1]), border), size, (1, stride, stride))
    return F.avg_pool3d(F.pad(x, border), size, (1, stride, stride)) / inside


@block(
    "video_head", kind="head", layout="BCTHW", abilities=("noncausal", "any_resolution", "3d"), paper="arXiv:2103.11511"
)
class VideoHead(nn.Module):
    """logits = W_2 drop(act(W_1 mean(x))), the mean over all frames and pixels, of causal nets over all frames so far.

    (B, C, T, H, W) -> (B, num_classes); without classes what the classifier would read. `ctx.state` keeps the sum and number of frames.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        hidden_dim: Count = 2048,
        act: Act = slot("silu"),
        drop: Annotated[float, Meta(ge=0, lt=1)] = 0.0,
        causal: bool = False,
    ):
        super().__init__()
        self.causal, self.drop, self.num_features = causal, drop, hidden_dim
        self.hidden = nn.Linear(dim, hidden_dim)
        self.act = act(hidden_dim)
        self.classifier = nn.Linear(hidden_dim, num_classes) if num_classes else None

    def forward(self, x: Tensor, ctx: Context | None = None, pre_logits: bool = False) -> Tensor:
        mean = x.mean((2, 3, 4))
        if self.causal:
            past = ctx.state.get(self.path) if ctx is not None and ctx.state is not None else None
            means, after = mean_so_far(x.mean((3, 4), keepdim=True), past)
            mean = means[:, :, -1, 0, 0]
            if ctx is not None and ctx.state is not None:
                ctx.state[self.path] = after
        y = F.dropout(self.act(self.hidden(mean)), self.drop, self.training)
        return y if pre_logits or self.classifier is None else self.classifier(y)
