"""What runtimes raise, in sentences; what they print meanwhile stays off the screen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from blocks.registry.words import printable, raised
from zoo.errors import InputError, Problem
from zoo.exporting.quiet import quiet

LONGEST_REASON = 300


@contextlib.contextmanager
def refusing(runtime: str, what: str) -> Iterator[None]:
    """Whatever a runtime raises within becomes an InputError: what it was to do, and the first line of what it says."""
    try:
        with quiet():
            yield
    except (InputError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise InputError("deploy", Problem(f"runtime `{runtime}`", what, reason_of(error))) from error


def reason_of(error: BaseException) -> str:
    """The lines of a foreign error that say something, as one, and no more than fits into a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    return printable(raised(error), LONGEST_REASON)
