"""From bytes to a family: TOML for authors, JSON for machines, both strict and bounded. Nothing of a spec is ever executed."""

from __future__ import annotations

import pathlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from blocks.registry.errors import MOST_PROBLEMS
from blocks.registry.schema import shown
from blocks.registry.words import LONGEST_NAME, LONGEST_TEXT, MODEL, is_name, is_text
from zoo.errors import Problem, SpecError, listed, nearest
from zoo.specs import key_sets
from zoo.specs.chains import MOST_STEPS, chain_of, fault_of
from zoo.specs.patch import EXTENDS
from zoo.specs.tree import Origin, Table, rooted
from zoo.system.nesting import MAX_NESTING, TooDeep, check_nesting
from zoo.system.strict_json import parse_json

SCHEMA = "zoo.spec/1"
MAX_BYTES = 1_000_000
MAX_VALUES = 200_000
SURROGATE = re.compile("[\ud800-\udfff]")
LEVEL = re.compile(r"layers|stem(\.[0-9]{1,3})?|stages\.[0-9]{1,3}")
TEXTS = ("title", "paper", "licence", "code", "about")

TASKS = (
    "image-classification", "multilabel-classification", "image-regression", "language-modeling", "sequence-classification",
    "feature-extraction", "semantic-segmentation", "object-detection", "super-resolution", "image-restoration", "pose-estimation",
    "depth-estimation", "video-classification", "salient-object-detection", "line-detection", "audio-enhancement", "image-generation",
    "masked-language-modeling", "time-series-forecasting", "speech-recognition", "audio-classification",
    "audio-generation", "robot-control", "molecule-energy", "translation", "recommendation", "node-classification",
)  # fmt: skip
"""What the outputs of a model are: one class, any number of classes, numbers, tokens, features; or what a net for a task gives."""


