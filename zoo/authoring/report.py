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

from blocks.registry import BlockInfo
from blocks.registry import plugins as declared
from blocks.registry import registration as registry
from blocks.registry.plugins import Plugin
from blocks.registry.words import raised
from zoo import catalog
from zoo.catalog.collection import namespace_of
from zoo.catalog.published import published_spec
from zoo.errors import BlockError, Problem, ProblemsError
from zoo.system import children

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
    """One thing that was tried: a block, a factory or a model; begun, and when it is over what it raised or "". `info` is what the code
    of a block says of it."""

    what: str
    error: str | None = None
    info: BlockInfo | None = None


def plugins(check: bool = False, timeout: float = PATIENCE) -> list[Report]:
    """Every installed plugin. With `check` all its code is loaded and all its specs are read, each plugin in a process of its own.

    A plugin that has not answered after `timeout` seconds is broken. Nothing a plugin does can make this fail.
    """
    return checked(timeout) if check else [_report(plugin) for plugin in _known()]


def checked(timeout: float) -> list[Report]:
    plugins_here = _known()
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda plugin: _tried(plugin, timeout), plugins_here))


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
    lines, late = _asked("plugin", plugin.name, timeout)
    trials = [msgspec.json.decode(line, type=Trial) for line in lines]
    cause = _cause(trials, late, plugin)
    return msgspec.structs.replace(_report(plugin, cause), state="broken" if cause else "loaded")


def described(name: str, timeout: float = PATIENCE) -> BlockInfo:
    """What is known of a block; where its package says nothing of it, its code is asked, in a process of its own. Raises BlockError."""
    identity = registry.identity_of(name)
    info = registry.known(identity) if identity else None
    if identity is None or info or identity not in declared.targets():
        return info or registry.describe(name)
    plugin = declared.targets()[identity]
    lines, late = _asked("block", identity, timeout)
    trial = msgspec.json.decode(lines[-1], type=Trial) if lines else Trial(f"block `{identity}`")
    if trial.info is not None:
        return trial.info
    reason = trial.error or late or "no answer"
    cure = f"`zoo plugins` shows the whole cause; uninstall {plugin.name}, or leave it out of ZOO_PLUGINS"
    raise BlockError(f"block `{identity}`", Problem(plugin.owner, "a module that imports", reason, next=cure))


def _asked(what: str, name: str, timeout: float) -> tuple[list[bytes], str]:
    """The lines that a process of its own wrote about a plugin or a block, and how it ended where it did not end well."""
    with tempfile.TemporaryDirectory() as folder:
        answers = pathlib.Path(folder, "answers")
        answers.touch()
        environment = os.environ | {
            "ZOO_PLUGINS": os.environ.get("ZOO_PLUGINS") or "",
            "PYTHONPATH": children.search_path(),
        }
        silence = subprocess.DEVNULL
        try:
            code = subprocess.run(
                children.command("zoo.authoring.report", what, name, str(answers)),
                env=environment, stdin=silence, stdout=silence, stderr=silence, timeout=timeout,
            ).returncode  # fmt: skip
            late = f"its process ended with code {code}" if code else ""
        except subprocess.TimeoutExpired:
            late = f"no answer within {timeout:g} s"
        return answers.read_bytes().splitlines(), late


def _cause(trials: list[Trial], late: str, plugin: Plugin) -> str:
    """What went wrong, in one sentence; the first of several problems."""
    wrong = [f"{trial.what}: {trial.error}" for trial in trials if trial.error]
    if late and trials and trials[-1].error is None:
        wrong.append(f"{trials[-1].what}: {late}; next: uninstall {plugin.name}, or leave it out of ZOO_PLUGINS")
    elif late and not wrong:
        wrong.append(late)
    return wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "") if wrong else ""


def _try_all(name: str, answers: pathlib.Path) -> None:
    """Tries, in the process of its own, every block, factory, runtime and model of one plugin, each announced before it is tried."""
    plugin = declared.plugins()[name]
    trials: list[tuple[str, Callable[[], object]]] = [
        (f"block {identity}", lambda identity=identity: registry.describe(identity))  # type: ignore[misc]
        for identity in plugin.blocks
    ]
    trials += [
        (f"factory {space}", lambda point=point, space=space: declared.load(plugin, point, f"factory `{space}`"))  # type: ignore[misc]
        for space, point in plugin.factories.items()
    ]
    trials += [
        (f"runtime {word}", lambda point=point, word=word: declared.load(plugin, point, f"runtime `{word}`"))  # type: ignore[misc]
        for word, point in plugin.runtimes.items()
    ]
    spaces = {*plugin.namespaces}
    entries = [entry for entry in catalog.entries().values() if namespace_of(entry.name) in spaces]
    trials += [(f"model {entry.name}", lambda entry=entry: _read(entry)) for entry in entries if entry.file]  # type: ignore[misc]
    with answers.open("ab", buffering=0) as file:
        for what, attempt in trials:
            file.write(msgspec.json.encode(Trial(what)) + b"\n")
            try:
                attempt()
                error = ""
            except ProblemsError as problem:
                first = problem.problems[0]
                error = ": ".join(part for part in (first.where, first.sentence()) if part)
            except BaseException as problem:  # a plugin may raise anything
                error = raised(problem)
            file.write(msgspec.json.encode(Trial(what, error)) + b"\n")


def _describe(identity: str, answers: pathlib.Path) -> None:
    """Tries, in the process of its own, one block, as its code says."""
    answers.write_bytes(msgspec.json.encode(Trial(f"block `{identity}`")) + b"\n")
    try:
        trial = Trial(f"block `{identity}`", "", registry.describe(identity))
    except ProblemsError as problem:
        trial = Trial(f"block `{identity}`", problem.problems[0].found or problem.problems[0].sentence())
    except BaseException as problem:  # a plugin may raise anything
        trial = Trial(f"block `{identity}`", raised(problem))
    with answers.open("ab", buffering=0) as file:
        file.write(msgspec.json.encode(trial) + b"\n")


def _read(entry: catalog.Entry) -> None:
    digest = published_spec(entry.name).digest
    if digest != entry.digest:
        raise ValueError(
            f"its spec has the digest {digest[:12]}, and the index says {entry.digest[:12]}; next: zoo index {namespace_of(entry.name)}"
        )


if __name__ == "__main__":
    {"plugin": _try_all, "block": _describe}[sys.argv[1]](sys.argv[2], pathlib.Path(sys.argv[3]))
