"""`zoo predict`: pictures in any number, through a model, into rows, or into a file that survives a kill."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from zoo.data.pictures import Picture, large_pictures
from zoo.data.sources import pictures_of
from zoo.errors import InputError, Problem, nearest
from zoo.predicting.journal import Journal, Tally
from zoo.predicting.predictor import Placed, Predictor, Wish, wished
from zoo.predicting.progress import Clock, Told, nobody
from zoo.predicting.rows import Row, plain, writer_of
from zoo.predicting.tasks import answers_of, drawn, is_for_task
from zoo.system.folders import at_home

PLACES = ("", "ray")

Source = str | os.PathLike[str]


def predict_images(
    model: str,
    sources: Source | Sequence[Source],
    out: str | os.PathLike[str] | None = None,
    *,
    column: str = "",
    force: bool = False,
    on: str = "",
    processes: int = 0,
    progress: Told = nobody,
    **wish: Any,
) -> list[dict[str, Any]] | Tally:
    """The classes of pictures, or their features: as rows, or into the file `out`, whose counts are given back then. Of a model for a task
    what that asks for: things with their boxes, classes of pixels, what stands out, restored pictures; `out` is a folder then, with
    what is drawn and a JSON file for each picture.

    sources: files, folders (all pictures below them), `.txt` and `.csv` lists of paths, tars, Parquet files with a `column` of bytes or paths.
    out: `.jsonl`, `.csv` or `.parquet`. A run that was killed goes on when it is called again; `force` begins anew.
    top (5), features (False), batch (32), workers (threads that decode), deploy (a runtime, `auto`), device (`cpu`), score (0.3): as of the
    command.
    on: `ray` has actors of Ray Data do it, `processes` of them.

    A picture that cannot be read has a row with its reason. Raises InputError, and what `zoo.create` raises.
    """
    if is_for_task(model):
        return _of_task(wished(model, **wish), sources, column, out, force, on, progress)
    asked = wished(model, **wish)
    paths = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    if on not in PLACES:
        raise InputError("predict", Problem("--on", "ray, or nothing for this process", f"`{on}`", nearest(on, PLACES)))
    if out is None:
        return [plain(row) for row in rows_of(asked, paths, column, progress)]
    return written(asked, paths, at_home(out), column, force, on, processes, progress)


def _of_task(
    wish: Wish, sources: Source | Sequence[Source], column: str, out: str | os.PathLike[str] | None, force: bool, on: str, progress: Told
) -> list[dict[str, Any]] | Tally:  # fmt: skip
    if on:
        raise InputError("predict", Problem("--on", "a model that answers classes", f"one for a task, on {on}"))
    paths = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    answers = answers_of(wish, paths, column, progress)
    rows = [each.plain() for each in (answers if out is None else drawn(answers, at_home(out), force))]
    return rows if out is None else Tally(len(rows), sum("error" in row for row in rows))


def rows_of(wish: Wish, sources: Sequence[Source], column: str, progress: Told) -> list[Row]:
    """The rows themselves, for pictures that a screen can hold."""
    pictures = pictures_of(sources, column)
    predictor = Predictor(wish)
    with large_pictures():
        rows = predictor.rows(map(Placed, range(len(pictures)), pictures))
        return list(_told(rows, len(pictures), progress))


def written(
    wish: Wish,
    sources: Sequence[Source],
    out: Path,
    column: str = "",
    force: bool = False,
    on: str = "",
    processes: int = 0,
    progress: Told = nobody,
) -> Tally:
    """The file of all rows; what an earlier run of the same job did is not done again."""
    write = writer_of(out)
    pictures = pictures_of(sources, column)
    predictor = Predictor(wish)
    with Journal(out, _job(wish, sources, column, predictor), force) as journal:
        if finished := journal.tally():
            return journal.forget(finished)
        missing = list(_missing(pictures, journal.names()))
        with large_pictures():
            for row in _told(_answered(predictor, missing, on, processes), len(missing), progress):
                journal.add(row)
        return journal.finish(write, predictor.shape)


def _answered(predictor: Predictor, missing: list[Placed], on: str, processes: int) -> Iterable[Row]:
    if on == "ray":
        from zoo.predicting.on_ray import rows

        return rows(predictor.wish, missing, processes)
    return predictor.rows(missing)


def _job(wish: Wish, sources: Sequence[Source], column: str, predictor: Predictor) -> dict[str, Any]:
    """What makes two runs one job; how fast it is done, and where, is none of it."""
    manifest = predictor.manifest
    return {
        "model": manifest.name,
        "digest": predictor.digest,
        "weights": manifest.sha256,
        "preprocess": msgspec.to_builtins(predictor.prepare.preprocess),
        "sources": [os.path.abspath(source) for source in sources],
        "column": column,
        "top": 0 if wish.features else wish.top,
        "features": wish.features,
    }


def _missing(pictures: Iterable[Picture], done: Counter[str]) -> Iterator[Placed]:
    """Those without a row, at the positions that they have among all."""
    for position, picture in enumerate(pictures):
        if done[picture.name] > 0:
            done[picture.name] -= 1
        else:
            yield Placed(position, picture)


def _told(rows: Iterable[Row], total: int, progress: Told) -> Iterator[Row]:
    """The rows, as they pass; `progress` hears of each."""
    clock = Clock(total, progress)
    for row in rows:
        yield row
        clock.count()
