"""The members of the contract that a block has, and names that are nearly one of them.

A near-miss (`resize_tabel`) is looked up by nobody: what the block says under it is lost in silence.
"""

from __future__ import annotations

import difflib

from torch import nn

from blocks.contract import MEMBERS, NAMES, OPTIONAL
from zoo.testing.block_cases import Subject
from zoo.testing.outcomes import require

NEAR = 0.82
"""The ratio of difflib from which two names are near. One other letter in five is not: `heads` is no `reads`."""


def members(subject: Subject) -> None:
    """No public attribute or method has a name that is nearly one of the contract (`blocks.contract`)."""
    module = subject.build(subject.spaces[0], device="meta")
    names = sorted(member.name for member in MEMBERS if not member.kinds or subject.info.kind in member.kinds)
    legitimate = {*NAMES, *subject.info.params, *subject.info.supplied, *dir(nn.Module())}
    pairs = [(name, near_miss(name, names)) for name in sorted(own_names(module) - legitimate)]
    sentences = [
        f"nobody looks up `{name}`; nearest `{near}`; next: take that name, or one less like it"
        for name, near in pairs
        if near
    ]
    require(not sentences, "; ".join(sentences))


def near_miss(name: str, members: list[str]) -> str:
    """The member of which `name` has all letters in another order, or nearly all in their order; "" when there is none."""
    anagrams = [member for member in members if sorted(member) == sorted(name)]
    return next(iter(anagrams + difflib.get_close_matches(name, members, n=1, cutoff=NEAR)), "")


def own_names(module: nn.Module) -> set[str]:
    """Public names of a module's class, of its bases that are not torch's, and of the plain attributes of the module itself."""
    names = {name for cls in _classes(module) for name in vars(cls)} | set(vars(module))
    return {name for name in names if not name.startswith("_")}


def members_of(subject: Subject) -> dict[str, str]:
    """Each optional member of the contract that a block has, and the class that defines it; `itself` for an attribute of the module."""
    module, kind = subject.build(subject.spaces[0], device="meta"), subject.info.kind
    present = [
        member.name
        for member in MEMBERS
        if member.status == OPTIONAL and (not member.kinds or kind in member.kinds) and hasattr(module, member.name)
    ]
    return {name: _owner(module, name) for name in present}


def _owner(module: nn.Module, name: str) -> str:
    owners = [cls.__qualname__ for cls in type(module).__mro__ if name in vars(cls)]
    return owners[0] if owners else "itself"


def _classes(module: nn.Module) -> list[type]:
    return [cls for cls in type(module).__mro__ if cls is not object and cls.__module__.partition(".")[0] != "torch"]
