"""`zoo push` and `zoo pull`: models to the Hub and from it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from zoo.cli.options import command
from zoo.display.console import dump


def add(commands: Any) -> None:
    upload = command(commands, "push", push)
    upload.add_argument("name", help="a model, a tag means its weights: starnet_nano.digits")
    upload.add_argument("repo", metavar="ORG/REPO", help="a repository of the Hub, or a folder: ./mymodel")
    upload.add_argument(
        "--weights", default="", metavar="FILE", help="a .safetensors file of the model, instead of its own weights"
    )
    upload.add_argument("--private", action="store_true")
    upload.add_argument("--licence", default="", help="of the weights, where they are yours")

    download = command(commands, "pull", pull)
    download.add_argument("reference", metavar="hub:ORG/REPO[@REVISION]")
    download.add_argument("folder")


def push(arguments: Namespace) -> int:
    from zoo import catalog, factory
    from zoo.publish.upload import push as push_model
    from zoo.weights.licences import licence_class

    tagged = bool(catalog.split_tag(arguments.name)[1])
    model = factory.create(
        arguments.name, pretrained=tagged and not arguments.weights, weights=arguments.weights or None
    )
    licence = arguments.licence
    where = push_model(
        model, arguments.repo, private=arguments.private, licence=licence, licence_class=licence_class(licence)
    )
    dump({"reference": where}) if arguments.json else print(f'{where}\nnext: zoo.create("{where}")')
    return 0


def pull(arguments: Namespace) -> int:
    from zoo.artifacts.repository import pull as pull_repository

    files = [str(path) for path in pull_repository(arguments.reference, arguments.folder)]
    dump(files) if arguments.json else print("\n".join(files))
    return 0
