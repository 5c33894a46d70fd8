"""The checks by name, and the table they give for a block, for all blocks, or for the blocks of a user's file."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable

from blocks.registry.errors import BlockError
from zoo.catalog.local_files import load_file
from zoo.testing import ability_checks as promises
from zoo.testing import checks, counting, members
from zoo.testing.block_cases import Subject
from zoo.testing.outcomes import FAILED, NOT_APPLICABLE, OK, ConformanceFailure, NotApplicable, Result

Check = Callable[[Subject], None]

CHECKS: dict[str, Check] = {
    "schema": checks.schema,
    "builds": checks.builds,
    "shape": checks.shape,
    "layout": checks.layout,
    "dtype": checks.dtype,
    "meta": checks.meta,
    "loading": checks.loading,
    "gradient": checks.gradient,
    "determinism": checks.determinism,
    "names": checks.names,
    "members": members.members,
    "copies": checks.copies,
    "nothing": checks.nothing,
    "macs": counting.macs,
    "causal": promises.causal,
    "noncausal": promises.noncausal,
    "any_resolution": promises.any_resolution,
    "step": promises.step,
    "padding": promises.padding,
    "packing": promises.packing,
    "cross": promises.cross,
    "fuse": promises.folding,
    "affine": promises.affine,
}
"""Each raises ConformanceFailure with a sentence, or NotApplicable with a reason. A check's first line of docs says what it asks."""

GROUNDS = ("schema", "builds")
"""Checks without which no other makes sense."""


def run_check(subject: Subject, name: str) -> Result:
    """One row. Whatever a block raises is a failed row, never an exception, except an interrupt from the keyboard."""
    try:
        CHECKS[name](subject)
    except NotApplicable as reason:
        return Result(subject.name, name, NOT_APPLICABLE, str(reason))
    except ConformanceFailure as failure:
        return Result(subject.name, name, FAILED, str(failure))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a block may raise anything, SystemExit included
        return Result(subject.name, name, FAILED, _raised(error))
    return Result(subject.name, name, OK)


def _raised(error: BaseException) -> str:
    if isinstance(error, BlockError):
        return "; ".join(problem.sentence() for problem in error.problems)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def check_block(subject: Subject) -> list[Result]:
    """All checks of one block in order. When its schema or its constructor fails, the rest is not run."""
    results: list[Result] = []
    for name in CHECKS:
        results.append(run_check(subject, name))
        if results[-1].outcome == FAILED and name in GROUNDS:
            break
    return results


def check_blocks(names: Iterable[str]) -> list[Result]:
    """All checks of several blocks."""
    return [result for name in names for result in check_block(Subject(name))]


def check_file(path: str | pathlib.Path) -> list[Result]:
    """All checks of the blocks that a Python file defines. Raises InputError when the file cannot be loaded or defines none."""
    return check_blocks(load_file(path))
