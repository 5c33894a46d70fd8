"""What was chosen on this machine, so that a second call need not measure: one small file for each choice in the user's data folder.

A choice hangs on all that its times depend on: model, sizes, threads, device, versions of runtimes, and what was wished for. What a file
says is believed of the same weights; for others the chosen form passes its checks again.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import nn

from zoo import __version__
from zoo.errors import InputError
from zoo.measure.source_hash import source_hash
from zoo.measure.this_device import this_device
from zoo.runtimes.candidates import Candidate, Plan
from zoo.runtimes.registered import rows
from zoo.runtimes.report import Tried
from zoo.runtimes.signature import Signature
from zoo.system.folders import data_path, write_whole

log = logging.getLogger("zoo")
MAX_BYTES = 2**20
"""A file with more is none of ours."""


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rows of a report, and the weights that they were measured with."""

    model: str
    weights: str
    summary: str
    rows: list[Tried]
    schema: Literal["zoo.choice/1"] = "zoo.choice/1"

    @property
    def candidate(self) -> Candidate:
        """Raises StopIteration where no row was chosen, which `recall` has ruled out."""
        return next(Candidate(row.runtime, row.precision) for row in self.rows if row.outcome == "chosen")


def folder() -> Path:
    return data_path() / "choices"


def key_of(net: nn.Module, signature: Signature, plan: Plan, threads: int, max_loss: float, evidence: str) -> str:
    """The name under which a choice is kept. `evidence` says on what a loss is measured, where the user said so."""
    net_spec: Any = getattr(net, "spec", None)
    facts = {
        "structure": f"{getattr(net, 'digest', '')} {net!r}", "signature": msgspec.to_builtins(signature), "threads": threads,
        "device": this_device().id, "candidates": plan.candidates, "eligible": plan.eligible, "max_loss": max_loss,
        "evidence": evidence, "zoo": __version__, "blocks": source_hash(tuple(net_spec.blocks())) if net_spec else "",
        "versions": {row.name: row.version for row in rows()},
    }  # fmt: skip
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()


def remember(key: str, choice: Choice) -> None:
    """Writes a choice, whole or not at all. A folder that takes nothing is told of, and costs the next call its time."""
    try:
        write_whole(folder() / f"{key}.json", msgspec.json.encode(choice))
    except InputError as error:
        log.warning("the choice is not kept, and will be made again: %s", error)


def recall(key: str) -> Choice | None:
    """The choice of that name; None where there is none. One that cannot be read is told of, and is made anew."""
    path = folder() / f"{key}.json"
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        choice = msgspec.json.decode(path.read_bytes(), type=Choice)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read (%s): the choice is made anew", path, str(error)[:200])
        return None
    if [row.outcome for row in choice.rows].count("chosen") != 1:
        log.warning("%s says of no row, or of several, that it was chosen: the choice is made anew", path)
        return None
    return choice


def weights_hash(model: nn.Module) -> str:
    """sha256 of the names, dtypes, shapes and bytes of all tensors of a state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
