"""What a block takes by itself on one device: the record. Imports no torch.

A model's row tells what all of its blocks take together; this one compares blocks, at one width and one size, with each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from zoo.display.rows import Row
from zoo.measure.latency import Runtime, Sample, Verdict, summarise
from zoo.measure.source_hash import source_hash

ANCHOR = "dense 3 x 3 convolution of 64 channels on 14 x 14"
"""What every block is timed beside, as everybody knows it."""
FIGURES = ("p50_ms", "low_ms", "high_ms", "wall_cpu", "ratio")


class BlockLatency(Row, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One row: a block as it is trained, with its own defaults, in eval mode. `ratio` is to the anchor, which each process times beside it,
    and holds on machines that are slower or faster throughout; `params` and `macs` are counted, those of one input."""

    schema: Literal["zoo.block-latency/1"] = "zoo.block-latency/1"
    block: str
    form: Literal["train"] = "train"
    device: str
    runtime: Runtime
    input: list[int]
    params: int
    macs: int
    p50_ms: float
    low_ms: float
    high_ms: float
    wall_cpu: float
    anchor: str
    ratio: float
    processes: int
    samples: int
    verdict: Verdict
    reason: str = ""
    source: str = ""
    version: str = ""
    date: str = ""
    origin: str = ""

    @property
    def id(self) -> str:
        """Hash of the content, wherever the row came from."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, origin=""))).hexdigest()[:32]

    @property
    def measures(self) -> str:
        """What the row is of."""
        return self.block

    @property
    def anchor_ms(self) -> float:
        """What the anchor took beside the block."""
        return self.p50_ms / self.ratio

    @property
    def is_stale(self) -> bool:
        """Whether the file of the block has changed since."""
        return bool(self.source) and self.source != source_hash((self.block,))

    def __repr__(self) -> str:
        figures = f"{self.p50_ms:g} ms ({self.low_ms:g} to {self.high_ms:g}), {self.verdict}"
        return f"<{self.block}, {self.runtime.key}, {self.device}: {figures}>"


def compose(
    facts: dict[str, Any], samples: Sequence[Sample], gpu: bool = False, usual_anchor_ms: float | None = None
) -> BlockLatency:
    """The row of a block from the samples of its processes. `facts` are the fields that say what was run, and where."""
    found, verdict, reason = summarise(samples, gpu, usual_anchor_ms)
    return BlockLatency(
        **facts, **{name: found[name] for name in FIGURES}, anchor=ANCHOR, verdict=verdict, reason=reason,
        processes=len(samples), samples=sum(len(sample.ms) for sample in samples),
    )  # fmt: skip
