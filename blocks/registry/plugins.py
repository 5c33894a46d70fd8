"""What installed distributions declare for the registry, read from their metadata: nothing of theirs is imported.

A distribution declares entry points:

    [project.entry-points."zoo.blocks"]     "acme/dynconv@1" = "acme_blocks.dynconv:DynConv"
    [project.entry-points."zoo.models"]     acme = "acme_blocks"              a package with a folder `models`: data only
    [project.entry-points."zoo.factories"]  acme = "acme_blocks.factory"      a module that builds models which no spec describes
    [project.entry-points."zoo.runtimes"]   acme = "acme_runtime:Acme"        a runtime that deployed models run in
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

from blocks.registry.errors import BlockError, Problem
from blocks.registry.words import DISTRIBUTION, LONGEST_TEXT, MAJOR, VERSION, WORD, is_name, printable, raised

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

API = "v1"
BLOCKS, MODELS, FACTORIES, RUNTIMES, APIS = GROUPS = (
    "zoo.blocks", "zoo.models", "zoo.factories", "zoo.runtimes", "zoo.api",
)  # fmt: skip
RESERVED = ("core", "local")
NAMESPACE = re.compile(WORD)
BLOCK = re.compile(rf"(?P<namespace>{WORD})/(?P<name>{WORD})(?:@(?P<major>{MAJOR}))?")
API_FORM = re.compile(r"v[0-9]{1,6}")
MAX_BYTES = 4 * 2**20
"""The most bytes of a file of metadata."""

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
    runtimes: dict[str, Any] = {}
    """Name -> entry point; a runtime has no namespace, and the zoo knows whose a name is."""
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
        """The cause may hold what others wrote. One that is shut out stays so, whatever else is wrong with it."""
        if self.usable:
            self.state, self.cause = state, printable(cause, 2 * LONGEST_TEXT)

    @property
    def reinstall(self) -> str:
        """The cure of one whose files are damaged."""
        return f"pip install --force-reinstall {self.name}, or uninstall it"


@functools.cache
def plugins() -> dict[str, Plugin]:
    """Every distribution that declares something, by name, usable or not."""
    by_name: dict[str, Plugin] = {}
    for name, version, points, *faults in _declared():
        plugin = by_name.setdefault(name, Plugin(name, version))
        for point in points:
            _take(plugin, point)
        for fault in faults:
            plugin.fails("broken", f"{fault}; next: {plugin.reinstall}")
    for plugin in by_name.values():
        if plugin.api != API:
            reason = f"it is written for plugin api {plugin.api}, and this blockzoo has {API}"
            newer = int(plugin.api[1:]) > int(API[1:])
            cure = "pip install -U blockzoo" if newer else f"pip install -U {plugin.name}"
            plugin.fails("incompatible", f"{reason}; next: {cure}")
        if not _wanted(plugin):
            plugin.fails("disabled", f"ZOO_PLUGINS is `{os.environ['ZOO_PLUGINS']}`")
    _part_rivals([plugin for plugin in by_name.values() if plugin.usable])
    return dict(sorted(by_name.items()))


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
            value = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as cause:  # a plugin may raise anything, SystemExit included
        reason, cure = raised(cause), _cure(cause, plugin)
        plugin.fails("broken", f"{reason}; next: {cure}")
        raise BlockError(what, Problem(plugin.owner, "a module that imports", reason, next=cure)) from cause
    if plugin.state == "available":
        plugin.state = "loaded"
    return value


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
    except Exception:  # what else looks for modules here may be anybody's
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


def _declared() -> Iterator[tuple[Any, ...]]:
    """Name, version, entry points of our groups, and what is wrong, of every installed distribution that names such a group.

    Each is read by itself, line by line: what is damaged keeps nothing else from its place."""
    for folder in [] if os.environ.get("ZOO_PLUGINS") == "off" else _declaring():
        name, version = name_of_folder(folder), ""
        points: list[EntryPoint] = []
        faults: list[str] = []
        try:
            name, version = _name_and_version(folder)
            points, faults = _points(_text(folder / "entry_points.txt"))
        except (OSError, ValueError) as cause:
            faults = [f"its metadata in {folder} cannot be read ({raised(cause)})"]
        yield name, version, points, *faults


def name_of_folder(folder: pathlib.Path) -> str:
    """The name of a distribution as its folder has it: `acme_blocks-1.0.dist-info`."""
    name = folder.name.rpartition(".")[0].partition("-")[0]
    return name if is_name(name, DISTRIBUTION) else "unnamed"


def _name_and_version(folder: pathlib.Path) -> tuple[str, str]:
    """The name and version as METADATA says them. Raises ValueError for what cannot be a name or a version, OSError where there is none."""
    wheel = folder / "METADATA"
    head = _text(wheel if wheel.exists() else folder / "PKG-INFO").partition("\n\n")[0]
    fields = dict(line.split(": ", 1) for line in reversed(head.split("\n")) if ": " in line)
    name, version = fields.get("Name", "").strip(), fields.get("Version", "").strip()
    if not is_name(name, DISTRIBUTION) or not is_name(version, VERSION):
        raise ValueError(f"Name `{name[:80]}`, Version `{version[:80]}`")
    return name, version


def _text(path: pathlib.Path) -> str:
    """A file of metadata. Raises ValueError for one that is no UTF-8, or too large."""
    data = _bytes(path)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_BYTES:,} bytes")
    return data.decode("utf-8").replace("\r\n", "\n")


def _bytes(path: str | pathlib.Path) -> bytes:
    """At most a byte more than may be. Opens no pipe for good: nobody might ever write to it."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        return file.read(MAX_BYTES + 1) or b""


