"""EfficientViT's attention: heads in cascade, each fed its own share of the channels and what the head before it found.

Paper: arXiv:2305.07027. Upstream: microsoft/Cream/EfficientViT (MIT). Differs from upstream: the index into the table of
biases is no part of the state.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from blocks.attention.heads import check_divides
from blocks.chain import Chain, run
from blocks.context import Context
from blocks.conv.conv import DepthwiseConv
from blocks.primitives.positions import resized_grid
from blocks.primitives.views import cut_windows, join_windows
from blocks.registry import block
from blocks.registry.slots import Act, Linear, Norm, slot
from blocks.tables import Table

Count = Annotated[int, Meta(ge=1)]


@block(
    "cascaded_group_attention",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2305.07027",
    covers=("cga",),
)
class CascadedGroupAttention(nn.Module):
    """y = W_o act(concat_h f_h), f_h = softmax(q k^T / sqrt(key_dim) + b_h) v, [q | k | v] = W_h(x_h + f_{h-1}).

    (B, C, H, W) -> (B, C, H, W). x_h is the h-th of `num_heads` equal shares of the channels; q passes through a depthwise
    convolution of `kernel_sizes[h]`, and b_h is learned per distance |dy|, |dx| between two positions. All this within
    windows whose side is `window`, or the smaller side of the map the block was built for; the zeros that fill up the
    last windows are attended like the rest. `norm` stands behind each map and convolution, `out_norm` behind W_o.
    `fuse()` folds batch norms away and writes b_h out for each pair of positions.
    Raises ValueError when heads do not divide C, or when there is not one kernel, of an odd size, for each of them.
    """

    no_decay = ("relative_bias",)

    is_fused = False
    written: tuple[Tensor, Any] | None = None
    """b_h of each pair of positions, and of which version, dtype and device the biases were that it was written out from."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 4,
        key_dim: Count = 16,
        window: Count = 7,
        kernel_sizes: Annotated[list[Annotated[int, Meta(ge=1, le=63)]], Meta(min_length=1)] = [5, 5, 5, 5],  # noqa: B006
        act: Act | None = slot("relu"),
        norm: Norm | None = slot("batch_norm"),
        out_norm: Norm | None = slot("batch_norm", weight=0.0),
        linear: Linear = slot("dense"),
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__()
        check_divides("num_heads", num_heads, "dim", dim)
        _check_kernels(kernel_sizes, num_heads)
        self.num_heads, self.key_dim = num_heads, key_dim
        self.side = min(window, *input_size)
        share, bias = dim // num_heads, norm is None
        self.qkvs = nn.ModuleList(_map(linear, norm, share, 2 * key_dim + share) for _ in kernel_sizes)
        self.dws = nn.ModuleList(DepthwiseConv(key_dim, kernel_size=k, bias=bias, norm=norm) for k in kernel_sizes)
        self.act = act(dim) if act else None
        self.proj = _map(linear, out_norm, dim, dim)
        self.relative_bias = nn.Parameter(torch.empty(num_heads, self.side**2))
        self.index = Table(distances, (self.side,))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.relative_bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The sum over windows and heads of scores over key_dim channels and sums over C / num_heads: side^4 (h key_dim + C)."""
        B, C, H, W = shape
        windows = -(-H // self.side) * -(-W // self.side)
        return {"matmul": B * windows * self.side**4 * (self.num_heads * self.key_dim + C)}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        B, _, H, W = x.shape
        tokens = cut_windows(x, self.side).flatten(1, 2)
        heads = self._cascade(tokens, ctx)
        y = torch.cat(heads, -1)
        if self.act is not None:
            y = run(self.act, y, ctx)
        y = run(self.proj, y, ctx)
        return join_windows(y.unflatten(1, (self.side, self.side)), (B, H, W))

    def _cascade(self, tokens: Tensor, ctx: Context | None) -> list[Tensor]:
        """(N, L, C) -> f_h (N, L, C / num_heads) of each head."""
        widths = [self.key_dim, self.key_dim, tokens.shape[-1] // self.num_heads]
        bias = self._biases()
        heads: list[Tensor] = []
        for h, share in enumerate(tokens.chunk(self.num_heads, -1)):
            fed = share + heads[-1] if heads else share
            q, k, v = run(self.qkvs[h], fed, ctx).split(widths, -1)
            q = q.view(-1, self.side, self.side, self.key_dim).permute(0, 3, 1, 2)
            q = run(self.dws[h], q, ctx).permute(0, 2, 3, 1).flatten(1, 2)
            scores = torch.baddbmm(bias[h], q, k.transpose(1, 2), alpha=1 / math.sqrt(self.key_dim))
            heads.append(torch.bmm(scores.softmax(-1), v))
        return heads

    def _biases(self) -> Tensor:
        """(heads, L, L): b_h of each pair of positions; in the deploy form written out once, and again when they change."""
        learned = self.relative_bias
        if not self.is_fused or learned.is_inference() or torch.compiler.is_compiling() or torch._C._is_tracing():
            return learned[:, self.index.like(learned)]
        state = learned._version, learned.dtype, learned.device
        if self.written is None or self.written[1] != state:
            with torch.inference_mode(False), torch.no_grad():
                self.written = learned[:, self.index.like(learned)], state
        return self.written[0]

    def fuse(self) -> nn.Module:
        self.is_fused = True
        return self

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return list(self.proj._modules) == ["fc"] and bool(self.proj.fc.absorb_output(scale, shift))  # type: ignore[operator]

    def resize_table(
        self, name: str, tensor: Tensor, expected_shape: tuple[int, ...], old: CascadedGroupAttention | None = None
    ) -> Tensor | None:
        """The biases of windows of another side, for these; None for anything but `relative_bias`."""
        if name != "relative_bias" or tensor.ndim != 2 or tensor.shape[0] != expected_shape[0]:
            return None
        before = (old.side, old.side) if old is not None else None
        resized = resized_grid(tensor.T[None], (self.side, self.side), before)
        return None if resized is None else resized[0].T


def _map(linear: Linear, norm: Norm | None, dim: int, out_dim: int) -> Chain:
    """norm(W x), with a bias where no norm brings one."""
    chain = Chain()
    chain.fc = linear(dim, out_dim, bias=norm is None)
    if norm is not None:
        chain.norm = norm(out_dim)
    return chain


def _check_kernels(kernel_sizes: list[int], num_heads: int) -> None:
    if len(kernel_sizes) != num_heads:
        raise ValueError(f"{num_heads} heads need as many kernel_sizes; there are {len(kernel_sizes)}")
    even = [size for size in kernel_sizes if size % 2 == 0]
    if even:
        raise ValueError(f"a kernel of {even[0]} has no centre; the nearest that has is {even[0] + 1}")


def distances(side: int) -> Tensor:
    """(side^2, side^2): the column |dy| * side + |dx| of the distance between two positions of a window."""
    place = torch.arange(side)
    apart = (place[:, None] - place).abs()
    return (apart[:, None, :, None] * side + apart[None, :, None, :]).flatten(2).flatten(0, 1)
