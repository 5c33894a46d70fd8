"""What models scored on the user's own data: one small file for each model and data set, which `zoo find` ranks by. Imports no torch.

$ZOO_DATA/evaluations/starnet_nano/mydata.json
"""

from __future__ import annotations

import datetime
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from blocks.registry.words import printable
from zoo import catalog
from zoo.errors import InputError, Problem
from zoo.evaluating.figures import Estimate
from zoo.system.folders import at_home, data_path, write_whole
from zoo.system.strict_json import parse_json

log = logging.getLogger("zoo")

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,60}(/[a-z0-9_.-]{1,60}@[1-5])?")
"""Of a data set; of corrupted pictures with the corruption and its severity behind it."""
MOST_BYTES = 2**20


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one model on one data set; `digest` is that of the spec that was judged."""

    model: str
    weights: str
    digest: str
    data: str
    figures: dict[str, Estimate]
    date: str
    version: str


def slug(data: str | os.PathLike[str]) -> str:
    """The name of a data set after its folder or file."""
    stem = Path(os.path.abspath(at_home(data))).name.partition(".")[0]
    return re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:60] or "data"


def check_name(name: str) -> None:
    """Raises InputError."""
    if not NAME.fullmatch(name):
        expected = "a name of letters a to z, digits, dashes and underscores"
        raise InputError("evaluate", Problem("--name", expected, f"`{printable(name, 80)}`"))


def keep(model: str, weights: str, digest: str, data: str, figures: Mapping[str, Estimate]) -> None:
    """Nothing for a model that is not of the catalogue, which `zoo find` does not list. Raises InputError where nothing can be written."""
    from zoo import __version__

    name = catalog.split_tag(model)[0] if catalog.is_model(catalog.split_tag(model)[0]) else ""
    if not name:
        return
    row = Evaluated(
        model=name, weights=weights, digest=digest, data=data, figures=dict(figures), date=str(datetime.date.today()), version=__version__
    )  # fmt: skip
    write_whole(
        _folder(name) / f"{data.replace('/', '--')}.json", msgspec.json.format(msgspec.json.encode(row), indent=1)
    )


def keep_all(scores: Iterable[Any]) -> None:
    """`keep` of each; where nothing can be written, what took minutes or hours to find is still handed on, and a warning says so."""
    try:
        for score in scores:
            keep(score.model, score.weights, score.digest, score.data, score.figures)
    except InputError as error:
        log.warning("the figures are not remembered, and `zoo find` does not know them: %s", error)


def evaluated(model: str) -> Iterator[Evaluated]:
    """The records of a model's published spec. A file that is none of ours is passed over."""
    folder = _folder(model)
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.json")):
        try:
            with path.open("rb") as file:
                row = msgspec.convert(parse_json(file.read(MOST_BYTES)), Evaluated)
        except (OSError, ValueError, RecursionError):
            continue
        if row.digest == catalog.entry(model).digest and NAME.fullmatch(row.data):
            yield row


def _folder(model: str) -> Path:
    return data_path() / "evaluations" / model.replace("/", "--")
