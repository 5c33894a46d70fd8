"""Processes that the zoo starts of itself: a worker that measures, a converter of checkpoints, a trial of a plugin."""

from __future__ import annotations

import os
import pathlib
import sys

HOME = pathlib.Path(__file__).resolve().parents[2]


def command(module: str, *arguments: str) -> list[str]:
    """`python -P -m module …`: without `-P` Python would look for every module in the working folder first, and run a `json.py` that
    lies in a downloaded one."""
    return [sys.executable, "-P", "-m", module, *arguments]


def search_path() -> str:
    """PYTHONPATH for such a process: where this one finds modules, but for the working folder, unless the zoo itself lies there."""
    folder = os.path.realpath(os.getcwd())
    places = [place for place in sys.path if place and (os.path.realpath(place) != folder or folder == str(HOME))]
    return os.pathsep.join(dict.fromkeys([str(HOME), *places] if str(HOME) not in places else places))
