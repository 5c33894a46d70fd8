"""What a file of torch.save claims, read before torch reads the file. No tensor is made here, no class looked up, nothing of the file called.

A pickle is a small program. It is run here with stand-ins for what a checkpoint may name: a tensor is only its `Claim`, a storage only
its size. So claims are held against the bytes that are there (a tensor may have no more values than its storage, a storage no more than
its record, an archive no more than its file) before torch does any work that grows with them. Formats: the zip archive of torch 1.6 and
later, and the pickles one after the other of the versions before.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, ClassVar, NamedTuple

import torch

from zoo.errors import Problem
from zoo.weights.errors import BytesError, TensorsError, refuse_file
from zoo.weights.header import MAX_RANK, MAX_TENSORS

MAX_PICKLE_BYTES = 2**25
MOST_SHARING = 64
"""How often the bytes of a file may be claimed by its tensors together; tied weights claim theirs more than once."""
SAFE_TORCH = (2, 10)
"""Older ones can be made to run code by a pickle even with `weights_only=True`."""
MAGIC = 0x1950A86A20F9469CFC6C
"""The number with which a file began of torch before 1.6."""


class Claim(NamedTuple):
    """A tensor as a pickle states it: how many bytes it says it has, and what makes it none that a model can be given, or ""."""

    size_bytes: int
    fault: str = ""


class Storage(NamedTuple):
    """Memory that a tensor is a view of."""

    values: int
    width: int


class _Refused(Exception):
    """A name that a checkpoint may not use, or use in that way."""


class _Token:
    """A name that may be mentioned but not called: a dtype, a kind of storage, a class of tensors."""

    def __init__(self, name: str, width: int = 0):
        self.name, self.width = name, width

    def __call__(self, *values: Any) -> Any:
        raise _Refused(f"a call of `{self.name}`")


class _Inert:
    """An object of a class that the user has allowed: what it is made of does not matter here."""

    def __new__(cls, *values: Any, **named: Any) -> _Inert:
        return super().__new__(cls)


def check_pickle(file: IO[bytes], subject: str, where: str) -> None:
    """Raises WeightsError unless the open file is a checkpoint of plain dense tensors and plain values whose claims hold."""
    if _version() < SAFE_TORCH:
        raise refuse_file(
            f"{subject}: this torch cannot open a pickle safely; nothing was loaded",
            where,
            expected=f"torch >= {'.'.join(map(str, SAFE_TORCH))}",
            found=f"torch {torch.__version__}, which a pickle can make run code even where only tensors are wanted",
            next="upgrade torch, or convert the file to .safetensors where it can be opened",
        )
    size_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        zipped = file.read(4) == b"PK\3\4"
        file.seek(0)
        content = _of_archive(file, size_bytes) if zipped else _of_stream(file, size_bytes)
    except _Refused as refused:
        raise refuse_pickle(subject, where, str(refused)) from None
    except Exception:  # the bytes decide what goes wrong: IndexError, TypeError, UnicodeDecodeError, ...
        raise refuse_pickle(subject, where) from None
    claims = list(_claims(content))
    problems = [Problem(name, "a plain dense tensor", claim.fault) for name, claim in claims if claim.fault]
    claimed = sum(claim.size_bytes for _, claim in claims)
    if claimed > MOST_SHARING * size_bytes:
        expected = f"tensors of at most {MOST_SHARING} times the bytes of their file"
        problems.append(Problem(where, expected, f"{claimed:,} bytes in a file of {size_bytes:,}"))
    if problems:
        raise TensorsError(subject, problems)


def refuse_pickle(subject: str, where: str, found: str = "") -> BytesError:
    """The error of a pickle that names what it may not, or is none."""
    return refuse_file(
        f"{subject}: the pickle was refused; nothing was loaded",
        where,
        expected="tensors and plain values only",
        found=found or "bytes that are no checkpoint of torch.save",
        next="if you trust its author, load it yourself and pass the state dict as `weights=`",
    )


def _version() -> tuple[int, ...]:
    major, minor = str(torch.__version__).split(".")[:2]
    return int(major), int(minor)


def _of_archive(file: IO[bytes], size_bytes: int) -> Any:
    """What the pickle of an archive states. Its records are stored as they are, so together they have no more bytes than the file."""
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: info for info in archive.infolist()}
        if len(records) < len(archive.infolist()) or len(records) > 2 * MAX_TENSORS:
            raise _Refused(f"an archive of {len(archive.infolist()):,} records, some of one name")
        packed = any(info.compress_type != zipfile.ZIP_STORED for info in records.values())
        total = sum(info.file_size for info in records.values())
        if packed or total > size_bytes:
            raise _Refused(f"{total:,} bytes packed into {size_bytes:,}")
        (name,) = (name for name in records if name.endswith("/data.pkl") and name.count("/") == 1)
        if records[name].file_size > MAX_PICKLE_BYTES:
            raise _Refused(f"a pickle of {records[name].file_size:,} bytes")
        reader = _Reader(io.BytesIO(archive.read(name)))
        content = reader.load()
    folder = name.removesuffix("data.pkl") + "data/"
    for key, size in reader.storages.items():
        record = records.get(f"{folder}{key}")
        if record is None or record.file_size != size:
            raise _Refused(f"{size:,} bytes of values in a record of {record.file_size if record else 0:,}")
    return content


def _of_stream(file: IO[bytes], size_bytes: int) -> Any:
    """What the pickles at the beginning of an old file state: a number, a version, facts of a system, the content, the keys of storages."""
    start = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    if _Reader(start).load() != MAGIC:
        raise _Refused("")
    _Reader(start).load(), _Reader(start).load()
    reader = _Reader(start)
    content = reader.load()
    if (size := sum(reader.storages.values())) > size_bytes - start.tell():
        raise _Refused(f"{size:,} bytes of values in a file of {size_bytes:,}")
    return content


def _claims(content: Any) -> Iterator[tuple[str, Claim]]:
    """Every tensor that is stated, with its path of keys, once. What contains itself is walked once, too."""
    visited, pending = set[int](), [("", content)]
    while pending:
        path, value = pending.pop()
        if id(value) in visited:
            continue
        visited.add(id(value))
        if isinstance(value, Claim):
            yield path or "the content", value
        elif isinstance(value, Mapping):
            pending += [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple | set):
            pending += [(f"{path}.{place}", item) for place, item in enumerate(value)]


class _Reader(pickle._Unpickler):
    """Runs a pickle with the stand-ins of this file. Python's own reader in C would trust the numbers of a pickle with its memory."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"  # as the second protocol spells it
        if full in CALLS:
            return CALLS[full]
        if full in TOKENS:
            return _Token(full)
        if module.split(".")[0] == "torch" and name.endswith("Storage"):
            return _Token(full, WIDTHS[name])
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return _Token(full, dtype.itemsize)
        if full in {f"{cls.__module__}.{cls.__qualname__}" for cls in _allowed()}:
            return _Inert
        raise _Refused(f"`{full}`")

    def persistent_load(self, pid: Any) -> Storage:
        """("storage", kind, key, location, values), and in old files a view of it: (key, offset, values)."""
        word, kind, key, _, values, *view = pid
        if word != "storage" or not isinstance(kind, _Token) or not kind.width or type(values) is not int or values < 0:
            raise _Refused("a storage of no kind")
        if self.storages.setdefault(str(key), values * kind.width) != values * kind.width:
            raise _Refused("a storage of two sizes")
        if view and view[0] is not None:
            _, offset, length = view[0]
            if not 0 <= offset <= offset + length <= values:
                raise _Refused("a view beyond its storage")
            values = length
        return Storage(values, kind.width)

    def load_build(self) -> None:
        """What is set on an object, as `_metadata` on a state dict, is left out."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict | _Inert):
            raise _Refused("values set on what is no mapping")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _fill(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        _fill(self.stack[-1], items)

    def load_additems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.stack[-1].update(_keys(items))

    def load_frozenset(self) -> None:
        self.append(frozenset(_keys(self.pop_mark())))  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def _allowed() -> list[Any]:
    """What the user has told torch to build, too."""
    return [cls for cls in torch.serialization.get_safe_globals() if hasattr(cls, "__qualname__")]


def _keys(values: Any) -> list[Any]:
    """Values that can be keys at once: of a tuple of tuples the hash alone may take for ever."""
    if bad := [value for value in values if not isinstance(value, str | bytes | int | float | None)]:
        raise _Refused(f"a key of type {type(bad[0]).__name__}")
    return list(values)


def _fill(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict | _Inert):
        raise _Refused("entries of what is no mapping")
    if isinstance(target, dict):
        target.update(zip(_keys(items[::2]), items[1::2], strict=True))


def _tensor(storage: Storage, offset: int, size: Any, stride: Any, *_: Any, width: int = 0) -> Claim:
    """`width`: bytes of a value, where the storage is one of bytes."""
    width = width or storage.width
    numbers = [offset, *size, *stride]
    if not all(type(number) is int and number >= 0 for number in numbers) or not len(size) == len(stride) <= MAX_RANK:
        raise _Refused("a tensor of no shape")
    values, room = math.prod(size), storage.values * storage.width
    if values * width > room:
        return Claim(0, f"{values:,} values in {room:,} bytes, as `expand` makes them: save it `.contiguous()`")
    end = offset + 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if values and end * width > room:
        return Claim(0, f"values up to byte {end * width:,} of {room:,}")
    return Claim(values * width)


def _tensor_of_bytes(
    storage: Storage, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, kind: _Token, *_: Any
) -> Claim:
    return _tensor(storage, offset, size, stride, width=kind.width)


def _wrapped(tensor: Claim, *_: Any) -> Claim:
    return tensor if isinstance(tensor, Claim) else Claim(0, "a parameter of something else")


def _of_type(make: Callable[..., Claim], kind: Any, values: tuple[Any, ...], *_: Any) -> Claim:
    plain = kind is _wrapped or (isinstance(kind, _Token) and kind.name == "torch.Tensor")
    return make(*values) if plain else Claim(0, "a tensor of another class")


def _strange(what: str) -> Callable[..., Claim]:
    return lambda *values: Claim(0, what)


def _mapping(*pairs: Any) -> dict[Any, Any]:
    mapping: dict[Any, Any] = collections.OrderedDict()
    for pair in pairs[0] if pairs and isinstance(pairs[0], list) else ():
        _fill(mapping, list(pair))
    return mapping


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


def _sized(values: Any = ()) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise _Refused(f"sizes of type {type(values).__name__}")
    return tuple(values)


def _bytes(values: Any = b"", *_: Any) -> bytes:
    if not isinstance(values, bytes):
        raise _Refused("a call of `builtins.bytearray`")
    return values


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": lambda counts=None: {},
    "builtins.set": lambda values=(): set(_keys(_sized(values))),
    "builtins.complex": complex,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _encoded,
    "torch.Size": _sized,
    "torch.device": lambda *values: "",
    "torch.serialization._get_layout": lambda name: "",
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_parameter": _wrapped,
    "torch._utils._rebuild_parameter_with_state": _wrapped,
    "torch.nn.parameter.Parameter": _wrapped,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_sparse_tensor": _strange("a sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _strange("a nested tensor"),
    "torch._utils._rebuild_qtensor": _strange("a quantised tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _strange("a tensor without values, on meta"),
    "torch._utils._rebuild_wrapper_subclass": _strange("a tensor of another class"),
    "torch._utils._rebuild_device_tensor_from_numpy": _strange("a tensor of another device"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _strange("a tensor of another device"),
}
"""What a checkpoint may call, and what stands in for it."""

KINDS = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexDouble": 16, "ComplexFloat": 8, "QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1, "Untyped": 1,
}  # fmt: skip
WIDTHS = {f"{kind}Storage": width for kind, width in KINDS.items()}
"""Bytes of a value of each kind of storage."""
TOKENS = {
    "torch.Tensor", *(f"torch.{kind}Tensor" for kind in KINDS), *(f"torch.cuda.{kind}Tensor" for kind in KINDS),
    *(f"torch.per_{kind}" for kind in ("channel_affine", "channel_symmetric", "tensor_affine", "tensor_symmetric")),
    "torch.per_channel_affine_float_qparams",
}  # fmt: skip
"""What a checkpoint may mention and not call, beside dtypes and storages."""
