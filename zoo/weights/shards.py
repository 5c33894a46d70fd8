"""A checkpoint in several files: an index, `*.safetensors.index.json`, says for each tensor which file beside it holds it.

The layout is that of transformers' `save_pretrained` for large models. The index may name files of its own folder only.
Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path

from zoo.weights.errors import refuse_file
from zoo.weights.header import MAX_HEADER_BYTES, MAX_TENSORS
from zoo.weights.manifest_rules import path_fault

INDEX = ".safetensors.index.json"
MAX_FILES = 1_000


def is_index(name: str) -> bool:
    return name.endswith(INDEX)


def files_of(path: Path, subject: str) -> list[str]:
    """The names of the files that an index speaks of. Raises WeightsError, OSError for a file that cannot be opened."""
    with path.open("rb") as file:
        return sorted(set(places(file, subject, str(path)).values()))


def places(file: BufferedReader, subject: str, where: str) -> dict[str, str]:
    """{tensor: file} of an open index. Raises WeightsError."""
    headline = f"{subject}: the index cannot be used; nothing was loaded"
    expected = '{"weight_map": {tensor: file}}'
    try:
        data = file.read(MAX_HEADER_BYTES + 1)
        content = json.loads(data) if len(data) <= MAX_HEADER_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise refuse_file(headline, where, expected, str(error)) from None
    weight_map = content.get("weight_map") if isinstance(content, Mapping) else None
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(name, str) for name in weight_map.values())
    ):
        raise refuse_file(headline, where, expected, "another content")
    if len(weight_map) > MAX_TENSORS or len(set(weight_map.values())) > MAX_FILES:
        raise refuse_file(headline, where, f"at most {MAX_TENSORS:,} tensors in {MAX_FILES:,} files", "more")
    for name in set(weight_map.values()):
        fault = "a folder in it" if "/" in name else path_fault(name)
        if fault or not name.endswith(".safetensors"):
            text = f"`{ascii(name)[1:-1][:80]}`" + (f", with {fault}" if fault else "")
            raise refuse_file(headline, where, "names of .safetensors files beside the index", text)
    return weight_map
