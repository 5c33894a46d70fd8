"""Fewer and wider tokens between the stages of a transformer whose class token stays among them. Paper: arXiv:2109.00642 (ViT-ResNAS)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.conv.conv import conv2d
from blocks.places import refuse_places
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Norm, slot


@block(
    "token_reduction",
    kind="downsample",
    layout="BLC",
    abilities=("noncausal", "1d"),
    paper="arXiv:2109.00642",
    covers=("vit_resnas", "residual_spatial_reduction"),
)
class TokenReduction(nn.Module):
    """The grid: conv norm(x) + P + [mean of 2 x 2 of x | 0]; class tokens before it: W norm(x) + b + [x | 0].

    (B, T + H*W, C) -> (B, T + H*W / 4, out_dim), H*W being the largest square; the T that are left over stand first. conv is 3 x 3
    with a stride of 2, P is learned for the one size the block was built for, and zeros stand in the channels that are new. Raises
    ValueError for a narrower stream, and for a grid of odd sides; SizeError for another size.
    """

    one_grid = True
    no_decay = ("pos_embed",)

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        norm: Norm = slot("layer_norm"),
        input_size: tuple[int, ...] = (197,),
    ):
        super().__init__()
        self.out_dim = out_dim or dim
        if self.out_dim < dim:
            raise ValueError(f"zeros make {dim} channels no narrower: {self.out_dim} are asked for")
        self.input_size, self.length = tuple(input_size), math.prod(input_size)
        self.side = math.isqrt(self.length)
        if self.side % 2:
            raise ValueError(
                f"a square grid of even sides is reduced, and {self.length} tokens hold one of {self.side}"
            )
        self.before = self.length - self.side**2
        self.norm = norm(dim)
        self.reduce = conv2d(dim, self.out_dim, 3, stride=2, padding=1)
        self.token = Dense(dim, self.out_dim) if self.before else None
        self.pos_embed = nn.Parameter(torch.empty(1, self.side**2 // 4, self.out_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        if x.shape[1] != self.length:
            raise SizeError(
                f"this token_reduction is for {self.length} tokens and meets {x.shape[1]}; build the model with that size"
            )
        normed = run(self.norm, x, ctx)
        grid = self.reduce(self._image(normed)).flatten(2).transpose(1, 2) + self.pos_embed
        tokens = [] if self.token is None else [run(self.token, normed[:, : self.before], ctx)]
        kept = torch.cat([x[:, : self.before], F.avg_pool2d(self._image(x), 2).flatten(2).transpose(1, 2)], 1)
        return torch.cat([*tokens, grid], 1) + F.pad(kept, (0, self.out_dim - x.shape[-1]))

    def _image(self, x: Tensor) -> Tensor:
        """(B, T + H*W, C) -> (B, C, H, W), without what stands before."""
        return x[:, self.before :].unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
