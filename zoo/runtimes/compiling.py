"""A net deployed in one runtime, from the folder of compiled nets or into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from zoo.artifacts import compiled
from zoo.catalog.runtimes import PRECISIONS
from zoo.errors import InputError, Problem, listed, nearest
from zoo.measure.device import cores
from zoo.runtimes.about import about
from zoo.runtimes.deployed import Deployed
from zoo.runtimes.identity import key_of
from zoo.runtimes.narrowed import narrows
from zoo.runtimes.protocol import Runtime, Session
from zoo.runtimes.record import MOST_THREADS, SIGNATURE
from zoo.runtimes.signature import Signature, signature_from, signature_json
from zoo.system.strict_json import parse_json


def deployed_in(
    runtime: Runtime,
    net: nn.Module,
    signature: Signature,
    precision: str = "float32",
    threads: int | None = None,
    report: Any = None,
) -> Deployed:
    """`net`, a deploy form with plain layers (`zoo.build.deploy.fused`), compiled by a runtime, or opened where it was compiled before.

    threads: all cores that the process may use, unless said. Raises InputError: for a precision in which the runtime does not compute
    here, for a net that it cannot run, for a disk that is full."""
    count = checked_threads(threads)
    if not narrows(runtime.name, signature.kind, precision):
        check_precision(runtime, precision)
    known = about(net)
    key = key_of(net, runtime, signature, precision, count)
    files = compiled.folder() / key

    def make(folder: Path) -> Session:
        session = runtime.compile(net, signature, precision, count, folder)
        (folder / SIGNATURE).write_bytes(signature_json(session.signature))
        return session

    def open(folder: Path) -> Session:
        found = signature_from(parse_json((folder / SIGNATURE).read_bytes()), str(folder))
        return runtime.open(folder, found, precision, count)

    session = compiled.obtain(key, f"{known.name} in {runtime.name}, {precision}", make, open)
    return Deployed(session, runtime, precision, count, known, files, report)


def checked_threads(threads: int | None) -> int:
    """A number of threads; all cores where none is given. Raises InputError."""
    if threads is None:
        return cores()
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise InputError("deploy", Problem("threads", f"a number in [1, {MOST_THREADS}]", repr(threads)[:60]))
    return threads


def check_precision(runtime: Runtime, precision: str) -> None:
    """Raises InputError for what is no precision, and for one in which a runtime does not really compute on this machine."""
    if precision not in PRECISIONS:
        known = ["auto", *PRECISIONS]
        raise InputError(
            "deploy", Problem("precision", listed(known), f"`{precision}`", nearest(str(precision), known))
        )
    able = runtime.precisions()
    if precision not in able:
        expected = f"one in which {runtime.name} computes on this machine: {listed(able)}"
        raise InputError("deploy", Problem("precision", expected, f"`{precision}`"))
