"""`zoo.plugins()`: what each installed plugin declares and, on request, whether it works: tried in a process of its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from blocks import plugins as declared
from blocks import registry
from blocks.plugins import Plugin
from zoo import catalog, children
from zoo.collection import namespace_of
from zoo.errors import ProblemsError

PATIENCE = 60.0
"""Seconds that the code of a plugin may take to load; torch alone takes one or two of them."""


class Report(msgspec.Struct, frozen=True):
    """One distribution. `state`: available (not tried), loaded, broken, clash, incompatible or disabled."""

    name: str
    version: str
    api: str
    namespaces: list[str]
    blocks: list[str]
    models: int
    state: str
    cause: str = ""


class Trial(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was tried: a block, a factory or a model; begun, and when it is over what it raised or ""."""

    what: str
    error: str | None = None


def plugins(check: bool = False, timeout: float = PATIENCE) -> list[Report]:
    """Every installed plugin. With `check` all its code is loaded and all its specs are read, each plugin in a process of its own.

    A plugin that has not answered after `timeout` seconds is broken. Nothing a plugin does can make this fail.
    """
    return checked(timeout) if check else [_report(plugin) for plugin in _known()]


def checked(timeout: float) -> list[Report]:
    known = _known()
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda plugin: _tried(plugin, timeout), known))


def _counts() -> Counter[str]:
    """Models by namespace."""
    return Counter(namespace_of(name) for name in catalog.entries())


def _known() -> list[Plugin]:
    catalog.entries()  # both mark those whose data cannot be read
    registry.plugin_index()
    return list(declared.plugins().values())


def _report(plugin: Plugin, cause: str = "") -> Report:
    counts = _counts()
    models = sum(counts[space] for space in plugin.namespaces) if plugin.usable else 0
    state = "broken" if cause else plugin.state
    blocks = sorted(plugin.blocks)
    return Report(
        plugin.name, plugin.version, plugin.api, plugin.namespaces, blocks, models, state, cause or plugin.cause
    )


def _tried(plugin: Plugin, timeout: float) -> Report:
    if not plugin.usable or plugin.state == "broken":
        return _report(plugin)
    with tempfile.TemporaryDirectory() as folder:
        answers = pathlib.Path(folder, "answers")
        answers.touch()
        command = children.command("zoo.plugging", plugin.name, str(answers))
        environment = os.environ | {
            "ZOO_PLUGINS": os.environ.get("ZOO_PLUGINS") or "",
            "PYTHONPATH": children.search_path(),
        }
        silence = subprocess.DEVNULL
        try:
            code = subprocess.run(
                command, env=environment, stdin=silence, stdout=silence, stderr=silence, timeout=timeout
            ).returncode
            late = f"its process ended with code {code}"
        except subprocess.TimeoutExpired:
            code, late = 1, f"no answer within {timeout:g} s"
        trials = [msgspec.json.decode(line, type=Trial) for line in answers.read_bytes().splitlines()]
    cause = _cause(trials, late if code else "", plugin)
    return msgspec.structs.replace(_report(plugin, cause), state="broken" if cause else "loaded")


def _cause(trials: list[Trial], late: str, plugin: Plugin) -> str:
    """What went wrong, in one sentence; the first of several problems."""
    wrong = [f"{trial.what}: {trial.error}" for trial in trials if trial.error]
    if late and trials and trials[-1].error is None:
        wrong.append(f"{trials[-1].what}: {late}; next: uninstall {plugin.name}, or leave it out of ZOO_PLUGINS")
    elif late and not wrong:
        wrong.append(late)
    return wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "") if wrong else ""


def _try_all(name: str, answers: pathlib.Path) -> None:
    """In the process of its own: every block, factory and model of one plugin, each announced before it is tried."""
    plugin = declared.plugins()[name]
    trials: list[tuple[str, Callable[[], object]]] = [
        (f"block {identity}", lambda identity=identity: registry.describe(identity))  # type: ignore[misc]
        for identity in plugin.blocks
    ]
    trials += [
        (f"factory {space}", lambda point=point, space=space: declared.load(plugin, point, f"factory `{space}`"))  # type: ignore[misc]
        for space, point in plugin.factories.items()
    ]
    own = [entry for entry in catalog.entries().values() if namespace_of(entry.name) in plugin.namespaces]
    trials += [(f"model {entry.name}", lambda entry=entry: _read(entry)) for entry in own if entry.file]  # type: ignore[misc]
    with answers.open("ab", buffering=0) as file:
        for what, attempt in trials:
            file.write(msgspec.json.encode(Trial(what)) + b"\n")
            try:
                attempt()
                error = ""
            except ProblemsError as problem:
                first = problem.problems[0]
                error = ": ".join(part for part in (first.where, first.sentence()) if part)
            except Exception as problem:
                error = f"{type(problem).__name__}: {problem}"
            file.write(msgspec.json.encode(Trial(what, error)) + b"\n")


def _read(entry: catalog.Entry) -> None:
    digest = catalog.published_spec(entry.name).digest
    if digest != entry.digest:
        raise ValueError(
            f"its spec has the digest {digest[:12]}, and the index says {entry.digest[:12]}; next: zoo index {namespace_of(entry.name)}"
        )


if __name__ == "__main__":
    _try_all(sys.argv[1], pathlib.Path(sys.argv[2]))
