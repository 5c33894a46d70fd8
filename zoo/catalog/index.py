"""Names -> entries: what models there are, from the generated index of each collection. Data only; imports no torch.

`python -m zoo.catalog` writes zoo/models/index.json from the family files; a test holds it to them.
"""

from __future__ import annotations

import fnmatch
import functools
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from blocks import plugins
from blocks.words import LONGEST_NAME, MODEL, TAG, WORD, is_name, is_text
from zoo.catalog.collection import CORE, Collection, collections, namespace_of, read_data
from zoo.display.rows import Row
from zoo.errors import Problem, UnknownModelError, listed, nearest
from zoo.system.file_kinds import ENDINGS

if TYPE_CHECKING:
    from zoo.specs.model import Spec
    from zoo.specs.read import Family

NAME = re.compile(rf"(?:{WORD}/)?{MODEL}(?:\.{TAG})?")
"""A model, with its namespace where it is a plugin's, and a tag."""


class Entry(Row, frozen=True, omit_defaults=True):
    """One model as the catalogue knows it. `tags` are the weights that ship, `listed` those that others published; `params` and `macs`
    are those of the train form.

    `file` holds its spec; "" says that the code of a plugin builds it, and that no spec describes it.
    """

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
    """Every model by name: those of the core, then those of plugins. A plugin whose index cannot be read is marked as broken."""
    found: dict[str, Entry] = {}
    for collection in collections().values():
        found |= _indexed(collection)
    return found


def _indexed(collection: Collection) -> dict[str, Entry]:
    """The entries of one collection, under the names that users know. One that is not sound is left out, and its plugin marked."""
    if not collection.namespace:
        return {
            entry.name: entry for entry in msgspec.json.decode(collection.index_file.read_bytes(), type=list[Entry])
        }
    plugin = plugins.owner_of(collection.namespace)
    if plugin is not None and not collection.index_file.is_file():
        cure = f"zoo index {collection.namespace}, or {plugin.reinstall}"
        plugin.fails("broken", f"{collection.index_file} cannot be read (No such file or directory); next: {cure}")
    rows: list[msgspec.Raw] = read_data(
        collection, collection.index_file, lambda data: msgspec.json.decode(data, type=list[msgspec.Raw]), []
    )
    full, found = collection.full, {}
    for raw in rows:
        try:
            entry = _sound(msgspec.json.decode(raw, type=Entry))
            found[full(entry.name)] = msgspec.structs.replace(entry, name=full(entry.name), family=full(entry.family))
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            if plugin is not None:
                cure = f"zoo index {collection.namespace}, or {plugin.reinstall}"
                plugin.fails("broken", f"{collection.index_file} lists what cannot be ({error}); next: {cure}")
    return found


def _sound(entry: Entry) -> Entry:
    """The entry, whose names may stand in paths, commands and the shell, and whose texts may be shown. Raises ValueError with the first
    that may not."""
    rules = {
        "name": is_name(entry.name, MODEL),
        "family": is_name(entry.family),
        "file": not entry.file or (is_name(entry.file.removesuffix(".toml"), MODEL) and entry.file.endswith(".toml")),
        "digest": re.fullmatch("[0-9a-f]{64}", entry.digest) is not None,
        "params": 0 <= entry.params < 2**53 and 0 <= entry.macs < 2**63,
        "input_size": 1 <= len(entry.input_size) <= 3 and all(0 < side <= 10_000_000 for side in entry.input_size),
        "task": is_text(entry.task, LONGEST_NAME),
        **{field: is_text(getattr(entry, field)) for field in ("title", "paper", "licence", "code")},
        "blocks": all(is_text(block, LONGEST_NAME) for block in entry.blocks),
        "tags": all(is_name(tag, TAG) for tag in [*entry.tags, *entry.listed]),
    }
    wrong = [field for field, right in rules.items() if not right]
    if wrong:
        raise ValueError(f"`{entry.name[:LONGEST_NAME]}`: its {listed(wrong)}")
    return entry


def home_of(name: str) -> Collection:
    """The collection of a model."""
    return collections()[namespace_of(split_tag(name)[0])]


def weights_manifest(name: str, tag: str) -> pathlib.Path:
    """The file that describes the weights `tag` of a model."""
    home = home_of(name)
    return home.weights / f"{home.short(name)}.{tag}.json"


