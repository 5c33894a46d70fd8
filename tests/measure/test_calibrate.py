"""Learning a machine: models measured for what they tell, predictions of all others, and of specs that nobody built."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from tests.measure.machines import machine, subjects
from tests.measure.rows import FACTS, sample
from zoo import catalog, cli
from zoo.catalog.listing import list_models
from zoo.catalog.sources import spec
from zoo.errors import InputError
from zoo.measure import calibrate as module
from zoo.measure import store as stores
from zoo.measure.bench import glance, jobs_for
from zoo.measure.calibrate import Pace, calibrate, predict, time_pieces
from zoo.measure.device import Device, Fingerprint
from zoo.measure.latency import Latency, Runtime, compose
from zoo.measure.processes import Progress
from zoo.measure.store import Store
from zoo.measure.work_hash import work_of
from zoo.measure.worker import Job
from zoo.specs.model import Spec

HERE = Device("cpu", "Test", "test", "avx2", 2, 8.0, False, Fingerprint(100.0, 10.0, 1.0))
MODELS = ["inceptionnext_nano", "linear_vit_nano", "starnet_nano"]
TRUTH = machine(11)
KNOWN = {(one.name, one.form): one for one in subjects()}


@pytest.fixture(autouse=True)
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """A machine that takes what `TRUTH` says, without a clock; the models and forms that were measured, and the specs whose pieces were."""
    found: list[tuple[str, str]] = []

    def look(jobs: Sequence[Job], seconds: float, store: Store) -> Iterator[tuple[Job, Latency | None]]:
        for job in jobs:
            found.append((job.model, job.form))
            row = measured(job.model, form=job.form, processes=1, runtime=job.runtime)
            store.add_glances([row])
            yield job, row

    def pieces(wanted: Spec, form: str, runtime: Runtime) -> list[float]:
        found.append((wanted.name, "pieces"))
        return [0.1 + piece.weight_bytes / 1e6 for piece in module.pieces(module.build(wanted))]

    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setattr(stores, "SHIPPED", tmp_path / "none.jsonl")
    monkeypatch.setattr(module, "this_device", lambda: HERE)
    monkeypatch.setattr(module, "glance", look)
    monkeypatch.setattr(module, "time_pieces", pieces)
    monkeypatch.setattr(Pace, "now", lambda self: 1.0)
    yield found


def measured(
    name: str, ms: float = 0.0, form: str = "train", processes: int = 5, runtime: Runtime | None = None, **facts: Any
) -> Latency:
    """A row of a model, of today's work and this device unless `facts` say otherwise; as `TRUTH` says without milliseconds."""
    entry = catalog.entry(name)
    own = FACTS | {
        "model": name,
        "digest": entry.digest,
        "form": form,
        "device": HERE.id,
        "runtime": runtime or Runtime(),
    }
    samples = [sample([ms or TRUTH.ms(KNOWN[name, form])] * 3)] * processes
    return compose(own | {"source": work_of(name, form)} | facts, samples)


def enter(*rows: Latency) -> None:
    with Store() as store:
        store.add(rows)


