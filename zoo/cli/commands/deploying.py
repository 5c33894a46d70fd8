"""`zoo deploy`: the fastest verified form of a model on this machine, and a folder that runs it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from zoo.cli.commands.measuring import bar
from zoo.cli.options import add_batch, add_changes, command, positive, settings, split, whole
from zoo.display.console import complain, dump, table
from zoo.errors import InputError, Problem

if TYPE_CHECKING:
    from zoo.runtimes.report import Report


def add(commands: Any) -> None:
    parser = command(commands, "deploy", deploy)
    parser.add_argument("name", help="a model, with its best weights at hand, or what `zoo.save` wrote")
    parser.add_argument(
        "--out",
        default="",
        metavar="DIR",
        help="write it there, with run.py, pre-processing, labels, licence and report",
    )
    parser.add_argument(
        "--runtime",
        default="auto",
        help="auto, torch, compile, aot, onnxruntime, openvino, or several with commas (default auto)",
    )
    parser.add_argument(
        "--precision",
        default=None,
        help="auto, float32, bfloat16, float16 or int8 (default auto; float32 for one runtime)",
    )
    parser.add_argument("--minutes", type=positive, default=3.0, help="for making and measuring, about (default 3)")
    parser.add_argument("--threads", type=whole(1), default=None, help="of the model (default: those of torch)")
    add_batch(parser)
    parser.add_argument(
        "--size", default="", metavar="H,W", help="of the pictures or clips (default: those that the model is made for)"
    )
    parser.add_argument("--length", type=whole(1), default=None, help="of the sequences, in tokens or steps")
    parser.add_argument(
        "--max-loss",
        type=positive,
        default=None,
        metavar="POINTS",
        help="of right answers that a lower precision may lose (default 0.5)",
    )
    parser.add_argument(
        "--data",
        default="",
        metavar="DIR",
        help="pictures that the loss is measured on, in folders called like classes",
    )
    parser.add_argument(
        "--dynamic",
        default="size",
        choices=["size", "batch", "none"],
        help="what the deployed model takes beside the example's shape",
    )
    parser.add_argument("--again", action="store_true", help="measure even where a choice for this machine is known")
    add_changes(parser)


def deploy(arguments: Namespace) -> int:
    """Says what was chosen, shows what was tried, and writes the folder."""
    from zoo.catalog.runtimes import asked
    from zoo.runtimes.deploy import deploy as choose

    runtimes = split(arguments.runtime)
    asked(runtimes, arguments.precision)  # before anything is loaded
    model = _model(arguments)
    with bar(0, "seconds") as progress:
        fast = choose(
            model, runtimes[0] if len(runtimes) == 1 else runtimes, arguments.precision, example=_example(model, arguments),
            minutes=arguments.minutes, max_loss=None if arguments.max_loss is None else arguments.max_loss / 100,
            data=arguments.data or None, threads=arguments.threads, dynamic=arguments.dynamic, again=arguments.again,
            progress=progress,
        )  # fmt: skip
    if arguments.out:
        fast.save(arguments.out)
    if arguments.json:
        dump(_as_json(fast, arguments.out))
        return 0
    _show(fast.report())
    if arguments.out:
        print(f"{arguments.out}: `python run.py` there needs no zoo")
    return 0


def _model(arguments: Namespace) -> Any:
    """The train form, with the weights at hand; where there are none with first values, which is said."""
    from zoo import factory
    from zoo.catalog.sources import find_source

    changes = {"swap": settings(arguments.swap, "--swap") or None, "at": arguments.at}
    usable = [manifest for manifest in find_source(arguments.name).manifests if manifest.state != "listed"]
    if not usable:
        complain(
            f"{arguments.name}: no weights are at hand; it is deployed with first values, whose answers are random"
        )
    return factory.create(
        arguments.name, settings(arguments.settings, "--set") or None, pretrained=bool(usable), **changes
    )


def _example(model: Any, arguments: Namespace) -> list[tuple[int, ...]]:
    """The shape of each input that is measured. Raises InputError for a size that is none, or that no input has."""
    from zoo.build.inputs import meta_inputs
    from zoo.exporting.ports import axes_of
    from zoo.runtimes.signature import shown

    shapes = [list(x.shape) for x in meta_inputs(model.spec, arguments.batch)]
    axes, wanted = axes_of(model.spec.input), dict[str, int]()
    if arguments.size:
        wanted |= dict(zip(("height", "width"), _sides(arguments.size), strict=True))
    if arguments.length is not None:
        wanted["length"] = arguments.length
    for name, size in wanted.items():
        if name not in axes:
            option = "--length" if name == "length" else "--size"
            problem = Problem(option, f"a size that its input {shown(shapes[0])} has", f"a {name}")
            raise InputError("deploy", problem)
        axis = axes.index(name)
        before = shapes[0][axis]
        for shape in shapes:
            if axis < len(shape) and shape[axis] == before:
                shape[axis] = size
    return [tuple(shape) for shape in shapes]


def _sides(text: str) -> list[int]:
    words = text.split(",")
    if len(words) > 2 or not all(word.strip().isdigit() and 0 < int(word) <= 2**16 for word in words):
        raise InputError("deploy", Problem("--size", "rows and columns: 224 or 192,256", f"`{text}`"))
    sides = [int(word) for word in words]
    return sides * (2 // len(sides))


def _show(report: Report) -> None:
    from zoo.runtimes.report import COLUMNS, cells_of

    print(report.summary)
    table(COLUMNS, [cells_of(row) for row in report])


def _as_json(fast: Any, out: str) -> dict[str, Any]:
    report = fast.report()
    return {
        "summary": report.summary,
        "runtime": fast.runtime,
        "precision": fast.precision,
        "rows": report.to_dicts(),
        "out": out,
    }
