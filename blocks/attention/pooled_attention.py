"""Next-ViT's attention: keys and values are means of neighbouring tokens.

Paper: arXiv:2207.05501. Upstream: bytedance/Next-ViT (Apache-2.0).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor

from blocks.attention.attention import Attention, Count
from blocks.chain import run
from blocks.context import Context
from blocks.places import refuse_places
from blocks.registry import block
from blocks.registry.slots import Linear, Norm, slot

Share = Annotated[float, Meta(ge=0, lt=1)]


@block(
    "pooled_attention",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "any_resolution"),
    paper="arXiv:2207.05501",
    covers=("nextvit", "e_mhsa"),
)
class PooledAttention(Attention):
    """y = W_o concat_h softmax(q_h k_h^T / sqrt(head_dim)) v_h, q = W_q x, [k | v] = W_kv norm(m), m the means of each `pool` tokens in a row.

    (B, L, C) -> (B, L, C). The tokens of an image stand row by row, so `pool` of them are a piece of a row, or some rows. What is left
    behind the last whole piece is in no mean; of fewer tokens than `pool` there is one mean. Of `num_heads` and `head_dim` one decides;
    with neither, heads are 32 wide. `bias` holds for all maps, and for W_o unless `out_bias` says otherwise. `fuse()` folds a batch norm
    into W_kv. Raises ValueError when heads do not divide C, for padding, for packed sequences and for a state.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        pool: Count = 4,
        norm: Norm | None = slot("batch_norm"),
        bias: bool = True,
        out_bias: bool | None = None,
        linear: Linear = slot("dense"),
        attn_drop: Share = 0.0,
        proj_drop: Share = 0.0,
    ):
        super().__init__(
            dim, num_heads=num_heads, head_dim=head_dim, bias=bias, out_bias=out_bias, linear=linear,
            attn_drop=attn_drop, proj_drop=proj_drop, joint=False,
        )  # fmt: skip
        self.pool = pool
        self.norm = norm(dim) if norm else None

    def macs(self, shape: tuple[int, ...], ctx: Context | None = None) -> dict[str, int]:
        """Scores and sums: 2 L floor(L / pool) num_heads head_dim."""
        B, L, _ = shape
        return {"attention": 2 * B * L * max(1, L // self.pool) * self.num_heads * self.head_dim}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        return super().forward(x, ctx)

    def _looked_at(self, x: Tensor, ctx: Context | None) -> Tensor:
        x = means(x, self.pool) if self.pool > 1 else x
        return x if self.norm is None else run(self.norm, x, ctx)

    def fuse(self) -> PooledAttention:
        affine = self.norm.as_affine() if hasattr(self.norm, "as_affine") else None  # type: ignore[union-attr, operator]
        if affine is not None and self.kv.absorb_input(*affine):  # type: ignore[operator]
            self.norm = None
        return self

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        """A mean of what is scaled and shifted is the mean, scaled and shifted; a norm between would not let it pass."""
        return self.norm is None and super().absorb_input(scale, shift)


def means(x: Tensor, size: int) -> Tensor:
    """(B, L, C) -> (B, floor(L / size), C), of each `size` tokens the mean; of fewer tokens one mean, and of none none."""
    size = max(1, min(size, x.shape[1]))
    pieces = x.shape[1] // size
    return x[:, : pieces * size].unflatten(1, (pieces, size)).mean(2)