def test_every_model_of_the_catalogue_is_predicted_though_few_were_measured(
    timed: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 0.5)
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    made = calibrate(minutes=1.0)
    assert 10 < len(timed) < 100 and len(set(timed)) == len(timed)
    assert set(made.models) == {entry.digest for entry in catalog.entries().values()}
    guesses = {form: guess for forms in made.models.values() for form, guess in forms.items()}
    assert set(guesses) == {"train", "deploy"} and made.errors is not None
    off = [abs(made.models[one.digest][one.form].ms / TRUTH.ms(one) - 1) for one in subjects()]
    assert sorted(off)[len(off) // 2] < 0.1
    assert {name for name, _ in timed} <= set(made.fitted)


def test_a_second_calibration_goes_on_and_repeats_nothing(timed: list[tuple[str, str]]) -> None:
    enter(measured("starnet_nano"))
    calibrate(models=MODELS)
    assert sorted(timed) == sorted(
        (name, form) for name in MODELS for form in ("train", "deploy") if (name, form) != ("starnet_nano", "train")
    )
    calibrate(models=MODELS)
    assert len(timed) == 5


def test_models_that_are_to_be_strangers_are_predicted_and_not_measured(timed: list[tuple[str, str]]) -> None:
    made = calibrate(models=[*MODELS, "starnet_s1"], untimed=["starnet_s1"])
    assert "starnet_s1" not in {name for name, _ in timed} and "starnet_s1" not in made.fitted
    assert made.models[catalog.entry("starnet_s1").digest]["deploy"].low_ms is not None


def test_without_time_nothing_is_measured_and_nothing_is_claimed(timed: list[tuple[str, str]]) -> None:
    made = calibrate(minutes=0.0, models=MODELS)
    assert not timed and not made.models and made.errors is None
    with pytest.raises(InputError, match="run `zoo calibrate`"):
        predict("starnet_nano")
    assert calibrate(models=MODELS).errors is not None


def test_progress_ends_where_it_said_it_would(timed: list[tuple[str, str]]) -> None:
    told: list[Progress] = []
    calibrate(minutes=0.5, models=MODELS, progress=told.append)
    assert len(told) == 6 and all(0 <= now.done <= now.total == 30 for now in told)


def test_rows_of_older_code_teach_nothing(timed: list[tuple[str, str]]) -> None:
    enter(*(measured(name, 1000.0, source="older") for name in MODELS))
    calibrate(models=MODELS)
    assert predict(MODELS[0]).ms == pytest.approx(TRUTH.ms(KNOWN[MODELS[0], "train"]), rel=0.1)


def test_rows_of_other_devices_are_where_a_calibration_starts() -> None:
    enter(*(measured(one.name, 2 * TRUTH.ms(one), one.form, device="another-2c-0") for one in subjects()))
    few = [one for one in subjects() if one.name in MODELS]
    enter(*(measured(one.name, form=one.form) for one in few))
    made = calibrate(minutes=0.0)
    off = sorted(abs(made.models[one.digest][one.form].ms / TRUTH.ms(one) - 1) for one in subjects())
    assert off[len(off) // 2] < 0.07


def test_a_row_that_others_slowed_down_counts_by_its_own_time_and_less() -> None:
    hurried = compose(
        FACTS | {"model": "starnet_nano", "digest": catalog.entry("starnet_nano").digest, "device": HERE.id},
        [sample([20.0] * 3, waited=2.0)],
    )
    assert module._unhurried(hurried, None) == (10.0, module.CONTENDED)
    assert module._unhurried(measured("starnet_nano", 10.0), 1.0) == (
        5.0,
        module.CLEAN,
    )  # the anchor took twice its time
    assert module._unhurried(measured("starnet_nano", 10.0, processes=1), None) == (10.0, module.GLANCE)


def test_a_spec_that_nobody_built_is_predicted_and_its_new_pieces_are_timed_then(timed: list[tuple[str, str]]) -> None:
    calibrate(models=MODELS)
    before = len(timed)
    wider = spec("starnet_nano", {"**.<gated_mlp>.ratio": 8})
    guess = predict(wider)
    assert guess.low_ms is not None and guess.high_ms is not None and guess.low_ms < guess.ms < guess.high_ms
    assert timed[before:] == [("starnet_nano", "pieces")]
    deeper = spec("starnet_nano", {"**.<gated_mlp>.ratio": 8, "depths": [1, 5, 1]})
    assert predict(deeper).ms > guess.ms and len(timed) == before + 1  # the same layers, more of them
    assert predict(wider) == guess and len(timed) == before + 1


def test_a_spec_that_does_not_fit_into_memory_is_predicted_by_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> list[float]:
        raise MemoryError("its weights take 9 GB, and 1 GB are free")

    calibrate(models=MODELS)
    monkeypatch.setattr(module, "time_pieces", full)
    guess = predict(spec("starnet_nano", {"**.<gated_mlp>.ratio": 8}))
    assert guess.low_ms is not None and 0 < guess.low_ms < guess.ms


def test_a_calibration_with_other_threads_is_named_where_one_is_missing() -> None:
    calibrate(models=MODELS)
    with pytest.raises(InputError, match=r"known are those of --threads 1; next: run `zoo calibrate --threads 2`"):
        predict("starnet_nano", runtime=Runtime(threads=2))


def test_rows_of_other_numbers_of_threads_are_used_where_there_are_none_of_the_same(
    timed: list[tuple[str, str]],
) -> None:
    enter(*(measured(one.name, TRUTH.ms(one), one.form, device="another-2c-0") for one in subjects()))
    enter(
        *(
            measured(one.name, TRUTH.ms(one), one.form, device="another-2c-0", runtime=Runtime(4))
            for one in subjects()[:9]
        )
    )
    kinds = len({(one.digest, one.form) for one in subjects()})
    with Store() as store:
        assert len(module._seen(store, HERE.id, Runtime(threads=1))) == kinds
        assert len(module._seen(store, HERE.id, Runtime(threads=2))) in (9, kinds)
        assert len(module._seen(store, HERE.id, Runtime(threads=16))) == 9
        assert not module._seen(store, HERE.id, Runtime(dtype="bfloat16"))


def test_a_calibration_of_an_older_schema_is_made_again(timed: list[tuple[str, str]]) -> None:
    calibrate(models=MODELS)
    before, key = len(timed), module.runtime_key(Runtime())
    with Store() as store:
        store.set_calibration(HERE.id, key, b'{"schema":"zoo.calibration/2","laws":{}}')
    with pytest.raises(InputError, match="run `zoo calibrate`"):
        predict("starnet_nano")
    calibrate(models=MODELS)
    assert len(timed) == before and predict("starnet_nano").ms > 0


def test_the_command_says_what_was_measured_and_how_far_off_strangers_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "--minutes", "0.0001"]) == 0
    assert "0 models predicted from 0 measured here" in capsys.readouterr().out
    enter(*(measured(name, form=form) for name, form in list(KNOWN)[:40]))
    assert cli.main(["calibrate", "--minutes", "0.0001"]) == 0
    told = capsys.readouterr().out
    assert (
        f"{len(list_models())} models predicted from" in told
        and "models of families left out of the fit: median" in told
    )


def test_the_pace_is_that_of_the_anchor_against_what_it_usually_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    first = Pace(Runtime(), None)
    assert first.now() == 1.0 and first.usual_ms is not None and first.usual_ms > 0
    assert Pace(Runtime(), first.usual_ms / 1000).now() > 100


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_pieces_take_time_and_leave_the_random_numbers_alone(form: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert all(ms > 0 for ms in time_pieces(spec("starnet_nano"), form, Runtime()))
    assert torch.equal(torch.rand(3), expected)


def test_a_glance_is_one_sample_in_one_fresh_process_and_its_row_says_so(tmp_path: Path) -> None:
    with Store(tmp_path / "own.sqlite") as store:
        jobs = jobs_for(["linear_vit_nano"], ["deploy"], [1])
        ((job, row),) = glance(jobs, 0.01, store)
        assert job == jobs[0] and row is not None and store.rows(shipped=False) == []
        assert store.rows(shipped=False, glances=True) == [row]
    assert (row.processes, row.verdict) == (1, "unstable") and "1 processes, where 5 are the least" in row.reason
    assert msgspec.json.decode(msgspec.json.encode(row), type=Latency) == row
