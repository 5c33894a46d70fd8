"""`zoo evaluate`: models judged on labelled pictures or on generated scenes, with intervals, and against each other."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.commands.measuring import bar
from zoo.cli.options import command, split, whole
from zoo.display.console import complain, dump, table
from zoo.errors import InputError, Problem, listed
from zoo.system.folders import check_place, write_text

if TYPE_CHECKING:
    from zoo.evaluating.evaluate import Evaluation

METRICS = (
    "some of top1,top5,macro_f1,calibration_error; of models for several labels mAP,macro_f1,micro_f1,exact; of models that tell "
    "numbers r2,mae,rmse,correlation; on scenes those of the task (default: all)"
)
"""Those of `zoo.evaluating`, which a grammar does not import."""
SCENES = "scenes"
"""Those of `zoo.data.scenes`, which a grammar does not import."""
OF_PICTURES = ("split", "target", "classes", "subset", "real", "corrupt", "name", "strict", "deploy")
"""Options that ask for labelled pictures, and mean nothing to scenes."""
MOST_SHOWN = 10


def add(commands: Any) -> None:
    parser = command(commands, "evaluate", evaluate)
    parser.add_argument("names", nargs="+", metavar="NAME", help="models with weights, or what `zoo.save` wrote")
    data = (
        "folders called like classes (in `val`, or at once), a table, a tar; folders as ImageNet-C has them; "
        "`scenes`, generated ones, for models that find things, tell pixels apart or restore pictures"
    )
    parser.add_argument("--data", required=True, metavar="DIR", help=data)
    parser.add_argument("--metric", default="", metavar="NAME,NAME", help=METRICS)
    parser.add_argument("--count", type=whole(1, 100_000), default=200, help="of scenes, at least 1 (default 200)")
    parser.add_argument("--split", default="", metavar="PART", help="the part that judges (default: val, else test)")
    parser.add_argument("--target", default="", metavar="COLUMN", help="of a table: the column of the classes")
    ways = "how folders are classes of the model (default: the first that fits)"
    parser.add_argument("--classes", default="", choices=["name", "wordnet", "number", "order"], help=ways)
    subset = "choose among the classes of the data only, as for ImageNet-A and -R"
    parser.add_argument("--subset", action="store_true", help=subset)
    parser.add_argument("--real", default="", metavar="FILE", help="JSON with all right classes of each picture")
    corrupt = "judge them corrupted, too: fog@3,snow, or all of ImageNet-C"
    parser.add_argument("--corrupt", default="", metavar="NAME@SEVERITY", help=corrupt)
    parser.add_argument(
        "--name", default="", help="of the data, for `zoo find --metric NAME/top1` (default: its folder's)"
    )
    parser.add_argument("--no-record", action="store_true", help="do not tell `zoo find`")
    parser.add_argument("--strict", action="store_true", help="refuse pictures that cannot be read")
    parser.add_argument("--out", default="", metavar="FILE", help="write the report: .md or .json")
    parser.add_argument("--batch", type=whole(1), default=32, help="pictures at one time, at least 1 (default 32)")
    workers = "threads that decode (default: one for each core, 8 at most)"
    parser.add_argument("--workers", type=whole(1, 256), default=0, help=workers)
    runtime = "judge what `zoo deploy` makes: auto, or a runtime"
    parser.add_argument("--deploy", default="", metavar="RUNTIME", help=runtime)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to run (default cpu)")


def evaluate(arguments: Namespace) -> int:
    """Prints figures and pairs; names the pictures that were left out."""
    from zoo.evaluating.evaluate import evaluate as judge
    from zoo.evaluating.report import plain

    out = Path(arguments.out) if arguments.out else None
    of_scenes = arguments.data == SCENES
    if out is not None and not of_scenes and out.suffix not in (".md", ".json"):
        raise InputError("evaluate", Problem("--out", "a file that ends in .md or .json", f"`{arguments.out}`"))
    if out is not None:
        check_place(out)
    if of_scenes:
        return _evaluate_scenes(arguments, out)
    with bar(0, "pictures") as progress:
        found = judge(
            arguments.names, arguments.data, metrics=split(arguments.metric),
            split=arguments.split, target=arguments.target, classes=arguments.classes, subset=arguments.subset, real=arguments.real,
            corrupt=arguments.corrupt,            name=arguments.name, record=not arguments.no_record, strict=arguments.strict, progress=progress, batch=arguments.batch,
            workers=arguments.workers, deploy=arguments.deploy, device=arguments.device,
        )  # fmt: skip
    if out is not None:
        _write(found, out)
    if arguments.json:
        dump(plain(found))
    else:
        _show(found)
    return 0


def _evaluate_scenes(arguments: Namespace, out: Path | None) -> int:
    from zoo.evaluating.scenes import evaluate_scenes, score_cells

    if foreign := [f"--{option}" for option in OF_PICTURES if getattr(arguments, option)]:
        expected = f"pictures of your own for {listed(foreign)}"
        raise InputError("evaluate", Problem("--data", expected, f"`{SCENES}`", next=f"leave out {listed(foreign)}"))
    with bar(0, "scenes") as progress:
        scores = evaluate_scenes(
            list(dict.fromkeys(arguments.names)), metrics=split(arguments.metric), count=arguments.count,
            record=not arguments.no_record, progress=progress, device=arguments.device,
        )  # fmt: skip
    text = json.dumps(scores.to_dicts(), indent=1, ensure_ascii=False) + "\n"
    if out is not None:
        write_text(out, text)
    if arguments.json:
        print(text, end="")
        return 0
    table(["model", "data", "pictures", *scores[0].figures], map(score_cells, scores))
    print(
        "Intervals are of 95 %. Scenes are generated and were never trained on; smoke weights prove the path and rank nothing."
    )
    return 0


def _write(found: Evaluation, out: Path) -> None:
    from zoo.evaluating.report import page, plain

    write_text(
        out, page(found) if out.suffix == ".md" else json.dumps(plain(found), indent=1, ensure_ascii=False) + "\n"
    )


def _show(found: Evaluation) -> None:
    from zoo.evaluating.report import notes, pair_cells, pair_columns, score_cells, score_columns

    table(score_columns(found.scores[0]), map(score_cells, found.scores))
    if found.pairs:
        table(pair_columns(found.pairs[0]), map(pair_cells, found.pairs))
    for line in notes(found):
        print(line)
    for name, reason in list(found.unreadable.items())[:MOST_SHOWN]:
        complain(f"{name}: {reason}")
    if len(found.unreadable) > MOST_SHOWN:
        complain(f"and {len(found.unreadable) - MOST_SHOWN} more; --out report.md lists them all")
