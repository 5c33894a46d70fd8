"""Squeeze and excite: every channel gated by what the whole map holds. Papers: arXiv:1709.01507, arXiv:2012.11879 (other squeezes)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.conv.universal_inverted_residual import rounded
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Act, Norm, Pool, slot


@block(
    "squeeze_excite",
    kind="channel_mixer",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:1709.01507",
    covers=("se", "squeeze_and_excitation"),
)
class SqueezeExcite(nn.Module):
    """y = x * gate(norm(W_2 act(norm(W_1 pool(x))))), pool the mean over all positions without one; W_1: C -> max(1, int(ratio * C)).

    (B, C, H, W) or (B, L, C) -> the same shape. A `pool` gives (B, C, 1, 1). `bias` holds for both maps. With `round_to` the hidden width
    is the nearest multiple of it, not more than a tenth down; `hidden_dim` states it. `fuse()` folds batch norms into the maps.
    """

    norm1: nn.Module | None
    norm2: nn.Module | None

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 0.25,
        act: Act = slot("relu"),
        gate: Act = slot("sigmoid"),
        bias: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = True,
        pool: Annotated[Pool | None, Meta(extra_json_schema={"added": "0.1"})] = None,
        round_to: Annotated[int, Meta(ge=1, extra_json_schema={"added": "0.1"})] = 1,
        hidden_dim: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(extra_json_schema={"added": "0.1"})] = None,
        norm: Annotated[Norm | None, Meta(extra_json_schema={"added": "0.1"})] = None,
    ):
        super().__init__()
        if hidden_dim is None:
            hidden_dim = max(1, int(dim * ratio)) if round_to == 1 else rounded(dim * ratio, round_to)
        self.pool = pool(dim) if pool else None
        self.down = Dense(dim, hidden_dim, bias=bias)
        self.norm1 = norm(hidden_dim) if norm else None
        self.act = act(hidden_dim)
        self.up = Dense(hidden_dim, dim, bias=bias)
        self.norm2 = norm(dim) if norm else None
        self.gate = gate(dim)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():
            return x
        if self.pool is not None:
            summary = run(self.pool, x)
        else:
            summary = x.mean((2, 3) if x.ndim == 4 else (1,), keepdim=True)
        hidden = self.act(_normed(self.norm1, self.down(summary)))
        return x * self.gate(_normed(self.norm2, self.up(hidden)))

    def fuse(self) -> nn.Module:
        for norm, linear in (("norm1", self.down), ("norm2", self.up)):
            affine = getattr(getattr(self, norm), "as_affine", None)
            if affine is not None and linear.absorb_output(*affine()):
                setattr(self, norm, None)
        return self


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else run(norm, x)
