"""The folder of a deployed model: files of the runtime, `deployed.json`, `run.py`, the report, the licence."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

import zoo
from zoo.artifacts.compiled import ENTRY
from zoo.errors import InputError, Problem
from zoo.runtimes.about import About
from zoo.runtimes.instructions import Needs, needs_of, needs_of_machine_code
from zoo.runtimes.narrowed import narrows
from zoo.runtimes.protocol import Runtime, Session
from zoo.runtimes.record import LICENCE, RECORD, REPORT, SCRIPT, SIGNATURE, DeployedRecord, files_of, record_json
from zoo.system.folders import at_home, data_path, making, write_whole

if TYPE_CHECKING:
    from zoo.runtimes.deployed import Deployed

RUN = Path(__file__).parent / "script" / SCRIPT


def save(model: Deployed, runtime: Runtime, session: Session, folder: Path) -> Path:
    """Writes the folder, whole or not at all: beside its place, under another name until all is there. Raises InputError."""
    folder = at_home(folder)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(str(folder), Problem("", "a new or an empty folder", "one with files in it"))
        with making(folder) as draft:
            _fill(draft, model, runtime, session)
    except OSError as error:
        raise InputError(str(folder), Problem("", "a place to write to", error.strerror or str(error))) from None
    _remember(folder)
    return folder


def _fill(draft: Path, model: Deployed, runtime: Runtime, session: Session) -> None:
    for path in sorted(model.folder.iterdir()):
        if path.is_file() and path.name not in (ENTRY, SIGNATURE):
            shutil.copyfile(path, draft / path.name)
    runtime.complete(session, draft)
    is_code = bool(getattr(runtime, "holds_code", False))
    names = sorted(path.name for path in draft.iterdir())
    record = DeployedRecord(
        about=model.about,
        runtime=runtime.name,
        version=runtime.version(),
        precision=model.precision,
        threads=model.threads,
        signature=model.signature,
        needs=needs_of_machine_code() if is_code else _needs(model),
        is_code=is_code,
        files=files_of(draft, names),
        versions={"blockzoo": zoo.__version__, "torch": str(torch.__version__)},
    )
    shutil.copyfile(RUN, draft / SCRIPT)
    write_whole(draft / LICENCE, licence_text(model.about).encode())
    write_whole(draft / REPORT, msgspec.json.format(msgspec.json.encode(_plain(model.report())), indent=1))
    write_whole(draft / RECORD, record_json(record))


def _needs(model: Deployed) -> Needs:
    """Instructions that make its precision real: none where only its weights are in it."""
    return Needs() if narrows(model.runtime, model.signature.kind, model.precision) else needs_of(model.precision)


def licence_text(about: About) -> str:
    """Whose the weights are, as far as that is known."""
    lines = [f"Model: {about.name}", f"Licence: {about.licence}"]
    lines += [f"Weights: {about.weights}, sha256 {about.sha256}"] if about.weights else []
    lines += [f"Origin: {about.origin}"] if about.origin else []
    return "\n".join(
        [*lines, "This folder was made of them by blockzoo; `run.py` is under the Apache License 2.0.", ""]
    )


def _plain(report: Any) -> Any:
    """A report as JSON writes it: what says of itself how, or plain data."""
    plain = report.plain() if hasattr(report, "plain") else report
    return msgspec.to_builtins(plain)


def marker_of(record: bytes) -> Path:
    """The file that says that a folder with this record was made by this user."""
    return data_path() / "deployed" / hashlib.sha256(record).hexdigest()


def _remember(folder: Path) -> None:
    """That this folder was made here; where that cannot be written, it is asked for when the folder is opened."""
    with contextlib.suppress(InputError, OSError):
        write_whole(marker_of((folder / RECORD).read_bytes()), b"")
