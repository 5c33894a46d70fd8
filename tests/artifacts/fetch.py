"""A process of its own that fetches a repository: `python -m tests.artifacts.fetch REFERENCE [MAX_BYTES | read-only]`; prints the hash of the weights."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import sys
from typing import Any

from zoo.artifacts.repository import repository
from zoo.errors import ProblemsError

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def read_only(event: str, details: tuple[Any, ...]) -> None:
    """What a file system says that is mounted read-only; the hook holds for root, too."""
    opened = event == "open" and isinstance(details[2], int) and details[2] & WRITING and details[0] != os.devnull
    if opened or event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(details[0]))


def main(reference: str, limit: str = "") -> int:
    if limit == "read-only":
        sys.addaudithook(read_only)
    elif limit:  # no file may grow beyond it, as on a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        path = repository(reference).files["model.safetensors"]
    except ProblemsError as error:
        print(f"{type(error).__name__}: {error}")
        return 2
    print(hashlib.sha256(path.read_bytes()).hexdigest())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