class FamilyText(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a family says of itself; no part of the digest.

    `levels`: the parts whose outputs are its feature levels, in order: `stem`, `stem.0`, `stages.1`, or `layers`, all of them. Without it
    each stage is one."""

    name: str = ""
    title: str = ""
    paper: str = ""
    task: str = "image-classification"
    licence: str = "Apache-2.0"
    code: str = ""
    about: str = ""
    levels: tuple[str, ...] = ()


class Family:
    """One file: the family's text, its spec, its variants as patches, and key rules for checkpoints of other libraries."""

    def __init__(self, place: str, text: FamilyText, spec: Table, variants: Table, keys: dict[str, Any]):
        self.place, self.text, self.spec, self.variants, self.keys = place, text, spec, variants, keys


def read_file(path: str | pathlib.Path) -> Family:
    """The family in a .toml or .json file. Raises SpecError with all problems of its outer form; a syntax error stands alone."""
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(path.name, Problem("", "a readable spec file", f"{error.strerror or error}: {path}")) from None
    return read_bytes(data, path.name)


def read_bytes(data: bytes, place: str) -> Family:
    """The family that `read_file` would read, from bytes; JSON when `place` ends in .json or the text begins with `{`, else TOML."""
    if len(data) > MAX_BYTES:
        raise SpecError(place, Problem("", f"a spec of at most {MAX_BYTES:,} bytes", "a larger file"))
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")  # the mark that some editors put first
    except UnicodeDecodeError as error:
        raise SpecError(
            place, Problem("", "UTF-8 text", f"byte 0x{data[error.start]:02x} at offset {error.start}")
        ) from None
    values = _json(text, place) if place.endswith(".json") or text.lstrip().startswith("{") else _toml(text, place)
    return family_of(values, place)


def read_json(data: bytes, place: str) -> Any:
    """Plain data of strict JSON: each key once, no NaN, nesting and numbers bounded. Raises SpecError."""
    try:
        return _json(data.decode("utf-8"), place)
    except UnicodeDecodeError as error:
        raise SpecError(
            place, Problem("", "UTF-8 text", f"byte 0x{data[error.start]:02x} at offset {error.start}")
        ) from None


def read_setting(text: str, where: str) -> Any:
    """The TOML value that a text is, or else the text itself: a bare word. Raises SpecError for a value beyond the bounds of a spec."""
    try:
        table = _parsed_toml(f"value = {text}", where)
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text  # a line end in it would bring more keys


def _toml(text: str, place: str) -> Any:
    try:
        return _parsed_toml(text, place)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(place, Problem("", "TOML", f"an error: {_syntax(str(error))}")) from None


def _parsed_toml(text: str, place: str) -> dict[str, Any]:
    """Raises TOMLDecodeError for what is no TOML, SpecError for what is too much of it."""
    try:
        check_nesting(text)
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except TooDeep as error:
        raise SpecError(place, Problem("", error.expected, error.found)) from None
    except RecursionError:
        raise SpecError(place, Problem("", f"at most {MAX_NESTING} levels of nesting", "more")) from None
    except ValueError:  # what tomllib lets through of int()
        raise SpecError(place, Problem("", "TOML", "an error: a number of too many digits")) from None


def _syntax(message: str) -> str:
    if not message:
        return "a syntax error"
    first = message.split()[0]
    return message[0].lower() + message[1:] if first[1:].islower() or len(first) == 1 else message


def _json(text: str, place: str) -> Any:
    try:
        return parse_json(text)
    except TooDeep as error:
        raise SpecError(place, Problem("", error.expected, error.found)) from None
    except ValueError as error:
        raise SpecError(place, Problem("", "JSON", f"an error: {_syntax(str(error))}")) from None


def family_of(values: Any, place: str) -> Family:
    """A family from plain data (a read file, or a table made in code)."""
    if not isinstance(values, Mapping):
        raise SpecError(
            place, Problem("", "a table with `schema`, `family`, `spec` and `variants`", type(values).__name__)
        )
    problems = bounds(values)
    if not problems:
        problems = list(islice(_outer_problems(values), MOST_PROBLEMS))
    if problems:
        raise SpecError(place, problems)
    text = msgspec.convert(values.get("family", {}), FamilyText)
    spec = rooted(values["spec"], Origin(place, "spec"))
    variants = rooted(values.get("variants", {}), Origin(place, "variants"))
    keys = key_sets.resolved(rooted(values.get("keys", {}), Origin(place, "keys")))
    return Family(place, text, spec, variants, keys)


def bounds(values: Any) -> list[Problem]:
    """Size and nesting of data that no parser has bounded, and values that are no data at all. Not recursive, on purpose."""
    count, front = 0, [((), values)]
    for _ in range(MAX_NESTING + 1):
        following: list[tuple[tuple[Any, ...], Any]] = []
        for path, node in front:
            count += 1
            if isinstance(node, Mapping):
                wrong = [key for key in node if not isinstance(key, str) or SURROGATE.search(key)]
                if wrong:
                    return [Problem(_dotted(path), "keys that are Unicode strings", ascii(wrong[0]))]
                if any(key.count(".") >= MAX_NESTING for key in node):
                    return [Problem(_dotted(path), f"keys of at most {MAX_NESTING} steps", "a longer one")]
                following.extend(((*path, key), child) for key, child in node.items())
            elif isinstance(node, (list, tuple)):
                following.extend(((*path, i), child) for i, child in enumerate(node))
            elif isinstance(node, int) and abs(node) >= 2**63:
                return [Problem(_dotted(path), "an int of 64 bits", "a larger one")]
            elif isinstance(node, str) and SURROGATE.search(node):
                return [Problem(_dotted(path), "Unicode text", "half of a surrogate pair")]
            elif not isinstance(node, (str, int, float, bool)):
                return [
                    Problem(
                        _dotted(path),
                        "a string, number, boolean, list or table",
                        "null" if node is None else f"a value of type `{type(node).__name__}`",
                    )
                ]
        if count > MAX_VALUES:
            return [Problem("", f"at most {MAX_VALUES:,} values", "more")]
        if not following:
            return []
        front = following
    return [Problem("", f"at most {MAX_NESTING} levels of nesting", "more")]


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(step) for step in path)


