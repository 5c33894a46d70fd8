"""The registry of blocks: who is called what, of which kind, with which parameters. Names and schemas are data; classes load on use.

Identity is `namespace/name@major`. Core blocks come from a generated index, plugins from the entry points of installed
distributions, `local/` blocks from whatever the user's script or notebook defines. Nothing here imports torch.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from blocks.registry import plugins
from blocks.registry.errors import BlockError, Problem, listed, nearest
from blocks.registry.schema import Param, signature_params
from blocks.registry.words import LONGEST_PART, MAJOR, PART, WORD, is_name, is_text, raised, short_name

log = logging.getLogger("blocks")

KINDS = (
    "stem", "downsample", "token_mixer", "channel_mixer", "norm", "act", "linear", "router",
    "wiring", "merge", "view", "head", "embed", "pool", "whole",
)  # fmt: skip
LAYOUTS = ("any", "BCHW", "BLC", "BCTHW")
ABILITIES = ("causal", "noncausal", "cross", "step", "any_resolution", "1d", "2d", "3d")
IDENTITY = re.compile(rf"(?:(?P<namespace>{WORD})/)?(?P<name>{WORD})(?:@(?P<major>{MAJOR}))?")
INDEX = pathlib.Path(__file__).parents[1] / "index.json"
INDEX_OF_PLUGIN = "blocks.json"

Block = TypeVar("Block", bound=type)


class BlockInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a block without importing it."""

    id: str
    kind: str
    target: str
    layout: str = "any"
    abilities: tuple[str, ...] = ()
    paper: str = ""
    summary: str = ""
    params: dict[str, Param] = {}
    supplied: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`mlp` for a core block, `acme/dynconv` otherwise: the shortest spelling that means this block."""
        return short_name(self.id)


_local: dict[str, type] = {}
_loaded: dict[str, type] = {}


def block(
    name: str,
    *,
    kind: str,
    layout: str = "any",
    abilities: tuple[str, ...] = (),
    paper: str = "",
    covers: tuple[str, ...] = (),
) -> Callable[[Block], Block]:
    """Class decorator: registers an `nn.Module` as the block `name`. `covers`: what papers call blocks that this one is, some of them
    with certain parameters; it is found under these names too.

    A name without a namespace is `core/` inside this package and `local/` in a user's script or notebook. The
    signature of `__init__` is the block's schema. Raises BlockError for a malformed name, kind, layout, ability or covered name, and
    for a second registration of an identity anywhere but in `local/`, where the new one replaces the old with a note.
    """

    def register(cls: Block) -> Block:
        identity = _identity(name, "core" if cls.__module__.partition(".")[0] == "blocks" else "local")
        _check_words(name, kind, layout, abilities)
        _check_covers(name, covers)
        _admit(identity, cls)
        cls.block_id, cls.kind, cls.layout, cls.abilities = identity, kind, layout, tuple(abilities)  # type: ignore[attr-defined]
        cls.paper, cls.covers = paper, tuple(covers)  # type: ignore[attr-defined]
        cls.takes_ctx = "ctx" in inspect.signature(cls.forward).parameters if hasattr(cls, "forward") else False  # type: ignore[attr-defined]
        from blocks.signature import checked_init

        cls.__init__ = checked_init(cls)  # type: ignore[misc]
        return cls

    return register


def _identity(name: str, namespace: str) -> str:
    match = IDENTITY.fullmatch(name)
    if not match:
        raise BlockError(name, Problem("", "a name like `my_mixer` or `acme/my_mixer@1` in lower case", f"`{name}`"))
    return f"{match['namespace'] or namespace}/{match['name']}@{match['major'] or 1}"


def _check_words(name: str, kind: str, layout: str, abilities: tuple[str, ...]) -> None:
    checks = [("kind", kind, KINDS), ("layout", layout, LAYOUTS)] + [
        ("abilities", word, ABILITIES) for word in abilities
    ]
    wrong = [
        Problem(what, f"one of {listed(options, 20)}", f"`{word}`", nearest(word, options))
        for what, word, options in checks
        if word not in options
    ]
    if wrong:
        raise BlockError(f"block `{name}`", wrong)


def _check_covers(name: str, covers: tuple[str, ...]) -> None:
    for alias in covers:
        if not is_name(alias):
            raise BlockError(
                f"block `{name}`", Problem("covers", "names of lower-case letters, digits and _", f"`{alias}`")
            )


def _admit(identity: str, cls: type) -> None:
    if identity.startswith("core/") and cls.__module__.partition(".")[0] != "blocks":
        found = f"`{identity}` at {place_of(cls)}"
        raise BlockError(
            identity,
            Problem(
                "", found=found, next="`core/` is for the blocks of this package; leave it out, and the name is local"
            ),
        )
    registered = _loaded.get(identity)
    if registered is not None and place_of(registered) != place_of(cls):
        places = f"`{identity}` is registered at {place_of(registered)} and again at {place_of(cls)}"
        if not identity.startswith("local/"):
            raise BlockError(identity, Problem("", found=places, next="give one of them another name"))
        log.warning("%s; the new one replaces the old", places)
    _loaded[identity] = cls
    if identity.startswith("local/"):
        _local[identity] = cls
    _class_info.cache_clear()


def place_of(cls: type) -> str:
    """`file:line` where a class is defined, for messages."""
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}"


@functools.cache
def core_index() -> dict[str, BlockInfo]:
    """Identity -> what is known, for every core block: generated by `python -m blocks.registry.index`, checked by a test."""
    return {info.id: info for info in msgspec.json.decode(INDEX.read_bytes(), type=list[BlockInfo])}


def identities() -> list[str]:
    """Every identity that can be asked for: core, plugins, local."""
    return sorted({*core_index(), *plugins.targets(), *_local})


def identity_of(name: str) -> str | None:
    """The identity that `name` means, or None. A bare name is core's, else local's; a missing major is 1."""
    match = IDENTITY.fullmatch(name) if isinstance(name, str) else None
    if not match:
        return None
    spaces = [match["namespace"]] if match["namespace"] else ["core", "local"]
    for namespace in spaces:
        identity = f"{namespace}/{match['name']}@{match['major'] or 1}"
        if identity in core_index() or identity in _loaded or identity in plugins.targets():
            return identity
    return None


def unknown(name: object) -> BlockError:
    """The error for a name that means no block."""
    names = list_blocks()
    near = _nearest_block(str(name), names)
    package = _claimed_by(str(name))
    if blocks := covering(str(name)):
        package = f"what papers call `{name}` is {listed(blocks)}: `zoo blocks {name}` tells more"
    if str(name).startswith("local/") and not near:
        package = "load the Python file that defines it: `zoo --with FILE.py ...`, or import it"
    return BlockError(
        f"no block `{name}`",
        Problem(
            "", f"one of {len(names)} registered blocks", f"`{name}`", near, package or "`zoo blocks` lists them all"
        ),
    )


def covers_of(identity: str) -> tuple[str, ...]:
    """What papers call blocks that this one is. Imports nothing."""
    if identity in _loaded and identity not in core_index():
        return tuple(_loaded[identity].covers)  # type: ignore[attr-defined]
    info = core_index().get(identity) or plugin_index().get(identity)
    return info.covers if info else ()


def covering(name: str) -> list[str]:
    """Names of the blocks that are what papers call `name`, in any spelling of capitals and hyphens; sorted. Imports nothing."""
    alias = name.lower().replace("-", "_")
    return [short_name(identity) for identity in identities() if alias in covers_of(identity)]


def _nearest_block(name: str, names: Sequence[str]) -> str:
    """What an unknown name probably means: a block that papers call so, one with a name like it, or one that papers call like it."""
    aliases = {alias: short_name(identity) for identity in identities() for alias in covers_of(identity)}
    blocks = covering(name)
    return blocks[0] if blocks else nearest(name, names) or aliases.get(nearest(name, aliases), "")


def _claimed_by(name: str) -> str:
    space = name.partition("/")[0] if "/" in name else ""
    if space in ("", *plugins.RESERVED):
        return ""
    return plugins.refusal(space) or (
        "" if plugins.owner_of(space) else f"`{space}/` blocks come from a plugin package that is not installed"
    )


def get(name: str) -> type:
    """The class of a block. Raises BlockError, naming the nearest block, or the distribution whose code does not load."""
    identity = identity_of(name)
    if identity is None:
        raise unknown(name)
    if identity not in _loaded:
        if identity in core_index():
            module, _, attribute = core_index()[identity].target.partition(":")
            getattr(importlib.import_module(module), attribute)
        else:
            _load_plugin(identity)
    return _loaded[identity]


def _load_plugin(identity: str) -> None:
    plugin = plugins.targets()[identity]
    cls = plugins.load(plugin, plugin.blocks[identity], f"block `{identity}`")
    if _loaded.get(identity) is not cls:
        found = repr(cls) if isinstance(cls, (type, int, str)) else f"something of type {type(cls).__name__}"
        problem = Problem(plugin.owner, f"a class decorated with @block({identity!r}, …)", found)
        plugin.fails("broken", f"`{identity}`: {problem.sentence()}")
        raise BlockError(f"block `{identity}`", problem)


def describe(name: str) -> BlockInfo:
    """Identity, kind, layout, abilities, parameters with bounds and defaults, paper.

    Imports code only for the block of a plugin whose package has no index of its blocks. Raises BlockError.
    """
    identity = identity_of(name)
    if identity is None:
        raise unknown(name)
    return known(identity) or _read_from_code(identity)


def _read_from_code(identity: str) -> BlockInfo:
    """What is known of the block of a plugin: what its constructor says, if it says it in a form that a spec can have."""
    cls, plugin = get(identity), plugins.targets().get(identity)
    try:
        return info_of(cls)
    except Exception as cause:
        if plugin is None:
            raise
        reason = raised(cause)
        plugin.fails("broken", f"`{identity}`: {reason}; next: pip install -U {plugin.name}, or uninstall it")
        raise BlockError(
            f"block `{identity}`", Problem(plugin.owner, "a constructor that a spec can call", reason)
        ) from cause


def known(identity: str) -> BlockInfo | None:
    """What can be said of a block without importing it; None for that of a plugin which does not say."""
    if identity in core_index():
        return core_index()[identity]
    if identity in _loaded:
        return info_of(_loaded[identity])
    return plugin_index().get(identity)


@functools.cache
def plugin_index() -> dict[str, BlockInfo]:
    """What packages say of their own blocks. A package whose index cannot be read is marked as broken."""
    by_identity: dict[str, BlockInfo] = {}
    for plugin in plugins.plugins().values():
        if not plugin.usable:
            continue
        folders = {plugins.package_of(point) for point in plugin.blocks.values()}
        for path in sorted(folder / INDEX_OF_PLUGIN for folder in folders if folder is not None):
            if not path.is_file():
                continue
            try:
                infos = msgspec.json.decode(path.read_bytes(), type=list[BlockInfo])
            except Exception as error:  # no JSON, no list of blocks, too deep, no right to read it
                plugin.fails("broken", f"{path} cannot be read ({error}); next: zoo index {plugin.namespaces[0]}")
                continue
            for info in infos:
                if info.id in plugin.blocks and (fault := _fault(info)):
                    plugin.fails("broken", f"{path}: `{info.id}`: {fault}; next: zoo index {plugin.namespaces[0]}")
                elif info.id in plugin.blocks:
                    by_identity[info.id] = info
    return by_identity


def _fault(info: BlockInfo) -> str:
    """What is wrong with what a package says of its block, in one sentence, or ""."""
    from blocks.registry.schema import complete, words

    if info.kind not in KINDS or info.layout not in LAYOUTS or not {*info.abilities} <= {*ABILITIES}:
        return "its kind, layout or abilities are none that we know"
    if not is_text(info.summary, LONGEST_PART) or not is_text(info.paper):
        return "its summary or paper is not one line that can be shown"
    if not all(is_name(alias) for alias in info.covers):
        return "the names of what it covers are none"
    for name, param in info.params.items():
        try:
            words(param.schema)
            complete(param.default, param.schema, (), [], lambda call, *_: call)
            sound = is_name(name, PART)
        except Exception:  # a schema may be anything
            sound = False
        if not sound:
            return f"its parameter `{name}` has a form that no block's has"
    return ""


def forget_plugins() -> None:
    """Reads the installed distributions anew at the next question: after an installation, or a change of ZOO_PLUGINS."""
    plugins.forget()
    plugin_index.cache_clear()


def info_of(cls: type) -> BlockInfo:
    """BlockInfo of a decorated class, read from its code."""
    return _class_info(cls)


@functools.cache
def _class_info(cls: Any) -> BlockInfo:
    params, supplied = signature_params(cls, cls.kind)
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    target = f"{cls.__module__}:{cls.__qualname__}"
    return BlockInfo(
        cls.block_id, cls.kind, target, cls.layout, cls.abilities, cls.paper, summary, params, supplied, cls.covers
    )


def list_blocks(pattern: str = "", *, kind: str | None = None, ability: str | None = None) -> list[str]:
    """Names of registered blocks, sorted; filtered by glob pattern, kind and ability. Imports nothing.

    The pattern may match what papers call a block: `repvgg` lists `branched_conv`.

    A plugin's block of which its package says nothing has a name only, and passes no filter of kind or ability. Raises BlockError
    for an unknown kind or ability.
    """
    import fnmatch

    _check_words("", kind or KINDS[0], "any", (ability,) if ability else ())
    names = []
    for identity in identities():
        if kind or ability:
            info = known(identity)
            if info is None:
                continue
            if (kind and info.kind != kind) or (ability and ability not in info.abilities):
                continue
        name = short_name(identity)
        if not pattern or any(fnmatch.fnmatchcase(word, pattern) for word in (name, *covers_of(identity))):
            names.append(name)
    return names
