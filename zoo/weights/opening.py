"""The one place where a file of weights is opened, whoever named it: a user, a manifest, an index of several files.

With `ZOO_LOCKED=1` nothing is read whose bytes the lock does not name; what was hashed is what is read, by one descriptor. Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from zoo.artifacts.lockfile import allow, locked_only
from zoo.system.folders import at_home
from zoo.weights.errors import refuse_file
from zoo.weights.manifest import Manifest
from zoo.weights.verify import policy, settle, sha256_of_open, unchanged, verify_open, way_out


def expanded(weights: str | os.PathLike[str]) -> Path:
    """The path that a user means: `~` is a home. Every question about a file is asked of this path."""
    return at_home(weights)


@contextlib.contextmanager
def opened(weights: str | os.PathLike[str], subject: str, manifest: Manifest | None = None) -> Iterator[BufferedReader]:
    """The file, to be read in the block: whole, of the bytes that the manifest promises and that the lock allows.

    Raises WeightsError for what cannot be read, is not a file, holds other bytes, or is written to while the block runs."""
    path = expanded(weights)
    headline = f"{subject}: the file cannot be read; nothing was loaded"
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        found = (
            "a folder"
            if os.path.isdir(path)
            else "something else than a file"
            if os.path.exists(path)
            else "no such file"
        )
        raise refuse_file(headline, str(path), "a file", found, way_out(manifest) if manifest else "")
    try:
        with path.open("rb") as file:
            if manifest is not None or locked_only():
                settle(file)
            with unchanged(file, subject, str(path)):
                if manifest is not None:
                    verify_open(file, manifest)
                if locked_only():
                    allow(sha256_of_open(file, use_stamps=policy() != "always"), subject)
                yield file
    except OSError as error:
        raise refuse_file(headline, str(path), found=error.strerror or str(error)) from None
