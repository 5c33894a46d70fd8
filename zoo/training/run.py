"""`zoo.train`: a model, a folder of labelled pictures, a recipe; and a folder that is a model like any other.

RUN/zoo.json  RUN/model.safetensors  RUN/README.md    the model, as `zoo.save` writes it: `zoo.create("RUN")`
RUN/report.html  RUN/recipe.toml                      what happened, and by what recipe
RUN/training/last.safetensors                         where it stands: a run that was broken off goes on from here
RUN/training/best.safetensors                         the best epoch so far, a model, too
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from zoo.data.folders import labelled
from zoo.data.labelled import Labelled, Task, split
from zoo.data.pictures import large_pictures
from zoo.data.survey import Survey, readable, subject_of, survey
from zoo.errors import InputError, Problem
from zoo.pretrained.checkpoint import Weights
from zoo.system.folders import is_draft, write_whole
from zoo.training.batches import LostPicture
from zoo.training.engine import accelerator_for, broadcast, tells_of_another
from zoo.training.optimizers import check_optimizer
from zoo.training.outcome import SURVEY, Run
from zoo.training.recipe import Recipe, read_recipe
from zoo.training.starting import begin, check_start
from zoo.training.trainer import Trainer, Watch


def train(
    model: str, data: str | os.PathLike[str], out: str | os.PathLike[str], *, recipe: str | os.PathLike[str] | Recipe = "finetune",
    settings: Mapping[str, Any] | None = None, weights: Weights | None = None, target: str = "", task: Task | None = None,
    strict: bool = False, resume: bool = False, log: str = "", watch: Watch = Watch(),
) -> Run:  # fmt: skip
    """Trains a model on labelled pictures and writes it into the folder `out`; see `docs/training.md`.

    data: a folder of classes, with `train` and `val` or without, a table, a tar (`zoo.data.folders`); `target` and `task` say what of a
        table is to be learned. recipe: `finetune`, `linear-probe`, `from-scratch` or a file, with {path: value} of `settings` changed.
    weights: a checkpoint to begin with, in the place of those at hand. strict: pictures that cannot be read are an error.
    resume: go on where a run into the same folder was broken off. log: `tensorboard`, `wandb`, or both with a comma.

    The best epoch is kept. Started by torchrun or accelerate, each process takes its part of each batch. Raises InputError, SpecError
    and WeightsError.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, settings)
    check_start(os.fspath(model), recipe.model, weights)
    check_folder(Path(out))
    check_optimizer(recipe.optimizer.name)
    accelerator = accelerator_for(recipe, Path(out), log)
    watch = watch if accelerator.is_main_process else Watch()
    with large_pictures():
        whole, found = _data(data, Path(out), target, task, recipe, strict, watch, accelerator)
        start = begin(os.fspath(model), recipe.model, len(whole.labels), whole.task, recipe.seed, weights)
        trainer = Trainer(start, whole, recipe, Path(out), accelerator, os.fspath(model))
        watch.say(f"{start.net.spec.name}: {start.words}; {trainer.about}")
        trainer.prepare(resume)
        if accelerator.is_main_process:
            write_whole(Path(out) / SURVEY, msgspec.json.encode(found))
        try:
            return trainer.run(watch, Path(data), found)
        except LostPicture as error:
            lost = str(error).strip().rpartition("LostPicture: ")[2]
            step = "--resume goes on when the net can read it"
            raise InputError("data", Problem("", "pictures that the net can read", lost, next=step)) from None
        except RuntimeError as error:
            if not tells_of_another(error):
                raise
            step = "what that one said; --resume goes on from what is kept"
            problem = Problem("", f"{accelerator.num_processes} processes", "one that is gone", next=step)
            raise InputError("train", problem) from None


def check_folder(out: Path) -> None:
    """Raises InputError for a folder that holds anything else than a run, or what was left of one that was killed as it began."""
    if out.exists() and not (out.is_dir() and ((out / "recipe.toml").exists() or all(map(is_draft, out.iterdir())))):
        raise InputError(
            "train", Problem(str(out), "a new folder", "other files", next="name a folder that is not there yet")
        )


def _data(
    source: str | os.PathLike[str], out: Path, target: str, task: Task | None, recipe: Recipe, strict: bool, watch: Watch,
    accelerator: Any,
) -> tuple[Labelled, Survey]:  # fmt: skip
    """The set in its parts, without what cannot be read; the first process looks at the pictures, for all."""
    data = split(labelled(source, target, task), recipe.data.split, recipe.seed)
    found = [Survey()]
    if accelerator.is_main_process:
        found = [_surveyed(data, out / SURVEY, recipe.data.workers, watch)]
    broadcast(accelerator, found)
    data = readable(data, found[0], strict)
    watch.data(data, found[0])
    missing = [label for label, count in zip(data.labels, data.counts("train"), strict=True) if not count]
    if missing or not data.parts["val"]:
        found_words = f"none of {missing[0]}" if missing else "none that is held out"
        raise InputError("data", Problem("", "pictures that can be read, of each class and held out", found_words))
    return data, found[0]


def _surveyed(data: Labelled, path: Path, workers: int, watch: Watch) -> Survey:
    """What is wrong with the pictures; as it was found before, where this run looked at them, since that takes a while."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        known = msgspec.json.decode(path.read_bytes(), type=Survey)
        if known.subject == subject_of(data):
            return known
    return survey(data, max(1, workers), watch.looked)
