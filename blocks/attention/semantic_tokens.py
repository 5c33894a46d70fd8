"""Few tokens that stand for a map: made of its windows, told of the whole map, and asked by its pixels.

Paper: arXiv:2303.08685 (STViT-R). Upstream: changsn/STViT-R (MIT).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import as_stream, as_tokens, run
from blocks.context import Context
from blocks.primitives.linears import Dense
from blocks.primitives.views import cut_windows
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Norm, slot
from blocks.wiring.merges import one_width

Count = Annotated[int, Meta(ge=1)]


class Looking(nn.Module):
    """y = scale * W_o concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h, q = W_q x and [k | v] = W_kv z: tokens x that look at others, z.

    (B, L, C), (B, M, C) -> (B, L, C). `scale` (C,) is learned where a value is given that it starts from."""

    scale: nn.Parameter | None

    def __init__(self, dim: int, num_heads: int | None, head_dim: int | None, bias: bool, scale: float | None):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        width = self.num_heads * self.head_dim
        self.q = Dense(dim, width, bias=bias)
        self.kv = Dense(dim, 2 * width, bias=bias)
        self.proj = Dense(width, dim, bias=bias)
        self.initial = scale
        self.register_parameter("scale", None if scale is None else nn.Parameter(torch.empty(dim)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.scale is not None and self.initial is not None:
            nn.init.constant_(self.scale, self.initial)

    def look(self, x: Tensor, z: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        k, v = self.kv(z).unflatten(-1, (2, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        y = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y if self.scale is None else y * self.scale

    def fuse(self) -> nn.Module:
        """The scale becomes part of W_o."""
        if self.scale is not None:
            self.proj.absorb_output(self.scale.detach(), torch.zeros_like(self.scale))
            self.scale = None
        return self


@block(
    "cross_attention",
    kind="merge",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:1706.03762",
)
class CrossAttention(Looking):
    """y = scale * W_o concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h: q of the first tensor, k and v of all positions of the others.

    n x (B, C, H_i, W_i), or tokens (B, L_i, C) -> the shape of the first. Of `num_heads` and `head_dim` one decides, both may; with
    neither, heads are 32 wide. `scale` (C,) is learned where a value is given that it starts from. Raises ValueError for several widths,
    for a single tensor, and when heads do not divide.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        bias: bool = True,
        scale: float | None = None,
    ):
        if len(dims) < 2:
            raise ValueError("a cross attention needs something to look at: two tensors or more")
        super().__init__(one_width(dims), num_heads, head_dim, bias, scale)
        self.out_dim = dims[0]

    def macs(self, shape: tuple[int, ...], *others: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums: 2 L M num_heads head_dim, M the positions of all that is looked at."""
        length, *seen = (_positions(size) for size in (shape, *others))
        return {"attention": 2 * shape[0] * length * sum(seen) * self.num_heads * self.head_dim}

    def forward(self, *tensors: Tensor) -> Tensor:
        x, *others = tensors
        return as_stream(self.look(as_tokens(x), torch.cat([as_tokens(other) for other in others], 1)), x)


@block(
    "semantic_tokens",
    kind="downsample",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2303.08685",
    covers=("stvit", "stvit_r", "token_sparsification"),
)
class SemanticTokens(Looking):
    """y = attend(q = norm(p), [k | v] = norm(p | r)): p the maxima of `samples` x `samples` parts of each window, r the pixels around it.

    (B, C, H, W) -> (B, C, samples H / window, samples W / window). A window has `window` rows; r is `reach` x `reach` pixels, which lie in
    the map and are equally far apart. attend is an attention of several heads whose outputs are weighed by `scale` (C,), learned, where a
    value is given that it starts from. Raises ValueError when heads do not divide, and SizeError for a map that has no such windows.
    """

    def __init__(
        self,
        dim: int,
        *,
        window: Count = 7,
        samples: Count = 3,
        reach: Count = 10,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        bias: bool = True,
        norm: Norm = slot("layer_norm"),
        scale: float | None = None,
    ):
        super().__init__(dim, num_heads, head_dim, bias, scale)
        self.window, self.samples, self.reach = window, samples, reach
        self.norm = norm(dim)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and sums of each window: 2 samples^2 (samples^2 + reach^2) num_heads head_dim."""
        B, _, H, W = shape
        windows, queries = (H // self.window) * (W // self.window), self.samples**2
        width = self.num_heads * self.head_dim
        return {"attention": 2 * B * windows * queries * (queries + self.reach**2) * width}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        C, H, W = (int(size) for size in x.shape[1:])
        rows, columns = H // self.window, W // self.window
        steps = self._step(H, rows), self._step(W, columns)
        windows = cut_windows(x, self.window).permute(0, 3, 1, 2)
        pooled = as_tokens(F.adaptive_max_pool2d(windows, self.samples))
        around = F.unfold(x, self.reach, stride=steps).unflatten(1, (C, -1)).permute(0, 3, 2, 1).flatten(0, 1)
        z = run(self.norm, torch.cat([pooled, around], 1), ctx)
        y = self.look(z[:, : self.samples**2], z)
        y = y.unflatten(1, (self.samples, self.samples)).unflatten(0, (-1, rows, columns))
        return y.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def _step(self, size: int, count: int) -> int:
        """How far apart the surroundings of neighbouring windows begin."""
        whole = count > 0 and size == count * self.window
        step, rest = divmod(size - self.reach, count - 1) if count > 1 else (1, size - self.reach)
        if not whole or rest or step < 1:
            raise SizeError(
                f"a map of {size} pixels has no windows of {self.window}, each with {self.reach} around it, equally far apart"
            )
        return step


def _positions(shape: tuple[int, ...]) -> int:
    return shape[2] * shape[3] if len(shape) == 4 else shape[1]
