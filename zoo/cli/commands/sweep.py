"""`zoo sweep`: trainings whose recipes Optuna draws from ranges."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from zoo.cli.commands.train import add_training, bars, in_words, training_of
from zoo.cli.options import command, whole
from zoo.display.console import complain, dump, table


def add(commands: Any) -> None:
    parser = command(commands, "sweep", sweep)
    add_training(parser)
    space = "a .toml file of ranges: under [optimizer] lr = { low = 1e-4, high = 1e-2, log = true }"
    parser.add_argument("--space", required=True, metavar="FILE", help=space)
    trials = (
        "trainings that there are to be in the end (default 20); the same command goes on with those that are missing"
    )
    parser.add_argument("--trials", type=whole(1), default=20, metavar="N", help=trials)
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder for the runs, one each")
    url = "a database that several sweeps share: postgresql://USER@HOST/NAME (default: SQLite in --out)"
    parser.add_argument("--storage", default="", metavar="URL", help=url)
    parser.add_argument("--sweep-seed", type=whole(0), default=0, metavar="N", help="of what is drawn (default 0)")


def sweep(arguments: Namespace) -> int:
    """Prints the trials, the best first, and the best with its interval."""
    from zoo.training.sweep import sweep as run
    from zoo.training.trainer import Watch

    with bars() as (looked, step):
        found = run(
            arguments.name, arguments.data, arguments.out, arguments.space, **training_of(arguments), trials=arguments.trials,
            storage=arguments.storage, seed=arguments.sweep_seed, watch=Watch(looked=looked, step=step), told=_tell,
        )  # fmt: skip
    if arguments.json:
        dump({"best": found.best.to_dict(), "trials": found.trials.to_dicts()})
        return 0
    best, fields = found.best, list(found.best.settings)
    shown = [
        [str(each.number), _value(each), *(_drawn(each.settings[field]) for field in fields)] for each in found.trials
    ]
    table(["trial", best.figure, *fields], shown)
    value = in_words(best.figure == "r2", best.value or 0.0, best.ci95, best.n)
    print(f"best of {len(found.trials)}: trial {best.number}, {best.figure} {value}")
    print(f"{best.folder}: a model; `zoo predict {best.folder} PICTURE`, {best.folder}/report.html")
    return 0


def _value(trial: Any) -> str:
    if trial.value is None:
        return "none"
    return f"{trial.value:.4f}" if trial.figure == "r2" else f"{trial.value:.1%}"


def _drawn(value: Any) -> str:
    """The recipe of the trial has all digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tell(trial: Any) -> None:
    """A trial that is over, on stderr."""
    drawn = ", ".join(f"{path}={_drawn(value)}" for path, value in trial.settings.items())
    complain(f"trial {trial.number}: {trial.reason or f'{trial.figure} {_value(trial)}'}; {drawn}")
