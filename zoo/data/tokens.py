"""Text as the tokens of a language model, and tokens as text: bytes, or a `tokenizer.json` read by the library `tokenizers`.

Imports no torch, and the library only where such a file is read.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

from blocks.registry.words import printable
from zoo.artifacts.client import fetch, is_hub, parse
from zoo.catalog.saved import saved_path
from zoo.catalog.transformers_folders import folder_of, is_transformers
from zoo.errors import InputError, Problem
from zoo.system.folders import at_home, write_whole
from zoo.weights.manifest import Manifest

FILE = "tokenizer.json"
BYTES = 256
"""The vocabulary of a model that reads text as bytes in UTF-8."""
MAX_BYTES = 2**27
INSTALL = 'pip install "blockzoo[text]"'
CONFIGS = ("generation_config.json", "config.json")
"""Where transformers writes the tokens that end a text, beside the tokenizer."""


class Tokenizer(Protocol):
    """`ends` are the tokens behind which a text is over."""

    ends: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Raises InputError for a text without a token, and for one with a token that the model does not have."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; what is no UTF-8 shows as a replacement character."""
        ...


class Bytes:
    """Token n is the byte n of UTF-8."""

    ends: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        if not text:
            raise InputError("text", Problem("prompt", "at least one character", '""'))
        return list(_checked(text).encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


class Trained:
    """A `tokenizer.json`, for a model of `vocabulary` tokens. Raises InputError for a file that is none, and without the library."""

    def __init__(self, path: pathlib.Path, vocabulary: int):
        self.path, self.vocabulary = path, vocabulary
        self.net = _read(path)
        self.ends = tuple(token for token in _ends(path.parent) if token < vocabulary)

    def encode(self, text: str) -> list[int]:
        coded = self.net.encode(_checked(text))
        if not coded.ids:
            raise InputError("text", Problem("prompt", "a text of at least one token", printable(repr(text), 60)))
        token = max(coded.ids)
        if token >= self.vocabulary:
            found = f"{token}, {printable(repr(self.net.id_to_token(token)), 60)} in {self.path}"
            step = "give the tokenizer that the model was trained with"
            raise InputError("text", Problem("prompt", f"tokens in [0, {self.vocabulary})", found, next=step))
        return list(coded.ids)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.net.decode(list(ids), skip_special_tokens=True)
        return text


def tokenizer_of(name: str, vocabulary: int | None, given: Any = None, home: str = "") -> Tokenizer:
    """What a model of so many tokens reads text with: the one that is given, that of its `home`, or bytes where there are 256 tokens.

    given: a Tokenizer, a `tokenizer.json`, a folder with one, or a repository (`hub:org/repo@revision`). Raises InputError.
    """
    if not vocabulary:
        raise InputError("text", Problem(name, "a language model", "one that reads no tokens"))
    if given is not None:
        if not isinstance(given, (str, os.PathLike)):
            return given  # type: ignore[no-any-return]
        return Trained(_file(given), vocabulary)
    if home and (not is_hub(home) or vocabulary != BYTES):
        return Trained(_file(home), vocabulary)
    if vocabulary == BYTES:
        return Bytes()
    expected = f"a tokenizer for its {vocabulary:,} tokens"
    step = f"give the `{FILE}` that it was trained with: `--tokenizer FILE`, `tokenizer=FILE`"
    raise InputError("text", Problem(name, expected, "none beside its weights", next=step))


def home_of(model: Any, manifest: Manifest | None = None) -> str:
    """Where the tokenizer of a model lies that `zoo.create` was asked for: a file, or the repository of its weights; "" where there is none.

    A repository is named by the commit that was pinned, and is asked only once text is to be read."""
    if is_transformers(model):
        folder: pathlib.Path | None = folder_of(model)
    else:
        folder = None if is_hub(model) else saved_path(model)
    if folder is not None:
        return str(folder / FILE) if (folder / FILE).is_file() else ""
    if is_hub(model):
        return f"hub:{parse(model).repo}@{manifest.revision}" if manifest and manifest.revision else str(model)
    if manifest is not None and manifest.revision and is_hub(manifest.source):
        repository = "/".join(manifest.source.removeprefix("hub:").split("/")[:2])
        return f"hub:{repository}@{manifest.revision}"
    return ""


def _checked(text: str) -> str:
    """Raises InputError for what is no text in UTF-8, as bytes of another encoding in a shell."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"{text[error.start]!r} at character {error.start}"
        raise InputError("text", Problem("prompt", "characters of Unicode", found)) from None
    return text


def keep(home: str, folder: pathlib.Path) -> None:
    """Copies a tokenizer that is a file into the folder of a model, with the tokens that end a text."""
    if not home or is_hub(home) or (source := _file(home)).parent.resolve() == folder.resolve():
        return
    write_whole(folder / FILE, source.read_bytes())
    if ends := _ends(source.parent):
        write_whole(folder / CONFIGS[0], json.dumps({"eos_token_id": ends}).encode())


def _file(place: str | os.PathLike[str]) -> pathlib.Path:
    """The file of a path, a folder or a repository. Raises InputError."""
    if is_hub(place):
        return fetch(parse(place), FILE, max_bytes=MAX_BYTES)
    path = at_home(place)
    return path / FILE if path.is_dir() else path


def _read(path: pathlib.Path) -> Any:
    """The library's tokenizer of a file."""
    if not path.is_file():
        found = "no such file" if not path.exists() else "something else than a file"
        raise InputError("text", Problem(str(path), f"a `{FILE}`, or a folder with one", found))
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError("text", Problem(str(path), f"a tokenizer of at most {MAX_BYTES:,} bytes", f"{size:,}"))
    try:
        from tokenizers import Tokenizer as Net
    except ImportError:
        problem = Problem(str(path), "the library `tokenizers`, which reads it", "no such package", next=INSTALL)
        raise InputError("text", problem) from None
    try:
        return Net.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("text", Problem(str(path), "a file that can be read", error.strerror or str(error))) from None
    except Exception as error:  # the library raises `Exception` itself
        found = printable(error, 200)
        raise InputError("text", Problem(str(path), f"a `{FILE}` as `tokenizers` writes it", found)) from None


def _ends(folder: pathlib.Path) -> list[int]:
    """The tokens that end a text, as a config beside the tokenizer names them; none where there is no config that can be read."""
    for name in CONFIGS:
        try:
            with (folder / name).open("rb") as file:
                config = json.loads(file.read(MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
        told = config.get("eos_token_id") if isinstance(config, dict) else None
        tokens = told if isinstance(told, list) else [told]
        found = [token for token in tokens if type(token) is int and token >= 0]
        if found:
            return found
    return []
