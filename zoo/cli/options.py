"""What the grammars of commands share: the types of options, and the options that several commands have. Imports no torch."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from blocks.registry.words import LONGEST_NAME, printable
from zoo.cli.commands import TEXTS
from zoo.display.console import complain

if TYPE_CHECKING:
    from zoo.specs.arguments import Settings

Handler = Callable[[argparse.Namespace], int]
"""What a command does: it takes the parsed arguments and returns an exit code."""


def command(commands: Any, name: str, handler: Handler, text: str = "") -> argparse.ArgumentParser:
    """The parser of a new command, with `--json`; `text` is its help and its description, if those of `COMMANDS` are not."""
    text = text or TEXTS[name]
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(handler=handler)
    return parser


def add_changes(command: argparse.ArgumentParser) -> None:
    """`--set`, `--swap` and `--at`: changes of a spec."""
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change the spec: dims=[32,64], '**.<mlp>.ratio=2'",
    )
    command.add_argument(
        "--swap",
        action="append",
        default=[],
        metavar="ROLE=BLOCK",
        help="another block for a role: token_mixer=pooling",
    )
    command.add_argument("--at", default="", help="where to swap: stages.2-3")


def add_form(command: argparse.ArgumentParser, default: str) -> None:
    """`--form`: train or deploy."""
    text = f"as trained, or folded for inference (default {default})"
    command.add_argument("--form", default=default, choices=["train", "deploy"], help=text)


def add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=whole(1), default=1, help="of one model, at least 1 (default 1)")


def add_batch(command: argparse.ArgumentParser) -> None:
    command.add_argument("--batch", type=whole(1), default=1, help="inputs at one time, at least 1 (default 1)")


def add_metric(command: argparse.ArgumentParser) -> None:
    """`--metric`: the figure by which models are ranked."""
    text = "what ranks (default imagenet-1k/top1)"
    command.add_argument("--metric", default="imagenet-1k/top1", metavar="DATA/METRIC", help=text)


def add_commercial(command: argparse.ArgumentParser) -> None:
    command.add_argument("--commercial", action="store_true", help="permissive licences only")


def quantity(text: str) -> float:
    """25M, 4.1G or 4.1e9: a number with a prefix, in powers of ten; in powers of two with an i behind it, 512Mi or 512MiB."""
    match = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?:([kKMGT])(i?)B?)?", text[:LONGEST_NAME].strip())
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or match is None:
        raise argparse.ArgumentTypeError(f"expected a number like 25M, 4.1G, 1e9 or 512MiB; found `{text}`")
    steps = "kMGT".index(match[2].replace("K", "k")) + 1 if match[2] else 0
    return number * (1024 if match[3] else 1000) ** steps


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes whole numbers within bounds."""
    words = f"a whole number from {least}" + (f" to {most}" if most is not None else "")

    def read(text: str) -> int:
        if re.fullmatch(r"-?[0-9]{1,18}", text) and least <= int(text) <= (int(text) if most is None else most):
            return int(text)
        raise argparse.ArgumentTypeError(f"expected {words}; found `{printable(text)}`")

    return read


def positive(text: str) -> float:
    """A number above 0, as minutes and milliseconds are."""
    try:
        number = float(text[:LONGEST_NAME])
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0; found `{printable(text)}`")
    return number


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text[:LONGEST_NAME])
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1; found `{printable(text)}`")
    return number


def split(text: str) -> list[str]:
    """The words between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def settings(pairs: Sequence[str], option: str) -> Settings:
    """`k=v` pairs as a mapping; values are TOML values, and bare words strings. Raises SpecError for a value beyond all bounds."""
    from zoo.specs.arguments import Settings
    from zoo.specs.read import read_setting

    out = Settings()
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            complain(f"zoo: {option} {printable(pair)}: expected PATH=VALUE")
            raise SystemExit(2)
        out[key] = read_setting(text, f"{option} {key}")
    return out
