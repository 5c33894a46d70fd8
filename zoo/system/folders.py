"""Where the zoo keeps what it learns on this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import secrets
import shutil
import sys
from collections.abc import Iterator

from zoo.errors import InputError, Problem

DRAFT = re.compile(r"\..{1,40}\.[0-9a-f]{16}\.tmp", re.DOTALL)
"""How a draft is called."""


def at_home(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path, `~` being the user's folder. Raises InputError for that of a user whom this machine does not know."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise InputError(str(path), Problem("", "a folder of a user whom this machine knows", "none")) from None


def data_folder() -> pathlib.Path:
    """The user's data folder of the zoo: $ZOO_DATA, or the system's own place. Made on first use. Raises InputError."""
    folder = data_path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = error.strerror or str(error)
        problem = Problem(str(folder), "a folder for measurements", found, next="set ZOO_DATA to a folder of yours")
        raise InputError("the data folder cannot be made", problem) from None
    return folder


def data_path() -> pathlib.Path:
    """Where that folder is, or would be."""
    return at_home(os.environ["ZOO_DATA"]) if os.environ.get("ZOO_DATA") else _system_folder()


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A draft beside `path`, to be written in the block; it takes the place of `path` when the block ends without an error.

    Its name is drawn, so no other thread or process writes to it. Its bytes are on the disk before it is renamed, so a power cut
    leaves the old file or the new one, each whole. Whatever happens, the draft is gone afterwards. Raises OSError, also where a folder
    or a device is at `path`: who may do all would put a file in the place of /dev/null."""
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "a folder or a device is there, and no file", str(path))
    draft = _draft_of(path)
    try:
        yield draft
        with draft.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def making(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A draft folder beside `folder`, to be filled in the block; it takes the place of `folder`, which is empty or not there yet, when the
    block ends without an error. Whatever happens, the draft is gone afterwards. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft_of(folder)
    try:
        draft.mkdir()
        yield draft
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _draft_of(path: pathlib.Path) -> pathlib.Path:
    """A hidden name beside `path` that nobody else has: a part of its own name, since one may have 255 bytes, and a drawn one."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")


def is_draft(path: pathlib.Path) -> bool:
    """Whether it is a draft, by its name: of a process at work, or of one that was killed."""
    return DRAFT.fullmatch(path.name) is not None


def forget_drafts(*folders: pathlib.Path) -> None:
    """Removes what processes left in folders of ours that were killed while they wrote. Nobody else may be at work there."""
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            for path in filter(is_draft, list(folder.iterdir())):
                path.unlink(missing_ok=True)


def write_whole(path: pathlib.Path, data: bytes) -> None:
    """The file is there with all of these bytes, or as it was. Makes its folder. Raises InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_bytes(data)
    except (OSError, ValueError) as error:
        raise _no_place(path, error) from None


def read_whole(path: pathlib.Path, most: int) -> bytes:
    """The bytes of a small file that somebody named. Raises OSError, also for more than `most` bytes, and for a pipe or a device, which
    would be waited for or read for ever."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "a pipe or a device, and no file", str(path))
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"more than {most:,} bytes", str(path))
    return data


def check_place(path: pathlib.Path) -> None:
    """Raises InputError where `write_whole` would: asked before work of minutes or hours whose result goes there."""
    try:
        with contextlib.suppress(FileNotFoundError):
            path.stat()  # which a path that is too long, or leads through a file, does not survive
        if path.exists() and not path.is_file():
            raise FileExistsError(errno.EEXIST, "a folder or a device is there, and no file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        draft = _draft_of(folder / path.name)
        draft.touch()
        draft.unlink()
    except (OSError, ValueError) as error:  # a name with a zero byte is no name
        raise _no_place(path, error) from None


def _no_place(path: pathlib.Path, error: OSError | ValueError) -> InputError:
    return InputError(str(path), Problem("", "a place to write to", getattr(error, "strerror", "") or str(error)))


def write_text(path: pathlib.Path, text: str) -> None:
    """`write_whole`, in UTF-8."""
    write_whole(path, text.encode())


def _system_folder() -> pathlib.Path:
    home = pathlib.Path.home()
    if sys.platform == "win32":
        return pathlib.Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local") / "zoo"
    if sys.platform == "darwin":
        return home / "Library/Application Support/zoo"
    return pathlib.Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "zoo"
