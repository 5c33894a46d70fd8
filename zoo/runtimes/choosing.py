"""The fastest candidate that passes its checks: each is made, held against the float64 train form, and timed in turns with the others.

Torch's deploy form in float32 is among them, and is chosen where none is faster. Of lower precisions only those that would be chosen are
tried for what they lose, the fastest first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import torch

from zoo.errors import InputError, Problem
from zoo.measure.clock import Clock, CpuClock
from zoo.measure.processes import Progress
from zoo.runtimes.answers import Comparison
from zoo.runtimes.candidates import PLAIN, SLOW_TO_MAKE, Candidate, Plan
from zoo.runtimes.drawing import drawn
from zoo.runtimes.evidence import Evidence
from zoo.runtimes.judging import Judge
from zoo.runtimes.loss import Loss
from zoo.runtimes.protocol import Session
from zoo.runtimes.race import PAUSE_S, Race
from zoo.runtimes.report import Tried

MAKING, RACING = 0.6, 0.85
"""Shares of the minutes after which no further candidate is made, and none is timed any longer."""
COMPILING = 0.25
"""The share after which none is made that takes a C++ compiler a minute or two."""
OVER = "the minutes were over before it was made: give it more `minutes`, or name its runtime"


class Made(NamedTuple):
    """A session, and what it took: seconds (0 where it was at hand) and bytes on the disk."""

    session: Session
    seconds: float
    size_bytes: int


class Wish(NamedTuple):
    """What a choice depends on beside the model: the share of right answers that may be lost, and the time for it all."""

    max_loss: float
    minutes: float
    has_classes: bool
    """Whether the first output are scores of classes, whose likeliest is an answer."""


class Chosen(NamedTuple):
    """The candidate, its session, and a row for every candidate, the fastest first."""

    candidate: Candidate
    session: Session
    rows: list[Tried]


Make = Callable[[Candidate], Made]
"""Raises InputError for what cannot be made, or MemoryError."""


class Choosing:
    """One choice on its way. `close()` gives back all sessions but the chosen one."""

    def __init__(
        self, plan: Plan, wish: Wish, make: Make, judge: Judge, evidence: Callable[[], Evidence],
        progress: Callable[[Progress], None] = lambda _: None, clock: Clock | None = None, pause_s: float = PAUSE_S,
    ):  # fmt: skip
        self.plan, self.wish, self.make, self.judge, self.evidence = plan, wish, make, judge, evidence
        self.clock: Clock = clock or CpuClock()
        self.start, self.progress, self.pause_s = self.clock.wall(), progress, pause_s
        self.rows: dict[Candidate, Tried] = {}
        self.made: dict[Candidate, Made] = {}
        self.comparison: Comparison | None = None

    def choose(self) -> Chosen:
        """Makes, judges, times and tries the candidates. Raises InputError where none passes, with what each failed at."""
        try:
            for candidate in self.plan.candidates:
                self._try(candidate)
            able = [one for one in self.plan.eligible if one in self.made]
            race = self._race() if len(able) > 1 else None
            chosen = self._first_that_passes(able, race)
        except BaseException:
            self.close(None)
            raise
        self.rows[chosen] = msgspec.structs.replace(self.rows[chosen], outcome="chosen")
        self.close(chosen)
        return Chosen(chosen, self.made[chosen].session, self._ordered())

    def close(self, kept: Candidate | None) -> None:
        """Ends every session but one."""
        for candidate, made in self.made.items():
            if candidate != kept:
                with contextlib.suppress(Exception):  # the code of a runtime, of which nothing is wanted any more
                    made.session.close()

    def _try(self, candidate: Candidate) -> None:
        """Makes a candidate and holds it against the train form; one that fails is a row with the reason, and is closed."""
        row = Tried(runtime=candidate.runtime, precision=candidate.precision, outcome="equal")
        if self.made and self._spent() > (COMPILING if candidate.runtime in SLOW_TO_MAKE else MAKING):
            self.rows[candidate] = msgspec.structs.replace(row, outcome="untried", reason=OVER)
            return
        self._tell(f"makes {candidate.runtime}, {candidate.precision}")
        try:
            made = self.make(candidate)
        except (InputError, MemoryError) as error:
            reason = error.problems[0].sentence() if isinstance(error, InputError) else f"not enough memory: {error}"
            self.rows[candidate] = msgspec.structs.replace(row, outcome="refused", reason=reason)
            return
        distance = self.judge.error(made.session)
        reason = self.judge.refusal(distance, candidate.precision)
        facts = {"error": distance, "compile_s": round(made.seconds, 2), "size_bytes": made.size_bytes}
        if reason:
            made.session.close()
            row = msgspec.structs.replace(row, outcome="refused", reason=reason)
        else:
            self.made[candidate] = made
        self.rows[candidate] = msgspec.structs.replace(row, **facts)

    def _race(self) -> Race[Candidate]:
        """Times all that were made, and writes what they took into their rows."""

        def caller(session: Session) -> Callable[[], object]:
            tensors = drawn(session.signature, seed=0)
            return lambda: session(*tensors)

        first = next(one for one in self.plan.candidates if one in self.made)
        race = Race(
            {candidate: caller(made.session) for candidate, made in self.made.items()}, first, self.clock, self.pause_s
        )
        with torch.inference_mode():
            race.run(max(1.0, 60 * self.wish.minutes * (RACING - self._spent())), self._tell)
        for candidate in self.made:
            pace, speed = race.pace(candidate), race.ratio(first, candidate)
            self.rows[candidate] = msgspec.structs.replace(
                self.rows[candidate], **pace._asdict(), speed=round(speed.median, 3), speed_low=round(speed.low, 3),
                speed_high=round(speed.high, 3),
            )  # fmt: skip
        return race

    def _first_that_passes(self, able: Sequence[Candidate], race: Race[Candidate] | None) -> Candidate:
        """The best candidate whose loss is allowed. Raises InputError with the reasons of all where there is none."""
        left = list(able)
        while left:
            best = self._best(left, race) if race is not None else left[0]
            if best.precision == "float32" or self._is_allowed(best):
                return best
            left.remove(best)
        problems = [
            Problem(row.name, "a form that passes its checks", row.reason) for row in self.rows.values() if row.reason
        ]
        raise InputError("deploy", problems)

    def _best(self, left: Sequence[Candidate], race: Race[Candidate]) -> Candidate:
        """The fastest; of those that are as fast the simplest; and never one that may be slower than torch's deploy form."""
        best = min(race.ties(left), key=self._complexity)
        return PLAIN if PLAIN in left and race.ratio(PLAIN, best).low < 1 else best

    def _complexity(self, candidate: Candidate) -> tuple[bool, bool, int]:
        """Torch is simpler than other runtimes, float32 than other precisions, and few bytes than many."""
        return candidate.precision != "float32", candidate.runtime != "torch", self.made[candidate].size_bytes

    def _is_allowed(self, candidate: Candidate) -> bool:
        """Whether a lower precision loses no more than allowed; writes what it loses into its row."""
        if self.wish.max_loss >= 1:
            return True  # all answers may be lost
        self._tell(f"tries what {candidate.precision} loses in {candidate.runtime}")
        end = self.clock.wall() + max(5.0, 60 * self.wish.minutes * (1 - self._spent()))
        with torch.inference_mode():
            loss = self._against().loss(
                self.made[candidate].session, self.wish.max_loss, lambda: self.clock.wall() > end
            )
        facts = {"loss": loss.value, "loss_low": loss.low, "loss_high": loss.high, "loss_of": loss.of}
        is_allowed = loss.high <= self.wish.max_loss
        if not is_allowed:
            facts |= {"outcome": "refused", "reason": _too_much(loss, self.wish.max_loss)}
        self.rows[candidate] = msgspec.structs.replace(self.rows[candidate], **facts)
        return is_allowed

    def _against(self) -> Comparison:
        """The fastest float32 candidate that passed, with the evidence."""
        if self.comparison is None:
            exact = [one for one in self.made if one.precision == "float32"]
            reference = min(exact, key=lambda one: self.rows[one].p50_ms or 0.0)
            session = self.made[reference].session
            self.comparison = Comparison(session, self.evidence(), self.wish.has_classes)
        return self.comparison

    def _ordered(self) -> list[Tried]:
        """The rows of all: those that were timed by their time, then the others."""
        rows = [*self.rows.values(), *self.plan.left_out]
        return sorted(rows, key=lambda row: (row.outcome != "chosen", row.p50_ms is None, row.p50_ms or 0.0))

    def _spent(self) -> float:
        """The share of the minutes that has passed."""
        return (self.clock.wall() - self.start) / (60 * self.wish.minutes)

    def _tell(self, note: str) -> None:
        total = round(60 * self.wish.minutes)
        self.progress(Progress(min(total, round(self.clock.wall() - self.start)), total, note))


def _too_much(loss: Loss, max_loss: float) -> str:
    return f"it may lose {loss.sentence()}, and {100 * max_loss:g} is the limit"
