"""Names -> entries: what models there are, from the generated index of each collection. Data only; imports no torch."""

from __future__ import annotations

import functools
import os
import pathlib
import re

import msgspec

from blocks.registry import forget_plugins, known, plugins
from blocks.registry.words import LONGEST_NAME, MODEL, TAG, WORD, is_name, is_text, short_name
from zoo.catalog.collection import Collection, collections, namespace_of, read_data
from zoo.display.rows import Row
from zoo.errors import Problem, UnknownModelError, listed, nearest
from zoo.system.file_kinds import ENDINGS

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

    def uses(self, block: str) -> bool:
        """Whether a block, by its name or its identity, is in use, or any block of a kind."""
        return any(block in (used, short_name(used), _kind_of(used)) for used in self.blocks)


def _kind_of(block: str) -> str:
    """ "" of a block of which its package says nothing."""
    info = known(block)
    return info.kind if info is not None else ""


@functools.cache
def entries() -> dict[str, Entry]:
    """Every model by name: those of the core, then those of plugins. A plugin whose index cannot be read is marked as broken."""
    by_name: dict[str, Entry] = {}
    for collection in collections().values():
        by_name |= _indexed(collection)
    return by_name


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
    full, by_name = collection.full, {}
    for raw in rows:
        try:
            entry = _sound(msgspec.json.decode(raw, type=Entry))
            by_name[full(entry.name)] = msgspec.structs.replace(entry, name=full(entry.name), family=full(entry.family))
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            if plugin is not None:
                cure = f"zoo index {collection.namespace}, or {plugin.reinstall}"
                plugin.fails("broken", f"{collection.index_file} lists what cannot be ({error}); next: {cure}")
    return by_name


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
        near, plugin = nearest(model, entries()), _missing_plugin(model)
        raise UnknownModelError(
            "",
            Problem(
                f"no model `{name}`", f"one of {len(entries())} models", "", near, plugin or "`zoo list` shows them all"
            ),
        )
    match = entries()[model]
    tags = [*match.tags, *match.listed]
    if tag and tag not in tags:
        spellings = ", ".join(f"`{model}.{each_tag}`" for each_tag in tags) or "no weights yet"
        raise UnknownModelError(
            "", Problem(f"no weights `{name}`", f"a tag of `{model}`: {spellings}", f"`{tag}`", nearest(tag, tags))
        )
    return match


def _missing_plugin(model: str) -> str:
    """Why the models of a namespace are not there; of a folder, why it is none here."""
    namespace = namespace_of(model)
    if not namespace:
        return ""
    if os.path.isdir(model):
        from zoo.artifacts.record import RECORD

        if os.path.isfile(os.path.join(model, RECORD)):
            return f"`{model}` is a folder that `zoo.save` wrote, and here a name of the catalogue is asked for"
        return f"`{model}` is a folder without {RECORD}, which `zoo.save` writes"
    owner = plugins.owner_of(namespace)
    if owner is None:
        return f"`{namespace}/` models come from a plugin package that is not installed"
    return plugins.refusal(namespace) or (f"{owner.owner} is broken: {owner.cause}" if owner.state == "broken" else "")


def is_model(name: str) -> bool:
    """Whether there is a model of this name; a tag is allowed, whether or not its weights exist."""
    return split_tag(name)[0] in entries()


def forget() -> None:
    """Reads installed distributions and their data anew at the next question."""
    forget_plugins()
    collections.cache_clear()
    entries.cache_clear()
