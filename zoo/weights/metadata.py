"""The metadata of a safetensors file, rewritten in front of tensors that stay byte for byte what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from zoo.system.folders import replacing
from zoo.weights.errors import refuse_file
from zoo.weights.header import read_header


def write_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Replaces the metadata of a file, whole or not at all. Raises WeightsError for one that is not sound or cannot be written."""
    read_header(path)
    try:
        with replacing(path) as draft, path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            header["__metadata__"] = dict(sorted(metadata.items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            text += b" " * (-len(text) % 8)  # the format aligns the tensors
            with draft.open("wb") as copy:
                copy.write(len(text).to_bytes(8, "little") + text)
                shutil.copyfileobj(file, copy)
            read_header(draft)  # a full disk may show only as a short file
    except OSError as error:
        raise refuse_file(f"{path.name}: the metadata cannot be written", str(path), found=str(error)) from None
