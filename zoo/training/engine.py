"""What runs a training: accelerate, on the devices that are there, in the precision and with the trackers that are asked for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistError

from zoo.errors import InputError, Problem, nearest
from zoo.training.recipe import Recipe, values

PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
TRACKERS = ("tensorboard", "wandb")


def accelerator_for(recipe: Recipe, out: Path, log: str) -> Any:
    """accelerate's, of the precision of the recipe, with the trackers asked for. Raises InputError."""
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError:
        step = 'pip install "blockzoo[train]"'
        raise InputError(
            "train", Problem("", "accelerate, which runs a training", "no such package", next=step)
        ) from None
    trackers = [name.strip() for name in log.split(",") if name.strip()]
    for name in trackers:
        if name not in TRACKERS:
            raise InputError(
                "train", Problem("--log", "tensorboard, wandb or both", f"`{name}`", nearest(name, TRACKERS))
            )
        if find_spec(name) is None:
            raise InputError("train", Problem("--log", f"the package {name}", "none", next=f"pip install {name}"))
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and recipe.engine.precision == "float16":
        raise InputError("train", Problem("engine.precision", "float32 or bfloat16 on a CPU", "`float16`"))
    AcceleratorState._reset_state()  # a training before this one may have had another precision
    try:
        accelerator = Accelerator(
            cpu=on_cpu, mixed_precision=PRECISIONS[recipe.engine.precision],
            log_with=trackers or None, project_dir=str(out / "training"),
        )  # fmt: skip
        if trackers:
            accelerator.init_trackers("zoo", config={path: _shown(value) for path, value in values(recipe).items()})
    except (ValueError, ImportError) as error:
        raise InputError("train", Problem("engine", "what this machine can do", str(error))) from None
    return accelerator


def _shown(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def tells_of_another(error: RuntimeError) -> bool:
    """Whether it is the error of a process that waited for one that has ended; the cause is with that one."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, DistError) or any(each in str(error) for each in words)


def broadcast(accelerator: Any, values: list[Any]) -> None:
    """The first process's values to all, in place."""
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(values)
