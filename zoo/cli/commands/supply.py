"""`zoo pin`, `zoo lock`, `zoo mirror`, `zoo cache`, `zoo audit`: where the bytes of weights come from, and who vouches for them."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.options import command
from zoo.display.console import complain, count, dump, table
from zoo.errors import InputError, Problem
from zoo.system.folders import write_text

if TYPE_CHECKING:
    from zoo.artifacts.inventory import Item
    from zoo.artifacts.lockfile import Locked
    from zoo.artifacts.pinning import Outcome


def add(commands: Any) -> None:
    pinning = command(commands, "pin", pin)
    pinning.add_argument("name", nargs="?", default="", metavar="NAME.TAG")
    pinning.add_argument(
        "--revision", default="", help="a branch, tag or commit of the Hub (default: as listed, or main)"
    )
    pinning.add_argument("--all", action="store_true", help="every listed name, one after the other")
    proving = "judge them on labelled pictures, and write top-1 into the pin or the lock; exit code 1 where it is not what is published"
    pinning.add_argument("--prove", default="", metavar="DIR", help=proving)
    pinning.add_argument("--report", default="", metavar="FILE", help="write what became of each as JSON")

    record = command(commands, "lock", lock)
    record.add_argument(
        "names", nargs="*", metavar="NAME", help="MODEL, MODEL.TAG or hub:ORG/REPO (default: all at hand)"
    )
    record.add_argument("--out", default="zoo.lock", metavar="FILE")

    copy = command(commands, "mirror", mirror)
    copy.add_argument("folder")
    copy.add_argument("--lock", default="zoo.lock", metavar="FILE")

    files = command(commands, "cache", cache)
    files.add_argument(
        "action",
        choices=["list", "verify", "prune", "clear"],
        help="verify sets damaged files aside; prune deletes leftovers; clear deletes compiled nets, which are made again when they are asked for",
    )
    files.add_argument("--dry-run", action="store_true", help="say what prune or clear would delete")

    vouchers = command(commands, "audit", audit)
    vouchers.add_argument("--sbom", default="", metavar="FORMAT", help="print a bill of materials: cyclonedx")


def pin(arguments: Namespace) -> int:
    """One name or all; exit code 1 when one of all failed."""
    import msgspec

    from zoo.artifacts.pinning import Outcome, pin, pin_all

    if bool(arguments.name) == arguments.all:
        raise InputError("pin", Problem("", "a name, or --all", "both" if arguments.all else "neither"))
    if arguments.prove:
        return _prove(arguments)
    if arguments.all:
        tell = (lambda outcome: None) if arguments.json else _say
        outcomes = pin_all(tell)
    else:
        outcomes = [Outcome(arguments.name, pin(arguments.name, arguments.revision), "")]
    rows = [
        {
            "name": outcome.name,
            "problem": outcome.problem,
            "pin": msgspec.to_builtins(outcome.entry) if outcome.entry else None,
        }
        for outcome in outcomes
    ]
    if arguments.report:
        write_text(Path(arguments.report), json.dumps(rows, indent=1))
    if arguments.json:
        dump(rows)
    elif not arguments.all:
        _say(outcomes[0])
    return 1 if any(outcome.problem for outcome in outcomes) else 0


def _prove(arguments: Namespace) -> int:
    """Fetches what is listed, and judges it; weights that ship are at hand."""
    import msgspec

    from zoo import catalog
    from zoo.artifacts.pinning import pin
    from zoo.cli.commands.measuring import bar
    from zoo.evaluating.proving import prove

    if arguments.all:
        raise InputError("pin", Problem("--prove", "a name", "--all"))
    model, tag = catalog.split_tag(arguments.name)
    if tag not in ("", *catalog.entry(model).tags):
        pin(arguments.name, arguments.revision)
    with bar(0, "pictures") as progress:
        name, proof, places = prove(arguments.name, arguments.prove, progress)
    if arguments.json:
        dump({"name": name, "proof": msgspec.to_builtins(proof), "places": [str(place) for place in places]})
    else:
        words = {None: "nothing is published to compare it with", True: "as published", False: "not what is published"}
        claim = "" if proof.claimed is None else f", {proof.claimed:.2%}"
        low, high = proof.ci95
        print(
            f"{name}: {proof.metric} {proof.value:.2%} ({low:.2%} to {high:.2%}) of {proof.n:,}: {words[proof.reproduced]}{claim}"
        )
        print(f"written to {', '.join(map(str, places))}")
    return 1 if proof.reproduced is False else 0


def _say(outcome: Outcome) -> None:
    if outcome.entry is None:
        complain(f"{outcome.name}: {outcome.problem}")
        return
    file = outcome.entry.files[0]
    where = f" at {outcome.entry.revision[:12]}" if outcome.entry.revision else ""
    print(f"{outcome.entry.name}: pinned{where}, {file.size_bytes:,} bytes, sha256 {file.sha256}")


def lock(arguments: Namespace) -> int:
    import msgspec

    from zoo.artifacts.lock import lock

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
    from zoo.artifacts.make_mirror import mirror

    files = [str(path) for path in mirror(arguments.lock, arguments.folder)]
    dump(files) if arguments.json else print(
        f"{len(files)} files in {arguments.folder}; set ZOO_MIRROR to that folder or its address"
    )
    return 0


def cache(arguments: Namespace) -> int:
    return {"list": _list, "verify": _verify, "prune": _prune, "clear": _clear}[arguments.action](arguments)


def _list(arguments: Namespace) -> int:
    from zoo.artifacts.inventory import inventory

    items = inventory()
    if arguments.json:
        dump([_plain(item) for item in items])
        return 0
    table(["kind", "weights", "bytes", "file"], [[i.kind, i.name, f"{i.size_bytes:,}", i.path] for i in items])
    print(f"{len(items)} files, {count(sum(item.size_bytes for item in items))}bytes")
    return 0


def _verify(arguments: Namespace) -> int:
    """Hashes all anew; sets damaged files of the caches aside. Exit code 1 when there was one."""
    from zoo.artifacts.compiled import remove
    from zoo.artifacts.inventory import inventory
    from zoo.artifacts.store import set_aside

    bad = [(item, fault) for item in inventory() if item.kind != "leftover" and (fault := item.fault())]
    for item, _ in bad:
        if item.kind == "compiled":
            remove(item.path)
        elif item.kind != "shipped" and item.sha256 and item.path.exists():
            set_aside(item.path)
    if arguments.json:
        dump([_plain(item) | {"fault": fault} for item, fault in bad])
    for item, fault in bad if not arguments.json else ():
        mend = MENDS.get(item.kind) or f"`{_way_back(item)}` fetches it again"
        print(f"{item.name or item.path}: {fault}; {mend}")
    if not bad and not arguments.json:
        print("every file is what it should be")
    return 1 if bad else 0


MENDS = {
    "shipped": "install the package again",
    "compiled": "it was removed, and is compiled again when it is asked for",
}


def _way_back(item: Item) -> str:
    return f"zoo create {item.name}" if item.kind == "repository" else f"zoo pin {item.name}"


def _prune(arguments: Namespace) -> int:
    from zoo.artifacts.inventory import inventory, prune

    size = {item.path: item.size_bytes for item in inventory()}
    items = prune(arguments.dry_run)
    if arguments.json:
        dump([str(item.path) for item in items])
        return 0
    for item in items:
        print(item.path)
    done = "would be deleted" if arguments.dry_run else "deleted"
    print(f"{len(items)} files {done}, {count(sum(size[item.path] for item in items))}bytes")
    return 0


def _clear(arguments: Namespace) -> int:
    from zoo.artifacts.compiled import clear, entries, size_of

    sizes = {place: size_of(place) for place, _ in entries()}
    gone = list(sizes) if arguments.dry_run else clear()
    if arguments.json:
        dump([str(place) for place in gone])
        return 0
    done = "would be deleted" if arguments.dry_run else "deleted"
    print(f"{len(gone)} compiled nets {done}, {count(sum(sizes[place] for place in gone))}bytes")
    return 0


def _plain(item: Item) -> dict[str, Any]:
    return {"kind": item.kind, "name": item.name, "path": str(item.path), "size_bytes": item.size_bytes}


def audit(arguments: Namespace) -> int:
    """Exit code 1 when there is a stranger."""
    from zoo.artifacts.audits import audit, bill_of_materials

    findings = audit()
    if arguments.sbom:
        dump(bill_of_materials(findings, arguments.sbom))
    elif arguments.json:
        dump([_plain(finding.item) | {"sha256": finding.item.sha256, "fault": finding.fault} for finding in findings])
    else:
        rows = [[f.item.kind, f.item.name, f.item.path, f.fault or "vouched for"] for f in findings]
        table(["kind", "weights", "file", "verdict"], rows)
    return 1 if any(finding.fault for finding in findings) else 0
