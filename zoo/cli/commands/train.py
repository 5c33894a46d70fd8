"""`zoo train NAME --data DIR --out RUN`: a model trained on labelled pictures; and `zoo train recipes`, what a recipe may say."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from blocks.registry.words import printable
from zoo.cli.options import command, positive, settings, whole
from zoo.display.console import complain, dump, duration, table, unguarded
from zoo.errors import nearest

NAME = "NAME"
MOST_ROWS = 30


SHORT = (
    ("--epochs", "schedule.epochs", whole(1)), ("--batch-size", "data.batch_size", whole(1)), ("--lr", "optimizer.lr", positive),
    ("--img-size", "model.size", whole(1)), ("--in-chans", "model.channels", whole(1)), ("--seed", "seed", whole(0)),
)  # fmt: skip
"""What is changed most, under the names that timm's users know."""
FIELD = "change the recipe: schedule.epochs=50; `zoo train recipes` lists the fields"


class Words(dict[str, Any]):
    """Choices of which any other word is one, too: the name of a model."""

    def __contains__(self, word: object) -> bool:
        return True


class Trainings(argparse._SubParsersAction):  # type: ignore[type-arg]
    """Kinds of training by their words; any other word is the name of a model that is trained on pictures."""

    def __call__(self, parser: Any, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        kinds = [kind for kind in self._name_parser_map if kind != NAME]
        if values[0] in kinds:
            words = values
        elif nearest(values[0], kinds) and not any(word.startswith(("-h", "--h", "--d")) for word in values):
            parser.error(f"argument {self.metavar}: invalid choice: '{values[0]}'")
        else:
            words = [NAME, *values]
        super().__call__(parser, namespace, words, option_string)


def add(trainings: Any) -> None:
    pictures = command(trainings, NAME, train, "train a model on labelled pictures of your own")
    add_training(pictures)
    pictures.add_argument("--out", required=True, metavar="RUN", help="the folder that becomes the trained model")
    pictures.add_argument("--resume", action="store_true", help="go on where this run was broken off")
    pictures.add_argument("--log", default="", metavar="TRACKER", help="tensorboard, wandb or both")

    recipes = command(trainings, "recipes", show, "the fields of a recipe: values, bounds and what they mean")
    recipes.add_argument("recipe", nargs="?", default="finetune", help="(default finetune)")
    recipes.add_argument("--set", dest="settings", action="append", default=[], metavar="FIELD=VALUE", help=FIELD)


def add_training(parser: argparse.ArgumentParser) -> None:
    """What to train, on what, and by which recipe."""
    parser.add_argument("name", help="a model, with a tag of weights or without, or what `zoo.save` wrote")
    source = "a folder of classes, with train and val or without; a .csv, .tsv, .parquet or .tar"
    parser.add_argument("--data", required=True, metavar="SOURCE", help=source)
    recipe = "finetune, linear-probe, from-scratch or a .toml file (default finetune)"
    parser.add_argument("--recipe", default="finetune", metavar="RECIPE", help=recipe)
    for option, path, kind in SHORT:
        parser.add_argument(option, dest=path, type=kind, default=None, metavar="N", help=f"short for --set {path}=N")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="FIELD=VALUE", help=FIELD)
    parser.add_argument("--weights", default=None, metavar="FILE", help="a checkpoint to begin with")
    parser.add_argument("--target", default="", metavar="COLUMN,COLUMN", help="of a table: what is to be learned")
    tasks = ["classification", "multilabel", "regression"]
    parser.add_argument("--task", default=None, choices=tasks, help="of a table, where its values do not tell")
    parser.add_argument("--strict", action="store_true", help="pictures that cannot be read are an error")


def training_of(arguments: Namespace) -> dict[str, Any]:
    """The options of `add_training`, as `zoo.train` and `zoo.sweep` take them."""
    changes = {path: value for _, path, _ in SHORT if (value := getattr(arguments, path)) is not None}
    return {
        "recipe": arguments.recipe, "settings": changes | settings(arguments.settings, "--set"), "weights": arguments.weights,
        "target": arguments.target, "task": arguments.task, "strict": arguments.strict,
    }  # fmt: skip


def show(arguments: Namespace) -> int:
    from zoo.training.recipe import fields, read_recipe, values

    known = values(read_recipe(arguments.recipe, settings(arguments.settings, "--set")))
    if arguments.json:
        dump({path: {"value": known[path], "type": kind, "text": text} for path, kind, _, text in fields()})
    else:
        table(
            ["field", "value", "type", "meaning"],
            [[path, str(known[path]), kind, text] for path, kind, _, text in fields()],
        )
    return 0