def split_tag(name: str) -> tuple[str, str]:
    """`starnet_nano.digits` -> (`starnet_nano`, `digits`); no tag is ""."""
    model, _, tag = name.partition(".")
    return model, tag


def entry(name: str) -> Entry:
    """The entry of a model (a tag is allowed). Raises UnknownModelError with the nearest name."""
    model, tag = split_tag(name)
    if name.endswith(ENDINGS):
        step = "zoo.create, `zoo info` and `zoo predict` take what `zoo.save` wrote, and zoo.create(NAME, weights=PATH) other weights"
        raise UnknownModelError("", Problem(f"no model `{name}`", "a name of the catalogue here", "a file", next=step))
    if model not in entries():
        near, lost = nearest(model, entries()), _missing_plugin(model)
        raise UnknownModelError(
            "",
            Problem(
                f"no model `{name}`", f"one of {len(entries())} models", "", near, lost or "`zoo list` shows them all"
            ),
        )
    found = entries()[model]
    tags = [*found.tags, *found.listed]
    if tag and tag not in tags:
        known = ", ".join(f"`{model}.{one}`" for one in tags) or "no weights yet"
        raise UnknownModelError(
            "", Problem(f"no weights `{name}`", f"a tag of `{model}`: {known}", f"`{tag}`", nearest(tag, tags))
        )
    return found


def _missing_plugin(model: str) -> str:
    """Why the models of a namespace are not there."""
    namespace = namespace_of(model)
    if not namespace:
        return ""
    owner = plugins.owner_of(namespace)
    if owner is None:
        return f"`{namespace}/` models come from a plugin package that is not installed"
    return plugins.refusal(namespace) or (f"{owner.owner} is broken: {owner.cause}" if owner.state == "broken" else "")


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
    family = family or module
    names: list[str] = []
    loadable: set[str] = set()
    if pretrained:
        from zoo.catalog.manifests import at_hand

        loadable = set(at_hand())
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
def family_of(path: pathlib.Path) -> Family:
    """The family in a file of a collection."""
    from zoo.specs.read import read_file

    return read_file(path)


def source_of(name: str) -> pathlib.Path:
    """The file with the spec of a model. Raises InputError for one that no spec describes."""
    from zoo.errors import InputError

    found, home = entry(name), home_of(name)
    if not found.file:
        raise InputError(found.name, Problem("", "a model with a spec", f"one that the code of {home.owner} builds"))
    return home.folder / found.file


def published_spec(
    name: str, overrides: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
) -> Spec:
    """The spec of a model as published, or with changes from code and from the shell."""
    from zoo.specs.resolve import resolve

    full = entry(name).name
    spec = resolve(family_of(source_of(name)), home_of(name).short(full), overrides, settings)
    spec.name = full
    return spec


def specs_in(collection: Collection) -> Iterator[tuple[str, Spec]]:
    """File name and spec of every model that stands in the files of a collection, installed or not."""
    from zoo.specs.read import read_file
    from zoo.specs.resolve import resolve

    for path in sorted(collection.folder.glob("*.toml")):
        family = read_file(path)
        for variant in family.variants:
            yield path.name, resolve(family, variant)


def render(collection: Collection = CORE) -> bytes:
    """The bytes that the index of a collection should hold. Builds every model on meta to count its parameters and MACs."""
    from zoo.build.builder import build, input_size
    from zoo.catalog.manifests import tables
    from zoo.measure.macs import count_macs

    found = []
    for file, spec in specs_in(collection):
        model = build(spec)
        text = spec.family
        found.append(
            Entry(
                spec.name,
                text.name,
                file,
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
                    for manifest in collection.weights.glob(f"{spec.name}.*.json")
                ),
                [tag for model, tag in tables(collection.weights / file) if model == spec.name],
            )
        )
    found.sort(key=lambda one: _natural(one.name))
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def _natural(name: str) -> list[tuple[int, str]]:
    """m5 before m36: digits count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def main() -> int:
    """Writes the index; with --check only says whether it is up to date."""
    fresh = render()
    if "--check" in sys.argv[1:]:
        current = CORE.index_file.exists() and CORE.index_file.read_bytes() == fresh
        print("index.json is up to date" if current else "index.json is stale: run `python -m zoo.catalog`")
        return 0 if current else 1
    CORE.index_file.write_bytes(fresh)
    print(f"{len(msgspec.json.decode(fresh))} models written to {CORE.index_file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