def _declaring() -> Iterator[pathlib.Path]:
    """The metadata folders of distributions whose entry points name one of our groups; of two versions in sys.path the first."""
    names = set()
    for place in sys.path:
        try:
            with os.scandir(place or ".") as entries:
                paths = sorted(entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info")))
        except OSError:  # an archive, or a folder that is not there
            continue
        for path in paths:
            name = os.path.basename(path).partition("-")[0].removesuffix(".egg").lower()
            try:
                declares = b"[zoo." in _bytes(os.path.join(path, "entry_points.txt"))
            except OSError:
                declares = False
            if declares and name not in names:
                yield pathlib.Path(path)
            names.add(name)


def _points(text: str) -> tuple[list[EntryPoint], list[str]]:
    """The entry points below our groups, and what is wrong with other lines there."""
    from importlib.metadata import EntryPoint  # takes longer to import than all else here

    points, faults, group = [], [], ""
    for line in map(str.strip, text.split("\n")):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif line and not line.startswith(("#", ";")) and group in GROUPS:
            name, equals, value = (part.strip() for part in line.partition("="))
            if equals and (group == APIS or _is_place(value)):
                points.append(EntryPoint(name, value, group))
            else:
                faults.append(f"it declares `{line[:80]}` in {group}, which is not of the form `NAME = module:object`")
    return points, faults


def _is_place(value: str) -> bool:
    """Whether an entry point names a module, or an object of one: nothing that could lead to another folder."""
    return all(step.isidentifier() for step in value.partition("[")[0].strip().replace(":", ".", 1).split("."))


def _take(plugin: Plugin, point: EntryPoint) -> None:
    """One entry point into its plugin; a name that cannot be shuts the plugin out."""
    if point.group == APIS:
        if API_FORM.fullmatch(point.value) is None:
            reason = f"it says that it is written for plugin api `{point.value[:80]}`, which is none; `{API}` is one"
            plugin.fails("broken", f"{reason}; next: {plugin.reinstall}")
            return
        plugin.api = point.value
        return
    match = (BLOCK if point.group == BLOCKS else NAMESPACE).fullmatch(point.name)
    if match is None:
        names = {BLOCKS: "namespace/name@major", RUNTIMES: "a name in lower case"}
        expected = names.get(point.group, "a namespace in lower case")
        plugin.fails("broken", f"it declares `{point.name}` in {point.group}, which is not of the form `{expected}`")
        return
    if point.group == RUNTIMES:
        plugin.runtimes[point.name] = point
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
    """Refuses both of two that claim a namespace."""
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
    words = {word.strip() for word in os.environ.get("ZOO_PLUGINS", "").split(",") if word.strip()}
    return not words or plugin.name in words or bool(words & set(plugin.namespaces))


def _cure(cause: BaseException, plugin: Plugin) -> str:
    missing = str(cause.name or "").partition(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
    if is_name(missing, DISTRIBUTION) and not _is_own(missing, plugin):  # it stands in a command that we print
        return f"pip install {missing}, or uninstall {plugin.name}"
    return f"pip install -U {plugin.name}, or uninstall it"


def _is_own(package: str, plugin: Plugin) -> bool:
    return any(
        point.value.partition(":")[0].partition(".")[0] == package
        for point in [*plugin.blocks.values(), *plugin.runtimes.values()]
    )
