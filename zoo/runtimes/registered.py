"""The objects of runtimes: the five of the zoo, and those that plugins declare as `zoo.runtimes`.

    [project.entry-points."zoo.runtimes"]   acme = "acme_runtime:Acme"     an object of `zoo.runtimes.protocol.Runtime`, or its class

A runtime is imported when it is asked for, one at a time; what a plugin's code raises is a row with a reason. Imports no torch.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from typing import Any, NamedTuple

from blocks.registry import plugins
from blocks.registry.words import is_text, printable, raised
from zoo.catalog.runtimes import OWN, PRECISIONS, declared, names
from zoo.errors import BlockError, InputError, Problem, listed, nearest
from zoo.runtimes.protocol import Runtime

METHODS = ("missing", "version", "precisions", "compile", "open", "complete", "remake")


class Row(NamedTuple):
    """One runtime as people see it. `missing` is "" where it can be used, else why not and what to do."""

    name: str
    distribution: str
    version: str
    precisions: tuple[str, ...]
    missing: str
    owner: str = ""
    """The plugin that declares it, with its version."""


def runtime(name: str) -> Runtime:
    """A runtime that can be used here. Raises InputError for another name, with the nearest, and for what is not installed."""
    found = find_runtime(name)
    reason = _asked(name, lambda: found.missing())
    if reason:
        raise InputError("deploy", Problem(f"runtime `{name}`", "a runtime that is installed", reason))
    return found


def find_runtime(name: str) -> Runtime:
    """The object of a runtime, installed or not. Raises InputError for another name, and for a plugin whose code fails."""
    if name in OWN:
        return _own(name)
    if name not in declared():
        known = names()
        step = "" if nearest(name, known) else "a plugin adds one by the entry point `zoo.runtimes`"
        problem = Problem("runtime", listed(["auto", *known]), f"`{name}`", nearest(name, ["auto", *known]), step)
        raise InputError("deploy", problem)
    return _loaded(name)


def version_of(name: str) -> str:
    """The version of what pip installs for a runtime, without importing it; "" where there is none."""
    try:
        return importlib.metadata.version(find_runtime(name).distribution).partition("+")[0]
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""


def rows() -> list[Row]:
    """Every runtime, usable or not. Nothing that a plugin does can make this fail."""
    return [_row(name) for name in names()]


def usable() -> list[Runtime]:
    """Those that can be used here, the zoo's own first."""
    return [find_runtime(row.name) for row in rows() if not row.missing]


@functools.cache
def _own(name: str) -> Runtime:
    module, _, kind = OWN[name].partition(":")
    made: Runtime = getattr(importlib.import_module(module), kind)()
    return made


def _loaded(name: str) -> Runtime:
    """A plugin's runtime. Raises InputError with distribution, version and cure."""
    claims = declared()[name]
    if len(claims) > 1:
        owners = " and ".join(sorted(plugin.owner for plugin in claims))
        step = f"uninstall one, or keep one with ZOO_PLUGINS={claims[0].name}"
        raise InputError("deploy", Problem(f"runtime `{name}`", "one plugin that declares it", owners, next=step))
    plugin = claims[0]
    try:
        value = plugins.load(plugin, plugin.runtimes[name], f"runtime `{name}`")
    except BlockError as error:
        raise InputError("deploy", error.problems) from error
    made: Any = _asked(name, value) if isinstance(value, type) else value
    lacking = [method for method in METHODS if not callable(getattr(made, method, None))]
    lacking += [word for word in ("name", "distribution") if not is_text(getattr(made, word, None))]
    if lacking:
        expected = "an object with the members of `zoo.runtimes.protocol.Runtime`"
        found = f"one without {listed(lacking)}"
        raise InputError("deploy", Problem(plugin.owner, expected, found, next=f"pip install -U {plugin.name}"))
    return made  # type: ignore[no-any-return]


def _asked(name: str, call: Any) -> Any:
    """What the code of a runtime answers. Raises InputError for whatever it raises."""
    try:
        return call()
    except (KeyboardInterrupt, InputError):
        raise
    except BaseException as error:  # a plugin may raise anything, SystemExit included
        raise InputError("deploy", Problem(f"runtime `{name}`", "an answer of its code", raised(error))) from error


def _row(name: str) -> Row:
    owner = " and ".join(plugin.owner for plugin in declared().get(name, ()))
    try:
        found = find_runtime(name)
        missing = str(_asked(name, found.missing))
        version = "" if missing else str(_asked(name, found.version))
        precisions = () if missing else tuple(_asked(name, found.precisions))
        known = tuple(word for word in PRECISIONS if word in precisions)
        return Row(name, printable(found.distribution), printable(version, 100), known, printable(missing), owner)
    except InputError as error:
        return Row(name, "", "", (), error.problems[0].sentence(), owner)
