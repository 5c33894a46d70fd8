"""Texts and figures for the templates: the page of a family, the entries of the search, addresses of papers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from blocks.registry import BlockInfo, describe, identity_of
from blocks.registry.words import printable, printable_lines, short_name
from zoo import catalog
from zoo.catalog.published import spec_file
from zoo.publish.cards import bibtex
from zoo.site import figures
from zoo.site.known import Known
from zoo.site.render import address


def family_page(family: str, members: Sequence[Known]) -> dict[str, Any]:
    entry = members[0].entry
    text = spec_file(entry.name).read_text(encoding="utf-8") if entry.file else ""
    text = re.split(r"^\[keys\.", text, maxsplit=1, flags=re.MULTILINE)[0].strip()
    return {
        "title": family,
        "entry": entry,
        "members": members,
        "rows": [
            (known, figures.cost(known.name, "train", "params"), figures.cost(known.name, "train", "macs"), best(known))
            for known in members
        ],
        "paper": link_of(entry.paper),
        "code_link": entry.code if is_web(entry.code) else "",
        "spec": printable_lines(text),
        "bibtex": bibtex(entry),
    }


def best(known: Known) -> Any:
    """The first of what is known of its accuracy."""
    return next(iter(known.accuracies), None)


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


def entry_of_search(known: Known) -> list[str]:
    entry: catalog.Entry = known.entry
    return [known.name, address("models", known.name), "model", printable(f"{entry.family} {entry.title}", 160)]


def block_of_search(info: BlockInfo) -> list[str]:
    covered = " ".join(info.covers)
    return [
        short_name(info.id),
        address("blocks", info.name),
        "block",
        printable(f"{info.kind} {covered} {info.summary}", 200),
    ]
