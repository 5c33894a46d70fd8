"""Squeeze and excite: every channel gated by what the whole map holds. Papers: arXiv:1709.01507, arXiv:2012.11879
(other squeezes), arXiv:1911.06667 (one map)."""

from __future__ import annotations

from typing import Annotated, Literal

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
    """y = x * gate(norm(W_2 act(norm(W_1 pool(x))))), W_1: C -> max(1, int(ratio * C)).

    (B, C, H, W) or (B, L, C) -> the same shape. Without a `pool`, which gives (B, C, 1, 1), it is the mean over all positions.
    `bias` holds for both maps. With `round_to` the hidden width is the nearest multiple of it, not more than a tenth down;
    `hidden_dim` states it. With `of` "layer" it is the whole number nearest to ratio times the width of the layer's input,
    which a bottleneck has narrowed or widened. With `norms` "hidden" W_2 has none. `fuse()` folds batch norms into the maps.
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
        norms: Annotated[Literal["both", "hidden"], Meta(extra_json_schema={"added": "0.1"})] = "both",
        of: Annotated[Literal["input", "layer"], Meta(extra_json_schema={"added": "0.1"})] = "input",
        layer_dim: int = 0,
    ):
        super().__init__()
        if hidden_dim is None:
            width = round(ratio * layer_dim) if of == "layer" and layer_dim else ratio * dim
            hidden_dim = max(1, int(width)) if round_to == 1 else rounded(width, round_to)
        self.pool = pool(dim) if pool else None
        self.down = Dense(dim, hidden_dim, bias=bias)
        self.norm1 = norm(hidden_dim) if norm else None
        self.act = act(hidden_dim)
        self.up = Dense(hidden_dim, dim, bias=bias)
        self.norm2 = norm(dim) if norm and norms == "both" else None
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


@block(
    "effective_squeeze_excite",
    kind="channel_mixer",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:1911.06667",
    covers=("ese",),
)
class EffectiveSqueezeExcite(nn.Module):
    """y = x * gate(W mean(x)), the mean over all positions: one map C -> C where squeeze and excite has a narrow pair.

    (B, C, H, W) or (B, L, C) -> the same shape.
    """

    def __init__(self, dim: int, *, gate: Act = slot("hard_sigmoid"), bias: bool = True):
        super().__init__()
        self.map = Dense(dim, bias=bias)
        self.gate = gate(dim)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():
            return x
        return x * self.gate(self.map(x.mean((2, 3) if x.ndim == 4 else (1,), keepdim=True)))
