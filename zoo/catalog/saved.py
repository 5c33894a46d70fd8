"""Models that `zoo.save` wrote: a file of weights that says what it is, or a folder as a repository of the Hub holds it. Imports no torch.

mine.safetensors    the record under the key `zoo.json` of its metadata
mine/               zoo.json, model.safetensors, README.md
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from zoo import catalog
from zoo.artifacts.client import is_hub
from zoo.artifacts.record import RECORD, WEIGHTS, Record, read_record
from zoo.artifacts.repository import Repository, repository
from zoo.errors import Problem, SpecError
from zoo.specs.read import MAX_BYTES
from zoo.weights.header import read_header
from zoo.weights.opening import expanded, opened


def described(model: Any) -> Repository | None:
    """What a model says of itself that is named by a repository of the Hub, or by what `zoo.save` wrote; None for any other."""
    if is_hub(model):
        return repository(model)
    path = saved_path(model)
    return None if path is None else open_saved(path)


def saved_path(model: Any) -> Path | None:
    """The file or folder that a model is named by: a path that ends in .safetensors, or a folder with a record that is no model's name."""
    if not isinstance(model, (str, os.PathLike)):
        return None
    path = expanded(model)
    if path.suffix == ".safetensors":
        return path
    named = isinstance(model, str) and catalog.is_model(model)
    return path if not named and os.path.isfile(path / RECORD) else None


def open_saved(path: Path) -> Repository:
    """Raises SpecError for weights without a record, WeightsError and SpecError for what is wrong with one."""
    record = record_of(path)
    if record is None:
        with opened(path, path.name):  # says what is wrong with a file that is none
            expected = "a spec in its metadata, as `zoo.save` writes it"
            step = f'zoo.create(NAME, weights="{path}") with the name of its model, then `zoo.save` writes all of it'
            raise SpecError(path.name, Problem("", expected, "tensors alone", next=step))
    return record


def record_of(weights: str | os.PathLike[str]) -> Repository | None:
    """What a file of weights, or a folder, says of itself; None where it says nothing. Raises as `open_saved` does for what it says."""
    path = expanded(weights)
    if os.path.isfile(path / RECORD):
        with opened(path / RECORD, path.name) as file:
            return _repository(read_record(file.read(MAX_BYTES + 1), path.name), path / WEIGHTS, path / RECORD)
    if path.suffix != ".safetensors" or not os.path.isfile(path):
        return None
    with opened(path, path.name) as file:
        text = read_header(file, path.name).metadata.get(RECORD)
    if text is not None:
        return _repository(read_record(text.encode(), path.name, inside=True), path)
    return record_of(path.parent) if path.name == WEIGHTS and os.path.isfile(path.parent / RECORD) else None


def _repository(record: Record, weights: Path, beside: Path | None = None) -> Repository:
    manifest = msgspec.structs.replace(record.manifest, source=f"file:{weights.absolute()}")
    return Repository(record.spec, manifest, {WEIGHTS: weights} | ({RECORD: beside} if beside else {}), record.made)
