"""`zoo bench`: measured latency, and the rows that are stored."""

from __future__ import annotations

import functools
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocks.registry.words import printable, short_name
from zoo.cli.options import command, positive, split, whole
from zoo.display.console import complain, dump, table, unguarded
from zoo.errors import InputError, Problem, listed, nearest

if TYPE_CHECKING:
    from zoo.measure.block_latency import BlockLatency
    from zoo.measure.latency import Latency
    from zoo.measure.on_ray import Measured
    from zoo.measure.processes import Progress
    from zoo.measure.store import Store


def add(commands: Any) -> None:
    parser = command(commands, "bench", bench)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models, or blocks; globs are fine: 'starnet_*'")
    parser.add_argument("--all", action="store_true", help="every model of the catalogue")
    alone = "blocks by themselves, all that are registered if none is named: float32, batch 1, as they are trained"
    parser.add_argument("--blocks", action="store_true", help=alone)
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run was broken off")
    parser.add_argument("--threads", default="1", metavar="N,N", help="numbers of threads (default 1)")
    parser.add_argument("--batch", default="1", metavar="N,N", help="batch sizes (default 1)")
    parser.add_argument(
        "--form",
        default="",
        metavar="FORM,FORM",
        help="train, deploy or both (default train, and deploy for runtimes that run no other)",
    )
    parser.add_argument(
        "--dtype", default="float32", metavar="DTYPE,DTYPE", help="float32, bfloat16, float16 (default float32)"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to run (default cpu)")
    parser.add_argument(
        "--runtime",
        default="torch",
        metavar="NAME,NAME",
        help="torch, compile, onnxruntime, openvino, aot, or any: torch and all that are installed (default torch)",
    )
    parser.add_argument("--compile", action="store_true", help="an older word for --runtime compile")
    parser.add_argument(
        "--processes",
        type=whole(1),
        default=5,
        help="fresh processes for each row; with fewer than 5 none is clean (default 5)",
    )
    text = "of samples, for each row and process (default 0.3, and 0.1 for a block)"
    parser.add_argument("--seconds", type=positive, default=None, help=text)
    parser.add_argument("--no-retry", action="store_true", help="do not measure rows once more that are not clean")
    nodes = "every node of the cluster of RAY_ADDRESS, each a device of its own; the store here takes all rows"
    parser.add_argument("--on", default="", choices=["ray"], help=nodes)
    parser.add_argument("--export", default="", metavar="FILE", help="write this device's newest rows as JSON lines")
    parser.add_argument("--import", default="", dest="take", metavar="FILE", help="take in rows from JSON lines")


def bench(arguments: Namespace) -> int:
    """Exit code 1 when a model or a block failed, or a row is not clean."""
    import msgspec

    from zoo.measure.store import Store, import_rows

    measured = arguments.names or arguments.all or arguments.blocks
    if not (measured or arguments.export or arguments.take):
        raise InputError("bench", Problem("", "names of models, --all or --blocks", "none"))
    with Store() as store:
        if arguments.take:
            complain(f"{import_rows(store, Path(arguments.take))} new rows from {arguments.take}")
        rows: list[Any] = []
        if arguments.blocks:
            rows = list(_measure_blocks(arguments, store))
        elif measured:
            rows = list((_on_nodes if arguments.on else _measure)(arguments, store))
        if arguments.export:
            _export(arguments, store)
    if arguments.json:
        dump([msgspec.to_builtins(row) for row in rows])
    elif rows:
        (show_blocks if arguments.blocks else show)(rows)
    return 0 if all(row.verdict == "clean" for row in rows) else 1


def _export(arguments: Namespace, store: Store) -> None:
    """This device's newest rows that are clean: of blocks with `--blocks`, else of models."""
    from zoo.measure.store import export_rows, newest
    from zoo.measure.this_device import this_device

    device = this_device(arguments.device)
    wanted: dict[str, Any] = {"shipped": False, "device": device.id, "verdict": "clean"}
    blocks = list(newest(store.block_rows(**wanted))) if arguments.blocks else []
    rows = [] if arguments.blocks else list(newest(store.rows(**wanted)))
    export_rows(rows, [device], Path(arguments.export), blocks)
    complain(f"{len(rows) + len(blocks)} clean rows written to {arguments.export}")


OF_MODELS = {"all": False, "batch": "1", "form": "", "dtype": "float32", "runtime": "torch", "compile": False, "on": ""}
"""Options of models alone, with their defaults."""


def _measure_blocks(arguments: Namespace, store: Store) -> Iterator[BlockLatency]:
    from zoo.testing.block_bench import SECONDS, jobs_for, run

    if odd := [f"--{name}" for name, usual in OF_MODELS.items() if getattr(arguments, name) != usual]:
        expected = "blocks in torch, one float32 input at a time, as they are trained"
        raise InputError("bench", Problem("--blocks", expected, " ".join(odd), next="leave it out"))
    jobs = jobs_for(blocks_named(arguments.names), _counts(arguments.threads, "threads"), arguments.device)
    return _run(run, jobs, arguments, SECONDS, store)


def _measure(arguments: Namespace, store: Store) -> Iterator[Latency]:
    from zoo.build.deploy import FORMS
    from zoo.measure.bench import SECONDS, jobs_for, run
    from zoo.measure.engines import engines_named, usual_forms
    from zoo.measure.latency import DTYPES

    engines = ["compile"] if arguments.compile else engines_named(split(arguments.runtime), "bench")
    jobs = jobs_for(
        models_named(arguments.names, arguments.all),
        _words(arguments.form, "form", FORMS) if arguments.form else usual_forms(engines),
        _counts(arguments.threads, "threads"),
        _counts(arguments.batch, "batch"),
        _words(arguments.dtype, "dtype", DTYPES),
        engines,
        arguments.device,
    )
    return _run(run, jobs, arguments, SECONDS, store)


def _run(
    run: Callable[..., Iterator[Any]], jobs: Sequence[Any], arguments: Namespace, seconds: float, store: Store
) -> Iterator[Any]:
    """The rows of jobs, of models or of blocks, with a bar; `seconds` where nobody says how long."""
    with bar(len(jobs) * arguments.processes) as progress:
        yield from run(
            jobs,
            arguments.processes,
            arguments.seconds or seconds,
            arguments.resume,
            retry=not arguments.no_retry,
            files=arguments.files,
            progress=progress,
            store=store,
        )


def _on_nodes(arguments: Namespace, store: Store) -> list[Latency]:
    from zoo.measure.on_ray import on_every_node

    return on_every_node(functools.partial(_measured_here, arguments), store)


def _measured_here(arguments: Namespace) -> Measured:
    """What one node does, with the store of its own user."""
    from zoo.measure.on_ray import Measured
    from zoo.measure.store import Store
    from zoo.measure.this_device import this_device

    with Store() as store:
        rows = list(_measure(arguments, store))
    return Measured(this_device(arguments.device), rows)


def models_named(names: list[str], everything: bool = False) -> list[str]:
    """Globs become the models they match. Raises InputError for one that matches none, UnknownModelError for a name."""
    from zoo.catalog.listing import list_models

    models = list_models() if everything else []
    for name in names:
        if any(sign in name for sign in "*?["):
            matches = list_models(name)
            if not matches:
                raise InputError("bench", Problem(name, "a pattern that some model matches", "none"))
            models += matches
        else:
            models.append(name)
    return list(dict.fromkeys(models))


def blocks_named(names: list[str]) -> list[str]:
    """Globs become the blocks they match; without a name, all. Raises InputError for one that matches none."""
    from blocks.registry import list_blocks

    blocks: list[str] = [] if names else list_blocks()
    for name in names:
        if any(sign in name for sign in "*?["):
            matches = list_blocks(name)
            if not matches:
                raise InputError("bench", Problem(name, "a pattern that some block matches", "none"))
            blocks += matches
        else:
            blocks.append(name)
    return list(dict.fromkeys(blocks))


def show(rows: list[Latency]) -> None:
    """A table, with the interval behind the median, and the reason where a row cannot be trusted."""
    columns = ["model", "form", "run", "p50 ms", "interval", "p90 ms", "x anchor", "wall/CPU", "peak MB", "verdict"]
    shown = [
        [
            row.model, row.form, row.runtime.key, f"{row.p50_ms:g}", f"{row.low_ms:g} to {row.high_ms:g}", f"{row.p90_ms:g}",
            f"{row.ratio:g}", f"{row.wall_cpu:.2f}", f"{row.peak_bytes / 2**20:.0f}", row.verdict + (f": {row.reason}" if row.reason else ""),
        ]
        for row in rows
    ]  # fmt: skip
    table(columns, shown, f"on {rows[0].device}, torch {rows[0].runtime.torch}, anchor {rows[0].anchor}")


def show_blocks(rows: list[BlockLatency]) -> None:
    """A table, with the ratio to the convolution that all are timed beside, and the reason where a row cannot be trusted."""
    columns = ["block", "run", "input", "parameters", "MACs", "p50 ms", "interval", "x anchor", "wall/CPU", "verdict"]
    shown = [
        [
            short_name(row.block), row.runtime.key, "x".join(map(str, row.input)), f"{row.params:,}", f"{row.macs:,}", f"{row.p50_ms:g}",
            f"{row.low_ms:g} to {row.high_ms:g}", f"{row.ratio:g}", f"{row.wall_cpu:.2f}", row.verdict + (f": {row.reason}" if row.reason else ""),
        ]
        for row in rows
    ]  # fmt: skip
    table(columns, shown, f"on {rows[0].device}, torch {rows[0].runtime.torch}, anchor: {rows[0].anchor}")


@contextmanager
def bar(total: int, unit: str = "samples") -> Iterator[Callable[[Progress], None]]:
    """A progress bar on stderr while it is a terminal; otherwise a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if not sys.stderr.isatty():
        yield _lines(unit)
        return
    columns: list[Any] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    with Bar(*columns, console=Console(file=unguarded(sys.stderr)), transient=True) as view:
        task = view.add_task("", total=total)
        yield lambda now: view.update(task, completed=now.done, total=now.total, description=printable(now.note))


def _lines(unit: str) -> Callable[[Progress], None]:
    def tell(now: Progress) -> None:
        if now.done % max(1, now.total // 20) == 0 or now.done == now.total:
            complain(f"{now.done} of {now.total} {unit}: {now.note}")

    return tell


def _counts(text: str, what: str) -> list[int]:
    words = split(text)
    wrong = [word for word in words if not (word.isdigit() and int(word) > 0)]
    if wrong or not words:
        raise InputError(
            "bench", Problem(f"--{what}", "whole numbers from 1, with commas between", ", ".join(wrong) or "none")
        )
    return [int(word) for word in words]


def _words(text: str, what: str, known: tuple[str, ...]) -> list[str]:
    words = split(text)
    wrong = [word for word in words if word not in known]
    if wrong or not words:
        problems = [
            Problem(f"--{what}", f"one of {listed(known)}", f"`{word}`", nearest(word, known)) for word in wrong or [""]
        ]
        raise InputError("bench", problems)
    return words
