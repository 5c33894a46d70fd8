"""A file of the user's own called `blocks.py` hides our package from Python; it is named before anything else fails.

A `zoo.py` of theirs hides this package itself, so nothing here runs then; the `zoo` command does not look in the working
folder and is safe from both.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys

HOME = pathlib.Path(__file__).resolve().parent.parent


def refuse_shadow(package: str = "blocks") -> None:
    """Raises ImportError, naming the file, when `import <package>` finds something else than our package beside this one."""
    loaded = sys.modules.get(package)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
    else:
        found = importlib.util.find_spec(package)
        file = found.origin if found else None
    ours = HOME / package / "__init__.py"
    if file is not None and pathlib.Path(file).resolve() != ours:
        raise ImportError(
            f"{file} hides the package `{package}` that blockzoo needs, for it comes first on Python's path; "
            "next: give that file another name, or run from another folder",
            name=package,
            path=file,
        )
