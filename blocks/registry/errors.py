"""Errors as data first and text last: a list of problems, each with its place, what was expected, what was found, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from blocks.registry.words import LONGEST_NAME, printable

MOST_PROBLEMS = 200
"""After so many no more are looked for: looking is slow, and what is refused is refused."""
SHOWN = 40
"""Problems in the text of one error; the rest is counted."""
MOST_CANDIDATES = 5_000
"""Words that are compared with a wrong one."""


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
    """Base of the typed errors: a subject (a model, a block, a file) and every problem found with it.

    Whatever of others stands in them can be printed: see `blocks.registry.words.printable`. The text shows the first `SHOWN` problems."""

    def __init__(self, subject: str, problems: Problem | Iterable[Problem]):
        self.subject = printable(subject)
        found = [problems] if isinstance(problems, Problem) else problems
        self.problems = [Problem(*map(printable, problem)) for problem in found]
        super().__init__(self.render())

    def render(self) -> str:
        if not self.subject and len(self.problems) == 1:
            problem = self.problems[0]
            return f"{problem.where}: {problem.sentence()}" if problem.where else problem.sentence()
        count = f"{len(self.problems)} error" + ("s" if len(self.problems) != 1 else "")
        lines = [f"{self.subject}: {count}" if self.subject else count]
        for problem in self.problems[:SHOWN]:
            if problem.where:
                lines.append(f"  {problem.where}")
            lines.append(f"    {problem.sentence()}")
        if len(self.problems) > SHOWN:
            lines.append(f"  and {len(self.problems) - SHOWN:,} more")
        return "\n".join(lines)

    def __reduce__(self):  # exceptions cross process borders
        return type(self), (self.subject, self.problems)


class SizeError(ValueError):
    """An input has another size, (H, W) or (L,), than the one that a block was built for."""


class BlockError(ProblemsError):
    """A block is unknown, is registered twice, cannot be imported, or was given values that it does not take."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """The candidate that `word` was probably meant to be, or "" when none is near. Looks at so many, and at no longer word than a name:
    the work grows with both."""
    if len(word) > LONGEST_NAME:
        return ""
    match = difflib.get_close_matches(word, list(islice(candidates, MOST_CANDIDATES)), n=1, cutoff=0.6)
    return match[0] if match else ""


def listed(words: Sequence[str], most: int = 8) -> str:
    """`a`, `b` or `c`; the rest is counted, not shown."""
    quoted = [f"`{printable(word)}`" for word in words[:most]]
    if len(words) > most:
        return ", ".join(quoted) + f" and {len(words) - most} more"
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else "".join(quoted)
