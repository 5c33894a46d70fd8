"""The two forms in which weights are refused; both are WeightsErrors and keep every problem as data."""

from __future__ import annotations

from itertools import islice

from zoo.errors import Problem, WeightsError

SHOWN = 12  # a checkpoint of another model has hundreds of wrong names; a dozen tell the story


class TensorsError(WeightsError):
    """Tensors that do not fit. `.problems` holds all of them; the text shows the first `SHOWN` and counts the rest."""

    def render(self) -> str:
        count = len(self.problems)
        lines = [f"{self.subject}: {count} error{'s' if count != 1 else ''}; nothing was loaded"]
        for problem in islice(self.problems, SHOWN):
            lines += [f"  {problem.where}", f"    {problem.sentence()}"]
        return "\n".join(lines) + (f"\n  and {count - SHOWN} more" if count > SHOWN else "")


class BytesError(WeightsError):
    """A file that is not what was promised. The subject is the headline; where, expected, found, next stand below."""

    def render(self) -> str:
        lines = [self.subject]
        for problem in self.problems:
            rows = {"where": problem.where, "expected": problem.expected, "found": problem.found, "next": problem.next}
            lines += [f"  {label:<9} {text}" for label, text in rows.items() if text]
        return "\n".join(lines)


def refuse_file(headline: str, where: str, expected: str = "", found: str = "", next: str = "") -> BytesError:
    """The BytesError of one file; raise what it returns."""
    return BytesError(headline, Problem(where, expected, found, next=next))