def train(arguments: Namespace) -> int:
    from zoo.training.run import train as run
    from zoo.training.trainer import Watch

    with bars() as (looked, step):
        result = run(
            arguments.name, arguments.data, arguments.out, **training_of(arguments),
            resume=arguments.resume, log=arguments.log, watch=Watch(complain, looked, step, _tell_data),
        )  # fmt: skip
    if not result.figure:  # a process beside the first
        return 0
    if arguments.json:
        dump(_plain(result))
        return 0
    value = in_words(result.task == "regression", result.value, result.ci95, result.n)
    print(
        f"{result.model}: {result.figure} {value}, epoch {result.best_epoch} of {len(result.history)}, {result.seconds:.0f} s"
    )
    print(
        f"{result.folder}: a model; `zoo predict {result.folder} PICTURE`, `zoo deploy {result.folder}`, {result.folder}/report.html"
    )
    return 0


def in_words(number: bool, value: float, ci95: tuple[float, float] | None, n: int) -> str:
    """`97.5% on 40 held-out pictures (95 % interval 87.1% to 99.6%)`; of a `number` as it is."""
    form = ".4f" if number else ".1%"
    interval = f" (95 % interval {ci95[0]:{form}} to {ci95[1]:{form}})" if ci95 else ""
    figure = f"{value:{form}}"
    return f"{figure} on {n:,} held-out pictures{interval}"


def _plain(result: Any) -> dict[str, Any]:
    import msgspec

    return msgspec.to_builtins(result._asdict() | {"folder": str(result.folder)})  # type: ignore[no-any-return]


def _tell_data(data: Any, found: Any) -> None:
    """Counts of classes, what is left out and what stands in two parts, on stderr, before the first step."""
    parts = [part for part in ("train", "val", "test") if data.parts.get(part)]
    columns = [data.counts(part) for part in parts]
    rows = [
        f"  {printable(label)}: "
        + ", ".join(f"{column[i]} {part}" for part, column in zip(parts, columns, strict=True))
        for i, label in enumerate(data.labels)
    ]
    complain(f"{len(data.labels)} labels, {data.task}")
    for line in _few(rows):
        complain(line)
    if not found.compared:
        complain("too many pictures to look for such as are in the training part and held out, too")
    for title, lines in (
        ("left out, since they cannot be read", [f"{name}: {reason}" for name, reason in found.unreadable]),
        ("left out, since their names are not those of pictures", list(data.ignored)),
        ("in the training part and held out, too", [f"{one} = {other}" for one, other in found.doubles]),
    ):
        if lines:
            complain(f"{len(lines)} {title}:")
            for line in _few([f"  {line}" for line in lines]):
                complain(line)


def _few(lines: list[str]) -> list[str]:
    return lines if len(lines) <= MOST_ROWS else [*lines[: MOST_ROWS - 1], f"  and {len(lines) - MOST_ROWS + 1} more"]


@contextmanager
def bars() -> Iterator[tuple[Callable[[int, int], None], Callable[[Any], None]]]:
    """Progress with the time that is left: bars on a terminal, elsewhere a line for each twentieth."""
    if not sys.stderr.isatty():
        yield _looked_line, _step_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    ]
    with Progress(*columns, console=Console(file=unguarded(sys.stderr)), transient=True) as view:
        tasks: dict[str, Any] = {}

        def bar(kind: str, text: str, done: int, total: int, left: str) -> None:
            if kind not in tasks:
                tasks[kind] = view.add_task("", total=total, left="")
            view.update(tasks[kind], completed=done, total=total, description=text, left=left, visible=done < total)

        yield (
            lambda done, total: bar("look", f"looking at {total:,} pictures", done, total, f"{done:,}"),
            lambda now: bar("step", _words(now), now.step, now.steps, f"{duration(now.left)} left"),
        )


def _looked_line(done: int, total: int) -> None:
    if done == total:
        complain(f"{total:,} pictures looked at")


def _step_line(now: Any) -> None:
    if now.step % max(1, now.steps // 20) == 0 or now.step == now.steps:
        complain(f"{_words(now)}, {duration(now.left)} left")


def _words(now: Any) -> str:
    figure = "" if now.figure is None else f", held out {now.figure:.4f}"
    return f"epoch {now.epoch}/{now.epochs}, step {now.step}/{now.steps}, loss {now.loss:.3f}{figure}"
