"""`zoo plugins`, `zoo new-plugin`, `zoo rename` and `zoo index`: what others have added, and the data that their packages carry."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.options import command
from zoo.display.console import dump, table
from zoo.errors import InputError, Problem, listed, nearest

if TYPE_CHECKING:
    from blocks.registry.plugins import Plugin
    from zoo.catalog.collection import Collection


def add(commands: Any) -> None:
    installed = command(commands, "plugins", plugins)
    installed.add_argument("--no-check", action="store_true", help="what they declare only; their code is not tried")
    installed.add_argument("--timeout", type=float, default=60.0, help="seconds for each plugin (default 60)")

    begin = command(commands, "new-plugin", new_plugin)
    begin.add_argument("namespace", help="your namespace, as `acme` in acme/my_mixer")
    begin.add_argument(
        "--from", dest="source", default="", metavar="FILE.py", help="a file with blocks, instead of the template's"
    )
    begin.add_argument("--out", default="", metavar="DIR", help="the folder to make (default NAMESPACE-blocks)")

    move = command(commands, "rename", rename)
    move.add_argument("old", help="local/my_mixer")
    move.add_argument("new", help="acme/my_mixer@1")
    move.add_argument("folder", help="a folder with zoo.json, or the `models` of a plugin")

    data = command(commands, "index", index)
    data.add_argument("namespace")
    data.add_argument("--check", action="store_true", help="only say whether it is up to date")


def plugins(arguments: Namespace) -> int:
    """Exit code 1 when a plugin does not work."""
    import msgspec

    from zoo.authoring.report import plugins as known

    reports = known(check=not arguments.no_check, timeout=arguments.timeout)
    if arguments.json:
        dump([msgspec.to_builtins(report) for report in reports])
    elif not reports:
        print("no plugin is installed; `zoo new-plugin NAME` begins one")
    else:
        rows = [
            [row.name, row.version, row.api, " ".join(row.namespaces), str(len(row.blocks)), str(row.models), row.state, row.cause]
            for row in reports
        ]  # fmt: skip
        table(["plugin", "version", "api", "namespaces", "blocks", "models", "state", "cause"], rows)
    return 1 if any(report.state in ("broken", "clash", "incompatible") for report in reports) else 0


def index(arguments: Namespace) -> int:
    """Loads every block and builds every model of a namespace, and writes down what they are."""
    from zoo.authoring import indexing
    from zoo.catalog.index import forget

    plugin = _plugin(arguments.namespace)
    done: list[str] = []
    for package, blocks, home in _packages(plugin):
        if not arguments.check:
            done += [str(path) for path in indexing.write(package, blocks, home)]
            continue
        files = indexing.rendered(package, blocks, home)
        done += [str(path) for path, fresh in files.items() if not path.is_file() or path.read_bytes() != fresh]
    forget()
    if arguments.check:
        print(f"stale: {listed(done)}; run `zoo index {arguments.namespace}`" if done else "all up to date")
        return 1 if done else 0
    print(f"{plugin.owner}: wrote {listed(done)}")
    return 0


def new_plugin(arguments: Namespace) -> int:
    """Says what to type next."""
    from zoo.authoring.scaffold import new_plugin as make

    plugin = make(arguments.namespace, arguments.out, arguments.source)
    if arguments.json:
        dump({"folder": str(plugin.folder), "models": plugin.models, "note": plugin.note})
        return 0
    steps = [f"pip install --no-deps -e {plugin.folder}"]
    if arguments.source:
        steps += [f"zoo train digits {name} --publish" for name in plugin.models] + [f"zoo index {arguments.namespace}"]
    print(f"{plugin.folder} is made. Next:")
    for step in [*steps, f"pytest --zoo-conformance {arguments.namespace}"]:
        print(f"  {step}")
    if plugin.note:
        print(plugin.note)
    return 0


def rename(arguments: Namespace) -> int:
    from zoo.authoring.renaming import rename as carry

    done = carry(arguments.old, arguments.new, arguments.folder)
    if arguments.json:
        dump([change._asdict() for change in done])
        return 0
    rows = [
        [change.model, change.before[:12], change.after[:12], str(change.weights), str(change.rows)] for change in done
    ]
    table(["model", "digest before", "after", "weights", "latency rows"], rows)
    return 0


def _plugin(namespace: str) -> Plugin:
    from blocks.registry.plugins import owner_of, refusal
    from blocks.registry.plugins import plugins as declared

    namespaces = sorted(space for plugin in declared().values() if plugin.usable for space in plugin.namespaces)
    plugin = owner_of(namespace)
    if plugin is None or not plugin.usable:
        expected = "the namespace of an installed plugin" + (f": {listed(namespaces)}" if namespaces else "")
        cure = refusal(namespace) or "install yours with: pip install --no-deps -e FOLDER"
        raise InputError(
            "index", Problem("namespace", expected, f"`{namespace}`", nearest(namespace, namespaces), cure)
        )
    return plugin


def _packages(plugin: Plugin) -> list[tuple[Path, list[str], Collection | None]]:
    """The folders of its packages, the blocks that live in each, and the collection in it."""
    from blocks.registry.plugins import package_of
    from zoo.catalog.collection import collections

    homes = [collections()[space] for space in sorted(plugin.models) if space in collections()]
    folders = {package_of(point) for point in plugin.blocks.values()} | {home.folder.parent for home in homes}
    return [
        (
            folder,
            [identity for identity, point in plugin.blocks.items() if package_of(point) == folder],
            next((home for home in homes if home.folder.parent == folder), None),
        )
        for folder in sorted(folder for folder in folders if folder is not None)
    ]
