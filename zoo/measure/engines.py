"""Models in runtimes other than torch, as they are timed: which may be asked for, and a session that is ready to run.

A runtime compiles a model once on a machine; each process of a measurement opens what is in the folder of compiled nets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.catalog.runtimes import names
from zoo.errors import InputError, Problem, listed, nearest
from zoo.measure.latency import TORCH, Runtime
from zoo.runtimes.registered import rows
from zoo.runtimes.registered import runtime as runtime_named

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.runtimes.protocol import Session

ANY = "any"


class Running(NamedTuple):
    """A model in a session of its runtime: y = session(x, …), without the checks of a deployed model."""

    spec: Any
    session: Session

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.session(*inputs)


def engines_named(words: Sequence[str], subject: str) -> list[str]:
    """The engines of runtimes as people name them; `any` stands for torch and all that are installed. Raises InputError for other words."""
    known = [*TORCH, *(name for name in names() if name not in TORCH)]
    found: list[str] = []
    for word in words:
        if word == ANY:
            found += ["eager", *(row.name for row in rows() if not row.missing and row.name not in TORCH)]
        elif word in TORCH:
            found.append(TORCH[word])
        elif word in known:
            found.append(word)
        else:
            problem = Problem("runtime", listed([ANY, *known], 20), f"`{word}`", nearest(word, known))
            raise InputError(subject, problem)
    return list(dict.fromkeys(found))


def runtime_meant(name: str, dtype: str = "float32", threads: int = 1, batch: int = 1) -> Runtime:
    """The one runtime that words mean: torch's where any will do, and float32 where any dtype will. Raises InputError for other words."""
    (engine, *_) = engines_named([name], "runtime")
    return Runtime(threads, "float32" if dtype == ANY else dtype, batch, engine)


def usual_forms(engines: Sequence[str]) -> list[str]:
    """The form that is timed where none is named: as trained, unless a runtime is among them that runs the deploy form alone."""
    return ["train"] if all(engine in TORCH.values() for engine in engines) else ["deploy"]


def refuse_impossible(runtimes: Sequence[Runtime], forms: Sequence[str], device: str) -> None:
    """Raises InputError where a runtime is not installed, or runs no such form, device or precision, with all of that at once."""
    problems = [problem for one in dict.fromkeys(runtimes) for problem in _problems(one, forms, device)]
    if problems:
        raise InputError("bench", list(dict.fromkeys(problems)))


def _problems(one: Runtime, forms: Sequence[str], device: str) -> Iterator[Problem]:
    if one.is_torch:
        return
    name = f"runtime `{one.engine}`"
    if "train" in forms:
        yield Problem(name, "the deploy form, which is what it runs", "the train form", next="--form deploy")
    if device != "cpu":
        yield Problem(name, "the device cpu", device)
    able = runtime_named(one.engine).precisions()
    if one.dtype not in able:
        yield Problem(name, f"a dtype in which it computes on this machine: {listed(able)}", f"`{one.dtype}`")


def running(net: nn.Module, runtime: Runtime, shapes: Sequence[Sequence[int]]) -> Running:
    """A deploy form with plain layers in its runtime, for one shape of each input. Raises InputError where the runtime cannot run it."""
    from zoo.runtimes.compiling import deployed_in
    from zoo.runtimes.net import signature_of

    signature = signature_of(net, shapes, dynamic="none")
    made = deployed_in(runtime_named(runtime.engine), net, signature, runtime.dtype, runtime.threads)
    return Running(net.spec, made.session)
