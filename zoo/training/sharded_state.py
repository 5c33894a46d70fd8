"""A sharded training that may be killed at any moment: torch's distributed checkpoints, in files of safetensors.

RUN/training/last-000120/shard-00001-....safetensors   the parts of each process, by name and place: any number of processes reads them
RUN/training/last.json                                 which folder counts, and the plain facts; written when all parts are there
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from zoo.errors import InputError, Problem, WeightsError
from zoo.system.folders import write_whole
from zoo.training.loop import RunningAverage
from zoo.training.state import Facts, is_odd

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
"""What the optimiser remembers goes by the names of parameters, not by their numbers."""
OPTIMIZER = "optimizer."


class _Record(msgspec.Struct):
    """`folder` lies beside the record; `plain` is what the optimiser remembers in numbers and texts."""

    folder: str
    facts: Facts
    plain: dict[str, Any]
    average_step: int = 0


def save_parts(
    path: Path, facts: Facts, model: nn.Module, average: RunningAverage | None, optimizer: torch.optim.Optimizer
) -> None:
    """Every process writes its part; `path` is the record. Raises InputError where nothing can be written."""
    tensors, plain = _held(model, average, optimizer)
    folder = path.with_name(f"{path.stem}-{facts.step:06}")
    if _is_first():
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed while it wrote
    _wait()
    try:
        checkpoint.save(
            tensors, storage_writer=checkpoint.HuggingFaceStorageWriter(str(folder), save_distributed=True), no_dist=not dist.is_initialized()
        )  # fmt: skip
    except (OSError, CheckpointException) as error:
        raise InputError("train", Problem(str(folder), "a place to write to", _first_line(error))) from None
    if _is_first():
        step = average.step if average is not None else 0
        write_whole(path, msgspec.json.encode(_Record(folder.name, facts, plain, step)))
        for other in path.parent.glob(f"{path.stem}-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
    _wait()


def read_record(path: Path) -> Facts:
    """What a record says of its training. Raises WeightsError for what is none."""
    return _read(path).facts


def load_parts(path: Path, model: nn.Module, average: RunningAverage | None, optimizer: torch.optim.Optimizer) -> Facts:
    """Gives all three what they had, each process its part. Raises WeightsError for the state of another training, and for lost files."""
    record = _read(path)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])  # as the loop does; torch gives back only what a group has
    tensors, _ = _held(model, average, optimizer)
    reader = checkpoint.HuggingFaceStorageReader(str(path.with_name(record.folder)))
    try:
        checkpoint.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    except (Exception, CheckpointException) as error:  # torch's own wraps what each process met
        raise WeightsError(
            str(path), Problem(record.folder, "the state of this very training", _first_line(error))
        ) from None
    known: dict[str, Any] = {
        name.removeprefix(OPTIMIZER): tensor for name, tensor in tensors.items() if name.startswith(OPTIMIZER)
    }
    known |= {name: tuple(value) if isinstance(value, list) else value for name, value in record.plain.items()}
    fresh = get_optimizer_state_dict(model, optimizer, options=FLAT)
    set_optimizer_state_dict(model, optimizer, fresh | known, options=FLAT)
    if average is not None:
        average.step = record.average_step
    return record.facts


def _held(
    model: nn.Module, average: RunningAverage | None, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of all three, which are theirs and not copies, by name; and what the optimiser remembers besides."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.model.state_dict().items()}
    plain: dict[str, Any] = {}
    for name, value in get_optimizer_state_dict(model, optimizer, options=FLAT).items():
        if isinstance(value, Tensor):
            tensors[OPTIMIZER + name] = value
        elif not is_odd(value):
            plain[name] = value
    return tensors, plain


def _read(path: Path) -> _Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError) as error:
        raise WeightsError(str(path), Problem("", "the record of a sharded training", _first_line(error))) from None


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def _first_line(error: BaseException) -> str:
    """Of what one process met, where torch collects what all did."""
    failures = getattr(error, "failures", None)
    cause = next(iter(failures.values()))[0] if failures else error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
