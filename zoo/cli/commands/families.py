"""`zoo card` and `zoo publish-family`: the pages of families, and all data that follow from their files."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from zoo.cli.options import command
from zoo.display.console import complain, dump, table
from zoo.errors import InputError, Problem


def add(commands: Any) -> None:
    page = command(commands, "card", card)
    page.add_argument("name", nargs="?", default="", help="a model or a family")
    page.add_argument("--all", default="", metavar="DIR", help="write the pages of all families, and an index")

    publish = command(commands, "publish-family", publish_family)
    publish.add_argument("name", help="the family, as zoo/models/NAME.toml is called")


def card(arguments: Namespace) -> int:
    from zoo import catalog
    from zoo.catalog.listing import list_modules
    from zoo.publish.cards import card as page
    from zoo.publish.cards import write

    if arguments.all:
        written = write(Path(arguments.all))
        dump(written) if arguments.json else complain(f"{len(written)} pages written to {arguments.all}")
        return 0
    if not arguments.name:
        raise InputError("card", Problem("", "a model or a family, or --all DIR", "none"))
    name = arguments.name if arguments.name in list_modules() else catalog.entry(arguments.name).family
    dump({"family": name, "page": page(name)}) if arguments.json else print(page(name), end="")
    return 0


def publish_family(arguments: Namespace) -> int:
    """Says what is left for a person."""
    from zoo.authoring.publish_family import publish_family as publish

    publication = publish(arguments.name)
    if arguments.json:
        remaining = [step._asdict() for step in publication.remaining]
        dump({"models": publication.models, "files": publication.files, "remaining": remaining})
        return 0
    files = ", ".join(publication.files)
    print(f"{len(publication.models)} models; up to date: {files}")
    if publication.remaining:
        table(["left for a person", ""], publication.remaining)
    return 0
