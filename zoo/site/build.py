"""The folder of a site: pages, assets, the data of the explorer and of the search. Every file is whole; none needs a server."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import zoo
from blocks.registry import list_blocks
from zoo import catalog
from zoo.catalog.published import published_spec
from zoo.errors import InputError, Problem, ProblemsError
from zoo.site import explorer, guides, pages
from zoo.site.counts import counts_of
from zoo.site.facts import block_facts, family_facts
from zoo.site.figures import Shown
from zoo.site.known import Known, Measurements, gather, measurements
from zoo.site.render import ASSETS, address, entry, render, script, slug
from zoo.site.runs import label, run_words
from zoo.system.folders import write_text

log = logging.getLogger("zoo")

Progress = Callable[[int, int, str], None]
"""Told of each model that is counted: how many are done, of how many, and its name."""


class Site(NamedTuple):
    """What was written: the names of the files below the folder."""

    folder: Path
    files: list[str]
    models: int
    bytes: int
    gzipped: int


def write_site(
    folder: Path,
    names: Sequence[str] = (),
    stores: Sequence[Path] = (),
    title: str = "blockzoo",
    counted: bool = True,
    progress: Progress = lambda done, total, name: None,
) -> Site:
    """Writes the site of models (all, if no names are given) with the rows that ship and those of `stores`. One of all models has the guides, and
    blocks that no model uses.

    Without `counted` the pages do not tell what the parts of a model cost. Files of an earlier site in
    the folder are replaced; a folder with other files is refused. Raises InputError.
    """
    _check_folder(folder)
    names = list(names) or list(catalog.entries())
    whole = len(names) == len(catalog.entries())
    found = measurements(stores)
    sound = [name for name in names if _has_sound_spec(name)]
    models = gather(sound, found.rows, counts_of(sound, progress) if counted else {})
    texts = dict(_files(models, found, title, whole))
    for name, text in {**texts, **_assets()}.items():
        write_text(folder / name, text)
    _clear(folder, {*texts, *_assets()})
    return _measured(folder, len(models))


EVERYWHERE = ("words", "header", "drawing", "parts")
"""Scripts of every page, which are one file."""


def _assets() -> dict[str, str]:
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(ASSETS.iterdir())}
    shared = "".join(found.pop(f"{name}.js") for name in EVERYWHERE)
    return {f"assets/{name}": text for name, text in {"page.js": shared, **found}.items()}


def _has_sound_spec(name: str) -> bool:
    """Whether a model can be shown. One of a plugin whose spec cannot be read is left out, with a warning."""
    try:
        if catalog.entry(name).file:
            published_spec(name)
    except ProblemsError as error:
        if not catalog.home_of(name).namespace:
            raise
        log.warning("left out of the site: %s", error)
        return False
    return True


MARK = "assets/site.json"
"""Says that a folder holds a site of ours, and of what."""


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(str(folder), Problem("", "a folder for the site", "a file"))
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        step = "name another folder, or empty this one"
        raise InputError(
            str(folder), Problem("", "an empty folder, or one with an earlier site", "other files", next=step)
        )


ROOMS = ("models", "blocks", "families", "guides", "assets", "assets/families", "assets/blocks")


def _clear(folder: Path, present: set[str]) -> None:
    """Pages of models that are no longer there go; only in the rooms of a site."""
    for room in ROOMS:
        kept = {Path(name).name for name in present if name.startswith(f"{room}/")}
        if not kept:
            shutil.rmtree(folder / room, ignore_errors=True)
            continue
        for path in (folder / room).iterdir():
            if path.name not in kept and path.suffix in (".html", ".js"):
                path.unlink()


def _files(models: dict[str, Known], found: Measurements, title: str, whole: bool) -> Iterator[tuple[str, str]]:
    """Every generated file: its name below the folder, and its text. A site of some models has the blocks that these use."""
    shared = {"site": title, "version": zoo.__version__, "guides": _navigation() if whole else []}
    devices = {device.id: device for device in found.devices}
    infos = pages.blocks_in_use(models.values())
    if whole:
        used = {info.id for info in infos}
        infos += [info for name in list_blocks() if (info := _known_block(name)) is not None and info.id not in used]
    infos.sort(key=lambda info: info.name)
    linked = [info.name for info in infos]
    known = list(models.values())
    data = explorer.data(known, found)
    chosen = explorer.choice(known)
    lines = explorer.lines(known, chosen)
    total = Shown(len(known), f"{len(known):,}", "total:models")
    words = {
        "device": label(devices[chosen.device]) if chosen.device in devices else chosen.device,
        "runtime": run_words(chosen.runtime),
    }
    yield (
        "index.html",
        render("explorer.html", **shared, **words, root="", title="Models", lines=lines, choice=chosen, total=total),
    )
    yield "assets/data.js", script("zooData", data)
    for one in known:
        yield (
            address("models", one.name),
            render("model.html", **shared, root="../", title=one.name, entry=one.entry),
        )
    for family, members in sorted(pages.by_family(known).items()):
        page = render("family.html", **shared, root="../", **pages.family_page(family, members))
        yield address("families", family), page
        yield f"assets/families/{slug(family)}.js", entry("zooFamilies", family, family_facts(members, devices, linked))
    for info in infos:
        yield address("blocks", info.name), render("block.html", **shared, root="../", title=info.name, info=info)
    for kind, alike in groupby(sorted(infos, key=attrgetter("kind")), attrgetter("kind")):
        facts = {info.name: block_facts(info, known) for info in alike}
        yield f"assets/blocks/{kind}.js", entry("zooBlocks", kind, facts)
    yield "blocks/index.html", render("blocks.html", **shared, root="../", title="Blocks", infos=infos)
    read = [guides.guide(name) for name in guides.names()] if whole else []
    for guide in read:
        yield f"guides/{guide.name}.html", render("guide.html", **shared, root="../", title=guide.title, guide=guide)
    yield "assets/index.js", script("zooIndex", _index(known, infos, read))
    yield MARK, json.dumps({"schema": "zoo.site/1", "models": len(known), "version": zoo.__version__}) + "\n"


def _known_block(name: str) -> Any:
    from blocks import registry

    return registry.known(registry.identity_of(name) or "")


def _navigation() -> list[tuple[str, list[tuple[str, str]]]]:
    """(group, [(name, title)]) of the guides."""
    return [(group, [(name, guides.guide(name).title) for name in members]) for group, members in guides.groups()]


def _index(models: Sequence[Known], infos: Sequence[Any], read: Sequence[guides.Guide]) -> list[list[str]]:
    """What the search looks through: [title, address, kind, words]."""
    entries = [pages.entry_of_search(known) for known in models] + [pages.block_of_search(info) for info in infos]
    for guide in read:
        page = f"guides/{guide.name}.html"
        entries.append([guide.title, page, "guide", ""])
        entries += [[heading.text, f"{page}#{heading.anchor}", "guide", guide.title] for heading in guide.headings]
    return entries


def _measured(folder: Path, models: int) -> Site:
    """The files and their size, as they are and as a server sends them."""
    import gzip

    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    contents = [(folder / name).read_bytes() for name in files]
    return Site(folder, files, models, sum(map(len, contents)), sum(len(gzip.compress(each, 9)) for each in contents))
