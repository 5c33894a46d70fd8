"""What a fault is, and where the faults are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SEVERITIES = ("critical", "high", "medium", "low")
HERE = Path(__file__).parent

_found: list[Fault] = []


@dataclass(frozen=True)
class Fault:
    """One reproduction: `run` returns a sentence where the product still fails, and None where it behaves rightly."""

    id: str
    severity: str
    title: str
    run: Callable[[], str | None]
    seconds: int
    gigabytes: int


def fault(
    id: str, severity: str, title: str, seconds: int = 60, gigabytes: int = 6
) -> Callable[[Callable[[], str | None]], Callable[[], str | None]]:
    """Registers a function as a fault; `seconds` and `gigabytes` bound the process that runs it."""
    if severity not in SEVERITIES:
        raise ValueError(f"expected one of {SEVERITIES}; found {severity!r}")

    def register(run: Callable[[], str | None]) -> Callable[[], str | None]:
        _found.append(Fault(id, severity, title, run, seconds, gigabytes))
        return run

    return register


def faults() -> list[Fault]:
    """All faults, the gravest first. Every file here with a `@fault` is read, by its path."""
    if not _found:
        for path in sorted(HERE.glob("*.py")):
            if path.stem not in ("__init__", "__main__", "catalogue", "test_faults"):
                spec = importlib.util.spec_from_file_location(f"tests.faults.{path.stem}", path)
                spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return sorted(_found, key=lambda one: (SEVERITIES.index(one.severity), *_natural(one.id)))


def _natural(id: str) -> Iterator[str | int]:
    """`H4a` -> "H", 4, "a", so that M2 stands before M10."""
    letter, rest = id[0], id[1:]
    digits = "".join(sign for sign in rest if sign.isdigit())
    yield from (letter, int(digits or 0), rest[len(digits) :])
