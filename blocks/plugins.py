"""What installed distributions declare for the registry, read from their metadata: nothing of theirs is imported.

A distribution declares entry points:

    [project.entry-points."zoo.blocks"]     "acme/dynconv@1" = "acme_blocks.dynconv:DynConv"
    [project.entry-points."zoo.models"]     acme = "acme_blocks"              a package with a folder `models`: data only
    [project.entry-points."zoo.factories"]  acme = "acme_blocks.factory"      a module that builds models which no spec describes
    [project.entry-points."zoo.api"]        acme = "v1"                       the form of all this that it was written for

A package may say of its blocks what the registry would otherwise have to import them for: kind, layout, abilities, parameters. That is
its `blocks.json`, beside its `__init__.py`, and `zoo index` writes it.

The part before the slash is its namespace, and belongs to one distribution: two that claim it are both shut out, by name.
`core/` and `local/` belong to nobody. `ZOO_PLUGINS=off` hides all plugins; `ZOO_PLUGINS=a,b` keeps the distributions, or
namespaces, a and b.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from blocks.errors import BlockError, Problem

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

API = "v1"
BLOCKS, MODELS, FACTORIES, APIS = GROUPS = ("zoo.blocks", "zoo.models", "zoo.factories", "zoo.api")
RESERVED = ("core", "local")
NAMESPACE = re.compile(r"[a-z][a-z0-9_]*")
BLOCK = re.compile(r"(?P<namespace>[a-z][a-z0-9_]*)/(?P<name>[a-z][a-z0-9_]*)(?:@(?P<major>[1-9][0-9]*))?")

State = Literal["available", "loaded", "broken", "clash", "incompatible", "disabled"]


class Plugin(msgspec.Struct):
    """One distribution. `state` is `available` until its code is asked for; `cause` says what is wrong, and what to do."""

    name: str
    version: str
    api: str = API
    blocks: dict[str, Any] = {}
    """Identity -> entry point."""
    models: dict[str, Any] = {}
    """Namespace -> entry point."""
    factories: dict[str, Any] = {}
    state: State = "available"
    cause: str = ""

    @property
    def owner(self) -> str:
        """Name and version, for messages."""
        return f"{self.name} {self.version}"

    @property
    def namespaces(self) -> list[str]:
        """Those of its blocks and models."""
        return sorted({identity.partition("/")[0] for identity in self.blocks} | {*self.models, *self.factories})

    @property
    def usable(self) -> bool:
        """Whether its names are listed. A plugin whose code failed still is: its other blocks may load."""
        return self.state in ("available", "loaded", "broken")

    def fails(self, state: State, cause: str) -> None:
        self.state, self.cause = state, cause


@functools.cache
def plugins() -> dict[str, Plugin]:
    """Every distribution that declares something, by name, usable or not."""
    found: dict[str, Plugin] = {}
    for name, version, points in _declared():
        plugin = found.setdefault(name, Plugin(name, version))
        for point in points:
            _take(plugin, point)
    for plugin in found.values():
        if plugin.state == "available" and plugin.api != API:
            told = f"it is written for plugin api {plugin.api}, and this blockzoo has {API}"
            newer = _number(plugin.api) > _number(API)
            cure = "pip install -U blockzoo" if newer else f"pip install -U {plugin.name}"
            plugin.fails("incompatible", f"{told}; next: {cure}")
        if plugin.state == "available" and not _wanted(plugin):
            plugin.fails("disabled", f"ZOO_PLUGINS is `{os.environ['ZOO_PLUGINS']}`")
    _part_rivals([plugin for plugin in found.values() if plugin.state == "available"])
    return dict(sorted(found.items()))


def forget() -> None:
    """See `blocks.registry.forget_plugins`, which forgets what is derived from this too."""
    plugins.cache_clear()
    targets.cache_clear()
    _found.cache_clear()


@functools.cache
def targets() -> dict[str, Plugin]:
    """Identity -> plugin, for every block that can be asked for."""
    return {identity: plugin for plugin in plugins().values() if plugin.usable for identity in plugin.blocks}


def owner_of(namespace: str) -> Plugin | None:
    """The plugin that owns a namespace, or else one that claims it and may not have it."""
    claims = [plugin for plugin in plugins().values() if namespace in plugin.namespaces]
    return next((plugin for plugin in claims if plugin.usable), claims[0] if claims else None)


def load(plugin: Plugin, point: EntryPoint, what: str) -> Any:
    """The object of an entry point. Whatever its code raises becomes a BlockError with distribution, version and cure.

    What the code prints goes to stderr, so that it cannot spoil the output of a command.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as cause:  # a plugin may raise anything, SystemExit included
        told, cure = _told(cause), _cure(cause, plugin)
        plugin.fails("broken", f"{told}; next: {cure}")
        raise BlockError(what, Problem(plugin.owner, "a module that imports", told, next=cure)) from cause
    if plugin.state == "available":
        plugin.state = "loaded"
    return found


