"""Where pictures come from: a file, a folder tree, a list of paths, a tar, a column of a Parquet file.

A source knows the names of its pictures, in an order that does not change, before the first of them is read: so there is a count for
the time that is left, and a run that was broken off knows what is missing. Bytes are read when a picture's turn comes.
"""

from __future__ import annotations

import csv
import functools
import os
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from blocks.registry.words import printable
from zoo.data.arrow import arrow
from zoo.data.bands import Bands
from zoo.data.labelled import SUFFIXES
from zoo.data.pictures import Picture
from zoo.errors import InputError, Problem, listed
from zoo.system.folders import at_home

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LISTS = (".txt", ".lst", ".csv")
PATH_COLUMNS = ("path", "image", "file", "filename", "file_name", "picture")
BYTES_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "webp", "picture", "content", "data")
NAME_COLUMNS = ("__key__", "key", "id", "name", "path", "filename", "file_name")
MOST_BYTES = 2**30
"""Of one picture in an archive that is compressed."""


def pictures_of(sources: Sequence[str | os.PathLike[str]], column: str = "") -> list[Picture]:
    """The pictures of all sources, one after the other. `column` is that of a Parquet file or a CSV.

    Raises InputError for a folder or an archive without pictures, and for one that cannot be read; a file that is none of these is
    taken for a picture, and what is wrong with it is told when it is read.
    """
    return [picture for source in sources for picture in _pictures(at_home(source), column)]


def _pictures(path: Path, column: str) -> list[Picture]:
    name = path.name.lower()
    if os.path.isdir(path):
        found = _of_folder(path)
        expected = "a folder with pictures (.jpg, .png, .webp, …)"
    elif name.endswith(TARS) and os.path.isfile(path):
        found, expected = _of_tar(path), "a tar with pictures"
    elif name.endswith(".parquet") and os.path.isfile(path):
        found, expected = _of_parquet(path, column), "a Parquet file with rows"
    elif name.endswith(LISTS) and os.path.isfile(path):
        found, expected = _of_list(path, column), "a list of paths, one in each line"
    else:
        return [Picture(text(path), str(path))]
    if not found:
        raise InputError(str(path), Problem("", expected, "none"))
    return found


def text(path: str | os.PathLike[str]) -> str:
    """A path as text that every file can hold: bytes that are no UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_picture(name: str) -> bool:
    """By its name; what other systems leave beside pictures (`._cat.jpg`) is none."""
    last = name.rpartition("/")[2]
    return os.path.splitext(last.lower())[1] in SUFFIXES and not last.startswith("._")


# folders and lists


def _of_folder(folder: Path) -> list[Picture]:
    """All pictures below it, by name; folders that are links are not followed, since they may lead round in a circle."""

    def refuse(error: OSError) -> None:
        raise InputError(str(folder), Problem("", "a folder that can be read", error.strerror or str(error)))

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        found += [Path(place, name) for name in sorted(files) if is_picture(name)]
    return [Picture(text(path), str(path)) for path in found]


def _of_list(path: Path, column: str) -> list[Picture]:
    """Paths in lines, or in a column of a CSV; they start at the folder of the list."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            names = _column(path, csv.DictReader(file), column) if path.suffix.lower() == ".csv" else list(_lines(file))
    except (OSError, csv.Error) as error:
        raise InputError(str(path), Problem("", "a list that can be read", str(error))) from None
    return [Picture(text(name), str(path.parent / name)) for name in names]


def _lines(file: Any) -> Iterator[str]:
    for line in file:
        if name := line.strip("\r\n"):
            yield name


def _column(path: Path, rows: Any, column: str) -> list[str]:
    name = _chosen(path, list(rows.fieldnames or ()), column, PATH_COLUMNS, "the paths")
    return [row[name] for row in rows if row[name]]


def _chosen(path: Path, columns: list[str], column: str, usual: Sequence[str], what: str) -> str:
    """The column that was asked for, else the first that is called as usual. Raises InputError with the columns that there are."""
    name = column or next((each for each in usual if each in columns), "")
    if name not in columns or not name:
        expected = f"a column with {what}: {listed(columns)}" if columns else f"a column with {what}"
        found = f"`{column}`" if column else f"none called {listed(usual)}"
        raise InputError(str(path), Problem("", expected, found, next="name it: --column NAME"))
    return name


# archives


class Numbered(Picture, frozen=True):
    """A picture that is found by its number in a compressed tar, or among the rows of a Parquet file, whose `column` holds it."""

    number: int = 0
    column: str = ""

    def open(self, channels: int = 3) -> Image.Image | Bands:
        return self.loaded().open(channels)

    def read(self) -> bytes:
        return _cursor(self.path, self.column).read(self.number)

    def loaded(self) -> Picture:
        """With its bytes in memory: whoever decodes in threads loads in one, in the order of the numbers."""
        return Picture(self.name, data=self.read())


class Cursor:
    """The pictures of an archive by their numbers: in their order they are one pass, of which little is in memory."""

    def __init__(self, path: Path):
        self.path, self.next, self.lock = path, 0, threading.Lock()
        self.contents = self.walk()

    def walk(self) -> Iterator[Any]:
        raise NotImplementedError

    def bytes_of(self, content: Any) -> bytes:
        raise NotImplementedError

    def read(self, number: int) -> bytes:
        with self.lock:
            if number < self.next:
                self.next, self.contents = 0, self.walk()
            content = next(islice(self.contents, number - self.next, None), None)
            if content is None:  # a walk that was broken off is over
                raise InputError(str(self.path), Problem("", f"at least {number + 1} pictures", "a damaged file"))
            self.next = number + 1
            return self.bytes_of(content)