def _outer_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _unknown(values, ("schema", "family", "spec", "variants", "keys"), "")
    schema = values.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, str) and re.fullmatch(r"zoo\.spec/[0-9]+", schema)
        hint = "this spec needs a newer blockzoo" if newer else f'write schema = "{SCHEMA}" at the top'
        found = f'"{schema}"' if isinstance(schema, str) else shown(schema) if "schema" in values else "nothing"
        yield Problem("schema", f'"{SCHEMA}"', found, next=hint)
    for key in ("family", "spec", "variants", "keys"):
        if key in values and not isinstance(values[key], Mapping):
            yield Problem(key, "a table", shown(values[key]))
    if "spec" not in values:
        yield Problem("spec", "a table [spec]", "nothing", next="every spec has one")
    if isinstance(values.get("family"), Mapping):
        yield from _family_problems(values["family"])
    if isinstance(values.get("keys"), Mapping):
        yield from key_sets.problems(values["keys"])
    if isinstance(values.get("variants"), Mapping):
        for name in values["variants"]:
            yield from _variant_problems(name, values["variants"])


def _variant_problems(name: str, variants: Mapping[str, Any]) -> Iterator[Problem]:
    patch = variants[name]
    if not is_name(name, MODEL):
        yield Problem(f"variants.{name}", "a name of lower-case letters, digits and _", f"`{name}`", next=_about(name))
    if not isinstance(patch, Mapping):
        yield Problem(f"variants.{name}", "a table of changes", shown(patch))
    elif EXTENDS in patch:
        yield from _extends_problems(name, patch[EXTENDS], variants)


def _extends_problems(name: str, sibling: Any, variants: Mapping[str, Any]) -> Iterator[Problem]:
    where = f"variants.{name}.{EXTENDS}"
    if not isinstance(sibling, str):
        yield Problem(where, "the name of another variant", shown(sibling))
    elif sibling not in variants:
        others = [other for other in variants if other != name]
        expected = f"one of {listed(others, 20)}" if others else "another variant of this family"
        yield Problem(where, expected, f"`{sibling}`", nearest(sibling, others))
    elif len(chain := chain_of(name, variants, EXTENDS)) > MOST_STEPS:
        yield Problem(where, "a variant that stands on the family in the end", fault_of(chain))


def _family_problems(family: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _unknown(family, FamilyText.__struct_fields__, "family.")
    for key, value in family.items():
        if key in FamilyText.__struct_fields__ and key != "levels" and not isinstance(value, str):
            yield Problem(f"family.{key}", "a string", shown(value))
        elif key == "name" and value and not is_name(value):
            expected = "a name of lower-case letters, digits and _ that begins with a letter"
            yield Problem("family.name", expected, f"`{value}`", next=_about(value))
        elif key in TEXTS and not is_text(value):
            yield Problem(f"family.{key}", f"one line of at most {LONGEST_TEXT} letters that can be seen", shown(value))
    levels = family.get("levels", [])
    if not isinstance(levels, list) or not all(isinstance(level, str) and LEVEL.fullmatch(level) for level in levels):
        expected = "names of parts like `stem`, `stem.0`, `stages.1`, or `layers`"
        yield Problem("family.levels", expected, shown(levels))
    task = family.get("task", TASKS[0])
    if isinstance(task, str) and task not in TASKS:
        yield Problem("family.task", f"one of {listed(TASKS, 32)}", f"`{task}`", nearest(task, TASKS))


def _about(name: str) -> str:
    """What is wrong with a name whose letters are right."""
    if not re.fullmatch("[a-z0-9_]+", name):
        return ""
    return (
        f"at most {LONGEST_NAME} letters"
        if len(name) > LONGEST_NAME
        else "take another: Python keeps this word for itself"
    )


def _unknown(table: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> Iterator[Problem]:
    for key in table:
        if key not in known:
            yield Problem(prefix + key, f"one of {listed(known)}", f"`{key}`", nearest(key, known))
