"""`zoo publish-family NAME`: all data that follow from the file of a family, and what is left for a person. For a checkout of this repository.

zoo/models/NAME.toml  ->  zoo/models/index.json, data/profiles.json, data/parts.json, data/loads.json, tests/published/digests.json, model_cards/

A plugin's families have `zoo index NAMESPACE`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zoo.authoring.core_index import render
from zoo.authoring.indexing import COUNTED
from zoo.build.builder import check
from zoo.catalog.collection import CORE
from zoo.catalog.index import entries, forget
from zoo.catalog.published import backbone_spec, family_of
from zoo.errors import InputError, Problem, ProblemsError, SpecError, listed, nearest
from zoo.measure.load import loads
from zoo.measure.parts import parts
from zoo.measure.profiles import costs
from zoo.measure.published import PUBLISHED, figures_in, published
from zoo.publish import cards
from zoo.specs.read import Family, read_file
from zoo.specs.resolve import resolve
from zoo.system.folders import write_whole
from zoo.testing import published as promises
from zoo.weights.convert import KeyRules

ROOT = CORE.folder.parents[1]
DIGESTS, CARDS, PARITY, NAMES = (
    "tests/published/digests.json",
    "model_cards",
    "tests/models/parity",
    "tests/golden/names",
)
CHANGELOG = "CHANGELOG.md"


class Remaining(NamedTuple):
    """What a person has to write: the file, and what belongs in it."""

    file: str
    what: str


class Publication(NamedTuple):
    """The models of a family, the files that were written, and what is left."""

    models: list[str]
    files: list[str]
    remaining: list[Remaining]


def publish_family(name: str) -> Publication:
    """Brings all generated data up to date with the file of a family; data of other families stay as they are.

    Raises InputError outside a checkout and for a name without a file, SpecError with all problems of the family; nothing is written
    then.
    """
    _check_place()
    path = CORE.folder / f"{name}.toml"
    if not path.is_file():
        names = [other.stem for other in CORE.folder.glob("*.toml")]
        step = "write this file first: CONTRIBUTING.md, `A family`"
        raise InputError("publish-family", Problem("", _relative(path), "no such file", nearest(name, names), step))
    family = read_file(path)
    problems = list(problems_of(family, name))
    if problems:
        raise SpecError(path.name, problems)
    _check_figures(family)
    files = [
        CORE.index_file,
        *(counted.table.path(CORE) for counted in COUNTED),
        ROOT / DIGESTS,
        ROOT / CARDS,
    ]
    write_whole(CORE.index_file, render(CORE, path.name))
    _forget()
    for counted in COUNTED:
        counted.write(CORE, path.name)
    _write_digests()
    _forget()
    cards.write(ROOT / CARDS, name)
    return Publication(list(family.variants), [_relative(file) for file in files], list(remaining(family, name)))


def problems_of(family: Family, name: str) -> Iterator[Problem]:
    """Everything for which a family would be refused: its texts, its models, its key rules, and promises that it breaks."""
    if family.text.name != name:
        yield Problem("family.name", f"`{name}`, as the file is called", f"`{family.text.name}`")
    if not family.text.title:
        yield Problem("family.title", "a title, which the page of the family shows", "none")
    if not family.text.paper and not family.text.code:
        yield Problem("family.paper", "a paper, or the authors' `code`", "neither")
    if not family.variants:
        yield Problem("variants", "a model: [variants.NAME]", "none")
    for library, rules in family.keys.items():
        try:
            KeyRules.from_data(rules, library)
        except SpecError as error:
            yield from (problem._replace(where=f"keys.{library}.{problem.where}") for problem in error.problems)
    digests = json.loads((ROOT / DIGESTS).read_text(encoding="utf-8"))
    for variant in family.variants:
        yield from _model_problems(family, variant, digests.get(variant))


def _model_problems(family: Family, variant: str, digest: str | None) -> Iterator[Problem]:
    entry = entries().get(variant)
    if entry is not None and entry.file != family.place:
        yield Problem(f"variants.{variant}", "a name that no other family has", f"one of {entry.file}")
        digest = None
    try:
        spec = resolve(family, variant, models=backbone_spec)
        check(spec)
    except ProblemsError as error:
        yield from (problem._replace(where=f"{variant}: {problem.where}") for problem in error.problems)
        return
    if digest not in (None, spec.digest):
        step = "undo what changed it, or replace what was promised: `python -m tests.specs.digests --accept`"
        yield Problem(f"variants.{variant}", f"the published digest {digest[:12]}", spec.digest[:12], next=step)  # type: ignore[index]


def remaining(family: Family, name: str) -> Iterator[Remaining]:
    """What no program can know of a published family and is not there yet."""
    models = {model for model in family.variants if not model.endswith("_nano")}
    if lacking := sorted(models - set(published())):
        figures = "parameters and MACs that the authors print, for " + listed(lacking)
        yield Remaining(_relative(CORE.data / "published.toml"), figures)
    if family.text.task == "image-classification" and models and not (ROOT / PARITY / f"{name}.toml").is_file():
        yield Remaining(f"{PARITY}/{name}.toml", "`golden` outputs of the original code, or `timm` with equal weights")
    if family.text.task == "language-modeling" and name not in (ROOT / "tests/models/test_language.py").read_text():
        yield Remaining(
            "tests/models/test_language.py", "a case: logits of the original code, and the model that gives them"
        )
    if models and not family.keys:
        yield Remaining(
            _relative(CORE.folder / f"{name}.toml"), "[keys.official]: from the names of the authors' files to ours"
        )
    for library in _untested_keys(family, name):
        yield Remaining(f"{NAMES}/{name}.{library}.json", f"names and shapes of a checkpoint for [keys.{library}]")
    if models and not (CORE.weights / f"{name}.toml").is_file():
        yield Remaining(
            _relative(CORE.weights / f"{name}.toml"), "the checkpoints that others published, if there are any"
        )
    if name not in (ROOT / CHANGELOG).read_text(encoding="utf-8").lower():
        yield Remaining(CHANGELOG, f"a line on {name}")


def _untested_keys(family: Family, name: str) -> Iterator[str]:
    """The key rules whose upstream names stand neither in a golden nor in timm; none before it is said what these are."""
    path = ROOT / PARITY / f"{name}.toml"
    if family.text.task == "image-classification" and not path.is_file():
        return
    parity = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    tested = [
        family.keys.get(library)
        for library, table in (("official", "golden"), ("official", "dense"), ("timm", "timm"))
        if parity.get(table)
    ]
    for library, rules in family.keys.items():
        recorded = (ROOT / NAMES / f"{name}.{library}.json").is_file() or library == "transformers"
        if not recorded and rules not in tested:
            yield library


def _check_place() -> None:
    parts = [DIGESTS, CARDS, PARITY, CHANGELOG]
    if missing := [part for part in parts if not (ROOT / part).exists()]:
        found = f"{ROOT} without {listed(missing)}"
        step = "families of your own package: `zoo index NAMESPACE`"
        raise InputError("publish-family", Problem("", "a checkout of this repository", found, next=step))


def _check_figures(family: Family) -> None:
    """Raises InputError where pages cannot print what authors do: for a file that is damaged, and for lines of no model."""
    path = CORE.data / PUBLISHED
    try:
        names = figures_in(path.read_bytes())
    except (OSError, ValueError) as error:
        found, step = str(error), "mend that line; the head of the file says what one holds"
        raise InputError("publish-family", Problem(_relative(path), "printed figures", found, next=step)) from None
    known = [*entries(), *family.variants]
    problems = [
        Problem(f"{_relative(path)}: {name}", "a model of the zoo", f"`{name}`", nearest(name, known))
        for name in names
        if name not in known
    ]
    if problems:
        raise InputError("publish-family", problems)


def _write_digests() -> None:
    """The digests of the index, beside which no promise may stand that is another. Raises InputError for one that is."""
    path = ROOT / DIGESTS
    promised, digests = promises.read(path), {name: entry.digest for name, entry in entries().items()}
    if changed := sorted(name for name in promised if promised[name] != digests.get(name)):
        step = "undo what changed it, or replace what was promised: `python -m tests.specs.digests --accept`"
        raise InputError(
            "publish-family", Problem(DIGESTS, "the published digests", f"others of {listed(changed)}", next=step)
        )
    write_whole(path, promises.render(digests).encode())


def _forget() -> None:
    """The files were written: what was read of them is stale."""
    forget()
    for cached in (costs, parts, loads, published, family_of):
        cached.cache_clear()


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
