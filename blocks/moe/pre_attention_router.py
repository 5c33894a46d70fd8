"""Routing by what stood before the attention (SmallThinker), so that experts can be fetched while it runs. Paper: arXiv:2507.20984."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.moe.routing import Merging, Routing, Slots
from blocks.registry import block
from blocks.registry.slots import Router, Slot

SlotName = Annotated[str, Meta(min_length=1)]


@block("remember", kind="channel_mixer", abilities=("causal", "noncausal", "any_resolution"))
class Remember(nn.Module):
    """y = x, and x stands in the slot `writes` of ctx for a later block to read.

    (B, C, H, W) or (B, L, C) -> the same.
    """

    path = ""

    def __init__(self, dim: int, *, writes: SlotName | None = None):
        super().__init__()
        self.writes = writes

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if ctx is not None and self.writes is not None:
            ctx.write(self.writes, self.path, x)
        return x


@block(
    "pre_attention_router",
    kind="router",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2507.20984",
    covers=("smallthinker",),
)
class PreAttentionRouter(nn.Module):
    """What `router` says of the stream as it was where the nearest `remember` of the slot `reads` stands.

    (B, C, H, W) or (B, L, C) -> the answer of `router`. The nearest is the one that shares most of its path with the
    router: that of its own layer. SmallThinker is `remember` as the first part of the attention's branch. Without `reads`
    the router sees its own input. Raises ValueError where nothing was written.
    """

    path = ""

    def __init__(self, dim: int, *, router: Router, reads: SlotName | None = None):
        super().__init__()
        self.router: Any = Slot(router.call, router.place.at("router"))(dim)
        self.reads = reads
        self.num_experts, self.k = self.router.num_experts, self.router.k

    def forward(self, x: Tensor, ctx: Context | None = None) -> Routing | Slots | Merging:
        answer: Routing | Slots | Merging = run(self.router, self._earlier(x, ctx), ctx)  # type: ignore[assignment]
        return answer

    def _earlier(self, x: Tensor, ctx: Context | None) -> Tensor:
        if self.reads is None:
            return x
        written = ctx.read(self.reads) if ctx is not None else {}
        if not written:
            raise ValueError(
                f"nothing was written to the slot `{self.reads}` before this router; put a `remember` with "
                f'writes = "{self.reads}" before the attention, and pass a ctx'
            )
        return written[max(written, key=lambda path: _shared_steps(path, self.path))]


def _shared_steps(one: str, other: str) -> int:
    """How many steps two module paths begin with alike."""
    steps = 0
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        steps += 1
    return steps
