"""What models there are, under which names, and where their specs and weights lie. Data only; imports no torch."""

from __future__ import annotations

import importlib
from typing import Any

from zoo.catalog.index import (
    NAME,
    Entry,
    entries,
    entry,
    forget,
    home_of,
    is_model,
    split_tag,
    weights_manifest,
)

__all__ = ["NAME", "Entry", "entries", "entry", "forget", "home_of", "is_model", "split_tag", "weights_manifest"]

_MOVED = {
    **dict.fromkeys(["list_models", "list_modules", "list_pretrained"], "zoo.catalog.listing"),
    **dict.fromkeys(["family_of", "published_spec", "specs_in"], "zoo.catalog.published"),
    "source_of": "zoo.catalog.published:spec_file",
    "render": "zoo.authoring.core_index",
}
"""Where names that stood here in release 0.1 are now; they answer under their old place for one release more."""


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module `zoo.catalog` has no attribute `{name}`")
    module, _, now = _MOVED[name].partition(":")
    return getattr(importlib.import_module(module), now or name)
