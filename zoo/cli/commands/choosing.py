"""`zoo calibrate`, `zoo find`, `zoo pick`, `zoo compare`: which model for this machine."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from typing import TYPE_CHECKING, Any

from zoo.cli.commands.measuring import bar
from zoo.cli.options import (
    add_batch,
    add_commercial,
    add_form,
    add_metric,
    add_threads,
    command,
    positive,
    quantity,
    whole,
)
from zoo.display.console import complain, count, dump, size, table

if TYPE_CHECKING:
    from zoo.selection.find import Candidate


def add(commands: Any) -> None:
    _add_calibrate(commands)
    _add_find(commands)
    _add_pick(commands)
    _add_compare(commands)


def _add_calibrate(commands: Any) -> None:
    parser = command(commands, "calibrate", calibrate)
    parser.add_argument("--minutes", type=positive, default=3.0, help="about; a second call goes on (default 3)")
    add_threads(parser)
    add_batch(parser)
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="of weights and activations (default float32)",
    )
    text = "torch, or one that runs the deploy form: onnxruntime, openvino, aot (default torch)"
    parser.add_argument("--runtime", default="torch", metavar="NAME", help=text)


def _add_find(commands: Any) -> None:
    parser = command(commands, "find", find)
    parser.add_argument("--device", default="this", help="this machine, or the id of one that rows name (default this)")
    parser.add_argument("--max-latency-ms", type=positive, default=None, metavar="MS", help="what one batch may take")
    parser.add_argument(
        "--quantile",
        default="p50",
        choices=["p50", "p90"],
        help="of the latency: half, or nine in ten, are below it (default p50)",
    )
    parser.add_argument("--min-throughput", type=positive, default=None, metavar="N", help="inputs per second")
    parser.add_argument("--max-macs", type=quantity, default=None, metavar="N", help="500M, 4.1G, 1e9")
    parser.add_argument("--max-params", type=quantity, default=None, metavar="N", help="25M")
    parser.add_argument("--max-memory", type=quantity, default=None, metavar="BYTES", help="512MiB, 2G")
    add_metric(parser)
    parser.add_argument("--min-metric", type=float, default=None, metavar="VALUE", help="the worst that will do: 80")
    parser.add_argument(
        "--licence", default="", metavar="NAME", help="permissive, noncommercial, research, unknown, or MIT"
    )
    add_commercial(parser)
    parser.add_argument("--family", default="", help="only this family")
    parser.add_argument("--block", default="", help="only models that use this block, or one of a kind: router")
    parser.add_argument(
        "--task", default="image-classification", help="or language-modeling (default image-classification)"
    )
    parser.add_argument(
        "--sort",
        default="metric",
        choices=["metric", "latency", "macs", "params", "memory", "name"],
        help="the order (default metric)",
    )
    parser.add_argument("--pareto", action="store_true", help="only those that no faster model equals")
    add_form(parser, "deploy")
    add_threads(parser)
    add_batch(parser)
    _add_runtime(parser)
    parser.add_argument("--explain", action="store_true", help="also what is left out, and why")
    parser.add_argument("--limit", type=whole(0), default=20, help="rows to show (default 20; 0 for all)")
    parser.add_argument("--plot", default="", metavar="FILE.png", help="draw accuracy against latency")
    parser.add_argument("--html", default="", metavar="FILE.html", help="a page to filter and compare them on")


def _add_runtime(parser: Any) -> None:
    """`--runtime` and `--dtype` of what models are known to take."""
    text = "torch, compile, onnxruntime, openvino, aot, or any: the fastest that is known (default torch)"
    parser.add_argument("--runtime", default="torch", metavar="NAME", help=text)
    text = "float32, bfloat16, float16, or any: the fastest that is known (default float32)"
    parser.add_argument("--dtype", default="float32", help=text)


def _add_pick(commands: Any) -> None:
    parser = command(commands, "pick", pick)
    parser.add_argument("--latency-ms", type=positive, required=True, help="what one image may take")
    parser.add_argument(
        "--quantile",
        default="p50",
        choices=["p50", "p90"],
        help="half of all passes, or nine in ten, meet it (default p50)",
    )
    add_metric(parser)
    add_form(parser, "deploy")
    add_threads(parser)
    _add_runtime(parser)
    parser.add_argument("--minutes", type=positive, default=10.0, help="for measuring finalists, about (default 10)")
    add_commercial(parser)
    parser.add_argument("--end-to-end", action="store_true", help="the budget includes decoding and resizing")
    parser.add_argument(
        "--images",
        default="",
        metavar="DIR",
        help="images of your own: for --end-to-end, and in folders called like classes to try the finalists on",
    )
    parser.add_argument(
        "--out", default="", metavar="DIR", help="write the model, pre-processing, labels, run.py and a report"
    )


def _add_compare(commands: Any) -> None:
    parser = command(commands, "compare", compare)
    parser.add_argument("names", nargs="+", metavar="NAME", help="two models at least; the first is the measure")
    add_form(parser, "deploy")
    add_threads(parser)
    add_batch(parser)
    parser.add_argument("--rounds", type=whole(5), default=21, help="passes of each model, at least 5 (default 21)")


def find(arguments: Namespace) -> int:
    """Exit code 1 when no model satisfies the limits."""
    import msgspec

    from zoo.selection.find import find as search

    options = (
        "task", "family", "block", "device", "max_latency_ms", "quantile", "min_throughput", "max_macs", "max_params", "max_memory",
        "licence", "commercial", "metric", "min_metric", "sort", "pareto", "form", "threads", "batch", "dtype", "runtime",
    )  # fmt: skip
    candidates = search(**{name: getattr(arguments, name) for name in options}, explain=True)
    matches, rest = (
        [candidate for candidate in candidates if not candidate.why],
        [candidate for candidate in candidates if candidate.why and arguments.explain],
    )
    if arguments.plot or arguments.html:
        _draw(arguments, matches)
    if arguments.json:
        dump([msgspec.to_builtins(candidate) for candidate in matches + rest])
        return 0 if matches else 1
    shown = matches[: arguments.limit or None]
    if shown:
        columns = [
            "model",
            "ms",
            "range",
            *(["runtime"] if _is_open(arguments) else []),
            "device",
            "measured on",
            arguments.metric,
            "parameters",
            "MACs",
            "memory",
            "licence",
        ]
        table(columns, [_row(candidate, _is_open(arguments)) for candidate in shown], _title(arguments, shown))
    if len(matches) > len(shown):
        complain(f"{len(matches) - len(shown)} more: --limit 0 shows all")
    if not matches and not arguments.explain:
        complain("no model satisfies all of that; --explain says why each is left out")
    if arguments.device == "this" and candidates and not any(candidate.latency for candidate in candidates):
        _offer_devices()
    if rest:
        table(["left out", "because"], [[candidate.name, "; ".join(candidate.why)] for candidate in rest])
    if candidates and all(candidate.ms is None for candidate in candidates):
        complain(_unknown(arguments))
    return 0 if matches else 1


def _offer_devices() -> None:
    """The devices whose rows ship, to look at while nothing is known of this one."""
    from zoo.measure.store import shipped_devices, shipped_rows

    counts = Counter(row.device for row in shipped_rows())
    for device in shipped_devices():
        many = f"{device.cores} core{'s' if device.cores != 1 else ''}, {counts[device.id]:,} rows"
        complain(f"latencies of another machine: zoo find --device {device.id}   ({device.name}, {many})")


def _unknown(arguments: Namespace) -> str:
    """What is known instead of the latencies that were asked for, and what would tell them."""
    from zoo.measure.engines import runtime_meant
    from zoo.measure.predict import calibrate_command, known_threads
    from zoo.measure.store import Store
    from zoo.measure.this_device import this_device

    runtime = runtime_meant(arguments.runtime, arguments.dtype, arguments.threads, arguments.batch)
    with Store() as store:
        device = this_device().id if arguments.device == "this" else arguments.device
        counts = known_threads(store, device, runtime)
    threads = f"{runtime.threads} thread{'s' if runtime.threads > 1 else ''}"
    alternatives = f"; known are those of --threads {', '.join(map(str, counts))}" if counts else ""
    how = f"`{calibrate_command(runtime)}` predicts all models in minutes, `zoo bench` measures"
    where = "" if runtime.name == "torch" else f" in {runtime.name}"
    return f"no latency is known for {device}{where} with {threads}, {runtime.dtype}, batch {runtime.batch}{alternatives}: {how}"


def _title(arguments: Namespace, shown: list[Candidate]) -> str:
    """What was run, and what the signs in front of milliseconds mean."""
    words = [f"{arguments.form} form, {arguments.threads} thread{'s' if arguments.threads > 1 else ''}"]
    words += [] if _is_open(arguments) else [f"{arguments.runtime}, {arguments.dtype}"]
    words += ["~ is a prediction"] if any(candidate.latency == "predicted" for candidate in shown) else []
    words += ["* was measured before its operations changed"] if any(candidate.stale for candidate in shown) else []
    return "; ".join(words)


def _is_open(arguments: Namespace) -> bool:
    """Whether each model may have a runtime or a dtype of its own."""
    return "any" in (arguments.runtime, arguments.dtype)


def _row(one: Candidate, shows_runtime: bool) -> list[str]:
    mark = "~" if one.latency == "predicted" else "*" if one.stale else ""
    return [
        one.name,
        f"{mark}{one.ms:.3g}" if one.ms is not None else "",
        f"{one.low_ms:.3g} to {one.high_ms:.3g}" if one.low_ms is not None and one.high_ms is not None else "",
        *([f"{one.runtime} {one.dtype}" if one.latency else ""] if shows_runtime else []),
        one.device if one.latency else "",
        f"{one.devices} device{'s' if one.devices != 1 else ''}",
        f"{one.figure.value:g}" if one.figure else "",
        count(one.params),
        count(one.macs),
        size(one.memory_bytes) if one.memory_bytes else "",
        one.licence,
    ]


def _draw(arguments: Namespace, kept: list[Candidate]) -> None:
    from pathlib import Path

    from zoo.selection.plot import draw
    from zoo.site.sheet import write_sheet

    if arguments.plot:
        draw(kept, arguments.plot, arguments.metric)
        complain(f"drawn: {arguments.plot}")
    if arguments.html:
        write_sheet(kept, Path(arguments.html), arguments.metric, arguments.threads, arguments.batch)
        complain(f"drawn: {arguments.html}")


def calibrate(arguments: Namespace) -> int:
    import msgspec

    from zoo import catalog
    from zoo.errors import InputError, Problem
    from zoo.measure.calibrate import calibrate as learn
    from zoo.measure.engines import ANY, runtime_meant

    if arguments.runtime == ANY:
        raise InputError("calibrate", Problem("--runtime", "one runtime: a calibration is of one", f"`{ANY}`"))
    runtime = runtime_meant(arguments.runtime, arguments.dtype, arguments.threads, arguments.batch)
    with bar(0, "seconds") as progress:
        calibration = learn(arguments.minutes, runtime, progress=progress)
    if arguments.json:
        dump(msgspec.to_builtins(calibration))
        return 0
    predicted = sum(entry.digest in calibration.models for entry in catalog.entries().values())
    print(
        f"{calibration.device}, {calibration.runtime}: {predicted} models predicted from {len(calibration.fitted)} measured here"
    )
    if calibration.errors is None:
        print("  the error is not known: fewer than three families were measured; give it more --minutes")
    else:
        errors = calibration.errors
        print(
            f"  error of models of families left out of the fit: median {errors.median:.1%}, 95 % within {errors.p95:.1%}"
        )
        print(
            f"  ({errors.models} models of {errors.families} families; ranges are {errors.width:.2f} standard deviations, to hold nine in ten)"
        )
    return 0


def compare(arguments: Namespace) -> int:
    """Exit code 1 when the machine was busy."""
    from zoo.measure.compare import compare as measure

    rows = measure(
        *arguments.names, form=arguments.form, threads=arguments.threads, batch=arguments.batch, rounds=arguments.rounds
    )
    if arguments.json:
        dump([row._asdict() for row in rows])
    else:
        shown = [
            [
                row.name,
                f"{row.ms:g}",
                f"{row.ratio:g}",
                f"{row.low:g} to {row.high:g}",
                " ".join([row.verdict, row.reason]).strip(),
            ]
            for row in rows
        ]
        table(["model", "ms", f"speed, {rows[0].name} = 1", "interval", "verdict"], shown)
    return 0 if all(row.verdict == "clean" for row in rows) else 1


def pick(arguments: Namespace) -> int:
    from pathlib import Path

    from zoo.errors import InputError, Problem, listed
    from zoo.publish.picked import report, write
    from zoo.selection.pick import pick as choose
    from zoo.system.file_kinds import PICTURES

    images = (
        sorted(path for path in Path(arguments.images).rglob("*") if path.suffix.lower() in PICTURES)
        if arguments.images
        else []
    )
    if arguments.images and not images:
        raise InputError(
            "pick", Problem("--images", f"a folder with pictures: {listed(PICTURES, 5)}", f"none in {arguments.images}")
        )
    with bar(0) as progress:
        picked = choose(
            arguments.latency_ms, arguments.metric, quantile=arguments.quantile, form=arguments.form, threads=arguments.threads,
            runtime=arguments.runtime, dtype=arguments.dtype, minutes=arguments.minutes, commercial=arguments.commercial,
            images=images, end_to_end=arguments.end_to_end, progress=progress,
        )  # fmt: skip
    written = write(picked, Path(arguments.out)) if arguments.out else []
    if arguments.json:
        dump(report(picked) | {"files": [str(path) for path in written]})
        return 0
    shown = [
        [
            candidate.name,
            f"{row.p50_ms:g}",
            f"{row.low_ms:g} to {row.high_ms:g}",
            f"{candidate.figure.value:g}" if candidate.figure else "",
            row.verdict,
        ]
        for candidate, row in picked.finalists
    ]
    table(["finalist", "ms", "interval", arguments.metric, "verdict"], shown)
    before = f" and {picked.prepare_ms:.3g} ms before it" if picked.prepare_ms else ""
    for name, tried in picked.trials.items():
        low, high = tried.ci95
        print(
            f"{name}: {tried.correct} of {tried.n} of your images, {tried.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%})"
        )
    if images and not picked.trials:
        complain("no finalist was tried on your images: that needs weights, and folders that are called like classes")
    print(f"\n{picked.choice.name}: {picked.row.p50_ms:g} ms{before}")
    for path in written:
        print(f"  {path}")
    return 0
