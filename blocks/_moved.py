"""Module paths of an older release, which answer for one release more: each import of one warns, and gives the module in its place.

The classes inherit from nothing: `importlib.abc` costs every start of the command line 7 ms.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType

MOVED = {
    "blocks.calls": "blocks.registry.calls",
    "blocks.errors": "blocks.registry.errors",
    "blocks.index": "blocks.registry.index",
    "blocks.plugins": "blocks.registry.plugins",
    "blocks.schema": "blocks.registry.schema",
    "blocks.slots": "blocks.registry.slots",
    "blocks.words": "blocks.registry.words",
}


class _Loader:
    """Hands out the module of the new path under the old one."""

    def __init__(self, old: str, new: str):
        self.old, self.new = old, new

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        warnings.warn(f"`{self.old}` is now `{self.new}`", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(self.new)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import of the old path put its own there
        sys.modules[self.old] = module

    def get_code(self, fullname: str) -> CodeType | None:
        """The code of `python -m OLD`."""
        warnings.warn(f"`python -m {self.old}` is now `python -m {self.new}`", DeprecationWarning, stacklevel=2)
        from importlib.util import find_spec

        spec = find_spec(self.new)
        loader = spec.loader if spec is not None else None
        return loader.get_code(self.new) if loader is not None else None  # type: ignore[attr-defined, no-any-return]

    def get_source(self, fullname: str) -> str | None:
        return None


class Finder:
    """Finds old paths; it stands before the finder that would load a file of a moved room a second time."""

    def __init__(self) -> None:
        self.moved: dict[str, str] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        new = self.moved.get(fullname)
        return importlib.machinery.ModuleSpec(fullname, _Loader(fullname, new)) if new else None  # type: ignore[arg-type]


_finder = Finder()


def answer_old_paths(moved: Mapping[str, str]) -> None:
    """Answers imports of {old path: new path} from now on."""
    _finder.moved |= moved
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
