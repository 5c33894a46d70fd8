"""Kernelized attention with relative positions: a Toeplitz matrix of weights, by Fourier transforms where that is less work.

Paper: arXiv:2106.12566.

H is here the number of heads, F of features, V the width of a value.
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.feature_maps import Favor, favor_features
from blocks.ops.long_conv import long_conv, long_conv_flops
from blocks.ops.masks import refuse_state, token_mask
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]


@block(
    "kernelized_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "noncausal", "any_resolution", "1d"),
    paper="arXiv:2106.12566",
    covers=("nprf",),
)
class KernelizedAttention(nn.Module):
    """y_i = W_o sum_j w_ij v_j / sum_j w_ij, w_ij = exp(b_{i-j}) phi(q_i) . phi(k_j), q and k of length 1, phi positive features.

    phi is that of FAVOR+ and b a learned number per head and distance, up to `max_length` - 1. Over long sequences the sums over j
    are convolutions of the F (V + 1) products of features and values, O(L log L); over shorter ones the weights are made as a matrix,
    which then is less work. (B, L, C) -> (B, L, C). `ctx.mask` keeps padding out. Raises ValueError when heads do not divide, for
    longer sequences, and for a state or packed sequences.
    """

    no_decay = ("distances",)

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        causal: bool = False,
        max_length: Count = 1024,
        eps: Annotated[float, Meta(gt=0)] = 1e-6,
        bias: bool = False,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.causal, self.max_length, self.eps = causal, max_length, eps
        width = self.num_heads * self.head_dim
        self.qkv = linear(dim, 3 * width, bias=bias)
        self.features = Favor(self.head_dim)
        self.distances = nn.Parameter(torch.empty(self.num_heads, max_length if causal else 2 * max_length - 1))
        self.proj = linear(width, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.distances)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The products of the cheaper way: two products with a matrix of weights, or the convolution and what is read of its sums, F (V + 1) channels
        for each head. Features say so themselves."""
        return {"matmul": self._matrix_macs(shape)} if self._is_short(shape[1]) else self._transform_macs(shape)

    def _matrix_macs(self, shape: tuple[int, ...]) -> int:
        B, L, _ = shape
        return B * L * L * self.num_heads * (favor_features(self.head_dim) + self.head_dim + 1)

    def _transform_macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        B, L, _ = shape
        channels = self.num_heads * favor_features(self.head_dim) * (self.head_dim + 1)
        long = long_conv_flops((B, channels, L), (channels, L), None if self.causal else (channels, L))
        return {"matmul": B * L * channels, "fft": long}

    def _is_short(self, length: int) -> bool:
        """Whether the matrix takes fewer FLOPs."""
        transforms = self._transform_macs((1, length, 0))
        return 2 * self._matrix_macs((1, length, 0)) <= 2 * transforms["matmul"] + transforms["fft"]

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "its sums are convolutions as long as the sequence; `linear_attention` can continue")
        mask, length = token_mask(x, ctx), x.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"a kernelized_attention of max_length {self.max_length} has no weights for {length} tokens"
            )
        wide = torch.float64  # sums grow along the sequence, and the errors of a transform are those of the largest
        q, k, v = run(self.qkv, x, ctx).to(wide).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        q, k = self.features(F.normalize(q, dim=-1), True), self.features(F.normalize(k, dim=-1), False)
        if mask is not None:
            k = k * mask[..., None, None]
        v = F.pad(v, (0, 1), value=1.0)  # the last value is 1, whose sum is the normaliser
        y = self._by_matrix(q, k, v) if self._is_short(int(length)) else self._by_transforms(q, k, v)
        y = y[..., :-1] / (y[..., -1:] + self.eps)
        return run(self.proj, y.flatten(2).to(x.dtype), ctx)

    def _by_matrix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """sum_j w_ij v_j, (B, L, H, V + 1), of features (B, L, H, F) and values (B, L, H, V + 1), with the w_ij as a matrix."""
        length = q.shape[1]
        back, behind = self._weights(length, q.dtype)
        ahead = torch.zeros_like(behind) if back is None else back
        # (H, 2L - 1), from L - 1 steps ahead to L - 1 before
        by_distance = torch.cat([ahead[:, 1:].flip(1), behind], 1)
        place = torch.arange(length, device=q.device)
        weights = by_distance[:, place[:, None] - place + length - 1]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return (weights * (q @ k.mT) @ v).transpose(1, 2)

    def _by_transforms(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same by convolutions of all products of a feature and a value."""
        products = k.unsqueeze(-1) * v.unsqueeze(-2)  # (B, L, H, F, V + 1)
        back, behind = self._weights(q.shape[1], q.dtype)
        per_head = products.shape[3] * products.shape[4]
        behind = behind.repeat_interleave(per_head, 0)
        back = None if back is None else back.repeat_interleave(per_head, 0)
        summed = long_conv(products.flatten(2).transpose(1, 2), behind, kernel_back=back)
        return (q.unsqueeze(-2) @ summed.transpose(1, 2).unflatten(-1, products.shape[2:])).squeeze(-2)

    def _weights(self, length: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
        """(weights of what comes 0, 1, … steps later, the present left to the other; of what came 0, 1, … before), (H, L)."""
        weights = torch.exp(self.distances.to(dtype))
        if self.causal:
            return None, weights[:, :length]
        middle = self.max_length - 1
        later = weights[:, middle - length + 1 : middle + 1].flip(1)
        return F.pad(later[:, 1:], (1, 0)), weights[:, middle : middle + length]
