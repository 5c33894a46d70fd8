"""Texts for pages: specs as they are written, entries of the search, addresses of papers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from blocks.registry import BlockInfo, describe, identity_of
from blocks.registry.words import printable, printable_lines
from zoo.catalog.published import spec_file
from zoo.site.guides import Guide
from zoo.site.known import Known


def spec_text(known: Known) -> str:
    """The file that the models of a family come from, without its rules for the names of other libraries' weights; "" where a plugin's code builds them."""
    if not known.entry.file:
        return ""
    text = spec_file(known.name).read_text(encoding="utf-8")
    return printable_lines(re.split(r"^\[keys\.", text, maxsplit=1, flags=re.MULTILINE)[0].strip())


def by_family(users: Iterable[Known]) -> dict[str, list[Known]]:
    families: dict[str, list[Known]] = defaultdict(list)
    for known in users:
        families[known.entry.family].append(known)
    return dict(families)


def link_of(paper: str) -> tuple[str, str]:
    """(text, address) of a paper; the address is "" for one that is no web page."""
    if re.fullmatch(r"arXiv:[0-9.]+(v[0-9]+)?", paper):
        return paper, f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"
    return paper, paper if is_web(paper) else ""


def is_web(text: str) -> bool:
    """Whether a text of others may stand in a link."""
    return bool(re.fullmatch(r"https?://[^\s\"'<>`\\]+", text))


def blocks_in_use(models: Iterable[Known]) -> list[BlockInfo]:
    """The blocks of the models, by name."""
    identities = sorted({block for known in models for block in known.entry.blocks})
    return [describe(identity) for identity in identities if identity_of(identity)]


def searched(models: Sequence[Known], infos: Iterable[BlockInfo], read: Iterable[Guide]) -> dict[str, list[Any]]:
    """What the search looks through: of models, families and blocks [words, names], of guides [words, title, address]."""
    alike: dict[str, list[str]] = defaultdict(list)
    for known in models:
        alike[printable(f"{known.entry.family} {known.entry.title}", 160)].append(known.name)
    blocks = [[printable(f"{info.kind} {' '.join(info.covers)} {info.summary}", 200), [info.name]] for info in infos]
    families = [["", list(by_family(models))]]
    found: dict[str, list[Any]] = {"models": [*alike.items()], "families": families, "blocks": blocks, "guides": []}
    for guide in read:
        found["guides"].append(["", guide.title, guide.name])
        found["guides"] += [[guide.title, head.text, f"{guide.name}#{head.anchor}"] for head in guide.headings]
    return found
