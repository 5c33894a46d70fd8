"""Folders that transformers' `save_pretrained` wrote: which registered model their `config.json` describes. Imports no torch.

`data/transformers.toml` says for each `model_type` where the values of a config stand in the spec of a family. The spec that has them
all is one of the catalogue, by its digest, or the folder is refused with the nearest model and the call that builds it.
"""

from __future__ import annotations

import functools
import json
import math
import pathlib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import msgspec

from blocks.registry.words import printable
from zoo import catalog
from zoo.catalog.arithmetic import names_of, number
from zoo.catalog.collection import CORE
from zoo.catalog.published import published_spec
from zoo.errors import InputError, Problem, ProblemsError, listed, nearest
from zoo.specs.read import MAX_BYTES
from zoo.system.folders import at_home

PREFIX = "transformers:"
CONFIG = "config.json"
KEYS = "transformers"
"""What families call their rules for the names of these checkpoints."""

SCALING = ("factor", "original_max_position_embeddings", "mscale_all_dim")
"""What a config says of positions beyond those of the training, told as `rope_factor` and so on."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `model_type`; the file says what each field means."""

    family: str
    sizes: dict[str, list[str]]
    defaults: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    same: dict[str, str] = {}
    derived: dict[str, str] = {}
    cycles: dict[str, list[Any]] = {}
    words: dict[str, dict[str, Any]] = {}
    aliases: dict[str, str] = {}
    others: dict[str, str] = {}
    ties: bool = False


def is_transformers(model: Any) -> TypeGuard[str]:
    return isinstance(model, str) and model.startswith(PREFIX)


def folder_of(model: str) -> pathlib.Path:
    return at_home(model.removeprefix(PREFIX))


def registered(model: str) -> str:
    """The name of the model that a folder holds. Raises InputError for what is no such folder, and for a model that is not registered."""
    config = _config(folder_of(model), model)
    kind, known = config.get("model_type"), list(tables())
    if kind not in known:
        found, near = f"`{printable(kind, 60)}`", nearest(str(kind), known)
        raise InputError(model, Problem(f"{CONFIG}: model_type", f"one of {listed(known)}", found, near))
    table = tables()[_kind(str(kind), config)]
    problems = [
        Problem(f"{CONFIG}: {key}", _shown(value), _shown(config[key]))
        for key, value in table.fixed.items()
        if key in config and config[key] != (None if value == "none" else value)
    ]
    for key, cycle in table.cycles.items():
        told = config.get(key)
        if isinstance(told, list) and told != [cycle[i % len(cycle)] for i in range(len(told))]:
            problems.append(Problem(f"{CONFIG}: {key}", f"{_shown(cycle)}, again and again", _shown(told)))
    if problems:
        raise InputError(model, problems)
    values = _values(config, table, model)
    edits = _edits(values, table)
    names = [
        name
        for name, entry in catalog.entries().items()
        if entry.family == table.family and catalog.home_of(name) == CORE
    ]
    whole = _merged(edits.values())
    for name in names:
        if _changes_nothing(name, whole):
            return name
    raise InputError(model, _unregistered(model, values, edits, names))


@functools.cache
def tables() -> dict[str, Table]:
    """The tables of all families by `model_type`."""
    return msgspec.convert(tomllib.loads((CORE.data / "transformers.toml").read_text()), dict[str, Table])


def _kind(kind: str, config: Mapping[str, Any]) -> str:
    """The table of a config: that of its `model_type`, or the one that holds where a key has a value other than 0."""
    return next((other for key, other in tables()[kind].others.items() if config.get(key)), kind)


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
    told = _positions(config.get("rope_parameters") or config.get("rope_scaling"))
    if config.get("time_step_limit") == [0.0, {"__float__": "Infinity"}]:
        told["time_step_limit"] = [0.0, float("inf")]
    return config | told


def _positions(rope: Any) -> dict[str, Any]:
    """What a config says of rotary positions, as keys of its top: `rope_theta`, and `sliding_attention_rope_theta` where kinds of layers have their own."""
    rope = rope if isinstance(rope, Mapping) else {}
    kinds = {f"{kind}_": part for kind, part in rope.items() if isinstance(part, Mapping)} or {"": rope}
    told: dict[str, Any] = {}
    for kind, part in kinds.items():
        told[f"{kind}rope_type"] = part.get("rope_type", part.get("type", "default"))
        told |= {f"{kind}{key}": part[key] for key in ("rope_theta", "partial_rotary_factor") if key in part}
        told |= {f"{kind}rope_{key}": part[key] for key in SCALING if key in part}
    return told


def _values(config: dict[str, Any], table: Table, model: str) -> dict[str, Any]:
    """Key of the config -> its value. Raises InputError for values that are not there."""
    heads = {"num_key_value_heads": config.get("num_attention_heads")}
    asked = [*table.sizes, *(name for text in table.derived.values() for name in names_of(text))]
    told = config | {
        key: config[other] for key, other in table.aliases.items() if key not in config and other in config
    }
    values: dict[str, Any] = {
        key: told[key] if told.get(key) is not None else (table.defaults | heads).get(key)
        for key in dict.fromkeys(asked)
        if key not in table.derived
    }
    problems = [
        Problem(f"{CONFIG}: {key}", "a number", _shown(config.get(key)))
        for key, value in values.items()
        if not isinstance(value, (int, float)) and key not in table.words
    ]
    for key, words in table.words.items():
        if values[key] not in words:
            problems.append(Problem(f"{CONFIG}: {key}", f"one of {listed(list(words))}", _shown(values[key])))
    if problems:
        raise InputError(model, problems)
    try:
        values |= {key: number(text, values) for key, text in table.derived.items()}
    except ArithmeticError:
        odd = ", ".join(f"{key} {_shown(value)}" for key, value in values.items() if value <= 0) or "larger ones"
        raise InputError(model, Problem(CONFIG, "sizes above 0 of a net that can be built", odd)) from None
    values = {key: table.words[key][values[key]] if key in table.words else values[key] for key in table.sizes}
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


def _changes_nothing(name: str, edit: dict[str, Any]) -> bool:
    """Whether a registered model has these values already."""
    try:
        return published_spec(name, edit).digest == catalog.entry(name).digest
    except ProblemsError:  # a value that this model cannot have at all
        return False


def _unregistered(model: str, values: dict[str, Any], edits: dict[str, dict[str, Any]], names: list[str]) -> Problem:
    """The model with the fewest other values, and the call that changes those."""
    others = {name: [key for key, edit in edits.items() if not _changes_nothing(name, edit)] for name in names}
    width = values["hidden_size"]
    name = min(names, key=lambda name: (len(others[name]), abs(math.log(published_spec(name).dims[0] / width))))
    found = ", ".join(f"{key} {_shown(values[key])}" for key in others[name])
    changes = _merged(edits[key] for key in others[name])
    call = f'zoo.create("{name}", {changes}, weights={str(folder_of(model))!r}, source="{KEYS}")'
    return Problem(CONFIG, f"the sizes of a registered model of {catalog.entry(name).family}", found, name, call)


def _shown(value: Any) -> str:
    return printable("null" if value in (None, "none") else json.dumps(value, default=str), 60)
