"""Folders that transformers' `save_pretrained` wrote: which registered model their `config.json` describes. Imports no torch.

`data/transformers.toml` says for each `model_type` where the values of a config stand in the spec of a family. The spec that has them
all is one of the catalogue, by its digest, or the folder is refused with the nearest model and the call that builds it.
"""

from __future__ import annotations

import functools
import json
import math
import os
import pathlib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import msgspec

from blocks.registry.words import printable
from zoo import catalog
from zoo.catalog.collection import CORE
from zoo.catalog.published import published_spec
from zoo.errors import InputError, Problem, listed, nearest
from zoo.specs.read import MAX_BYTES

PREFIX = "transformers:"
CONFIG = "config.json"
KEYS = "transformers"
"""What families call their rules for the names of these checkpoints."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `model_type`; the file says what each field means."""

    family: str
    sizes: dict[str, list[str]]
    defaults: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    same: dict[str, str] = {}
    ties: bool = False


def is_transformers(model: Any) -> TypeGuard[str]:
    return isinstance(model, str) and model.startswith(PREFIX)


def folder_of(model: str) -> pathlib.Path:
    return pathlib.Path(os.path.expanduser(model.removeprefix(PREFIX)))


def registered(model: str) -> str:
    """The name of the model that a folder holds. Raises InputError for what is no such folder, and for a model that is not registered."""
    config = _config(folder_of(model), model)
    kind, known = config.get("model_type"), list(tables())
    if kind not in known:
        found, near = f"`{printable(kind, 60)}`", nearest(str(kind), known)
        raise InputError(model, Problem(f"{CONFIG}: model_type", f"one of {listed(known)}", found, near))
    table = tables()[str(kind)]
    problems = [
        Problem(f"{CONFIG}: {key}", _shown(value), _shown(config[key]))
        for key, value in table.fixed.items()
        if key in config and config[key] != (None if value == "none" else value)
    ]
    if problems:
        raise InputError(model, problems)
    values = _values(config, table, model)
    edits = _edits(values, table)
    names = [
        name
        for name, entry in catalog.entries().items()
        if entry.family == table.family and catalog.home_of(name) == CORE
    ]
    digest = published_spec(names[0], _merged(edits.values())).digest
    for name in names:
        if catalog.entry(name).digest == digest:
            return name
    raise InputError(model, _unregistered(model, values, edits, names))


@functools.cache
def tables() -> dict[str, Table]:
    """The tables of all families by `model_type`."""
    return msgspec.convert(tomllib.loads((CORE.data / "transformers.toml").read_text()), dict[str, Table])


def _config(folder: pathlib.Path, model: str) -> dict[str, Any]:
    """The config, with what it says of rotary positions at its top. Raises InputError."""
    path = folder / CONFIG
    try:
        with path.open("rb") as file:
            config = json.loads(
                file.read(MAX_BYTES)
            )  # not strictly: limits of steps are `Infinity` in configs of Mamba2
    except OSError as error:
        expected = f"a folder with {CONFIG}, as `save_pretrained` writes it"
        raise InputError(model, Problem(str(path), expected, error.strerror or str(error))) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            model, Problem(str(path), f"JSON of at most {MAX_BYTES:,} bytes", printable(error, 200))
        ) from None
    if not isinstance(config, dict):
        raise InputError(model, Problem(str(path), "a table", type(config).__name__))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope if isinstance(rope, Mapping) else {}
    told = {"rope_type": rope.get("rope_type", rope.get("type", "default"))}
    told |= {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    if config.get("time_step_limit") == [0.0, {"__float__": "Infinity"}]:
        told["time_step_limit"] = [0.0, float("inf")]
    return config | told


def _values(config: dict[str, Any], table: Table, model: str) -> dict[str, Any]:
    """Key of the config -> its value. Raises InputError for values that are not there."""
    heads = {"num_key_value_heads": config.get("num_attention_heads")}
    values = {
        key: config[key] if config.get(key) is not None else (table.defaults | heads).get(key) for key in table.sizes
    }
    problems = [
        Problem(f"{CONFIG}: {key}", "a number", _shown(config.get(key)))
        for key, value in values.items()
        if not isinstance(value, (int, float))
    ]
    if problems:
        raise InputError(model, problems)
    return values | ({"tie_word_embeddings": bool(config.get("tie_word_embeddings"))} if table.ties else {})


def _edits(values: dict[str, Any], table: Table) -> dict[str, dict[str, Any]]:
    """Key of the config -> what it changes in the spec, by path."""
    edits = {
        key: dict.fromkeys(paths, values[key])
        for key, paths in table.sizes.items()
        if key not in table.same or values[key] != values[table.same[key]]
    }
    if table.ties:
        edits["tie_word_embeddings"] = {"head.tie": "stem" if values["tie_word_embeddings"] else "none"}
    return edits


def _merged(edits: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {path: value for one in edits for path, value in one.items()}


def _unregistered(model: str, values: dict[str, Any], edits: dict[str, dict[str, Any]], names: list[str]) -> Problem:
    """The model with the fewest other values, and the call that changes those."""
    others = {
        name: [key for key, edit in edits.items() if published_spec(name, edit).digest != catalog.entry(name).digest]
        for name in names
    }
    width = values["hidden_size"]
    name = min(names, key=lambda name: (len(others[name]), abs(math.log(published_spec(name).dims[0] / width))))
    found = ", ".join(f"{key} {_shown(values[key])}" for key in others[name])
    changes = _merged(edits[key] for key in others[name])
    call = f'zoo.create("{name}", {changes}, weights={str(folder_of(model))!r}, source="{KEYS}")'
    return Problem(CONFIG, f"the sizes of a registered model of {catalog.entry(name).family}", found, name, call)


def _shown(value: Any) -> str:
    return printable("null" if value in (None, "none") else json.dumps(value, default=str), 60)
