"""Installed distributions whose entry points Python itself cannot read: one such file stops every program that asks for entry points,
and torch asks when it is imported."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from types import TracebackType

from blocks.registry.words import raised
from zoo.errors import InputError, Problem, ProblemsError


@contextlib.contextmanager
def naming_damaged_files() -> Iterator[None]:
    """Raises InputError with the damaged files where the block fails because of them; any other error passes."""
    try:
        yield
    except ProblemsError:
        raise
    except (TypeError, ValueError) as error:
        problems = list(_damaged()) if _is_of_metadata(error.__traceback__) else []
        if not problems:
            raise
        raise InputError("import", problems) from None


def _is_of_metadata(trace: TracebackType | None) -> bool:
    """Whether an error comes out of Python's reader of metadata."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
        if str(trace.tb_frame.f_globals.get("__name__")).startswith("importlib.metadata"):
            return True
    return False


def _damaged() -> Iterator[Problem]:
    """The files of entry points in sys.path that cannot be read, each with the cure."""
    from importlib.metadata import PathDistribution

    from blocks.registry.plugins import name_of_folder

    for place in dict.fromkeys(sys.path):
        try:
            with os.scandir(place or ".") as entries:
                folders = sorted(entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info")))
        except OSError:  # an archive, or a folder that is not there
            continue
        for folder in map(pathlib.Path, folders):
            try:
                list(PathDistribution(folder).entry_points)
            except Exception as error:  # whatever the reader raises
                file, cure = folder / "entry_points.txt", f"pip install --force-reinstall {name_of_folder(folder)}"
                yield Problem(
                    str(file), "entry points that Python can read", raised(error), next=f"{cure}, or uninstall it"
                )
