"""`zoo push` and `zoo pull`: models to the Hub and from it."""

from __future__ import annotations

from argparse import Namespace

from zoo import catalog, front
from zoo import hub as repositories
from zoo.console import dump


def push(arguments: Namespace) -> int:
    tagged = bool(catalog.split_tag(arguments.name)[1])
    model = front.create(arguments.name, pretrained=tagged and not arguments.weights, weights=arguments.weights or None)
    licence_class = "permissive" if arguments.licence in ("Apache-2.0", "MIT", "BSD-3-Clause") else "unknown"
    where = repositories.push(
        model, arguments.repo, private=arguments.private, licence=arguments.licence, licence_class=licence_class
    )
    dump({"reference": where}) if arguments.json else print(f'{where}\nnext: zoo.create("{where}")')
    return 0


def pull(arguments: Namespace) -> int:
    files = [str(path) for path in repositories.pull(arguments.reference, arguments.folder)]
    dump(files) if arguments.json else print("\n".join(files))
    return 0
