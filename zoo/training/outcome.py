"""What is left of a training: the best epoch as a model that carries its labels, its figures and how pictures are prepared for it."""

from __future__ import annotations

import copy
import datetime
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo import factory
from zoo.data.labelled import Labelled, Task
from zoo.data.survey import Survey
from zoo.data.transforms import Transform
from zoo.publish.save import made_of, manifest_of, write_file, write_folder
from zoo.system.folders import write_text
from zoo.training import adapters
from zoo.training.batches import Pictures, in_turn, targets_of
from zoo.training.judging import Judgement, judge
from zoo.training.objectives import Objective
from zoo.training.recipe import Loss
from zoo.training.report import page
from zoo.training.state import Epoch
from zoo.weights.manifest import Manifest, Metric, Preprocess, counted_metric

if TYPE_CHECKING:
    from zoo.training.trainer import Trainer

BEST = Path("training", "best.safetensors")
LAST = Path("training", "last.safetensors")
LAST_PARTS = Path("training", "last.json")
"""Of a sharded run: names the folder with the parts."""
SURVEY = Path("training", "survey.json")
TAG = "trained"


class Scale(NamedTuple):
    """Mean and deviation (labels,) of the numbers that are learned."""

    mean: Tensor
    std: Tensor


class Run(NamedTuple):
    """A training that is over. `value` is the figure called `figure` on the held-out part, `ci95` its interval."""

    folder: Path
    model: str
    start: str
    task: Task
    labels: tuple[str, ...]
    figure: str
    value: float
    ci95: tuple[float, float] | None
    n: int
    best_epoch: int
    history: tuple[Epoch, ...]
    unreadable: tuple[tuple[str, str], ...]
    doubles: tuple[tuple[str, str], ...]
    seconds: float


def scale_of(data: Labelled) -> Scale | None:
    """Of the numbers of the training part; None where classes are learned."""
    if data.task != "regression":
        return None
    targets = targets_of(data.parts["train"], data.task, len(data.labels))
    return Scale(targets.mean(0), targets.std(0, correction=0).clamp_min(1e-6))


def plain(preprocess: Preprocess) -> Transform:
    """The transform of pictures that a model is judged on."""
    return Transform(preprocess)


def keep_best(trainer: Trainer, net: Any) -> None:
    """Writes the net as it is now, a model in a file, in the place of the best before."""
    net = finished(net, trainer.scale)
    facts = trainer.facts
    known = msgspec.structs.replace(manifest_of(net, trainer.data.labels), recipe=f"epoch {facts.best_epoch}")
    (trainer.out / BEST).parent.mkdir(parents=True, exist_ok=True)
    trainer.made = trainer.made or made_of(net)
    write_file(net, trainer.out / BEST, known=known, made=trainer.made)


def finished(net: Any, scale: Scale | None) -> Any:
    """Without adapters, and with answers in the units of the data: a copy, where there is something to change."""
    if scale is None and not any(parametrize.is_parametrized(module) for module in net.modules()):
        return net
    net = copy.deepcopy(net).eval().cpu()
    adapters.merge(net)
    net.requires_grad_(True)
    if scale is not None:
        last = net.get_classifier()
        with torch.no_grad():
            last.weight.mul_(scale.std[:, None].to(last.weight))
            last.bias.mul_(scale.std.to(last.bias)).add_(scale.mean.to(last.bias))
    return net


def finish(trainer: Trainer, source: Path, found: Survey, seconds: float) -> Run:
    """The folder and its report, from the best epoch."""
    net = factory.create(trainer.out / BEST, device=trainer.accelerator.device)
    judgements = {part: _judged(trainer, net, part) for part in ("val", "test") if trainer.data.parts.get(part)}
    net.cpu()
    held_out = judgements["val"]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", source.resolve().stem) or "data"
    manifest = _manifest(trainer, net, name, judgements)
    write_folder(net, trainer.out, known=manifest, tag=TAG)
    facts = trainer.facts
    run = Run(
        trainer.out, net.spec.name, trainer.start.words, trainer.data.task, trainer.data.labels, held_out.name, held_out.figure,
        held_out.interval, len(held_out.targets), facts.best_epoch, tuple(facts.history), found.unreadable, found.doubles, seconds,
    )  # fmt: skip
    write_text(trainer.out / "report.html", page(run, trainer.data, held_out, trainer.recipe))
    return run


def of_others(trainer: Trainer, seconds: float) -> Run:
    """What a process knows that writes nothing."""
    facts = trainer.facts
    return Run(
        trainer.out, trainer.net.spec.name, trainer.start.words, trainer.data.task, trainer.data.labels, "", facts.best[0] if facts.best else 0.0,
        None, len(trainer.val_set), facts.best_epoch, tuple(facts.history), (), (), seconds,
    )  # fmt: skip


def _judged(trainer: Trainer, net: nn.Module, part: str) -> Judgement:
    """The finished net on a part, in the units of the data."""
    examples, data = trainer.data.parts[part], trainer.data
    pictures = Pictures(examples, targets_of(examples, data.task, len(data.labels)), plain(trainer.preprocess))
    objective = Objective(data.task, Loss(label_smoothing=0.0))
    workers, device = trainer.recipe.data.workers, trainer.accelerator.device
    return judge(net, in_turn(pictures, trainer.order.batch_size, workers), objective, device)


def _manifest(trainer: Trainer, net: Any, name: str, judgements: dict[str, Judgement]) -> Manifest:
    today, seed = str(datetime.date.today()), trainer.recipe.seed
    command = f"zoo train {trainer.name} --data {name} --recipe recipe.toml"
    metrics: dict[str, Metric] = {}
    for part, judged in judgements.items():
        place = f"{name}{'' if part == 'val' else f'-{part}'}/{judged.name}@{max(trainer.preprocess.rows_and_columns)}"
        facts: dict[str, Any] = {"command": command, "seed": seed, "date": today}
        if judged.task == "classification":
            metrics[place] = counted_metric(judged.correct, len(judged.targets), **facts)
        else:
            metrics[place] = Metric(value=round(judged.figure, 6), n=len(judged.targets), ci95=judged.interval, **facts)
    origin = f"trained on {len(trainer.train_set)} pictures of {name}, from {trainer.start.words}"
    known = manifest_of(net, trainer.data.labels)
    return msgspec.structs.replace(
        known, tag=TAG, metrics=metrics, recipe="recipe.toml, beside the weights", origin=origin, created=today
    )
