"""What a block says it computes is what it computes."""

from __future__ import annotations

import torch

from zoo.measure.fvcore_counts import fvcore_macs
from zoo.measure.op_counter import EXACT, FLOP_CLASSES, Work, modules_open
from zoo.testing.block_cases import Subject
from zoo.testing.outcomes import NotApplicable, require


def macs(subject: Subject) -> None:
    """MACs of matmuls, convolutions and attention are counted alike by the block, by its operations on meta, and by fvcore."""
    for space in subject.spaces:
        stated, counted, uncounted = counts(subject, space)
        require(not uncounted, f"nobody counts {', '.join(uncounted)}: register a FLOP formula beside the op")
        if stated != counted and not hasattr(subject.build(space, device="meta"), "macs"):
            raise NotApplicable("the block does not say what it computes (`macs`); its operations are counted")
        require(
            stated == counted,
            f"the block says {_listed(stated)}, and its operations are {_listed(counted)}: see `macs`",
        )
        if subject.info.kind != "view":
            traced = fvcore_macs(_Alone(subject, subject.build(space)), subject.input(space))
            expected = {kind: stated[kind] for kind in EXACT}
            require(traced == expected, f"the block says {_listed(expected)}, and fvcore counts {_listed(traced)}")


def counts(subject: Subject, space: str) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """The MACs by class: what the block says, and what its operations are; and the operations that nobody counts."""
    return counts_of(subject, subject.build(space, device="meta"), subject.input(space).to("meta"))


def counts_of(
    subject: Subject, module: torch.nn.Module, x: torch.Tensor
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """`counts` of one module of a subject and one input, both on meta."""
    work, ctx = Work(), subject.place_to_write()
    with torch.no_grad(), work, modules_open(work, {part: name for name, part in module.named_modules()}) as by_path:
        subject.outputs(module, x, ctx)
    stated = {kind: by_path[""][kind] for kind in (*EXACT, *FLOP_CLASSES)}
    counted = {kind: work.paths[""][kind] // (2 if kind in EXACT else 1) for kind in (*EXACT, *FLOP_CLASSES)}
    return stated, counted, dict(work.uncounted)


class _Alone(torch.nn.Module):
    """The block as a net of its own, which gives tensors, and what the block leaves for others."""

    def __init__(self, subject: Subject, block: torch.nn.Module):
        super().__init__()
        self.subject, self.block = subject, block

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx = self.subject.place_to_write()
        given = self.subject.outputs(self.block, x, ctx)
        left = [value for slot in ctx.slots.values() for value in slot.values()] if ctx is not None else []
        return (*given, *left)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count) or "nothing"
