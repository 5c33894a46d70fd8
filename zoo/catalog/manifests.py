"""The weights that a model's name stands for: those that ship, those that others published, and of these the pinned. Imports no torch.

`zoo/models/weights/<family>.toml` lists weights that others published: fields of a manifest that all share, a table for each tag with
those that its models share, and under `models` what each has of its own. `top1` is short for a metric, in percent, at `size` or at the size
of `preprocess` or of the spec, with `figures` as the place where it is printed.
A line there says where bytes are; nobody of us has seen them, so none has a hash. `zoo pin` sees to that, on a machine with a network.
"""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from zoo import catalog
from zoo.artifacts import lockfile as locks
from zoo.artifacts import store
from zoo.catalog.collection import Collection
from zoo.catalog.external import manifest as external_manifest
from zoo.errors import Problem, ProblemsError, WeightsError
from zoo.weights.manifest import Manifest, manifest_from, read_manifest

ORDER = ("embedded", "pinned", "listed")


def manifests(name: str) -> list[Manifest]:
    """The manifests of a model's weights, best first: embedded before pinned before listed. Raises as `catalog.entry` does."""
    model, tag = catalog.split_tag(name)
    entry = catalog.entry(name)
    rows = [
        read_manifest(catalog.weights_manifest(model, each_tag)) for each_tag in entry.tags if tag in ("", each_tag)
    ]
    rows += [_pinned(published(f"{model}.{each_tag}")) for each_tag in entry.listed if tag in ("", each_tag)]
    return sorted(rows, key=lambda manifest: ORDER.index(manifest.state))


def at_hand(name: str = "") -> list[str]:
    """The weights that can be loaded here and now, `model.tag`: those of a model or of a tag, or all."""
    tag = catalog.split_tag(name)[1]
    pinned = locks.entries()
    models = [catalog.entry(name)] if name else catalog.entries().values()
    tags = ((entry.name, each_tag) for entry in models for each_tag in [*entry.tags, *entry.listed])
    shipped = {(entry.name, each_tag) for entry in models for each_tag in entry.tags}
    return [
        f"{model}.{each_tag}" for model, each_tag in tags
        if tag in ("", each_tag) and ((model, each_tag) in shipped or f"{model}.{each_tag}" in pinned)
    ]  # fmt: skip


def _pinned(manifest: Manifest) -> Manifest:
    """The manifest with the bytes of its pin, where there is one."""
    entry = locks.entries().get(manifest.name)
    if entry is None:
        return manifest
    file = entry.files[0]
    return msgspec.structs.replace(
        manifest, state="pinned", source=f"file:{store.place(file)}", revision=entry.revision,
        digest=entry.digest, sha256=file.sha256, sha256_prefix="", size_bytes=file.size_bytes,
    )  # fmt: skip


def published(name: str) -> Manifest:
    """The manifest of `model.tag` as its collection, or the code of a plugin, lists it. Raises WeightsError for one that is none."""
    if (known := external_manifest(name)) is not None:
        return known
    home, file = catalog.home_of(name), catalog.entry(name).file
    manifest = _published(home, file).get(name)
    if manifest is None:
        raise WeightsError(
            name, Problem(str(home.weights / file), "a line for these weights, which the index lists", "none")
        )
    return manifest


@functools.cache
def _published(home: Collection, file: str) -> dict[str, Manifest]:
    path = home.weights / file
    try:
        rows = [_manifest(home.full(model), tag, values, path) for (model, tag), values in tables(path).items()]
    except ProblemsError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:  # a plugin's file may be anything
        raise WeightsError(
            str(path), Problem("", "weights that others published, by tag and model", str(error))
        ) from None
    return {manifest.name: manifest for manifest in rows}


def tables(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """{(model, tag): its fields}, as they stand in the file; nothing where there is none."""
    if not path.exists():
        return {}
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    tags = {key: table for key, table in content.items() if isinstance(table, dict) and "models" in table}
    everywhere = {key: value for key, value in content.items() if key not in tags}
    fields: dict[tuple[str, str], dict[str, Any]] = {}
    for tag, table in tags.items():
        shared = everywhere | {key: value for key, value in table.items() if key != "models"}
        fields |= {(model, tag): shared | differences for model, differences in table["models"].items()}
    return fields


def _manifest(model: str, tag: str, values: dict[str, Any], path: Path) -> Manifest:
    entry = catalog.entry(model)
    top1, printed, size = (values.get(key) for key in ("top1", "figures", "size"))
    values = {key: value for key, value in values.items() if key not in ("top1", "figures", "size")}
    if top1 is not None:
        size = size or values.get("preprocess", {}).get("size") or entry.input_size[-1]
        values["metrics"] = {f"imagenet-1k/top1@{size}": {"value": round(top1 / 100, 6), "source": printed}}
    digest = entry.digest
    identity = {"model": model, "tag": tag, "digest": digest, "state": "pinned" if "sha256" in values else "listed"}
    return manifest_from(identity | values, f"{path.name}: {tag}.models.{model}")
