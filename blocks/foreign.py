"""Who else may have written a file that we are about to believe: one rule for compiled kernels and for stamps of hashes."""

from __future__ import annotations

import os
import pathlib
import stat


def foreign(path: pathlib.Path) -> str:
    """Why somebody else may have written what is at `path`, as a part of a sentence, or "": a link, another owner, a mode that lets
    others write. Raises OSError for what cannot be looked at. On Windows, where modes say nothing, nobody is foreign."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a link"
    if not hasattr(os, "geteuid"):
        return ""
    if status.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user (uid {status.st_uid})"
    if status.st_mode & 0o022:
        return f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):o}); next: chmod go-w"
    return ""
