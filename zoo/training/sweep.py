"""`zoo.sweep`: trainings of one model whose recipes Optuna draws from ranges, each a run like any other; and which was best.

OUT/sweep.db                what Optuna knows, where no other storage is named
OUT/sweep.json              the trials that are over, the best first
OUT/trial-0003              a run of `zoo.train`: a model, its report, its recipe
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from filelock import FileLock, Timeout

from blocks.registry.words import raised
from zoo.data.folders import labelled
from zoo.data.labelled import Labelled, Task
from zoo.display.rows import Row, Table
from zoo.errors import InputError, Problem, ProblemsError
from zoo.pretrained.checkpoint import Weights
from zoo.system.folders import write_whole
from zoo.training.outcome import Run
from zoo.training.recipe import read_recipe, values
from zoo.training.run import train
from zoo.training.seeds import seed_of
from zoo.training.space import Range, Space, drawn_of, is_whole, read_space
from zoo.training.starting import check_start
from zoo.training.trainer import Watch

STORAGE, REPORT, LOCK = "sweep.db", "sweep.json", "sweep.lock"


class Trial(Row, frozen=True):
    """One training of a sweep. `value` is the figure called `figure` of `n` held-out pictures where it came to an end, and `ci95` its
    interval; `reason` says why it did not. `settings`: what was drawn."""

    number: int
    folder: str
    settings: dict[str, Any]
    figure: str = ""
    value: float | None = None
    ci95: tuple[float, float] | None = None
    n: int = 0
    reason: str = ""


class Sweep(NamedTuple):
    """A sweep: its best trial, and all that are over, the best first."""

    best: Trial
    trials: Table[Trial]


class _Record(msgspec.Struct):
    """What a folder holds: whose trials are in it, of which sweep, and what came out."""

    id: str
    subject: str
    trials: list[dict[str, Any]] = []


def sweep(
    model: str, data: str | os.PathLike[str], out: str | os.PathLike[str], space: str | os.PathLike[str] | Mapping[str, Any], *,
    trials: int = 20, recipe: str | os.PathLike[str] = "finetune", settings: Mapping[str, Any] | None = None,
    weights: Weights | None = None, target: str = "", task: Task | None = None, strict: bool = False, storage: str = "",
    seed: int = 0, watch: Watch = Watch(), told: Callable[[Trial], None] = lambda trial: None,
) -> Sweep:  # fmt: skip
    """Trains a model `trials` times by recipes drawn from `space`, and says which was best on the held-out part.

    space: a file of TOML, or {path: {"low": 1e-4, "high": 1e-2, "log": True}} and {path: [choices]}; see `docs/training.md`.
    trials: how many there are to be in the end: called again with the same folder a sweep goes on, and a training that was broken off with it.
    recipe, settings, weights, target, task, strict: as of `zoo.train`; what is drawn stands above the settings.
    storage: a URL of a database, `postgresql://…` or `sqlite:///FILE`, by which sweeps into several folders share their trials.
    seed: of what is drawn. A trial whose recipe contradicts itself, or whose loss is lost, counts and says so.

    Raises InputError, SpecError and WeightsError.
    """
    optuna, out, name = _optuna(), Path(out), os.fspath(model)
    base = read_recipe(recipe, settings)
    ranges = read_space(space)
    if trials < 1:
        raise InputError("sweep", Problem("trials", "1 at least", str(trials)))
    if os.environ.get("WORLD_SIZE", "1") != "1":
        step = "start one with each --out, and one --storage for all"
        raise InputError("sweep", Problem("", "a process by itself", "one of several of torchrun", next=step))
    check_start(name, base.model, weights)
    subject = _subject(
        [name, values(base), ranges, Path(weights).name if isinstance(weights, (str, os.PathLike)) else ""],
        labelled(data, target, task),
    )
    with _folder(out, subject) as record:
        url = storage or f"sqlite:///{(out / STORAGE).resolve()}"
        study = _study(optuna, url, f"{Path(name).name}-{subject[:12]}")
        states = optuna.trial.TrialState

        def run(number: int, drawn: Mapping[str, Any], resume: bool) -> None:
            changes = {path: drawn_of(path, value, ranges) for path, value in drawn.items()}
            known = Trial(number, str(out / f"trial-{number:04}"), changes)
            try:
                found = _with(known, train(
                    model, data, known.folder, recipe=recipe, settings={**(settings or {}), **changes}, weights=weights,
                    target=target, task=task, strict=strict, resume=resume, watch=watch,
                ))  # fmt: skip
            except ProblemsError as error:
                found = msgspec.structs.replace(known, reason=error.problems[0].sentence())
            study.set_user_attr(_key(number), found.to_dict())
            study.tell(number, found.value, state=states.FAIL if found.value is None else states.COMPLETE)
            record.trials = _over(study).to_dicts()
            _keep(out, record)
            told(found)

        for trial in study.get_trials(states=[states.RUNNING]):
            if not storage or trial.user_attrs.get("folder") == record.id:
                run(trial.number, trial.params, resume=True)
        while (count := len(_over(study))) < trials:
            key = ("sweep", seed, count, record.id if storage else "")
            study.sampler = optuna.samplers.TPESampler(seed=seed_of(*key) % 2**32)
            trial = study.ask(_distributions(optuna, ranges))
            trial.set_user_attr("folder", record.id)
            run(trial.number, trial.params, resume=False)
        over = _over(study)
    if over[0].value is None:
        raise InputError(
            "sweep", Problem("", "a trial that came to its end", f"{len(over)}, none of which did: {over[0].reason}")
        )
    return Sweep(over[0], over)


def _subject(facts: list[Any], data: Labelled) -> str:
    """A hash of all by which trials can be compared: what is trained and drawn, and on which pictures."""
    pictures = {
        part: [(example.picture.name, example.target) for example in examples] for part, examples in data.parts.items()
    }
    return hashlib.sha256(msgspec.json.encode([*facts, data.labels, pictures], order="deterministic")).hexdigest()


def _with(known: Trial, run: Run) -> Trial:
    return msgspec.structs.replace(known, figure=run.figure, value=run.value, ci95=run.ci95, n=run.n)


def _over(study: Any) -> Table[Trial]:
    """The trials that are over, the best first, equal ones as they came."""
    known = study.user_attrs
    numbers = [trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    trials = [msgspec.convert(known[_key(number)], Trial) for number in numbers if _key(number) in known]
    return Table(sorted(trials, key=lambda trial: (trial.value is None, -(trial.value or 0.0), trial.number)))


def _key(number: int) -> str:
    """Under which the study keeps what came of a trial."""
    return f"trial-{number}"


def _distributions(optuna: Any, space: Space) -> dict[str, Any]:
    """The ranges as Optuna knows them; a list among choices is JSON."""
    kinds = optuna.distributions
    known: dict[str, Any] = {}
    for path, ends in space.items():
        if isinstance(ends, Range):
            kind = kinds.IntDistribution if is_whole(path) else kinds.FloatDistribution
            steps = {"step": ends.step} if ends.step is not None else {}
            known[path] = kind(ends.low, ends.high, log=ends.log, **steps)
        else:
            known[path] = kinds.CategoricalDistribution([
                msgspec.json.encode(choice).decode() if isinstance(choice, (list, tuple)) else choice for choice in ends
            ])  # fmt: skip
    return known


def _study(optuna: Any, url: str, name: str) -> Any:
    """Raises InputError for a database that does not open."""
    try:
        return optuna.create_study(storage=url, study_name=name, direction="maximize", load_if_exists=True)
    except Exception as error:  # SQLAlchemy's, those of the driver, and a driver that is not installed
        expected = "a database that SQLAlchemy opens, `sqlite:///FILE` or `postgresql://USER@HOST/NAME`, and its driver"
        raise InputError("sweep", Problem("--storage", expected, raised(error))) from None


@contextmanager
def _folder(out: Path, subject: str) -> Iterator[_Record]:
    """The record of the folder, which is this process's alone for as long. Raises InputError for a folder of anything else."""
    path = out / REPORT
    if out.exists() and not (out.is_dir() and (path.exists() or {entry.name for entry in out.iterdir()} <= {LOCK})):
        step = "name a folder that is not there yet"
        raise InputError("sweep", Problem(str(out), "a new folder", "other files", next=step))
    lock = FileLock(out / LOCK, timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        problem = Problem(str(out), "a folder that nobody else writes to", "a sweep at work", next="another --out")
        raise InputError("sweep", problem) from None
    except OSError as error:
        raise InputError("sweep", Problem(str(out), "a place for a folder", error.strerror or str(error))) from None
    try:
        record = _record(path) or _Record(uuid.uuid4().hex, subject)
        if record.subject != subject:
            expected = "a sweep of this model, recipe, ranges and pictures"
            raise InputError("sweep", Problem(str(out), expected, "another", next="another --out"))
        _keep(out, record)
        yield record
    finally:
        lock.release()


def _record(path: Path) -> _Record | None:
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError("sweep", Problem(str(path), "the record of a sweep", raised(error))) from None


def _keep(out: Path, record: _Record) -> None:
    write_whole(out / REPORT, msgspec.json.format(msgspec.json.encode(record), indent=1))


def _optuna() -> Any:
    """Raises InputError where Optuna is not installed."""
    try:
        import optuna
    except ImportError:
        problem = Problem("", "Optuna, which draws recipes", "no such package", next='pip install "blockzoo[sweep]"')
        raise InputError("sweep", problem) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
