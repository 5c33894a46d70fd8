"""A checkpoint that a user names, for a net that waits for it: envelopes and prefixes off, and the key rules of its library applied."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from zoo.artifacts.repository import Repository
from zoo.build.builder import build
from zoo.build.init import materialise
from zoo.catalog.saved import record_of
from zoo.errors import Problem, WeightsError, listed, nearest
from zoo.pretrained.target import Plan, Target
from zoo.specs.model import Spec
from zoo.specs.resolve import with_values
from zoo.weights.adapt import AdaptReport, adapt
from zoo.weights.convert import KeyRules
from zoo.weights.load import expected_header
from zoo.weights.source import open_checkpoint, read_published
from zoo.weights.unwrap import open_envelope
from zoo.weights.wrappers import Takes, below_prefix, opened, plain_name, without_prefix

Weights = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint(Plan):
    """A path or a mapping, in the names of `keys`: `zoo`, `official` or `timm`. `made_for` is the published spec, where there is one:
    its size of images is tried where the asked one does not fit."""

    weights: Weights
    keys: str
    made_for: Spec | None = None

    def fill(self, target: Target) -> None:
        """Loads it strictly; from what `zoo.save` wrote the net also takes how pictures are prepared, and the names of its classes.

        Raises WeightsError; of what was saved for another request with the differences.
        """
        spec = target.spec
        saved = None if self.keys != "zoo" or isinstance(self.weights, Mapping) else _saved(self.weights, spec)
        try:
            if saved is None:
                _load(target, self)
            else:
                own = Checkpoint(read_published(saved.manifest, ""), self.keys, saved.spec)
                _load(target, own, any_size=_size(saved.spec) == _size(spec))
        except WeightsError:
            if saved is None or saved.manifest.digest == spec.digest:
                raise
            raise WeightsError(spec.name, _differences(saved.spec, spec, str(self.weights))) from None
        if saved is not None:
            for problem in _differences(saved.spec, spec, str(self.weights)):
                warnings.warn(f"{spec.name}: {problem.where}: {problem.sentence()}", stacklevel=_depth())
            target.know(saved.manifest, saved.spec)


def _depth() -> int:
    """How many calls above its caller the code of the user stands, for warnings."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "zoo":
        depth, frame = depth + 1, frame.f_back
    return depth


def _load(target: Target, checkpoint: Checkpoint, any_size: bool = True) -> None:
    """Where the tensors fit images of the published size only, the tables of positions among them are resampled.

    `any_size` is False for those that are known to be of the size of `made_for`, and of no other.
    """
    spec = target.spec
    content = open_checkpoint(checkpoint.weights, spec.name)
    try:
        if not any_size:
            raise WeightsError(spec.name, Problem("", "weights for images of the asked size", "those of another"))
        tensors, prefix = _in_our_names(content, target, spec, checkpoint.keys)
        try:
            target.load(tensors)
        except WeightsError as error:
            raise (below_prefix(error, prefix) if prefix else error) from None
    except WeightsError as refusal:
        resized = _resized(content, target, checkpoint)
        if resized is None:
            other = _of_another(content, target, checkpoint.keys)
            raise (WeightsError(spec.name, other) if other else refusal) from None
        target.load(resized[0])
        target.net.adapt_report = resized[1]


def _resized(
    content: dict[str, Any], target: Target, checkpoint: Checkpoint
) -> tuple[dict[str, Tensor], AdaptReport] | None:
    """The tensors of a model that takes images of the published size, for one of another size; None if they are of no such model."""
    made_for, spec = checkpoint.made_for, target.spec
    if made_for is None or _size(made_for) in (None, _size(spec)):
        return None
    before = with_values(spec, input={"size": _size(made_for)})
    try:
        tensors, _ = _in_our_names(content, target, before, checkpoint.keys)
        fitted, report = adapt(
            tensors, expected_header(target.net), subject=spec.name, model=target.net, before=target.twin(before)
        )
    except WeightsError:
        return None
    fits = all(change.action in ("kept", "resampled") for change in report.changes)
    return (fitted, report) if fits else None


def _size(spec: Spec) -> Any:
    """The size of the images that a model takes; None for one of tokens."""
    return getattr(spec.input, "size", None)