@functools.lru_cache(maxsize=8)
def _cursor(path: str, column: str) -> Cursor:
    return Cells(Path(path), column) if column else Members(Path(path))


# tars


class Members(Cursor):
    """Those of a tar; their contents are pairs of the archive and its member."""

    def walk(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        with tarfile.open(self.path) as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # or it would remember each
                if member.isfile() and is_picture(member.name):
                    yield archive, member

    def bytes_of(self, content: tuple[tarfile.TarFile, tarfile.TarInfo]) -> bytes:
        archive, member = content
        if member.size > MOST_BYTES:
            expected = f"a picture of at most {MOST_BYTES:,} bytes"
            raise InputError(member.name, Problem("", expected, f"one of {member.size:,}"))
        try:
            file = archive.extractfile(member)
            return file.read() if file is not None else b""
        except (OSError, EOFError, tarfile.TarError) as error:
            raise InputError(member.name, Problem("", "a whole archive", f"a damaged one: {error}")) from None


def _of_tar(path: Path) -> list[Picture]:
    """Of a plain tar parts of the file itself, which come in any order; of a compressed one numbers."""
    try:
        members = [(member.name, member.offset_data, member.size) for _, member in Members(path).contents]
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputError(str(path), Problem("", "a whole tar", f"a damaged one: {printable(error)}")) from None
    names = [f"{text(path)}:{text(name)}" for name, _, _ in members]
    if _is_plain(path):
        places = zip(names, members, strict=True)
        return [Picture(name, str(path), offset, size) for name, (_, offset, size) in places]
    return [Numbered(name, str(path), number=number) for number, name in enumerate(names)]


def _is_plain(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.ReadError:
        return False


# Parquet


class Cells(Cursor):
    """Those of a column of bytes, or of records with `bytes`; their contents are what Python makes of a cell."""

    BATCH = 64

    def __init__(self, path: Path, column: str):
        self.column = column
        super().__init__(path)

    def walk(self) -> Iterator[Any]:
        with _whole(self.path):
            for batch in parquet(self.path).iter_batches(batch_size=self.BATCH, columns=[self.column]):
                yield from batch.column(0)

    def bytes_of(self, content: Any) -> bytes:
        value = content.as_py()
        value = value.get("bytes") if isinstance(value, dict) else value
        if not value:
            raise InputError(str(self.path), Problem(self.column, "the bytes of a picture", "an empty cell"))
        return bytes(value)


def _of_parquet(path: Path, column: str) -> list[Picture]:
    """A column of bytes, or of records with bytes, as `datasets` writes them; or one of paths."""
    file = parquet(path)
    kinds = {field.name: field.type for field in file.schema_arrow}
    holding = [name for name in (*BYTES_COLUMNS, *kinds) if name in kinds and _holds_bytes(kinds[name])]
    naming = [name for name in NAME_COLUMNS if name in kinds and _is_text(kinds[name])]
    usual = holding or [name for name in PATH_COLUMNS if name in kinds]
    chosen = _chosen(path, list(kinds), column, usual, "the bytes or the paths of pictures")
    if _is_text(kinds[chosen]):
        paths = _cells(path, file, chosen).to_pylist()
        return [Picture(text(each), str(path.parent / each)) for each in paths if each]
    if not _holds_bytes(kinds[chosen]):
        raise InputError(str(path), Problem(chosen, "a column of bytes, or of paths", f"one of {kinds[chosen]}"))
    if naming:
        values = _cells(path, file, naming[0]).to_pylist()
    elif _is(kinds[chosen], "struct") and kinds[chosen].get_field_index("path") >= 0:
        values = _cells(path, file, f"{chosen}.path").combine_chunks().field("path").to_pylist()
    else:
        values = [None] * file.metadata.num_rows
    names = (str(number) if value is None else text(value) for number, value in enumerate(values))
    return [Numbered(f"{text(path)}:{name}", str(path), number=i, column=chosen) for i, name in enumerate(names)]


def parquet(path: Path) -> Any:
    """The file, opened by pyarrow. Raises InputError where that is not installed, and for a file that is none."""
    with _whole(path):
        return arrow(path).parquet.ParquetFile(path)


def _cells(path: Path, file: Any, column: str) -> Any:
    """One column. Raises InputError for a file that is damaged behind its beginning."""
    with _whole(path):
        return file.read(columns=[column]).column(0)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """What pyarrow raises of a file within, as an InputError."""
    package = arrow(path)
    try:
        yield
    except (OSError, package.ArrowException) as error:
        found = printable(" ".join(str(error).split()))
        raise InputError(str(path), Problem("", "a Parquet file", f"a damaged one: {found}")) from None


def _holds_bytes(kind: Any) -> bool:
    if _is(kind, "struct"):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return _is(kind, "binary", "large_binary", "fixed_size_binary")


def _is_text(kind: Any) -> bool:
    return _is(kind, "string", "large_string")


def _is(kind: Any, *names: str) -> bool:
    types = arrow("").types
    return any(getattr(types, f"is_{name}")(kind) for name in names)
