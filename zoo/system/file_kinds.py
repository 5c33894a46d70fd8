"""What a file is that stands where a model is meant, by its name and its first bytes, and what to do with it. Imports no torch."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

from zoo.errors import Problem, SpecError

SPECS = (".toml", ".json")
PICTURES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jpe", ".jfif", ".apng", ".dib", ".ppm", ".pgm", ".pbm", ".pnm",
    ".jp2", ".avif", ".ico", ".tga", ".psd",
)  # fmt: skip
"""Endings of files that are pictures, those that people have most first."""


class Kind(NamedTuple):
    """A kind of file that no spec is, the endings of its names, the bytes that it begins with, and the next step; `{}` is the path."""

    words: str
    endings: tuple[str, ...]
    signatures: tuple[bytes, ...]
    next: str


WEIGHTS_STEP = 'zoo.create(NAME, weights="{}") with the name of the model whose weights these are'
KINDS = (
    Kind("the index of several files of weights", (".safetensors.index.json", ".bin.index.json"), (), WEIGHTS_STEP),
    Kind(
        "a checkpoint of torch.save", (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl"),
        (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), WEIGHTS_STEP,
    ),
    Kind(
        "weights of another library", (".gguf", ".h5", ".npz", ".msgpack", ".ot"), (b"GGUF", b"\x89HDF"),
        "a .safetensors file or a checkpoint of torch.save goes into zoo.create(NAME, weights=PATH)",
    ),
    Kind(
        "an exported program", (".onnx", ".pt2", ".tflite", ".engine", ".mlmodel", ".pte"), (),
        "give what it was exported from: a name, a spec, or what `zoo.save` wrote",
    ),
    Kind(
        "a picture", PICTURES,
        (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\x00", b"MM\x00*"), "`zoo predict NAME {}` classifies it",
    ),
    Kind("Python code", (".py",), (), "`zoo check {}` checks its blocks, `zoo --with {} create NAME` uses them"),
)  # fmt: skip
ENDINGS = (*SPECS, ".safetensors", *(ending for kind in KINDS for ending in kind.endings))


def refuse_foreign(path: pathlib.Path) -> None:
    """Raises SpecError for what is no spec: nothing, a folder, a pipe, weights, pictures, programs. Opens no pipe."""
    expected = "a name, a spec (.toml or .json), or what `zoo.save` wrote"
    if not os.path.exists(path):
        raise SpecError(path.name, Problem("", "a readable spec file", f"No such file or directory: {path}"))
    if path.is_dir():
        step = "`zoo.save(model, FOLDER)` and `zoo pull` write such folders"
        raise SpecError(path.name, Problem("", expected, "a folder without `zoo.json`", next=step))
    if not path.is_file():
        raise SpecError(path.name, Problem("", expected, "something else than a file"))
    kind = kind_of(path)
    if kind is not None:
        raise SpecError(path.name, Problem("", expected, kind.words, next=kind.next.replace("{}", str(path))))


def kind_of(path: pathlib.Path) -> Kind | None:
    """The kind of a file that is no spec, None for a spec or a stranger."""
    named = next((kind for kind in KINDS if path.name.lower().endswith(kind.endings)), None)
    if named is not None:
        return named
    try:
        with path.open("rb") as file:
            first = file.read(9)
    except OSError:
        return None  # the reader of specs says why
    if first[8:] == b"{" and first[:1] not in b" \t\r\n{":
        return Kind("weights alone", (".safetensors",), (), "give the file a name that ends in .safetensors")
    return next((kind for kind in KINDS if first.startswith(kind.signatures or (b"\0never",))), None)