def _in_our_names(content: Mapping[str, Any], target: Target, spec: Spec, keys: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a checkpoint for a net of this spec, but for those that the net lost on purpose, and their prefix."""
    rules, name, absent = _key_rules(spec, keys), spec.name, target.absent(spec)
    tensors, prefix, _ = _opened(content, target, spec, rules)
    if rules is not None:
        expected = expected_header(target.twin(spec))
        try:
            tensors = rules.to_zoo(tensors, expected, name)
        except WeightsError as error:
            raise (below_prefix(error, prefix) if prefix else error) from None
        tensors = _completed(tensors, expected, spec)
    return {key: tensor for key, tensor in tensors.items() if key not in absent}, prefix


def _opened(
    content: Mapping[str, Any], target: Target, spec: Spec, rules: KeyRules | None
) -> tuple[dict[str, Tensor], str, Takes]:
    """The tensors of a checkpoint without what training put around them, their prefix, and which of their names have a place here."""
    content = opened(content, rules.unwrap if rules else ())
    if rules is None:
        takes: Takes = ({plain_name(key) for key in target.net.state_dict()} | target.absent(spec)).__contains__
        return *without_prefix(open_envelope(content, subject=spec.name), takes, spec.name), takes
    takes = partial(rules.fills, there=expected_header(target.twin(spec)))
    return *without_prefix(rules.open(content, spec.name), takes, spec.name), takes


def _of_another(content: Mapping[str, Any], target: Target, keys: str) -> Problem | None:
    """What to ask for instead, where the names of a checkpoint are those of another library."""
    shares = {library: _share(content, target, library) for library in ("zoo", *target.spec.keys)}
    others = [library for library, share in shares.items() if share > 0.9 and share == max(shares.values())]
    if not others or shares.get(keys, 0) > 0.5:
        return None
    step = " or ".join(f'source="{library}"' for library in others)
    return Problem(
        "source", f"names of the library that is asked for, `{keys}`", f"those of {listed(others)}", next=f"pass {step}"
    )


def _share(content: Mapping[str, Any], target: Target, library: str) -> float:
    """Of the names of a checkpoint the share that have a place here, read as those of a library."""
    try:
        tensors, _, takes = _opened(content, target, target.spec, _key_rules(target.spec, library))
    except WeightsError:
        return 0.0
    return sum(map(takes, tensors)) / max(1, len(tensors))


def _completed(tensors: dict[str, Tensor], expected: Collection[str], spec: Spec) -> dict[str, Tensor]:
    """The tensors with the first values of those that the checkpoint may lack, and does."""
    missing = [name for name in expected if name not in tensors]
    if not missing:
        return tensors
    net = build(spec)
    materialise(net, spec.init, "cpu")
    values = net.state_dict()
    return tensors | {name: values[name] for name in missing}


def _key_rules(spec: Spec, keys: str) -> KeyRules | None:
    """The family's rules for the names of a library; None for our own names. Raises WeightsError for one that it does not have."""
    if keys == "zoo":
        return None
    if keys not in spec.keys:
        libraries = ["zoo", *spec.keys]
        raise WeightsError(
            spec.name, Problem("source", f"one of {listed(libraries)}", f"`{keys}`", nearest(keys, libraries))
        )
    return KeyRules.from_data(spec.keys[keys], f"{spec.source}: keys.{keys}")


def _saved(weights: str | os.PathLike[str], spec: Spec) -> Repository | None:
    """What `zoo.save` wrote of these weights, None for those of others. Raises WeightsError."""
    saved = record_of(weights)
    if saved is not None and saved.made.form == "deploy":
        step = f'zoo.create("{weights}")'
        raise WeightsError(spec.name, Problem("", "weights of the train form", "those of the deploy form", next=step))
    return saved


def _differences(saved: Spec, wanted: Spec, file: str) -> list[Problem]:
    """How the spec beside some weights differs from the one that is asked for."""
    pairs = {
        "num_classes": (wanted.num_classes, saved.num_classes),
        "in_chans": tuple(getattr(spec.input, "channels", None) for spec in (wanted, saved)),
        "img_size": tuple(getattr(spec.input, "size", None) for spec in (wanted, saved)),
    }
    problems = [
        Problem(
            name,
            f"{asked_value}, as asked",
            f"{saved_value} in {file}",
            next=f"pass {name}={saved_value}, or zoo.create({file!r})",
        )
        for name, (asked_value, saved_value) in pairs.items()
        if asked_value != saved_value
    ]
    if not problems and saved.digest != wanted.digest:
        found = f"`{saved.name}`, digest {saved.digest[:12]}, in {file}"
        problems = [Problem("spec", f"`{wanted.name}`, digest {wanted.digest[:12]}, as asked", found)]
    return problems
