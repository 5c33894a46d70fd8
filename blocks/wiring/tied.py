"""Parts that stand at several places of a model with one set of weights. Papers: arXiv:2405.16712 (Zamba), arXiv:2411.15242 (Zamba2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.registry import block
from blocks.wiring.parts import Parts, add_parts


@block(
    "tied",
    kind="wiring",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2411.15242",
    covers=("zamba", "shared_layers", "cross_layer_sharing"),
)
class Tied(nn.Module):
    """y = f(x), where f runs the parts of the first `tied` of the same `group` in the model: one set of weights at several depths.

    (B, C, H, W) or (B, L, C) -> what the parts lead to. Each place keeps a state, losses and reports of its own. `ctx.turn` says to the parts at which
    place they run, counted over all that are tied in the model: a part may have weights for each turn (`turn_lora`). By itself a
    `tied` runs its own parts. Raises ValueError when two of a group lead to different widths.
    """

    path = ""

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        parts: Annotated[Parts, Meta(min_length=1)],
        group: Annotated[str, Meta(min_length=1)] = "shared",
    ):
        super().__init__()
        self.group, self.turn = group, 0
        self.lender: tuple[Tied, ...] = ()
        """The one whose parts this one runs, in a tuple, since its parameters stay that one's."""
        self.dims = dim, add_parts(self, parts, dim, out_dim)
        self.out_dim = self.dims[1]

    def borrow(self, lender: Tied | None, turn: int) -> None:
        """From now on the parts of `lender` run here, if there is one, as those of this turn."""
        self.turn = turn
        if lender is None:
            return
        if lender.dims != self.dims:
            raise ValueError(
                f"this leads from {self.dims[0]} to {self.dims[1]} channels, and the first of its group `{self.group}` "
                f"from {lender.dims[0]} to {lender.dims[1]}; next: another `group`"
            )
        for name in list(self._modules):
            del self._modules[name]
        self.lender = (lender,)

    def state_size(self, length: int = 0) -> int:
        """Of the parts that are another's, whose own count is of one place."""
        parts: list[Any] = [part for tied in self.lender for part in tied.modules() if part is not tied]
        return sum(part.state_size(length) for part in parts if hasattr(part, "state_size"))

    @property
    def owner(self) -> Tied:
        """The one whose parts run here."""
        return next(iter(self.lender), self)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        here, there = f"{self.path}.", f"{self.owner.path}."
        inner = replace(Context() if ctx is None else ctx, turn=self.turn, losses={}, reports={})
        if inner.state is not None:
            inner.state = {there + key[len(here) :]: own for key, own in inner.state.items() if key.startswith(here)}
        for part in self.owner._modules.values():
            x = run(part, x, inner)  # type: ignore[arg-type]
        if ctx is not None:
            for left, own in ((ctx.state, inner.state), (ctx.losses, inner.losses), (ctx.reports, inner.reports)):
                if left is not None and own is not None:
                    left.update({here + key[len(there) :]: value for key, value in own.items()})
        return x
