"""Which models export to which formats, proved by running each file or refused with the operator's name.

    python -m zoo.exporting.table [NAME ...] [--to onnx ...]     writes tests/published/exports.json, row by row

Without names it is every model up to `MOST` parameters that lacks a cell, the smallest first. A row says which sizes of the first input are
free in the file, or why there is none, and where rounding decides what the net answers. Each cell is made in a process of its own: a runtime
that ends its process makes a row, too. A format whose packages are not installed is left out, unless `--to` names it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from zoo import catalog
from zoo.errors import InputError
from zoo.exporting.export import export_graph, format_of
from zoo.exporting.proof import BOUND, Proof
from zoo.factory import create
from zoo.system.folders import write_whole

TABLE = Path(__file__).parents[2] / "tests" / "published" / "exports.json"
FORMATS = ("onnx", "openvino", "torch-export", "torchscript", "executorch")
FIXED = "one size"
EDGES = "; equal away from edges"
"""Of a file that is equal at inputs at which rounding decides nothing, as which expert a token takes."""
ILL = "; as near as float32"
"""Of a file of a net that in float32 is itself off by more than the bound, wherever it was tried."""
MOST = 300_000
"""Parameters of the models that have a row each: nanos."""

Rows = dict[str, dict[str, str]]


def models() -> list[str]:
    """Every registered model, the smallest first."""
    return [name for _, name in sorted((entry.params, name) for name, entry in catalog.entries().items())]


def small_models() -> list[str]:
    """Those that the command without names writes: of every family at least the smallest."""
    entries, smallest = catalog.entries(), dict[str, str]()
    for name in models():
        smallest.setdefault(entries[name].family, name)
    return [name for name in models() if entries[name].params <= MOST or smallest[entries[name].family] == name]


def is_installed(to: str) -> bool:
    """Whether all packages of a format are there."""
    return all(importlib.util.find_spec(package) is not None for package in format_of(to).packages)


def row(name: str, to: str) -> str:
    """`batch, height, width`: the sizes that are free in the proved file of a model; or `refused: ` and why."""
    torch.manual_seed(0)
    model = create(name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = export_graph(model, Path(folder) / f"net{format_of(to).suffix}", to)
        except InputError as refusal:
            return f"refused: {refusal.problems[0].sentence()}"
    return (", ".join(made.free) or FIXED) + remark(made.proof)


def row_apart(name: str, to: str, make: Callable[[str, str], str] = row) -> str:
    """`row`, made in a process of its own; where that is ended, by which signal."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(writer, make, name, to))
    process.start()
    writer.close()
    try:
        return str(reader.recv())
    except EOFError:
        process.join()
        code = process.exitcode or 0
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"refused: expected a file that runs; found an end of the process, {ended}"
    finally:
        process.join()


def _send(writer: Connection, make: Callable[[str, str], str], name: str, to: str) -> None:
    writer.send(make(name, to))


def remark(proof: Proof | None) -> str:
    """What a row says of a file whose net is not steady everywhere."""
    if proof is None or not proof.is_edgy:
        return ""
    return EDGES if proof.error <= BOUND else ILL


def read() -> Rows:
    """The table as it is published."""
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}  # type: ignore[no-any-return]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zoo.exporting.table", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--to", action="append", choices=FORMATS, help="these formats alone")
    options = parser.parse_args(arguments)
    for name in options.names or small_models():
        for to in options.to or [to for to in FORMATS if is_installed(to)]:
            rows = read()  # another process may write others
            if not options.names and to in rows.get(name, {}):
                continue
            found = row_apart(name, to)
            rows = read()
            rows[name] = dict(sorted((rows.get(name, {}) | {to: found}).items()))
            write_whole(TABLE, (json.dumps(dict(sorted(rows.items())), indent=1) + "\n").encode())
            print(f"{name} {to}: {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
