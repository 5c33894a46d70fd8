"""`zoo plugins` and `zoo index`: what others have added, and the data that their packages carry."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import msgspec

from blocks.plugins import Plugin, owner_of, package_of, refusal
from blocks.plugins import plugins as declared
from blocks.registry import INDEX_OF_PLUGIN, get, info_of
from zoo import catalog
from zoo.collection import collections, forget
from zoo.console import dump, table
from zoo.errors import InputError, Problem, listed, nearest


def plugins(arguments: Namespace) -> int:
    """Exit code 1 when a plugin does not work."""
    from zoo.plugging import plugins as known

    reports = known(check=not arguments.no_check, timeout=arguments.timeout)
    if arguments.json:
        dump([msgspec.to_builtins(report) for report in reports])
    elif not reports:
        print("no plugin is installed; `zoo new-plugin NAME` begins one")
    else:
        rows = [
            [one.name, one.version, one.api, " ".join(one.namespaces), str(len(one.blocks)), str(one.models), one.state, one.cause]
            for one in reports
        ]  # fmt: skip
        table(["plugin", "version", "api", "namespaces", "blocks", "models", "state", "cause"], rows)
    return 1 if any(report.state in ("broken", "clash", "incompatible") for report in reports) else 0


def index(arguments: Namespace) -> int:
    """Loads every block and builds every model of a namespace, and writes down what they are.

    That is `blocks.json` beside the package's `__init__.py`, and in its `models` folder `index.json` and `data/profiles.json`.
    """
    from zoo.measure import profiles

    plugin = _plugin(arguments.namespace)
    files = {folder / INDEX_OF_PLUGIN: _described(plugin, folder) for folder in _packages(plugin)}
    homes = [collections()[space] for space in sorted(plugin.models) if space in collections()]
    specs = [home for home in homes if any(home.folder.glob("*.toml"))]
    files |= {home.index_file: catalog.render(home) for home in specs}
    if arguments.check:
        stale = [path.name for path, fresh in files.items() if not path.is_file() or path.read_bytes() != fresh]
        print(f"stale: {listed(stale)}; run `zoo index {arguments.namespace}`" if stale else "all up to date")
        return 1 if stale else 0
    for path, fresh in files.items():
        path.write_bytes(fresh)
    forget()
    models = sum(profiles.write(home) for home in specs)
    print(f"{len(plugin.blocks)} blocks and {models} models of {plugin.owner}: {listed([str(path) for path in files])}")
    return 0


def _plugin(namespace: str) -> Plugin:
    known = sorted(space for plugin in declared().values() if plugin.usable for space in plugin.namespaces)
    plugin = owner_of(namespace)
    if plugin is None or not plugin.usable:
        expected = "the namespace of an installed plugin" + (f": {listed(known)}" if known else "")
        cure = refusal(namespace) or "install yours with: pip install --no-deps -e FOLDER"
        raise InputError("index", Problem("namespace", expected, f"`{namespace}`", nearest(namespace, known), cure))
    return plugin


def _packages(plugin: Plugin) -> list[Path]:
    folders = {package_of(point) for point in plugin.blocks.values()}
    return sorted(folder for folder in folders if folder is not None)


def _described(plugin: Plugin, folder: Path) -> bytes:
    """The bytes of the index of the blocks that live in one package."""
    own = sorted(identity for identity, point in plugin.blocks.items() if package_of(point) == folder)
    infos = [info_of(get(identity)) for identity in own]
    return msgspec.json.format(msgspec.json.encode(infos, order="sorted"), indent=1) + b"\n"
