"""Arguments of `zoo.create` as values of a spec. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blocks.registry import core_index, describe
from zoo.errors import InputError, Problem, listed
from zoo.specs.model import Spec
from zoo.specs.patch import Edit
from zoo.specs.resolve import respec, with_values
from zoo.specs.scalars import plain
from zoo.specs.tree import Origin


class Settings(dict[str, Any]):
    """Changes that come from the shell; messages name them `--set`."""


def with_arguments(
    spec: Spec,
    num_classes: int | None,
    in_chans: int | None,
    img_size: int | Sequence[int] | None,
    global_pool: str | None,
    drop_rate: float | None,
    drop_path_rate: float | None,
) -> Spec:
    """The spec with arguments of `zoo.create` in the places where a spec says the same. Raises SpecError."""
    img_size, drop_rate = plain(img_size), plain(drop_rate)
    values: dict[str, Any] = plain({"num_classes": num_classes, "drop_path_rate": drop_path_rate})
    image = {"channels": plain(in_chans), "size": list(img_size) if isinstance(img_size, tuple) else img_size}
    values["input"] = {key: value for key, value in image.items() if value is not None} or None
    values["head"] = {
        key: value for key, value in (("pool", global_pool or None), ("drop", drop_rate)) if value is not None
    } or None
    values = {key: value for key, value in values.items() if value is not None}
    return with_values(spec, **values) if values else spec


def with_drop_rates(spec: Spec, rates: Mapping[str, float | None]) -> Spec:
    """The rates in every block that has such a parameter. Raises InputError when no block of the model has."""
    edits = []
    for name, rate in rates.items():
        if rate is None:
            continue
        owners = [block for block in spec.blocks() if name in describe(block).params]
        if not owners:
            blocks = listed([info.name for info in core_index().values() if name in info.params])
            problem = Problem(
                f"{name}_rate", f"a model with a block that drops there ({blocks})", f"none in {spec.name}"
            )
            raise InputError("create", problem)
        edits += [Edit(f"**.<{block}>.{name}", rate, Origin("argument", f"{name}_rate")) for block in owners]
    return respec(spec, edits) if edits else spec
