"""The net that a training begins with: from weights at hand, from a checkpoint, or from random values; and the teacher beside it."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import factory
from zoo.build.backbone import Backbone
from zoo.catalog import split_tag
from zoo.catalog.sources import find_source
from zoo.data.labelled import Task
from zoo.data.transforms import preprocess_of
from zoo.errors import InputError, Problem
from zoo.pretrained.checkpoint import Weights
from zoo.pretrained.fill import plan
from zoo.training.recipe import Model
from zoo.training.seeds import sow
from zoo.weights.manifest import Preprocess

TASKS: dict[Task, str] = {
    "classification": "image-classification", "multilabel": "multilabel-classification", "regression": "image-regression",
}  # fmt: skip
"""What a family that was trained for a task says of itself."""


class Start(NamedTuple):
    """A net, and in words where its weights come from."""

    net: Backbone
    words: str


def check_start(name: str, model: Model, weights: Weights | None) -> None:
    """Raises before anything is read what `begin` would of a name: for a model that does not read pictures, or lacks the weights asked for."""
    source = find_source(name)
    if not hasattr(source.spec.input, "channels"):
        step = "`zoo train text` trains those of bytes"
        raise InputError("train", Problem(name, "a model of pictures", "one of tokens", next=step))
    if weights is None and (model.start == "pretrained" or source.tag):
        plan(source, None, "zoo", True)


def begin(name: str, model: Model, labels: int, task: Task, seed: int, weights: Weights | None = None) -> Start:
    """The model `name` with `labels` outputs, in the sizes that the recipe says.

    Raises what `zoo.create` raises, and InputError for a model that has no classifier to train."""
    source = find_source(name)
    wanted: dict[str, Any] = {
        "in_chans": model.channels or None, "img_size": model.size or None,
        "drop_rate": model.drop_rate or None, "drop_path_rate": model.drop_path_rate or None,
    }  # fmt: skip
    sow("model", seed)
    if weights is not None:
        net = factory.create(name, weights=weights, **wanted)
        if net.num_classes != labels:
            net.reset_classifier(labels)
        words = f"weights of {weights if isinstance(weights, str) else 'a checkpoint'}"
    else:
        net, words = _published(name, source, model.start, wanted | {"num_classes": labels})
    if not isinstance(net, Backbone) or net.get_classifier() is None:
        raise InputError(
            "train", Problem(name, "a net of the zoo with a classifier", f"a {type(net).__name__} without one")
        )
    net.spec = copy.copy(net.spec)
    net.spec.family = msgspec.structs.replace(net.spec.family, task=TASKS[task])
    return Start(net, words)


def _published(name: str, source: Any, start: str, wanted: dict[str, Any]) -> tuple[Any, str]:
    """The net and the words, with the weights that come with the name, that are at hand, or none."""
    usable = [manifest for manifest in source.manifests if manifest.state != "listed"]
    if start == "random" or (start == "auto" and not usable and not source.tag):
        name, hint = split_tag(name)[0] if source.tag else name, ""
        if source.manifests and not usable:
            hint = f"; `zoo pin {source.manifests[0].name}` would bring weights"
        net = factory.create(source.spec if source.carries_weights else name, **wanted)
        return net, f"random first values{hint}"
    net = factory.create(name, pretrained=not source.carries_weights, **wanted)
    report = getattr(net, "adapt_report", None)
    new = len(report.names("new")) if report is not None else 0
    resized = (
        sum(change.action in ("resampled", "summed", "repeated") for change in report.changes)
        if report is not None
        else 0
    )
    changes = [f"{new} tensors new" if new else "", f"{resized} resized" if resized else ""]
    told = ", ".join(change for change in changes if change)
    label = net.pretrained.name if net.pretrained is not None else name
    return net, f"weights of {label}" + (f" ({told})" if told else "")


class Teacher(nn.Module):
    """A model that only answers; pictures come as a student sees them, and are made what the teacher was trained on."""

    mean: Tensor
    std: Tensor
    own_mean: Tensor
    own_std: Tensor

    def __init__(self, net: Any, student: Preprocess):
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        self.own, self.student = preprocess_of(net), student
        for name, values in (("mean", student.mean), ("std", student.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))
        for name, values in (("own_mean", self.own.mean), ("own_std", self.own.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))

    def forward_features(self, x: Tensor) -> Tensor:
        x = x * self.std + self.mean
        if x.shape[1] != self.own.channels:
            x = x.mean(1, keepdim=True).expand(-1, self.own.channels, -1, -1)
        if tuple(x.shape[-2:]) != self.own.rows_and_columns:
            x = F.interpolate(x, self.own.rows_and_columns, mode="bicubic", antialias=True)
        return self.net.forward_features((x - self.own_mean) / self.own_std)  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return self.net.forward_head(features, pre_logits=pre_logits)  # type: ignore[no-any-return]

    @property
    def width(self) -> int:
        """Of the pooled features."""
        return int(getattr(self.net, "head_hidden_size", self.net.num_features))


def teacher(name: str, labels: tuple[str, ...], student: Preprocess) -> Teacher:
    """Raises WeightsError for a model without weights, InputError for one of other classes."""
    source = find_source(name)
    net: Any = factory.create(name, pretrained=not source.carries_weights)
    known = tuple(net.pretrained.labels) if net.pretrained is not None else ()
    if net.num_classes != len(labels) or (known and known != labels):
        found = f"{net.num_classes} classes" if net.num_classes != len(labels) else "classes of other names"
        step = "train one on the same data: `zoo train NAME --data ... --out TEACHER`"
        raise InputError(
            "train", Problem(f"distill.teacher {name}", f"the {len(labels)} classes of the data", found, next=step)
        )
    return Teacher(net, student)
