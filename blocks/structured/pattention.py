"""Attention to learned tokens in the place of a linear map: parameters are keys and values, and can grow in number.

Paper: arXiv:2410.23168 (TokenFormer). Names of the state are those of Haiyang-W/TokenFormer (Apache-2.0). N is the number of learned
tokens.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.registry import block
from blocks.structured.structured import EVERYWHERE

Count = Annotated[int, Meta(ge=1)]


@block("pattention", kind="linear", abilities=EVERYWHERE, paper="arXiv:2410.23168", covers=("tokenformer",))
class Pattention(nn.Module):
    """y = theta(x K^T) V + b with learned keys K (N, in) and values V (N, out), theta over the N scores s of a position.

    `l2_norm_gelu`: theta = gelu(sqrt(n) s / |s|_2). `gelu_l2_norm`: sqrt(n) g / |g|_2 with g = gelu(s). `softmax`: n softmax(s). n is
    `counted`, or N without it. (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels.

    `grow(count)` appends keys of zeros and values drawn anew. Their scores are 0, and theta(0) = 0 of the first two, so that with n
    as it was the map stays what it is, exactly. Differs from upstream, whose n grows with them and whose function changes.
    Keys start normal with deviation 1, values with `std`.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        tokens: Count = 64,
        theta: Literal["l2_norm_gelu", "gelu_l2_norm", "softmax"] = "l2_norm_gelu",
        counted: Count | None = None,
        std: Annotated[float, Meta(gt=0)] = 0.02,
        bias: bool = False,
    ):
        super().__init__()
        self.dim, self.out_dim, self.theta, self.std = dim, out_dim or dim, theta, std
        self.counted = counted or tokens
        self.key_param_tokens = nn.Parameter(torch.empty(tokens, dim))
        self.value_param_tokens = nn.Parameter(torch.empty(tokens, self.out_dim))
        self.register_parameter("bias", nn.Parameter(torch.empty(self.out_dim)) if bias else None)
        self.bias: nn.Parameter | None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.key_param_tokens)
        nn.init.normal_(self.value_param_tokens, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Every key and every value is met once by every position."""
        weights = self.key_param_tokens.numel() + self.value_param_tokens.numel()
        return {"matmul": math.prod(shape) // self.dim * weights}

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        y = F.linear(self._weights(F.linear(rows, self.key_param_tokens)), self.value_param_tokens.T, self.bias)
        return y.permute(0, 3, 1, 2) if x.ndim == 4 else y

    def _weights(self, scores: Tensor) -> Tensor:
        if self.theta == "softmax":
            return scores.softmax(-1) * self.counted
        if self.theta == "gelu_l2_norm":
            return self._unit(F.gelu(scores))
        return F.gelu(self._unit(scores))

    def _unit(self, s: Tensor) -> Tensor:
        """sqrt(n) s / |s|_2, and 0 for 0."""
        return F.normalize(s, dim=-1, eps=torch.finfo(s.dtype).tiny) * math.sqrt(self.counted)

    @torch.no_grad()
    def grow(self, count: int) -> None:
        """`count` more learned tokens, with which the map is the same. Raises ValueError for `softmax`, which gives zeros a weight."""
        if self.theta == "softmax":
            raise ValueError("a softmax gives new keys of zeros a weight; grow one of `l2_norm_gelu` or `gelu_l2_norm`")
        keys, values = self.key_param_tokens, self.value_param_tokens
        fresh = torch.empty_like(values[:1].expand(count, -1)).normal_(std=self.std)
        self.key_param_tokens = nn.Parameter(torch.cat([keys, keys.new_zeros(count, self.dim)]))
        self.value_param_tokens = nn.Parameter(torch.cat([values, fresh]))

    @torch.no_grad()
    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        self.value_param_tokens = nn.Parameter(self.value_param_tokens * scale, requires_grad=False)
        self.bias = nn.Parameter(shift if self.bias is None else self.bias * scale + shift, requires_grad=False)
        return True
