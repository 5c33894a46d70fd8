"""`zoo site`: the static pages of the catalogue, or of some models of it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from zoo.cli.commands.measuring import bar, models_named
from zoo.cli.options import command
from zoo.display.console import complain, dump, size


def add(commands: Any) -> None:
    parser = command(commands, "site", site)
    parser.add_argument("folder", metavar="OUT", help="the folder to write; an earlier site in it is replaced")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="only these; globs are fine: 'acme/*'")
    parser.add_argument(
        "--store",
        nargs="+",
        default=[],
        metavar="FILE",
        help="rows of `zoo bench --export`, or what `zoo calibrate --json` printed, beside those that ship",
    )
    parser.add_argument(
        "--quick", action="store_true", help="without what the parts of each model cost, which takes building it"
    )
    parser.add_argument("--title", default="blockzoo", help="the name of the site (default blockzoo)")


def site(arguments: Namespace) -> int:
    from zoo.measure.processes import Progress
    from zoo.site.build import write_site
    from zoo.site.render import environment

    environment()  # says what is not installed before anything is counted
    with bar(0, "models counted") as progress:
        written = write_site(
            Path(arguments.folder),
            models_named(arguments.models),
            [Path(path) for path in arguments.store],
            arguments.title,
            not arguments.quick,
            lambda done, total, name: progress(Progress(done, total, name)),
        )
    if arguments.json:
        dump({**written._asdict(), "folder": str(written.folder)})
        return 0
    complain(
        f"{len(written.files):,} files of {written.models:,} models written to {written.folder}, {size(written.bytes)}, {size(written.gzipped)} gzipped"
    )
    print(written.folder / "index.html")
    return 0
