"""Errors as data first and text last: a list of problems, each with its place, what was expected, what was found, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong: `where` it is, and a sentence in parts. Empty parts are left out of the text."""

    where: str
    expected: str = ""
    found: str = ""
    nearest: str = ""
    next: str = ""

    def sentence(self) -> str:
        parts = [
            f"expected {self.expected}" if self.expected else "",
            (f"found {self.found}" if self.expected else self.found) if self.found else "",
            f"nearest `{self.nearest}`" if self.nearest else "",
            f"next: {self.next}" if self.next else "",
        ]
        return "; ".join(part for part in parts if part)


class ProblemsError(ValueError):
    """Base of the typed errors: a subject (a model, a block, a file) and every problem found with it."""

    def __init__(self, subject: str, problems: Problem | Iterable[Problem]):
        self.subject = subject
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__(self.render())

    def render(self) -> str:
        if not self.subject and len(self.problems) == 1:
            problem = self.problems[0]
            return f"{problem.where}: {problem.sentence()}" if problem.where else problem.sentence()
        count = f"{len(self.problems)} error" + ("s" if len(self.problems) != 1 else "")
        lines = [f"{self.subject}: {count}" if self.subject else count]
        for problem in self.problems:
            if problem.where:
                lines.append(f"  {problem.where}")
            lines.append(f"    {problem.sentence()}")
        return "\n".join(lines)

    def __reduce__(self):  # exceptions cross process borders
        return type(self), (self.subject, self.problems)


class BlockError(ProblemsError):
    """A block is unknown, is registered twice, cannot be imported, or was given values that it does not take."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """The candidate that `word` was probably meant to be, or "" when none is near."""
    match = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return match[0] if match else ""


def listed(words: Sequence[str], most: int = 8) -> str:
    """`a`, `b` or `c`; the rest is counted, not shown."""
    quoted = [f"`{word}`" for word in words[:most]]
    if len(words) > most:
        return ", ".join(quoted) + f" and {len(words) - most} more"
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else "".join(quoted)
