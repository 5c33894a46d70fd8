"""`zoo train`: models trained on pictures of one's own (`train`), on data at hand, and mixers on tasks that code generates."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from zoo.cli.commands import train
from zoo.cli.options import command, split, whole
from zoo.display.console import dump, table
from zoo.errors import InputError, Problem, listed, nearest


def add(commands: Any) -> None:
    parser = commands.add_parser("train")
    data = parser.add_subparsers(dest="training", metavar="NAME", required=True, action=train.Trainings)
    train.add(data)
    images = command(data, "digits", digits, "train on scikit-learn's handwritten digits")
    images.add_argument("name")
    images.add_argument("--epochs", type=whole(1), default=None)
    images.add_argument("--seed", type=whole(0), default=None)
    images.add_argument("--out", default="", help="write the weights to this .safetensors file")
    images.add_argument("--publish", action="store_true", help="make them the weights `digits` of the model's package")

    drawn = command(data, "scenes", scenes, "train on generated scenes, for the task of the model")
    drawn.add_argument("name", help="a model that finds things, tells pixels apart, or restores or enlarges pictures")
    drawn.add_argument("--steps", type=whole(1), default=None)
    drawn.add_argument("--seed", type=whole(0, 10_000), default=None)
    drawn.add_argument("--out", default="", help="write the weights to this .safetensors file")
    drawn.add_argument("--publish", action="store_true", help="make them the weights `scenes` of the model's package")

    docstrings = command(data, "text", text, "train on the docstrings of Python's library, byte by byte")
    docstrings.add_argument("name")
    docstrings.add_argument("--steps", type=whole(1), default=None)
    docstrings.add_argument("--seed", type=whole(0), default=None)
    docstrings.add_argument("--out", default="", help="write the weights to this .safetensors file")
    docstrings.add_argument(
        "--publish", action="store_true", help="make them the weights `pydoc` of the model's package"
    )

    sequences = command(data, "tasks", tasks, "train sequence mixers on generated tasks: recall, copying, ...")
    sequences.add_argument(
        "mixers", nargs="*", metavar="MIXER", help="token mixers, or Python files that define one (default: all)"
    )
    sequences.add_argument("--tasks", default="", metavar="TASK,TASK", help="the tasks (default: all)")
    sequences.add_argument("--seeds", type=whole(1), default=1)
    sequences.add_argument("--publish", action="store_true", help="fill the table of the package, from where it stands")
    data.choices = train.Words(data._name_parser_map)


def digits(arguments: Namespace) -> int:
    """Trains from scratch and reports the held-out accuracy beside the published one."""
    import msgspec

    from zoo.publish.save import save
    from zoo.training.digits import Recipe, manifest_of, publish, train_digits

    name = _begun(arguments)
    options = {"epochs": arguments.epochs, "seed": arguments.seed}
    recipe = msgspec.structs.replace(Recipe(), **{key: value for key, value in options.items() if value is not None})

    result = train_digits(name, recipe, _progress(name, "epoch"))
    if arguments.out:
        save(result.model, arguments.out, known=manifest_of(name, result, recipe))
    if arguments.publish:
        publish(name, result, recipe)
    low, high = result.ci95
    if arguments.json:
        dump(
            {
                "model": name,
                "accuracy": result.accuracy,
                "correct": result.correct,
                "n": result.n,
                "ci95": [low, high],
                "seconds": round(result.seconds, 1),
            }
        )
    else:
        print(
            f"{name}: {result.correct} of {result.n} held-out digits, {result.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}), {result.seconds:.0f} s"
        )
    return 0


def scenes(arguments: Namespace) -> int:
    """Trains from scratch on scenes and reports the figures of the task on held-out ones."""
    import msgspec

    from zoo.evaluating.scenes import text as figure_text
    from zoo.publish.save import save
    from zoo.training.scenes import SceneRecipe, manifest_of, publish_scenes, train_scenes

    name = _begun(arguments)
    options = {"steps": arguments.steps, "seed": arguments.seed}
    changed = {key: value for key, value in options.items() if value is not None}
    recipe = msgspec.structs.replace(SceneRecipe(), **changed)

    result = train_scenes(name, recipe, _progress(name, "step"))
    if arguments.out:
        save(result.model, arguments.out, known=manifest_of(name, result, recipe))
    if arguments.publish:
        publish_scenes(name, result, recipe)
    if arguments.json:
        figures = {key: figure.to_dict() for key, figure in result.figures.items()}
        dump({"model": name, "figures": figures, "seconds": round(result.seconds, 1)})
    else:
        told = ", ".join(f"{key} {figure_text(key, figure)}" for key, figure in result.figures.items())
        print(f"{name}: {told} on held-out scenes, {result.seconds:.0f} s")
    return 0


def text(arguments: Namespace) -> int:
    """Trains from scratch on docstrings and reports the bits for each byte of held-out ones."""
    import msgspec

    from zoo.publish.save import save
    from zoo.training.pydoc import TextRecipe, publish_text, train_text

    name = _begun(arguments)
    options = {"steps": arguments.steps, "seed": arguments.seed}
    recipe = msgspec.structs.replace(
        TextRecipe(), **{key: value for key, value in options.items() if value is not None}
    )

    result = train_text(name, recipe, _progress(name, "step"))
    if arguments.out:
        save(result.model, arguments.out)
    if arguments.publish:
        publish_text(name, result, recipe)
    if arguments.json:
        figures = {"bits_per_byte": result.bits_per_byte, "n": result.n, "seconds": round(result.seconds, 1)}
        dump({"model": name} | figures)
    else:
        print(
            f"{name}: {result.bits_per_byte:.3f} bits per byte on {result.n:,} held-out bytes, {result.seconds:.0f} s"
        )
    return 0


def tasks(arguments: Namespace) -> int:
    """Trains sequence mixers on generated tasks and prints what each learned, above what the shipped ones did."""
    import msgspec

    from zoo.catalog.local_files import block_of
    from zoo.measure.task_table import shipped
    from zoo.training.tasks import measure_table, mixers, publish

    chosen = _chosen(arguments.tasks)
    names = [block_of(mixer, ("token_mixer",)) for mixer in arguments.mixers] or mixers()
    before, keep = (shipped(), publish) if arguments.publish else (None, lambda _: None)
    results = measure_table(names, chosen, arguments.seeds, before, keep, _heard)
    if arguments.json:
        dump([msgspec.to_builtins(row) for row in results.rows if row.mixer in names and row.task in chosen])
        return 0
    shipped_names = [name for name in shipped().names() if name not in names]
    rows = [[name, *_shares(results.scores(name), chosen), "here"] for name in names]
    rows += [[name, *_shares(shipped().scores(name), chosen), "shipped"] for name in shipped_names]
    table(["mixer", *chosen, ""], [*rows, ["a guess", *_shares(results.chance, chosen), ""]])
    return 0


def _begun(arguments: Namespace) -> str:
    """The name of the model. Raises before anything is trained for one that there is not, and for an --out that nothing can be written to."""
    from zoo import catalog
    from zoo.publish.save import check_target

    name = catalog.split_tag(arguments.name)[0]
    catalog.entry(name)
    if arguments.out:
        check_target(arguments.out)
    return name


def _chosen(text: str) -> list[str]:
    from zoo.data.tasks import TASKS

    names = split(text) or list(TASKS)
    problems = [
        Problem(name, f"one of {listed(list(TASKS))}", "no such task", nearest(name, TASKS))
        for name in names
        if name not in TASKS
    ]
    if problems:
        raise InputError("train tasks", problems)
    return names


def _shares(scores: dict[str, float], chosen: list[str]) -> list[str]:
    return [f"{scores[task]:.1%}" if task in scores else "-" for task in chosen]


def _heard(mixer: str, task: str) -> Callable[[int, int, float], None]:
    return _progress(f"{mixer} on {task}", "step")


def _progress(what: str, unit: str) -> Callable[[int, int, float], None]:
    """One line of stderr that is written over until the last step."""

    def progress(step: int, steps: int, loss: float) -> None:
        end = "\n" if step == steps else ""
        print(f"\r{what}: {unit} {step}/{steps}, loss {loss:.3f}", end=end, file=sys.stderr, flush=True)

    return progress
