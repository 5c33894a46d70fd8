"""`zoo pin`, `zoo lock`, `zoo mirror`, `zoo cache`, `zoo audit`: where the bytes of weights come from, and who vouches for them."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import msgspec

from zoo.console import complain, dump, table
from zoo.errors import InputError, Problem
from zoo.supply.locks import Locked


def pin(arguments: Namespace) -> int:
    """One name or all; exit code 1 when one of all failed."""
    from zoo.supply.pinning import Outcome, pin, pin_all

    if bool(arguments.name) == arguments.all:
        raise InputError("pin", Problem("", "a name, or --all", "both" if arguments.all else "neither"))
    if arguments.all:
        said = (lambda one: None) if arguments.json else _say
        outcomes = pin_all(said)
    else:
        outcomes = [Outcome(arguments.name, pin(arguments.name, arguments.revision), "")]
    rows = [
        {"name": one.name, "problem": one.problem, "pin": msgspec.to_builtins(one.entry) if one.entry else None}
        for one in outcomes
    ]
    if arguments.report:
        Path(arguments.report).write_text(json.dumps(rows, indent=1))
    if arguments.json:
        dump(rows)
    elif not arguments.all:
        _say(outcomes[0])
    return 1 if any(one.problem for one in outcomes) else 0


def _say(outcome) -> None:  # type: ignore[no-untyped-def]
    if outcome.entry is None:
        complain(f"{outcome.name}: {outcome.problem}")
        return
    file = outcome.entry.files[0]
    where = f" at {outcome.entry.revision[:12]}" if outcome.entry.revision else ""
    print(f"{outcome.entry.name}: pinned{where}, {file.size_bytes:,} bytes, sha256 {file.sha256}")


def lock(arguments: Namespace) -> int:
    from zoo.supply.locks import lock

    entries = lock(arguments.names, arguments.out)
    if arguments.json:
        dump(msgspec.to_builtins(entries))
        return 0
    table(["weights", "revision", "bytes", "licence"], [_row(entry) for entry in entries])
    print(f"{len(entries)} locked in {arguments.out}")
    return 0


def _row(entry: Locked) -> list[str]:
    size = sum(file.size_bytes for file in entry.files)
    return [entry.name, entry.revision[:12], f"{size:,}", entry.licence]


def mirror(arguments: Namespace) -> int:
    from zoo.supply.mirrors import mirror

    files = [str(path) for path in mirror(arguments.lock, arguments.folder)]
    dump(files) if arguments.json else print(
        f"{len(files)} files in {arguments.folder}; set ZOO_MIRROR to that folder or its address"
    )
    return 0