def folder_of(point: EntryPoint) -> pathlib.Path | None:
    """The folder of the package that an entry point names: found by its top-level name, which imports nothing."""
    top, *rest = point.value.partition(":")[0].split(".")
    package = _found(top)
    return package.joinpath(*rest) if package else None


def package_of(point: EntryPoint) -> pathlib.Path | None:
    """The folder of its top-level package, None where that is a single file."""
    return _found(point.value.partition(":")[0].partition(".")[0])


@functools.cache
def _found(package: str) -> pathlib.Path | None:
    """The folder of a top-level package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return pathlib.Path(places[0]) if places else None


def refusal(namespace: str) -> str:
    """Why nothing of a namespace can be had, as a next step; "" when nobody claims it or its owner is well."""
    plugin = owner_of(namespace)
    if plugin is None or plugin.usable:
        return ""
    return f"`{namespace}/` is {plugin.owner}'s, which is {_WORDS[plugin.state]}: {plugin.cause}"


_WORDS = {"clash": "shut out", "incompatible": "not compatible", "disabled": "switched off"}


def _declared() -> Iterator[tuple[str, str, list[EntryPoint]]]:
    """Name, version and entry points of our groups, of every installed distribution that has some."""
    folders = [] if os.environ.get("ZOO_PLUGINS") == "off" else list(_declaring())
    if not folders:
        return  # and importlib.metadata, which takes longer to import than all else here, stays where it is
    from importlib.metadata import PathDistribution

    for folder in folders:
        found = PathDistribution(folder)
        about = found.metadata  # parsed at each call
        yield about["Name"], about["Version"], [point for point in found.entry_points if point.group in GROUPS]


def _declaring() -> Iterator[pathlib.Path]:
    """The metadata folders of distributions whose entry points name one of our groups; of two versions in sys.path the first."""
    seen = set()
    for place in sys.path:
        try:
            with os.scandir(place or ".") as entries:
                found = sorted(entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info")))
        except OSError:  # an archive, or a folder that is not there
            continue
        for path in found:
            name = os.path.basename(path).partition("-")[0].removesuffix(".egg").lower()
            try:
                with open(os.path.join(path, "entry_points.txt"), "rb") as file:
                    declares = b"[zoo." in file.read()
            except OSError:
                declares = False
            if declares and name not in seen:
                yield pathlib.Path(path)
            seen.add(name)


def _take(plugin: Plugin, point: EntryPoint) -> None:
    """One entry point into its plugin; a name that cannot be shuts the plugin out."""
    if point.group == APIS:
        plugin.api = point.value
        return
    match = (BLOCK if point.group == BLOCKS else NAMESPACE).fullmatch(point.name)
    if match is None:
        form = "namespace/name@major" if point.group == BLOCKS else "a namespace in lower case"
        plugin.fails("broken", f"it declares `{point.name}` in {point.group}, which is not of the form `{form}`")
        return
    namespace = match["namespace"] if point.group == BLOCKS else point.name
    if namespace in RESERVED:
        plugin.fails(
            "clash", f"it declares `{point.name}`, and `{namespace}/` cannot be claimed; core names stay as they are"
        )
        return
    if point.group == BLOCKS:
        plugin.blocks[f"{namespace}/{match['name']}@{match['major'] or 1}"] = point
    else:
        (plugin.models if point.group == MODELS else plugin.factories)[point.name] = point


def _part_rivals(found: list[Plugin]) -> None:
    """Of two that claim a namespace neither gets it."""
    claims: dict[str, list[Plugin]] = {}
    for plugin in found:
        for namespace in plugin.namespaces:
            claims.setdefault(namespace, []).append(plugin)
    for namespace, rivals in claims.items():
        if len(rivals) < 2:
            continue
        names = " and ".join(sorted(rival.owner for rival in rivals))
        for rival in rivals:
            rival.fails(
                "clash",
                f"`{namespace}/` is claimed by {names}; next: uninstall one, or keep one with ZOO_PLUGINS={rival.name}",
            )


def _wanted(plugin: Plugin) -> bool:
    wanted = {word.strip() for word in os.environ.get("ZOO_PLUGINS", "").split(",") if word.strip()}
    return not wanted or plugin.name in wanted or bool(wanted & set(plugin.namespaces))


def _number(api: str) -> int:
    digits = api.removeprefix("v")
    return int(digits) if digits.isdigit() else 0


def _told(cause: BaseException) -> str:
    text = " ".join(str(cause).split())
    kind = type(cause).__name__
    return f"{kind}: {text}" if text else kind


def _cure(cause: BaseException, plugin: Plugin) -> str:
    missing = (cause.name or "").partition(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
    own = {point.value.partition(":")[0].partition(".")[0] for point in plugin.blocks.values()}
    if missing and missing not in own:
        return f"pip install {missing}, or uninstall {plugin.name}"
    return f"pip install -U {plugin.name}, or uninstall it"
