"""Text at hand: the docstrings of Python's standard library, as bytes; and bytes as the tokens of small language models."""

from __future__ import annotations

import ast
import functools
import inspect
import pathlib
import sysconfig
import zlib

import torch
from torch import Tensor

from zoo.data.tokens import BYTES as BYTES
from zoo.data.tokens import Bytes

LEFT_OUT = ("test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "turtledemo", "ensurepip")
"""Folders of the library without prose."""
HELD_OUT_SHARE = 16
"""One module in so many, by the checksum of its name, is never trained on."""


def encode(text: str) -> Tensor:
    """(1, L): the bytes of a text. Raises InputError for an empty one."""
    return torch.tensor([Bytes().encode(text)])


def decode(ids: Tensor) -> str:
    """The text of bytes (L,); what is no UTF-8 shows as a replacement character."""
    return Bytes().decode(ids.tolist())


def training_text() -> bytes:
    """The docstrings of fifteen in sixteen modules of this Python's library, one behind the other."""
    return _joined(held_out=False)


def held_out_text(size: int = 131_072) -> bytes:
    """The first `size` bytes of the docstrings of all other modules."""
    return _joined(held_out=True)[:size]


def _joined(held_out: bool) -> bytes:
    chosen = [text for name, text in _documented() if (zlib.crc32(name.encode()) % HELD_OUT_SHARE == 0) == held_out]
    return "\n\n".join(chosen).encode()


@functools.cache
def _documented() -> list[tuple[str, str]]:
    """(path of the module, its docstrings) for every documented module, in the order of their names."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    texts = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not any(part in LEFT_OUT for part in name.split("/")[:-1]) and (text := _docstrings(path)):
            texts.append((name, text))
    return texts


def _docstrings(path: pathlib.Path) -> str:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):  # the library ships files that are wrong on purpose
        return ""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners)]
    return "\n\n".join(inspect.cleandoc(text) for text in texts if text)
