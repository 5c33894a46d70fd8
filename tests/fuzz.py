"""Mutated safetensors headers, specs, records and locks: `python -m tests.fuzz --cases 100000`. Only typed errors may come of them.

Each case is drawn from (seed, target, number) alone, so a failure is repeated by `--target header --case 1234`. A case that is
accepted must be accepted by what comes next: the safetensors library for a header, the builder (on meta) for a spec.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import save

import zoo
from zoo.artifacts.client import Reference
from zoo.artifacts.lock import lock
from zoo.artifacts.lockfile import Lock, read_lock
from zoo.artifacts.record import SCHEMA, WEIGHTS, read_record
from zoo.build.builder import build
from zoo.catalog.published import spec_file
from zoo.errors import ProblemsError
from zoo.specs.read import read_bytes
from zoo.specs.resolve import resolve
from zoo.weights.header import read_header
from zoo.weights.manifest import manifest_json

HANG_S = 120
"""A case that takes longer ends the process with the stack of where it hangs."""
MAX_GROWTH_BYTES = 512 * 2**20
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**100, 10**400, 0.0, -0.0, 1e-6, 1e308, float("nan"), float("inf"), "", " ", "none",
    "@a", "@", "..", "../x", "/etc/passwd", "a.b.c", "*", "**", "<mlp>", "\0", "\ud800", "é" * 300, "x" * 5000, [], {}, [[]], [{}], {"": 0},
    {"block": "mlp"}, {"use": "@a"}, {"per_stage": [1]}, {"cycle": []}, {"runs": [[1, "rest"]]}, {"residual": []}, "F32", "I4", [0, 8], [8, 0],
]  # fmt: skip
KEYS = [
    "block",
    "dim",
    "use",
    "define",
    "stages",
    "layers",
    "layer",
    "dtype",
    "shape",
    "data_offsets",
    "__metadata__",
    "per_stage",
    "x",
    "",
]


class Target(NamedTuple):
    """`seeds` are sound; `accept` raises a ProblemsError for what is not, and nothing else."""

    seeds: list[bytes]
    mutate: Callable[[random.Random, bytes], bytes]
    accept: Callable[[bytes], None]


def tree_mutation(rng: random.Random, tree: Any) -> Any:
    """A copy of plain data with one to four places changed: replaced, removed, renamed, repeated, nested, or moved."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, 4)):
        parent, key = _place(rng, tree)
        if parent is None:
            return rng.choice(STRANGE)
        change = rng.randrange(6)
        if change == 0:
            parent[key] = rng.choice(STRANGE)
        elif change == 1:
            del parent[key]
        elif change == 2 and isinstance(parent, dict):
            parent[rng.choice(KEYS)] = parent.pop(key)
        elif change == 3 and isinstance(parent, list):
            parent.extend(parent[key : key + 1] * rng.choice((1, 2, 100)))
        elif change == 4:
            for _ in range(rng.choice((1, 3, 60))):
                parent[key] = [parent[key]] if rng.random() < 0.5 else {rng.choice(KEYS): parent[key]}
        else:
            other, where = _place(rng, tree)
            if other is not None:
                parent[key] = json.loads(json.dumps(other[where], default=str))
    return tree


def _place(rng: random.Random, tree: Any) -> tuple[Any, Any]:
    """A container of the tree and one of its keys, at any depth."""
    found, node = (None, None), tree
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        found, node = (node, key), node[key]
        if rng.random() < 0.3:
            break
    return found


