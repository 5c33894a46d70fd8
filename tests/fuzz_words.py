"""Hostile specs, indexes, metadata, key rules and settings of a grammar: `python -m tests.fuzz_words --cases 100000`.

Only typed errors may come of them, and what is let in has names that may stand anywhere. See `tests.grammar` for what they are.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

import zoo
from blocks.registry import plugins
from tests import grammar
from tests.fuzz import Result, Target, accept_spec, command, fuzz
from zoo import catalog
from zoo.catalog import index
from zoo.cli import settings
from zoo.errors import Problem, SpecError
from zoo.weights.key_patterns import PatternError
from zoo.weights.rules import read_rule

SHARES = {"spec": 0.15, "index": 0.3, "metadata": 0.25, "rules": 0.2, "settings": 0.1}
"""Each kind has this share of all cases. A rule costs microseconds, a spec milliseconds."""


def accept_index(data: bytes) -> None:
    """As the catalogue takes it: an entry that is let in has names that may stand anywhere."""
    try:
        rows = msgspec.json.decode(data, type=list[msgspec.Raw])
        entries = [index._sound(msgspec.json.decode(row, type=catalog.Entry)) for row in rows]
    except (ValueError, RecursionError) as refusal:  # what the catalogue expects
        raise SpecError("index", Problem("", found=str(refusal))) from None
    for entry in entries:
        if not catalog.NAME.fullmatch(entry.name) or not entry.title.isprintable():
            raise AssertionError(entry.name)


def accept_metadata(data: bytes) -> None:
    """As the registry takes it, but for the search for folders."""
    with TemporaryDirectory() as folder:
        head, _, points = data.partition(b"----\n")
        Path(folder, "METADATA").write_bytes(head)
        Path(folder, "entry_points.txt").write_bytes(points)
        try:
            plugin = plugins.Plugin(*plugins._name_and_version(Path(folder)))
            found, faults = plugins._points(plugins._text(Path(folder, "entry_points.txt")))
        except (OSError, ValueError) as refusal:  # what `_declared` expects
            raise SpecError("metadata", Problem("", found=str(refusal))) from None
        for point in found:
            plugins._take(plugin, point)
            plugins.package_of(point)
        if not all(text.isprintable() for text in (plugin.owner, plugin.cause, *plugin.namespaces)):
            raise AssertionError(plugin)
        if faults or plugin.state != "available":
            raise SpecError("metadata", Problem("", found=plugin.cause))


def accept_rules(data: bytes) -> None:
    rule, names = json.loads(data)
    try:
        read = read_rule(rule)
    except PatternError as refusal:
        raise SpecError("rules", Problem("", found=str(refusal))) from None
    for name in names:
        read.claim_source(name)


def accept_settings(data: bytes) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            zoo.spec("gmlp_nano", settings=settings([json.loads(data)], "--set"))
        except SystemExit:
            raise SpecError("settings", Problem("", found="no PATH=VALUE")) from None


def made_by(make: Callable[[random.Random], bytes]) -> Callable[[random.Random, bytes], bytes]:
    return lambda rng, _: make(rng)


def targets() -> dict[str, Target]:
    entry = msgspec.json.encode([msgspec.structs.replace(catalog.entry("gmlp_nano"), tags=[])])
    metadata = b"Name: acme\nVersion: 1.0\n\n----\n[zoo.blocks]\nacme/x = acme.x:X\n"
    return {
        "spec": Target([json.dumps(zoo.spec("gmlp_nano").plain()).encode()], made_by(grammar.spec), accept_spec),
        "index": Target([entry], made_by(grammar.index), accept_index),
        "metadata": Target([metadata], made_by(grammar.metadata), accept_metadata),
        "rules": Target([b'[["a.{b}", "{b}.a"], ["a.b"]]'], made_by(grammar.rules), accept_rules),
        "settings": Target([b'"num_classes=7"'], made_by(grammar.settings), accept_settings),
    }


def run(cases: int, seed: int = 0) -> Result:
    return fuzz(cases, seed, targets(), SHARES)


def main() -> int:
    return command(__doc__, targets(), SHARES)


if __name__ == "__main__":
    sys.exit(main())
