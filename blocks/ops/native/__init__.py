"""Kernels in C++ for CPUs: compiled on first use by the system's compiler, checked, loaded with ctypes. No torch headers.

`ZOO_NATIVE` says what may happen: `build` (the default), `prebuilt` (what an earlier run or `python -m blocks.ops.native`
has built, never a compiler) or `off`. Where there is no kernel, for whatever reason, ops run `eager`; the log says so once.
Each `<name>.cpp` beside this file is one library; `library("<name>")` is all that a backend needs to know.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading

from blocks.ops.native.build import SOURCES, Unavailable, built, open_checked, path_of
from blocks.registry.errors import BlockError, Problem, nearest

MODES = ("build", "prebuilt", "off")

logger = logging.getLogger(__name__)
_lock = threading.Lock()
_loaded: dict[tuple[str, str], ctypes.CDLL | str] = {}
_said: set[str] = set()


def library(name: str) -> ctypes.CDLL | None:
    """The library made of `<name>.cpp`, or None where there is none to be had; then `missing(name)` is the reason."""
    outcome = _outcome(name)
    return None if isinstance(outcome, str) else outcome


def missing(name: str) -> str:
    """Why there is no library `name`, as a part of a sentence; "" when there is one."""
    outcome = _outcome(name)
    return outcome if isinstance(outcome, str) else ""


def names() -> list[str]:
    """The libraries that this package has sources of."""
    return sorted(path.stem for path in SOURCES.glob("*.cpp"))


def mode() -> str:
    """`ZOO_NATIVE`. Raises BlockError for a value that is none."""
    chosen = os.environ.get("ZOO_NATIVE") or MODES[0]
    if chosen not in MODES:
        raise BlockError(
            "ZOO_NATIVE", Problem("", "`build`, `prebuilt` or `off`", f"`{chosen}`", nearest(chosen, MODES))
        )
    return chosen


def _outcome(name: str) -> ctypes.CDLL | str:
    """The library or the reason, found out once per process and mode."""
    key = name, mode()
    if key not in _loaded:
        with _lock:
            if key not in _loaded:
                _loaded[key] = _attempt(*key)
    return _loaded[key]


def _attempt(name: str, mode: str) -> ctypes.CDLL | str:
    if mode == "off":
        return "ZOO_NATIVE=off"
    try:
        return built(name) if mode == "build" else open_checked(path_of(name))
    except Unavailable as error:
        reason = str(error)
    if reason not in _said:
        _said.add(reason)
        logger.warning("no native kernels, ops run slower in plain torch: %s", reason)
    return reason
