"""`zoo predict`: pictures classified, turned into features, or answered as the task of the model asks, on the screen or into files."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from zoo.cli.commands.measuring import bar
from zoo.cli.options import command, share, whole
from zoo.display.console import complain, dump, table

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.predicting.journal import Tally
    from zoo.predicting.predictor import Wish
    from zoo.predicting.rows import Row

SHOWN_FEATURES = 4
SHOWN_TOP, WRITTEN_TOP = 3, 5
SHOWN_DIGITS = 4


def add(commands: Any) -> None:
    parser = command(commands, "predict", predict)
    parser.add_argument("name", help="a model with weights, or what `zoo.save` wrote")
    sources = "a picture, a folder tree, a list of paths (.txt, .csv), a tar, or a Parquet file"
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=sources)
    out = "write .jsonl, .csv or .parquet; goes on after a kill. Of a model for a task a folder: what is drawn, JSON beside"
    parser.add_argument("--out", default="", metavar="FILE", help=out)
    parser.add_argument("--force", action="store_true", help="write FILE anew, whatever is there of it")
    top = f"classes of each picture, at least 1 (default {SHOWN_TOP}, in a file {WRITTEN_TOP})"
    parser.add_argument("--top", type=whole(1), default=None, help=top)
    score = "of things, persons and lines: from which score on one is told (default 0.3)"
    parser.add_argument("--score", type=share, default=0.3, help=score)
    parser.add_argument("--features", action="store_true", help="what the classifier reads, instead of classes")
    parser.add_argument(
        "--column", default="", metavar="NAME", help="of a Parquet file or CSV: the bytes, or the paths"
    )
    parser.add_argument("--batch", type=whole(1), default=32, help="pictures at one time, at least 1 (default 32)")
    workers = "threads that decode (default: one for each core, 8 at most)"
    parser.add_argument("--workers", type=whole(1, 256), default=0, help=workers)
    runtime = "run what `zoo deploy` makes: auto, or a runtime"
    parser.add_argument("--deploy", default="", metavar="RUNTIME", help=runtime)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to run (default cpu)")
    parser.add_argument("--on", default="", choices=["ray"], help="in actors of Ray Data, on a cluster or here")
    parser.add_argument("--processes", type=whole(1), default=0, help="actors of Ray (default: one for each node)")


def predict(arguments: Namespace) -> int:
    """Pictures that cannot be read are named, the others still done. Exit code 1 when one failed, 2 when all did."""
    from pathlib import Path

    from zoo.predicting.predictor import Wish
    from zoo.predicting.tasks import is_for_task

    top = arguments.top or (WRITTEN_TOP if arguments.out else SHOWN_TOP)
    wish = Wish(
        name=arguments.name, top=top, features=arguments.features, batch=arguments.batch, workers=arguments.workers,
        deploy=arguments.deploy, device=arguments.device, score=arguments.score,
    )  # fmt: skip
    if is_for_task(arguments.name):
        return _answer(arguments, wish)
    return _write(arguments, wish, Path(arguments.out)) if arguments.out else _show(arguments, wish)


def _write(arguments: Namespace, wish: Wish, out: Path) -> int:
    from zoo.predicting.run import written

    try:
        with bar(0, "pictures") as progress:
            done = written(
                wish,
                arguments.sources,
                out,
                arguments.column,
                arguments.force,
                arguments.on,
                arguments.processes,
                progress,
            )
    except KeyboardInterrupt:
        complain(f"{out}: what is done is kept in {out}.parts; the same command goes on")
        raise
    if arguments.json:
        dump({"out": str(out), "rows": done.rows, "failed": done.failed})
    else:
        print(f"{out}: {done.rows:,} rows" + (f", {done.failed:,} without an answer (`error`)" if done.failed else ""))
    return _code(done)


def _answer(arguments: Namespace, wish: Wish) -> int:
    """What a model for a task tells, in the terminal or as files of a folder."""
    from pathlib import Path

    from zoo.predicting.journal import Tally
    from zoo.predicting.tasks import answers_of, drawn

    if arguments.on:
        complain("zoo: --on ray is for models that answer classes")
        return 2
    with bar(0, "pictures") as progress:
        answers = answers_of(wish, arguments.sources, arguments.column, progress)
        if arguments.out:
            answers = drawn(answers, Path(arguments.out), arguments.force)
        rows = [(each.plain(), each.error) for each in answers]
    if arguments.json:
        dump([row for row, _ in rows])
    else:
        for row, error in rows:
            if error:
                complain(f"{row['image']}: {error}")
        if done := [[row["image"], answer_words(row)] for row, error in rows if not error]:
            table(["image", "answer"], done)
        if arguments.out:
            print(f"{arguments.out}: {len(rows):,} pictures, JSON beside each")
    return _code(Tally(len(rows), sum(bool(error) for _, error in rows)))


def answer_words(row: dict[str, Any]) -> str:
    """What is told of one picture, in a line."""
    if "things" in row:
        return "  ".join(f"{t['label']} {t['score']:.0%} {_box(t['box'])}" for t in row["things"]) or "nothing"
    if "classes" in row:
        return "  ".join(f"{each['label']} {each['share']:.1%}" for each in row["classes"])
    if "clip" in row:
        return "  ".join(f"{each['label']} {each['chance']:.1%}" for each in row["clip"])
    if "persons" in row:
        return "  ".join(f"person {p['score']:.0%}, {len(p['joints'])} joints" for p in row["persons"]) or "nobody"
    if "lines" in row:
        return "  ".join(f"line {line['score']:.0%} {_box(line['ends'])}" for line in row["lines"]) or "no line"
    if "nearest" in row:
        return f"{row['nearest']:.2f} to {row['farthest']:.2f} away, {row['middle']:.2f} in the middle"
    if "share" in row:
        return f"{row['share']:.1%} stands out" + (f", {_box(row['box'])}" if row["box"] else "")
    return f"{row['width']} x {row['height']} pixels"


def _box(sides: list[float]) -> str:
    x1, y1, x2, y2 = (f"{side:.0f}" for side in sides)
    return f"({x1}, {y1}) to ({x2}, {y2})"


def _show(arguments: Namespace, wish: Wish) -> int:
    from zoo.predicting.journal import Tally
    from zoo.predicting.rows import plain
    from zoo.predicting.run import rows_of

    if arguments.on:
        complain("zoo: --on ray writes a file: add --out FILE")
        return 2
    with bar(0, "pictures") as progress:
        rows = rows_of(wish, arguments.sources, arguments.column, progress)
    if arguments.json:
        dump([_brief(plain(row, SHOWN_DIGITS)) for row in rows])
    else:
        for row in rows:
            if row.error:
                complain(f"{row.image}: {row.error}")
        if done := [[row.image, _cell(row)] for row in rows if not row.error]:
            table(["image", "numbers" if any(row.features for row in rows) else "classes"], done)
    return _code(Tally(len(rows), sum(bool(row.error) for row in rows)))


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """Classes by their names; their places are for machines that read files."""
    for each in row.get("classes", ()):
        del each["index"]
    return row


def _cell(row: Row) -> str:
    if row.features:
        first = "  ".join(f"{value:.4g}" for value in row.numbers[:SHOWN_FEATURES])
        return first if len(row.numbers) <= SHOWN_FEATURES else f"{len(row.numbers)} numbers: {first} …"
    return "  ".join(f"{each.label} {each.chance:.1%}" for each in row.classes)


def _code(done: Tally) -> int:
    return 2 if done.failed == done.rows else 1 if done.failed else 0
