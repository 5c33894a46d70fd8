"""What names a model: a word of the catalogue, or the path of a file with a variant behind a colon. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from zoo import catalog
from zoo.specs.model import Spec
from zoo.system.file_kinds import ENDINGS

Model = str | os.PathLike[str] | Spec | Mapping[str, Any]


def is_file(text: str) -> bool:
    """Whether a model is named by a file rather than by its name; `acme/net` is a name, `./acme/net` is none."""
    path, _ = split_variant(text)
    return path.endswith(ENDINGS) or (os.sep in path and not catalog.NAME.fullmatch(path))


def split_variant(text: str) -> tuple[str, str]:
    """(path, variant) of `net.toml` or `net.toml:variant`. A folder's name may hold colons: only what stands behind the last one,
    and is part of no path, is a variant."""
    path, _, variant = text.rpartition(":")
    if not path or os.sep in variant or "/" in variant or variant.endswith(ENDINGS) or os.path.isfile(text):
        return text, ""
    return path, variant