def byte_mutation(rng: random.Random, data: bytes) -> bytes:
    """One to eight changes of bytes: another one, one more, one less, a piece twice, an end that is missing."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(changed) + 1)
        change = rng.randrange(5)
        if change == 0 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif change == 1:
            changed[at:at] = rng.choice((b"[", b"{", b'"', b",", b"0", b"\0", b"\xff", b"[" * 200, b"9" * 500))
        elif change == 2:
            del changed[at : at + rng.choice((1, 2, 50))]
        elif change == 3:
            changed[at:at] = changed[at : at + rng.randrange(200)]
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def json_mutation(rng: random.Random, data: bytes) -> bytes:
    """A mutation of the tree, and now and then of its text or of a key that stands twice."""
    text = json.dumps(tree_mutation(rng, json.loads(data)))
    if rng.random() < 0.1:
        text = text.replace("{", '{"x": 1, "x": 2, ', 1)
    data = text.encode("utf-8", "surrogatepass")
    return byte_mutation(rng, data) if rng.random() < 0.3 else data


def header_mutation(rng: random.Random, data: bytes) -> bytes:
    """A mutation of a whole file: its header as JSON, the length in front of it, and the bytes behind."""
    if rng.random() < 0.3:
        return byte_mutation(rng, data)
    length = int.from_bytes(data[:8], "little")
    header, body = json_mutation(rng, data[8 : 8 + length]), data[8 + length :]
    told = (
        len(header)
        if rng.random() < 0.9
        else rng.choice((0, 7, len(header) + 1, 2**24 + 1, 200 * 2**20, 2**63, 2**64 - 1))
    )
    return told.to_bytes(8, "little") + header + body


def text_mutation(rng: random.Random, data: bytes) -> bytes:
    """A mutation of TOML: bytes, and whole lines that move."""
    lines = data.split(b"\n")
    for _ in range(rng.randint(0, 3)):
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return byte_mutation(rng, b"\n".join(lines)) if rng.random() < 0.8 else b"\n".join(lines)


def accept_header(data: bytes) -> None:
    read_header(data)
    safetensors.deserialize(data)


def accept_spec(data: bytes) -> None:
    family = read_bytes(data, "fuzz.json" if data.lstrip().startswith(b"{") else "fuzz.toml")
    build(resolve(family, next(iter(family.variants), "")))


def accept_record(data: bytes) -> None:
    read_record(data, Reference("fuzz/record", "main"))


def accept_lock(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "zoo.lock")
        path.write_bytes(data)
        read_lock(path)


def targets() -> dict[str, Target]:
    names = ["starnet_nano", "mambaout_nano", "moe_vit_nano", "vim_nano"]
    specs = [json.dumps(zoo.spec(name).plain()).encode() for name in names]
    texts = [spec_file(name).read_bytes() for name in names]
    files = [
        save({"a": torch.zeros(2, 3), "b.c": torch.ones(4, dtype=torch.int8)}, {"format": "pt"}),
        save({f"layer.{i}.weight": torch.zeros(1) for i in range(20)}),
        save({}),
    ]
    locks = [json.dumps({"schema": Lock([]).schema, "models": _plain(lock(names, None))}).encode()]
    return {
        "header": Target(files, header_mutation, accept_header),
        "spec": Target(specs, json_mutation, accept_spec),
        "text": Target(texts, text_mutation, accept_spec),
        "record": Target([_record(name) for name in names[:2]], json_mutation, accept_record),
        "lock": Target(locks, json_mutation, accept_lock),
    }


SHARES = {"header": 0.7, "spec": 0.1, "text": 0.05, "record": 0.1, "lock": 0.05}
"""Each kind has this share of all cases. A header costs microseconds, a spec milliseconds."""


def _plain(values: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(values)


def _record(name: str) -> bytes:
    import msgspec

    from zoo.catalog.manifests import manifests

    manifest = msgspec.structs.replace(manifests(name)[0], source=f"file:{WEIGHTS}", state="pinned")
    return json.dumps(
        {"schema": SCHEMA, "manifest": json.loads(manifest_json(manifest)), "spec": zoo.spec(name).plain()}
    ).encode()


class Result(NamedTuple):
    """How many cases were `accepted` and `refused` by target; what broke; how far memory grew."""

    accepted: Counter[str]
    refused: Counter[str]
    broken: list[str]
    growth_bytes: int
    slowest: tuple[float, str]


def fuzz(
    cases: int, seed: int = 0, known: dict[str, Target] | None = None, shares: dict[str, float] | None = None
) -> Result:
    known = known or targets()
    shares = shares or SHARES
    for target in known.values():
        for sound in target.seeds:
            target.accept(sound)
    accepted, refused, broken, slowest = Counter[str](), Counter[str](), list[str](), (0.0, "")
    before = _peak_bytes()
    for name, target in known.items():
        for number in range(round(cases * shares[name])):
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            start = time.perf_counter()
            try:
                target.accept(case(target, seed, name, number))
                accepted[name] += 1
            except ProblemsError:
                refused[name] += 1
            except Exception as error:
                broken.append(
                    f"--seed {seed} --target {name} --case {number}: {type(error).__name__}: {str(error)[:200]}"
                )
            slowest = max(slowest, (time.perf_counter() - start, f"{name} {number}"))
    faulthandler.cancel_dump_traceback_later()
    return Result(accepted, refused, broken, _peak_bytes() - before, slowest)


def case(target: Target, seed: int, name: str, number: int) -> bytes:
    rng = random.Random(f"{seed} {name} {number}")
    return target.mutate(rng, rng.choice(target.seeds))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def command(text: str | None, targets: dict[str, Target], shares: dict[str, float]) -> int:
    """The command line of a module that fuzzes: `--cases` of them, or one `--case` of a `--target` again, with its traceback."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=list(shares), help="repeat one case, with its traceback")
    parser.add_argument("--case", type=int, default=0)
    options = parser.parse_args()
    if options.target:
        target = targets[options.target]
        data = case(target, options.seed, options.target, options.case)
        print(ascii(data)[:4000])
        target.accept(data)
        return 0
    return print_result(fuzz(options.cases, options.seed, targets, shares), shares)


def main() -> int:
    return command(__doc__, targets(), SHARES)


def print_result(result: Result, names: Iterable[str]) -> int:
    """The table of a run; the exit code."""
    for name in names:
        print(f"{name:18} {result.accepted[name]:8,} accepted {result.refused[name]:8,} refused")
    print(
        f"memory grew by {result.growth_bytes / 2**20:.0f} MiB; slowest {result.slowest[0]:.2f} s: {result.slowest[1]}"
    )
    print("\n".join(result.broken) or "only typed errors")
    return 1 if result.broken or result.growth_bytes > MAX_GROWTH_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
