"""The folder of a site: pages, assets, the data of the explorer and of the search. Every file is whole; none needs a server."""

from __future__ import annotations

import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import zoo
from blocks.registry import list_blocks
from zoo import catalog
from zoo.errors import InputError, Problem, ProblemsError
from zoo.measure.parts import parts
from zoo.site import explorer, guides, pages
from zoo.site.counts import count_missing
from zoo.site.facts import block_facts, volumes
from zoo.site.figures import Shown
from zoo.site.known import Known, Measurements, gather, measurements
from zoo.site.render import ASSETS, address, entry, render, script
from zoo.site.runs import label, run_words
from zoo.system.folders import forget_drafts, write_text

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

    What the parts of a model cost ships with it; without `counted` it is not told of those with which none ships. Files of an earlier site
    in the folder are replaced; a folder with other files is refused. Raises InputError.
    """
    _check_folder(folder)
    names = list(names) or list(catalog.entries())
    whole = len(names) == len(catalog.entries())
    found = measurements(stores)
    gathered = gather(names, found.rows, parts())
    models = {name: known for name, known in gathered.items() if _is_sound(known)}
    if counted:
        count_missing(list(models.values()), progress)
    texts = {MARK: _mark(len(models)), **dict(_files(models, found, title, whole)), **_assets(title, whole)}
    for room in ("", *ROOMS):
        forget_drafts(folder / room)
    for name, text in texts.items():
        write_text(folder / name, text)
    _clear(folder, set(texts))
    return _measured(folder, len(models))


EVERYWHERE = ("words", "header", "drawing", "parts", "facts", "model", "family", "block", "page")
"""Scripts of every page, which are one file."""


def _assets(title: str, guided: bool) -> dict[str, str]:
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(ASSETS.iterdir())}
    shared = script("zooSite", {"title": title, "guides": guided}) + "".join(
        found.pop(f"{name}.js") for name in EVERYWHERE
    )
    return {f"assets/{name}": text for name, text in {"page.js": shared, **found}.items()}


def _is_sound(known: Known) -> bool:
    """Whether a model can be shown. One of a plugin whose spec cannot be read is left out, with a warning."""
    try:
        return known.spec is not None or not known.entry.file
    except ProblemsError as error:
        if not catalog.home_of(known.name).namespace:
            raise
        log.warning("left out of the site: %s", error)
        return False


MARK = "assets/site.json"
"""Says that a folder holds a site of ours, and of what; it is written first, so that one that was broken off is replaced, too."""


def _mark(models: int) -> str:
    return json.dumps({"schema": "zoo.site/1", "models": models, "version": zoo.__version__}) + "\n"


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(str(folder), Problem("", "a folder for the site", "a file"))
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        step = "name another folder, or empty this one"
        raise InputError(
            str(folder), Problem("", "an empty folder, or one with an earlier site", "other files", next=step)
        )


ROOMS = ("models", "blocks", "families", "guides", "assets", "assets/families", "assets/specs", "assets/blocks")


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
        yield address("models", one.name), render("model.html", **shared, root="../", title=one.name, entry=one.entry)
    families = pages.by_family(known)
    for family, members in families.items():
        page = render("family.html", **shared, root="../", title=family, entry=members[0].entry, members=members)
        yield address("families", family), page
    for volume in volumes(families, devices, linked):
        yield f"assets/families/{volume.letter}.js", entry("zooFamilies", volume.letter, volume.facts)
        yield f"assets/specs/{volume.letter}.js", entry("zooSpecs", volume.letter, volume.specs)
    for info in infos:
        yield address("blocks", info.name), render("block.html", **shared, root="../", title=info.name, info=info)
    alone = defaultdict(list)
    for row in sorted(found.blocks, key=lambda row: (row.device, row.runtime.key)):
        alone[row.block].append(row)
    for kind, alike in groupby(sorted(infos, key=attrgetter("kind")), attrgetter("kind")):
        facts = {info.name: block_facts(info, known, alone[info.id], devices) for info in alike}
        yield f"assets/blocks/{kind}.js", entry("zooBlocks", kind, facts)
    yield "blocks/index.html", render("blocks.html", **shared, root="../", title="Blocks", infos=infos)
    read = [guides.guide(name) for name in guides.names()] if whole else []
    for guide in read:
        yield f"guides/{guide.name}.html", render("guide.html", **shared, root="../", title=guide.title, guide=guide)
    yield "assets/index.js", script("zooIndex", pages.searched(known, infos, read))


def _known_block(name: str) -> Any:
    from blocks import registry

    return registry.known(registry.identity_of(name) or "")


def _navigation() -> list[tuple[str, list[tuple[str, str]]]]:
    """(group, [(name, title)]) of the guides."""
    return [(group, [(name, guides.guide(name).title) for name in members]) for group, members in guides.groups()]


def _measured(folder: Path, models: int) -> Site:
    """The files and their size, as they are and as a server sends them."""
    import gzip

    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    contents = [(folder / name).read_bytes() for name in files]
    return Site(folder, files, models, sum(map(len, contents)), sum(len(gzip.compress(each, 9)) for each in contents))
