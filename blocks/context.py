"""ctx: what a forward pass carries beside its tensor. Made per call; blocks that need it name `ctx` in their `forward`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Context:
    """Side inputs and outputs of one forward pass.

    `mask` (B, L), True at real tokens; `cu_seqlens` (N+1,), borders of packed sequences; `memory` (B, M, C), what
    cross-attention looks at; `state`, recurrent state by module path; `losses` and `reports`, what routers leave behind,
    by module path; `slots`, values that one block writes for another to read, by slot name and module path; `turn`, at which of
    their places parts run that a model has at several.
    A write assigns and never appends, since checkpointing runs a block twice.
    """

    mask: Tensor | None = None
    cu_seqlens: Tensor | None = None
    memory: Tensor | None = None
    state: dict[str, Any] | None = None
    losses: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    reports: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    slots: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    turn: int = 0

    def write(self, slot: str, path: str, value: Tensor) -> None:
        """Leaves `value` in `slot` for a later block."""
        self.slots.setdefault(slot, {})[path] = value

    def read(self, slot: str) -> dict[str, Tensor]:
        """What was written to `slot` in this pass, by module path in the order of writing."""
        return self.slots.get(slot, {})

    def total_loss(self) -> Tensor | float:
        """The sum of all auxiliary losses (each already weighted by its block); 0.0 when there is none."""
        terms = [loss for losses in self.losses.values() for loss in losses.values()]
        return sum(terms[1:], terms[0]) if terms else 0.0
