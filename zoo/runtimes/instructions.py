"""What a CPU must be able to do for a deployed model: asked before anything of it is loaded, since a missing instruction kills the process."""

from __future__ import annotations

import platform
import re

import msgspec

from zoo.errors import Problem
from zoo.measure.device import instructions

BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
FLOAT16 = ("avx512_fp16", "amx_fp16", "asimdhp")
"""Any of them makes the precision real; without, it is emulated at several times the cost of float32."""
COMPILED_FOR = re.compile(r"(sse|ssse|avx|amx|fma|f16c|bmi|movbe|popcnt|asimd|sve|bf16|i8mm).*")
"""Instruction sets that a compiler uses for code of this machine."""


class Needs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Instruction sets, of each group at least one, as the system names them; `machine` is the kind of CPU that code was built for, "" for any."""

    groups: tuple[tuple[str, ...], ...] = ()
    machine: str = ""

    def problem(self, where: str) -> Problem | None:
        """What this machine lacks, with the way out."""
        step = "deploy the model on this machine"
        if self.machine and self.machine != platform.machine():
            return Problem(where, f"a CPU of the kind {self.machine}", platform.machine(), next=step)
        here = instructions()
        lacking = [" or ".join(group) for group in self.groups if not here.intersection(group)]
        if not lacking:
            return None
        return Problem(
            where, "a CPU with the instructions that it was built for", f"none with {', '.join(lacking)}", next=step
        )


def needs_of(precision: str) -> Needs:
    """What a net needs that is compiled on the machine where it is opened: the instructions that make its precision real."""
    groups = {"bfloat16": (BFLOAT16,), "float16": (FLOAT16,)}
    return Needs(groups.get(precision, ()))


def needs_of_machine_code() -> Needs:
    """What code needs that was compiled for this very machine: all that its compiler may have used."""
    known = sorted(word for word in instructions() if COMPILED_FOR.fullmatch(word))
    return Needs(tuple((word,) for word in known), platform.machine())


def computed_here() -> tuple[str, ...]:
    """The precisions of floats in which this machine computes, and does not pretend to."""
    here = instructions()
    real = {"bfloat16": here.intersection(BFLOAT16), "float16": here.intersection(FLOAT16)}
    return ("float32", *(precision for precision, words in real.items() if words))
