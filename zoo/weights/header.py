"""Read and check the header of a safetensors file before the safetensors library sees the file.

Format: 8 bytes (little-endian length N), N bytes of JSON {name: {dtype, shape, data_offsets}}, then the data.
safetensors 0.8.0 accepts a header that names a tensor twice and keeps one; we refuse it. This file imports no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from zoo.errors import Problem, WeightsError, nearest
from zoo.weights.errors import TensorsError, refuse_file

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 100_000
MAX_RANK = 32
MAX_NAME = 1_000
"""Letters of a tensor's name: the work of a key rule grows with their square."""
MAX_ELEMENTS = 2**62

DTYPES = {  # name in the file -> (name in torch, bytes per value)
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "F32": ("float32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F64": ("float64", 8),
    "C64": ("complex64", 8),
}


class TensorInfo(msgspec.Struct, frozen=True):
    """`dtype` in torch's spelling (`float32`); the bytes are data[start:end], counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Header(msgspec.Struct, frozen=True):
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


class ShapeAndType(NamedTuple):
    """What a header promises of one tensor."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def shape_and_type(shape: Iterable[int], dtype: object) -> ShapeAndType:
    """`dtype` may be a torch.dtype or its name."""
    return ShapeAndType(tuple(shape), str(dtype).removeprefix("torch."))


class _Bad(Exception):
    """What is wrong with a header: where, expected, found."""


def read_header(file: str | Path | bytes | BufferedReader, subject: str = "") -> Header:
    """The checked header of a safetensors file, given as a path, as its bytes, or open: then the data comes next.

    Raises WeightsError for anything that is not a whole, well-formed safetensors file; never anything else."""
    where = "" if isinstance(file, bytes) else str(file if isinstance(file, str | Path) else file.name)
    subject = subject or Path(where or "bytes").name
    try:
        head, size_bytes = _take(file)
        return _parse(head, size_bytes)
    except _Bad as bad:
        place, expected, found = bad.args
        where = ": ".join(part for part in (where, place) if part)
        headline = f"{subject}: not a sound safetensors file; nothing was loaded"
        raise refuse_file(headline, where, expected, found) from None
    except OSError as error:
        headline = f"{subject}: the file cannot be read; nothing was loaded"
        raise refuse_file(headline, where, found=error.strerror or str(error)) from None


def check_header(
    found: Header,
    expected: Mapping[str, tuple[Sequence[int], object]],
    subject: str,
    ties: Iterable[Collection[str]] = (),
) -> None:
    """Raise WeightsError naming every tensor that is missing, extra, wrongly shaped or of another dtype.

    `expected` is {name: (shape, dtype)}; of each group of names in `ties` (shared parameters) one name suffices."""
    found_types = {name: shape_and_type(info.shape, info.dtype) for name, info in found.tensors.items()}
    problems = differences(found_types, {name: shape_and_type(*pair) for name, pair in expected.items()}, ties)
    if problems:
        raise TensorsError(subject, problems)


def differences(
    found: Mapping[str, ShapeAndType],
    expected: Mapping[str, ShapeAndType],
    ties: Iterable[Collection[str]] = (),
    any_float: bool = False,
) -> list[Problem]:
    """Every problem between two headers. `any_float`: one float dtype may stand for another (it will be converted)."""
    spared = {name for group in ties if any(tied in found for tied in group) for name in group}
    missing = [name for name in expected if name not in found and name not in spared]
    extra = [name for name in found if name not in expected]
    problems = []
    for place, name in enumerate(missing):
        problems.append(Problem(name, str(expected[name]), "none", _near(name, extra, place)))
    for place, name in enumerate(extra):
        problems.append(Problem(name, "", "a tensor that the model does not have", _near(name, missing, place)))
    for name in expected:
        if name in found and not _same(found[name], expected[name], any_float):
            problems.append(Problem(name, str(expected[name]), str(found[name])))
    return problems


def _same(found: ShapeAndType, expected: ShapeAndType, any_float: bool) -> bool:
    floats = any_float and "float" in found.dtype and "float" in expected.dtype
    return found.shape == expected.shape and (floats or found.dtype == expected.dtype)


def _near(name: str, candidates: list[str], place: int) -> str:
    """Spelling distance is slow; no one reads past the first dozen of hundreds."""
    return nearest(name, candidates[:1000]) if place < 50 else ""


def _take(file: str | Path | bytes | BufferedReader) -> tuple[bytes, int]:
    """The bytes of the header and the size of the whole file."""
    if isinstance(file, bytes):
        length = _length(file[:8], len(file))
        return file[8 : 8 + length], len(file)
    if not isinstance(file, str | Path):
        return _take_open(file)
    path = Path(file)
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise _Bad("", "a file", "a folder" if path.is_dir() else "something else than a file")
    with path.open("rb") as file:
        return _take_open(file)


def _take_open(file: BufferedReader) -> tuple[bytes, int]:
    size_bytes = os.fstat(file.fileno()).st_size
    length = _length(file.read(8), size_bytes)
    return file.read(length), size_bytes


def _length(first: bytes, size_bytes: int) -> int:
    if len(first) < 8:
        raise _Bad("", "a file of at least 8 bytes", f"{len(first)} bytes")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES:
        raise _Bad("header", f"at most {MAX_HEADER_BYTES:,} bytes", f"a length of {length:,} bytes")
    if 8 + length > size_bytes:
        raise _Bad("header", f"{length:,} bytes of header", f"a file that ends after {size_bytes:,} bytes")
    return length


def _parse(head: bytes, size_bytes: int) -> Header:
    if not head.startswith(b"{"):
        raise _Bad("header", "JSON that starts with `{`", f"{ascii(head[:8])[1:]}" if head else "nothing")
    try:
        pairs = json.loads(head, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        raise _Bad("header", "JSON", "text that is not JSON") from None
    entries = _unique(pairs, "header")
    metadata = _metadata(entries.pop("__metadata__", _Pairs()))
    if len(entries) > MAX_TENSORS:
        raise _Bad("header", f"at most {MAX_TENSORS:,} tensors", f"{len(entries):,}")
    tensors = {name: _info(name, entry) for name, entry in entries.items()}
    _check_spans(tensors, size_bytes - 8 - len(head))
    return Header(tensors, metadata)


class _Pairs(list):  # type: ignore[type-arg]
    """A JSON object before its duplicate names are lost."""


def _unique(pairs: Any, place: str) -> dict[str, Any]:
    if not isinstance(pairs, _Pairs):
        raise _Bad(place, "a JSON object", f"{type(pairs).__name__}")
    members: dict[str, Any] = {}
    for name, value in pairs:
        if not name.isprintable() or not name:
            raise _Bad(place, "printable names", ascii(name)[:80])
        if len(name) > MAX_NAME:
            raise _Bad(place, f"names of at most {MAX_NAME:,} letters", f"{len(name):,}: `{name[:40]}...`")
        if name in members:
            raise _Bad(place, "each name once", f"`{name}` twice")
        members[name] = value
    return members


def _metadata(pairs: Any) -> dict[str, str]:
    if not isinstance(pairs, _Pairs):
        raise _Bad("__metadata__", "an object of strings", type(pairs).__name__)
    if any(not isinstance(value, str) for _, value in pairs):
        raise _Bad("__metadata__", "an object of strings", "another value in it")
    if len(dict(pairs)) < len(pairs):
        raise _Bad("__metadata__", "each name once", "a name twice")
    try:
        "".join(text for pair in pairs for text in pair).encode()
    except UnicodeEncodeError:
        raise _Bad("__metadata__", "Unicode text", "half of a surrogate pair") from None
    return dict(pairs)


def _info(name: str, entry: Any) -> TensorInfo:
    members = _unique(entry, name)
    if sorted(members) != ["data_offsets", "dtype", "shape"]:
        found = ", ".join(f"`{key}`" for key in sorted(members)) or "none"
        raise _Bad(name, "`data_offsets`, `dtype` and `shape`", found[:80])
    dtype, shape, offsets = members["dtype"], members["shape"], members["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _Bad(f"{name}: dtype", f"one of {', '.join(DTYPES)}", ascii(dtype)[:80])
    if not _whole_numbers(shape) or len(shape) > MAX_RANK or prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise _Bad(f"{name}: shape", f"at most {MAX_RANK} sizes >= 0", ascii(shape)[:80])
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Bad(f"{name}: data_offsets", "start <= end", ascii(offsets)[:80])
    torch_name, width = DTYPES[dtype]
    if prod(shape) * width != offsets[1] - offsets[0]:
        expected = f"{prod(shape) * width:,} bytes for {torch_name} {tuple(shape)}"
        raise _Bad(f"{name}: data_offsets", expected, f"{offsets[1] - offsets[0]:,} bytes")
    return TensorInfo(torch_name, tuple(shape), offsets[0], offsets[1])


def _whole_numbers(values: Any) -> bool:
    """True for a list of integers in [0, 2^62]; JSON `true` is no integer here."""
    return type(values) is list and all(type(value) is int and 0 <= value <= MAX_ELEMENTS for value in values)


def _check_spans(tensors: dict[str, TensorInfo], data_bytes: int) -> None:
    """The spans must follow each other without gap or overlap and end where the file ends."""
    end = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != end:
            expected = f"a start at byte {end:,}, where the last tensor ends"
            raise _Bad(f"{name}: data_offsets", expected, f"{info.start:,}")
        end = info.end
    if end != data_bytes:
        raise _Bad("data", f"{end:,} bytes, as the header says", f"{data_bytes:,} bytes")


def as_weights_error(error: Exception, subject: str, where: str) -> WeightsError:
    """An error of another library, met after our own checks, as ours."""
    headline = f"{subject}: the file cannot be read; nothing was loaded"
    return refuse_file(headline, where, found=f"{type(error).__name__}: {error}")
