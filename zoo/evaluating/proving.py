"""`zoo pin --prove DIR`: that weights reach the figure which their publishers print, measured here and written beside their hashes."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from zoo import catalog
from zoo.artifacts.lock import lock
from zoo.artifacts.lockfile import Locked, Proof, pins, project_lock, read_lock, save_pin, write_lock
from zoo.catalog.manifests import manifests
from zoo.data.labelled import Example
from zoo.errors import InputError, Problem
from zoo.evaluating.evaluate import evaluate
from zoo.evaluating.sets import sets_of
from zoo.measure.published import published
from zoo.predicting.progress import Told, nobody
from zoo.weights.manifest import Manifest

LOCK = "zoo.lock"


class Proved(NamedTuple):
    """A proof, the name of the weights, and the files that hold it now."""

    name: str
    proof: Proof
    places: list[Path]


def prove(name: str, data: str | os.PathLike[str], progress: Told = nobody, **options: Any) -> Proved:
    """Judges weights at hand on a data set, and writes top-1 into the pin, and into the project's lock where that names them.

    Weights that ship have no pin: their proof goes into `zoo.lock`. Raises InputError, WeightsError, and what `zoo.create` raises."""
    manifest = _at_hand(name)
    found = evaluate(manifest.name, data, metrics=["top1"], record=False, progress=progress, **options)
    if len(found.scores) != 1:
        raise InputError("pin", Problem("--prove", "one data set", f"{len(found.scores)} of corrupted pictures"))
    figure = found.scores[0].figures["top1"]
    metric, claimed = _claim(manifest, found.scores[0].data)
    (judged,) = sets_of(data, found.scores[0].data, options.get("split", ""))
    proof = Proof(
        metric=metric, value=figure.value, n=figure.n, correct=figure.correct or 0, ci95=(figure.low, figure.high),
        data=_hash_of(judged.examples, judged.labels), claimed=claimed,
        reproduced=None if claimed is None else figure.low <= claimed <= figure.high, date=str(datetime.date.today()),
    )  # fmt: skip
    return Proved(manifest.name, proof, _written(manifest, proof))


def _at_hand(name: str) -> Manifest:
    usable = [manifest for manifest in manifests(name) if manifest.state != "listed"]
    if not usable:
        raise InputError("pin", Problem(name, "weights at hand", "none", next=f"`zoo pin {name}` fetches them"))
    return usable[0]


def _claim(manifest: Manifest, data: str) -> tuple[str, float | None]:
    """The figure that is to be reached, and what it is of: that of the manifest, else what the authors print at this size."""
    for metric, value in manifest.metrics.items():
        if metric.partition("@")[0].endswith("/top1"):
            return metric, value.value
    size = manifest.preprocess.rows_and_columns[0] if manifest.preprocess else 0
    printed = published().get(manifest.model)
    if printed is not None and printed.top1 is not None and printed.size == size:
        return printed.metric, printed.top1 / 100
    return f"{data}/top1@{size}", None


def _hash_of(examples: Iterable[Example], labels: tuple[str, ...]) -> str:
    """The sha256 of names, classes and bytes of all pictures, in the order of their names."""
    digest = hashlib.sha256()
    for picture, target in sorted(examples, key=lambda example: example.picture.name):
        content = hashlib.sha256(picture.read()).hexdigest()
        digest.update(f"{labels[target]} {content} {picture.name}\n".encode(errors="backslashreplace"))  # type: ignore[index]
    return digest.hexdigest()


def _written(manifest: Manifest, proof: Proof) -> list[Path]:
    places = []
    pinned = pins().get(manifest.name)
    if pinned is not None:
        places.append(save_pin(_with(pinned, proof)))
    project = project_lock()
    locked = read_lock(project) if project and project.is_file() else {}
    if manifest.name in locked or (pinned is None and manifest.name in _shipped(manifest)):
        path = project or Path(LOCK)
        entry = locked.get(manifest.name) or lock(manifest.name, None)[0]
        write_lock((locked | {manifest.name: _with(entry, proof)}).values(), path)
        places.append(path)
    return places


def _shipped(manifest: Manifest) -> list[str]:
    return [f"{manifest.model}.{tag}" for tag in catalog.entry(manifest.model).tags]


def _with(entry: Locked, proof: Proof) -> Locked:
    """One proof for each figure and data set, the newest."""
    others = [each for each in entry.proofs if (each.metric, each.data) != (proof.metric, proof.data)]
    return msgspec.structs.replace(entry, proofs=(*others, proof))
