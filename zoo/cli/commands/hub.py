"""`zoo push` and `zoo pull`: models to the Hub and from it."""

from __future__ import annotations

from argparse import Namespace

from zoo import catalog, factory
from zoo.artifacts.repository import pull as pull_repository
from zoo.display.console import dump
from zoo.publish.save import LicenceClass
from zoo.publish.upload import push as push_model


def push(arguments: Namespace) -> int:
    tagged = bool(catalog.split_tag(arguments.name)[1])
    model = factory.create(
        arguments.name, pretrained=tagged and not arguments.weights, weights=arguments.weights or None
    )
    licence_class: LicenceClass = (
        "permissive" if arguments.licence in ("Apache-2.0", "MIT", "BSD-3-Clause") else "unknown"
    )
    where = push_model(
        model, arguments.repo, private=arguments.private, licence=arguments.licence, licence_class=licence_class
    )
    dump({"reference": where}) if arguments.json else print(f'{where}\nnext: zoo.create("{where}")')
    return 0


def pull(arguments: Namespace) -> int:
    files = [str(path) for path in pull_repository(arguments.reference, arguments.folder)]
    dump(files) if arguments.json else print("\n".join(files))
    return 0
