"""The language holds nets that it was not written for, and every published family."""

from __future__ import annotations

import pathlib
import tomllib

import jsonschema
import pytest

from zoo.catalog.collection import CORE
from zoo.catalog.published import backbone_spec
from zoo.errors import Problem, SpecError
from zoo.specs.json_schema import export
from zoo.specs.read import read_file
from zoo.specs.resolve import resolve

EXAMPLES = sorted((pathlib.Path(__file__).parent / "examples").glob("*.toml"))
FAMILIES = sorted(CORE.folder.glob("*.toml"))
SCHEMA = jsonschema.Draft202012Validator(export())

# What an example needs and no block gives yet: block -> where it is named first.
MISSING_BLOCKS = {
    "deepseek_v3": {},
    "efficientvim": {},
    "efficientvit_m": {},
    "hybrid_lm": {},
}  # fmt: skip
# Parameters that are yet to come to a block that is there: (block, parameter).
MISSING_PARAMETERS: dict[str, set[tuple[str, str]]] = {}


def problems(path: pathlib.Path) -> list[Problem]:
    """What is wrong with the variants of a file, in order, each problem once."""
    family = read_file(path)
    found: list[Problem] = []
    for variant in family.variants:
        try:
            resolve(family, variant)
        except SpecError as error:
            found += [problem for problem in error.problems if problem not in found]
    return found


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_of_an_example_only_what_is_to_come_is_missing(path: pathlib.Path) -> None:
    blocks: dict[str, str] = {}
    parameters: set[tuple[str, str]] = set()
    for problem in problems(path):
        if problem.expected == "a registered block":
            blocks.setdefault(problem.found.strip("`"), problem.where)
        else:
            assert problem.expected.startswith("a parameter of block `"), problem
            parameters.add((problem.expected.split("`")[1], problem.found.strip("`")))
    assert blocks == {name: f"{path.name}: {where}" for name, where in MISSING_BLOCKS.get(path.stem, {}).items()}
    assert parameters == MISSING_PARAMETERS.get(path.stem, set())


@pytest.mark.slow  # all are resolved by `tests/catalog/test_index.py` already, from the collection that lists them
@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_every_variant_of_a_published_family_resolves(path: pathlib.Path) -> None:
    family = read_file(path)
    assert family.variants
    for variant in family.variants:
        assert resolve(family, variant, models=backbone_spec).name == variant


def test_the_json_schema_accepts_every_published_family() -> None:
    for path in FAMILIES:
        assert [error.message for error in SCHEMA.iter_errors(tomllib.loads(path.read_text()))] == [], path.stem
