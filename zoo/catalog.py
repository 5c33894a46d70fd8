"""Names -> entries: what models there are, from a generated index. Data only; imports no torch.

`python -m zoo.catalog` writes zoo/models/index.json from the family files; a test holds it to them.
"""

from __future__ import annotations

import fnmatch
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from zoo.errors import Problem, UnknownModelError, nearest

if TYPE_CHECKING:
    from zoo.specs.model import Spec
    from zoo.specs.read import Family

MODELS = pathlib.Path(__file__).with_name("models")
INDEX = MODELS / "index.json"
WEIGHTS = MODELS / "weights"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model as the catalogue knows it. `tags` are the weights that ship, `listed` those that others published; `params` and `macs`
    are those of the train form."""

    name: str
    family: str
    file: str
    task: str
    digest: str
    params: int
    macs: int
    input_size: list[int]
    title: str = ""
    paper: str = ""
    licence: str = ""
    code: str = ""
    blocks: list[str] = []
    tags: list[str] = []
    listed: list[str] = []


@functools.cache
def entries() -> dict[str, Entry]:
    """Every model of the core collection, by name."""
    return {entry.name: entry for entry in msgspec.json.decode(INDEX.read_bytes(), type=list[Entry])}


def split_tag(name: str) -> tuple[str, str]:
    """`starnet_nano.digits` -> (`starnet_nano`, `digits`); no tag is ""."""
    model, _, tag = name.partition(".")
    return model, tag


def entry(name: str) -> Entry:
    """The entry of a model (a tag is allowed). Raises UnknownModelError with the nearest name."""
    model, tag = split_tag(name)
    if model not in entries():
        near = nearest(model, entries())
        raise UnknownModelError(
            "", Problem(f"no model `{name}`", f"one of {len(entries())} models", "", near, "`zoo list` shows them all")
        )
    found = entries()[model]
    tags = [*found.tags, *found.listed]
    if tag and tag not in tags:
        known = ", ".join(f"`{model}.{one}`" for one in tags) or "no weights yet"
        raise UnknownModelError(
            "", Problem(f"no weights `{name}`", f"a tag of `{model}`: {known}", f"`{tag}`", nearest(tag, tags))
        )
    return found


Patterns = str | Sequence[str]


def list_models(
    filter: Patterns = "",
    module: str = "",
    pretrained: bool = False,
    exclude_filters: Patterns = "",
    include_tags: bool = False,
    *,
    family: str = "",
    task: str = "",
    block: str = "",
) -> list[str]:
    """Names of models, sorted naturally; filtered by glob pattern(s), family, task, a block in use, and weights at hand.

    `module` is timm's word for the family. A pattern without wildcard is a name. Patterns see a model under its name and
    under those of its weights, `vim_nano.digits`; with `include_tags` these stand for themselves in the list. Weights at hand
    ship or are pinned; without `pretrained` the listed ones count, too.
    """
    from zoo.supply.collection import at_hand

    family = family or module
    names: list[str] = []
    loadable = set(at_hand()) if pretrained else set()
    for name, found in entries().items():
        if (family and found.family != family) or (task and found.task != task):
            continue
        tagged = [
            f"{name}.{tag}" for tag in [*found.tags, *found.listed] if not pretrained or f"{name}.{tag}" in loadable
        ]
        if pretrained and not tagged:
            continue
        if block and not any(block in (used, used.removeprefix("core/").removesuffix("@1")) for used in found.blocks):
            continue
        if include_tags and tagged:
            names += [one for one in tagged if _wanted([name, one], filter, exclude_filters)]
        elif _wanted([name, *tagged], filter, exclude_filters):
            names.append(name)
    return names


def _wanted(spellings: list[str], filters: Patterns, exclude_filters: Patterns) -> bool:
    """Whether some pattern, or none was given, fits one of the spellings, and no unwanted one does."""
    keep, drop = ([one] if isinstance(one, str) else list(one) for one in (filters, exclude_filters))
    return (not any(keep) or _fits(spellings, keep)) and not _fits(spellings, drop)


def _fits(spellings: list[str], patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in spellings for pattern in patterns)


def list_pretrained(filter: Patterns = "", exclude_filters: Patterns = "") -> list[str]:
    """Names of all weights at hand, `name.tag`."""
    return list_models(filter, pretrained=True, exclude_filters=exclude_filters, include_tags=True)


def list_modules() -> list[str]:
    """The families."""
    return sorted({found.family for found in entries().values()})


def is_model(name: str) -> bool:
    """Whether there is a model of this name; a tag is allowed, whether or not its weights exist."""
    return split_tag(name)[0] in entries()


@functools.lru_cache(maxsize=64)
def family_of(file: str) -> Family:
    """The family in a file of the core collection."""
    from zoo.specs.read import read_file

    return read_file(MODELS / file)


def published_spec(name: str) -> Spec:
    """The spec of a model as published, without changes."""
    from zoo.specs.resolve import resolve

    found = entry(name)
    return resolve(family_of(found.file), found.name)


def render() -> bytes:
    """The bytes that index.json should hold. Builds every model on meta to count its parameters and MACs."""
    from zoo.build.builder import build, input_size
    from zoo.measure.macs import count_macs
    from zoo.specs.read import read_file
    from zoo.specs.resolve import resolve
    from zoo.supply.collection import tables

    found = []
    for path in sorted(MODELS.glob("*.toml")):
        family = read_file(path)
        listed = tables(WEIGHTS / path.name)
        for variant in family.variants:
            spec = resolve(family, variant)
            model = build(spec)
            text = spec.family
            found.append(
                Entry(
                    variant,
                    text.name,
                    path.name,
                    text.task,
                    spec.digest,
                    sum(parameter.numel() for parameter in model.parameters()),
                    count_macs(model).total,
                    list(input_size(spec.input)),
                    text.title,
                    text.paper,
                    text.licence,
                    text.code,
                    spec.blocks(),
                    sorted(
                        manifest.name.removesuffix(".json").partition(".")[2]
                        for manifest in WEIGHTS.glob(f"{variant}.*.json")
                    ),
                    [tag for model, tag in listed if model == variant],
                )
            )
    found.sort(key=lambda one: _natural(one.name))
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def _natural(name: str) -> list[tuple[int, str]]:
    """m5 before m36: digits count as numbers."""
    import re

    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def main() -> int:
    """Writes the index; with --check only says whether it is up to date."""
    fresh = render()
    if "--check" in sys.argv[1:]:
        current = INDEX.exists() and INDEX.read_bytes() == fresh
        print("index.json is up to date" if current else "index.json is stale: run `python -m zoo.catalog`")
        return 0 if current else 1
    INDEX.write_bytes(fresh)
    print(f"{len(msgspec.json.decode(fresh))} models written to {INDEX.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
