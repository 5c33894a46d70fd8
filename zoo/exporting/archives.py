"""Archives of torch on their way to a disk: torch's own writer ends the whole process where that is full."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path


def write_archive(path: Path, save: Callable[[io.BytesIO], None]) -> None:
    """What `save` writes, by way of memory. Raises OSError."""
    file = io.BytesIO()
    save(file)
    path.write_bytes(file.getbuffer())
