"""A user's own file of blocks, loaded by its path: `zoo --with my_block.py` and `zoo check my_block.py`."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from blocks import registry
from blocks.registry.words import short_name
from zoo.errors import InputError, Problem, listed
from zoo.system.folders import at_home, read_whole

MOST_BYTES = 2**24
"""Of a Python file."""


def load_file(path: str | pathlib.Path) -> list[str]:
    """Runs the file and returns the names of the blocks that it defines, in its order.

    The module gets a private name made from its path, so a file called torch.py shadows nothing and worker processes give it
    the same name. Raises InputError for a file that is missing, is no Python, raises, or defines no block.
    """
    file = at_home(path)
    if "\0" in str(file):
        raise _refusal(file, Problem("", "a Python file", "nothing: there is no such file"))
    module = _executed(file)
    names = [_short(cls.block_id) for cls in vars(module).values() if _defined_by(module, cls)]
    if not names:
        raise _refusal(
            file,
            Problem(
                "",
                "a class decorated with `@blocks.block(...)`",
                "none",
                next="see CONTRIBUTING, a block in ten minutes",
            ),
        )
    return list(dict.fromkeys(names))


def block_of(block: str, kinds: Sequence[str]) -> str:
    """The name of a registered block, or of the first of these kinds that a Python file defines. Raises InputError."""
    if not block.endswith(".py"):
        return registry.describe(block).name
    names = [name for name in load_file(block) if registry.describe(name).kind in kinds]
    if not names:
        raise InputError(block, Problem("", f"a block of kind {listed(kinds)}", "none"))
    return names[0]


def private_name(file: pathlib.Path) -> str:
    """The module name of a file: its stem for the reader, its whole path for uniqueness."""
    digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
    stem = "".join(letter if letter.isalnum() else "_" for letter in file.stem)
    return f"zoo_file_{stem}_{digest}"


def _executed(file: pathlib.Path) -> ModuleType:
    name, source = private_name(file), _text(file)
    spec = importlib.machinery.ModuleSpec(name, None, origin=str(file))
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file)
    earlier = sys.modules.get(name)
    sys.modules[name] = module  # pickle and the resolution of annotations look it up there
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a file may raise anything, SystemExit included
        sys.modules.pop(name) if earlier is None else sys.modules.update({name: earlier})
        raise _refusal(file, _told(error, file)) from error
    return module


def _text(file: pathlib.Path) -> str:
    try:
        text = importlib.util.decode_source(read_whole(file, MOST_BYTES))
    except FileNotFoundError:
        raise _refusal(file, Problem("", "a Python file", "nothing: there is no such file")) from None
    except OSError as error:
        raise _refusal(file, Problem("", "a Python file", error.strerror or str(error))) from None
    except (UnicodeDecodeError, SyntaxError):  # SyntaxError: its first lines name an encoding that is none
        text = "\0"
    if "\0" in text:
        raise _refusal(file, Problem("", "Python", "bytes that are no text"))
    return text


def _told(error: BaseException, file: pathlib.Path) -> Problem:
    """What a file raised, with the deepest of its own lines that was running."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return Problem(f"line {error.lineno}", "Python", error.msg)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    text = " ".join(str(error).split())
    return Problem(
        f"line {lines[-1]}" if lines else "",
        "a file that runs",
        f"{type(error).__name__}: {text}" if text else type(error).__name__,
    )


def _defined_by(module: ModuleType, value: object) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__ and "block_id" in vars(value)


def _short(identity: str) -> str:
    return short_name(identity)


def _refusal(file: pathlib.Path, problem: Problem) -> InputError:
    return InputError(str(file), problem)
