"""`zoo.export`: a model as a file that stands alone."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.build.backbone import Backbone
from zoo.errors import InputError, Problem, nearest
from zoo.exporting.python import export_python
from zoo.factory import create


def export(
    model: Backbone | str, path: str | os.PathLike[str], to: str = "python", form: str = "train", force: bool = False
) -> Path:
    """Writes a model as a file that stands alone: `python`, one readable source file that needs torch alone.

    A name is created first, in the `form` asked for. Returns the path. Raises InputError for a file that is there already,
    unless `force`, and for another format.
    """
    if to != "python":
        raise InputError("export", Problem("to", "`python`", f"`{to}`", nearest(to, ["python"])))
    return export_python(create(model, device="meta", form=form) if isinstance(model, str) else model, path, force)
