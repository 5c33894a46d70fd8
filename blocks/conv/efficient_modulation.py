"""EfficientMod's mixer: a hidden layer modulated by a context that a large depthwise kernel sees.

Paper: arXiv:2403.19963. Upstream: ma-xu/EfficientMod (Apache-2.0). Differs from upstream: there is one kernel, not a list of them,
and whether the hidden layer has an activation is said by `act`, not by its width.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import may_overwrite, run
from blocks.context import Context
from blocks.conv.conv import Conv
from blocks.registry import block
from blocks.registry.slots import Act, Linear, slot


@block(
    "efficient_modulation",
    kind="token_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2403.19963",
    covers=("efficientmod", "context_modulation"),
)
class EfficientModulation(nn.Module):
    """y = W_2(act(W_1 x) * [c | ... | c]) with the context c = G context_act(DW_k(F x)), once for each C of the ratio C hidden channels.

    (B, C, H, W) -> (B, C, H, W); W_1: C -> ratio C, F and G: C -> C. A channel mixer, too: paper and upstream put no MLP behind it.
    Raises ValueError for an even kernel, which has no centre.
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[int, Meta(ge=1)] = 6,
        kernel_size: Annotated[int, Meta(ge=1, le=63)] = 7,
        act: Act | None = slot("gelu"),
        context_act: Act | None = slot("gelu"),
        bias: bool = True,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.ratio = ratio
        self.f = linear(dim, dim, bias=bias)
        self.conv = Conv(dim, kernel_size=kernel_size, groups=dim, bias=bias)
        self.context_act = context_act(dim) if context_act else None
        self.g = linear(dim, dim, bias=bias)
        self.fc1 = linear(dim, ratio * dim, bias=bias)
        self.act = act(ratio * dim) if act else None
        self.fc2 = linear(ratio * dim, dim, bias=bias)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        context = self._context(x, ctx)
        hidden = run(self.fc1, x, ctx)
        if self.act is not None:
            hidden = run(self.act, hidden, ctx)
        shares = hidden.unflatten(1, (self.ratio, -1))  # (B, ratio, C, H, W)
        # the hidden layer is ours alone: writing over it saves a map of its width
        modulated = shares.mul_(context.unsqueeze(1)) if may_overwrite(shares) else shares * context.unsqueeze(1)
        return run(self.fc2, modulated.flatten(1, 2), ctx)

    def _context(self, x: Tensor, ctx: Context | None) -> Tensor:
        context = self.conv(run(self.f, x, ctx))
        if self.context_act is not None:
            context = run(self.context_act, context, ctx)
        return run(self.g, context, ctx)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.fc2.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.f.absorb_input(scale, shift) and self.fc1.absorb_input(scale, shift))  # type: ignore[operator]
