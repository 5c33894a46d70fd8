"""Weights that were trained here and ship in the package of their model: how they are written, and the command that trains them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from torch import nn

from zoo import catalog
from zoo.weights.load import save_weights
from zoo.weights.manifest import Manifest, write_manifest
from zoo.weights.probe import make_probe
from zoo.weights.verify import sha256_of


def embed(model: nn.Module, manifest: Manifest, shape: tuple[int, ...], origin: str) -> Manifest:
    """Writes NAME.TAG.safetensors and .json; returns the manifest with what these bytes are, and a probe of inputs of `shape`."""
    home = catalog.home_of(manifest.model)
    home.weights.mkdir(parents=True, exist_ok=True)
    path = home.weights / f"{home.short(manifest.model)}.{manifest.tag}.safetensors"
    save_weights(model, path)
    written = msgspec.structs.replace(
        manifest,
        source=f"embedded:{path.name}",
        state="embedded",
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path, use_stamps=False),
        origin=origin,
        probe=make_probe(model, 0, shape),
    )
    write_manifest(written, path.with_suffix(".json"))
    return written


def command_of(data: str, name: str, recipe: Any, flags: Sequence[str]) -> str:
    """`zoo train DATA NAME` with those of `flags` whose values are not the usual ones of the recipe."""
    usual = type(recipe)()
    changed = [flag for flag in flags if getattr(recipe, flag) != getattr(usual, flag)]
    return f"zoo train {data} {name}" + "".join(f" --{flag} {getattr(recipe, flag)}" for flag in changed)
