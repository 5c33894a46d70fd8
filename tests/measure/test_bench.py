"""Measuring in fresh processes: rows, retries, failures, runs that are broken off."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

import zoo
from tests.measure.rows import FACTS, sample
from zoo import cli
from zoo.errors import InputError
from zoo.measure import bench as module
from zoo.measure import store, this_device, worker
from zoo.measure.bench import jobs_for, run, usual_anchor
from zoo.measure.device import Device, Fingerprint
from zoo.measure.latency import compose
from zoo.measure.processes import Progress
from zoo.measure.store import Store
from zoo.measure.worker import Answer, Plan
from zoo.system import children

HERE = Device("cpu", "Test", "test", "avx2", 2, 8.0, False, Fingerprint(100.0, 10.0, 1.0))
SMALL = "linear_vit_nano"


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setattr(store, "SHIPPED", tmp_path / "none.jsonl")
    monkeypatch.setattr(module, "this_device", lambda kind="cpu": HERE)
    with Store() as opened:
        yield opened


class Workers:
    """Stands in for worker processes: the n-th answers each job with the n-th of `waits`; `dies` breaks the run off."""

    torch = str(torch.__version__)

    def __init__(self, *waits: float, dies: int | None = None):
        self.waits, self.dies, self.started, self.asked = waits, dies, 0, 0

    def __call__(self, plan: Plan) -> Iterator[Answer]:
        waited = self.waits[min(self.started, len(self.waits) - 1)]
        self.started += 1
        for job in plan.jobs:
            if self.asked == self.dies:
                raise KeyboardInterrupt
            self.asked += 1
            yield Answer(job.key, msgspec.structs.replace(sample([10.0] * 3, waited), torch=self.torch))


def test_a_contended_row_is_measured_once_more(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2.0, 2.0, 2.0, 2.0, 2.0, 1.0)
    monkeypatch.setattr(module, "_answers", workers)
    (row,) = run(jobs_for([SMALL], ["train"], [1]), store=held)
    assert (row.verdict, workers.started) == ("clean", 10)


def test_a_row_that_stays_contended_says_so(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2.0)
    monkeypatch.setattr(module, "_answers", workers)
    (row,) = run(jobs_for([SMALL], ["train"], [1]), store=held)
    assert (row.verdict, workers.started) == ("contended", 10)
    assert held.rows(verdict="clean") == []


def test_processes_that_disagree_are_asked_once_more(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.0, 10.0, 10.0, 13.0] + [10.0] * 5)
    monkeypatch.setattr(
        module, "_answers", lambda plan: [Answer(job.key, sample([next(times)] * 3)) for job in plan.jobs]
    )
    (row,) = run(jobs_for([SMALL], ["train"], [1]), store=held)
    assert row.verdict == "clean" and list(times) == []


def test_a_row_is_held_against_what_the_anchor_usually_takes(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = FACTS | {"device": HERE.id}
    held.add([compose(facts | {"model": f"net{i}"}, [sample([10.0] * 3, anchor=1.0)] * 5) for i in range(9)])
    assert usual_anchor(held, HERE.id, 1) is None
    held.add([compose(facts | {"model": "net9"}, [sample([10.0] * 3, anchor=1.0)] * 5)])
    assert usual_anchor(held, HERE.id, 1) == 1.0 and usual_anchor(held, HERE.id, 2) is None
    monkeypatch.setattr(module, "_answers", Workers(1.0))  # whose anchor takes 2 ms
    verdicts = {row.runtime.threads: row.verdict for row in run(jobs_for([SMALL], ["train"], [1, 2]), store=held)}
    assert verdicts == {1: "contended", 2: "clean"}


def test_fewer_processes_than_a_clean_row_wants_are_not_asked_twice(
    held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(1.0)
    monkeypatch.setattr(module, "_answers", workers)
    (row,) = run(jobs_for([SMALL], ["train"], [1]), processes=2, store=held)
    assert (row.verdict, workers.started) == ("unstable", 2)


@pytest.mark.parametrize(("together", "dies"), [(16, 14), (1, 12)], ids=["among its samples", "behind finished rows"])
def test_a_run_that_was_broken_off_goes_on_where_it_was(
    together: int, dies: int, held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JOBS_PER_PROCESS", together)
    jobs = jobs_for([SMALL, "vim_nano"], ["train", "deploy"], [1])
    monkeypatch.setattr(module, "_answers", Workers(1.0, dies=dies))
    with pytest.raises(KeyboardInterrupt):
        list(run(jobs, store=held))
    rest = Workers(1.0)
    monkeypatch.setattr(module, "_answers", rest)
    for _ in range(2):  # the second time all rows are there
        rows = list(run(jobs, store=held, resume=True))
        assert {(row.model, row.form) for row in rows} == {(job.model, job.form) for job in jobs} and len(rows) == 4
        assert rest.asked == 4 * 5 - dies


def test_a_run_goes_on_where_the_machine_turned_out_to_be_another(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_answers", Workers(1.0, dies=3))
    with pytest.raises(KeyboardInterrupt):
        list(run(jobs_for([SMALL], ["train"], [1]), store=held))
    known = msgspec.structs.replace(HERE, fingerprint=Fingerprint(200.0, 20.0, 0.5))
    monkeypatch.setattr(module, "this_device", lambda kind="cpu": known)
    rest = Workers(1.0)
    monkeypatch.setattr(module, "_answers", rest)
    (row,) = run(jobs_for([SMALL], ["train"], [1]), store=held, resume=True)
    assert rest.asked == 2 and row.device == known.id


@pytest.mark.parametrize(
    ("what", "value"), [("source", "older"), ("verdict", "contended"), ("torch", "1.0"), ("device", "other")]
)
def test_rows_of_another_code_torch_or_device_and_doubtful_ones_are_measured_again(
    what: str, value: str, held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_for([SMALL], ["train"], [1])
    monkeypatch.setattr(module, "_answers", Workers(1.0))
    with Store(held.path.with_name("scratch.sqlite")) as scratch:
        (row,) = run(jobs, store=scratch)
    replace = msgspec.structs.replace
    other = (
        replace(row, runtime=replace(row.runtime, torch=value)) if what == "torch" else replace(row, **{what: value})
    )
    held.add([other])
    again = Workers(1.0)
    monkeypatch.setattr(module, "_answers", again)
    assert len(list(run(jobs, store=held, resume=True))) == 1 and again.asked == 5


def test_without_resume_everything_is_measured_anew(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = jobs_for([SMALL], ["train"], [1, 2])
    monkeypatch.setattr(module, "_answers", Workers(1.0, dies=7))
    with pytest.raises(KeyboardInterrupt):
        list(run(jobs, store=held))
    again = Workers(1.0)
    monkeypatch.setattr(module, "_answers", again)
    list(run(jobs, store=held))
    assert again.asked == 10


def test_a_model_that_fails_is_named_behind_the_rows_of_the_others(
    held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(plan: Plan) -> Iterator[Answer]:
        for job in plan.jobs:
            yield (
                Answer(job.key, None, "ValueError: no")
                if job.model == "vim_nano"
                else Answer(job.key, sample([1.0] * 3))
            )

    monkeypatch.setattr(module, "_answers", answers)
    rows = []
    with pytest.raises(InputError) as error:
        rows.extend(run(jobs_for(["vim_nano", SMALL], ["train"], [1]), store=held))
    assert [row.model for row in held.rows()] == [SMALL]
    assert " ".join(str(error.value).split()) == (
        "bench: 1 error vim_nano expected a model that runs; found ValueError: no"
    )


def test_progress_counts_samples(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    monkeypatch.setattr(module, "_answers", Workers(1.0))
    list(run(jobs_for([SMALL], ["train"], [1, 2]), store=held, progress=seen.append))
    assert [now.done for now in seen] == list(range(1, 11)) and {now.total for now in seen} == {10}


def test_a_worker_measures_and_a_broken_job_does_not_stop_it(held: Store) -> None:
    jobs = jobs_for([SMALL], ["train", "deploy"], [1])
    broken = module.Job("broken", "no_such_net", "train", jobs[0].runtime)
    found = {answer.key: answer for answer in module._answers(Plan([jobs[0], broken, jobs[1]], 0.01))}
    assert found["broken"].error.startswith("UnknownModelError: no model `no_such_net`")
    for job in jobs:
        measured = found[job.key].sample
        assert (
            measured is not None and min(measured.ms) > 0 and len(measured.anchor_ms) >= 6 and measured.peak_bytes > 0
        )


def test_a_worker_that_dies_is_an_answer(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children.sys, "executable", "/bin/false")
    (answer,) = module._answers(Plan(jobs_for([SMALL], ["train"], [1]), 0.01))
    assert answer.error == "its process ended: no word"


def test_jobs_of_a_dead_worker_are_taken_up_by_another(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(plan: Plan) -> Iterator[Answer]:
        for job in plan.jobs:
            if job.model == "vim_nano":
                yield Answer(job.key, None, "its process ended: killed")
                return
            yield Answer(job.key, sample([1.0] * 3))

    monkeypatch.setattr(module, "_answers", answers)
    with pytest.raises(InputError, match="vim_nano"):
        list(run(jobs_for(["vim_nano", SMALL], ["train"], [1]), store=held))
    (row,) = held.rows()
    assert (row.model, row.processes, row.verdict) == (SMALL, 5, "clean")


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "free_memory", lambda device: 1_000_000)
    for form, dtype, needed in (
        ("train", "bfloat16", "13.5 GB"),
        ("deploy", "float32", "53.9 GB, packed ones among them"),
    ):
        (job,) = jobs_for(["llama_7b"], [form], [1], dtypes=[dtype])
        with pytest.raises(MemoryError, match=f"its weights take {needed}, and 0.0 GB are free"):
            worker.prepared(job)


def test_the_deploy_form_is_measured_as_users_get_it() -> None:
    (job,) = jobs_for(["linear_vit_nano"], ["deploy"], [1])
    net, own = worker.prepared(job), zoo.create("linear_vit_nano", form="deploy")
    assert [type(part) for part in net.modules()] == [type(part) for part in own.modules()]
    for (name, ours), (other, theirs) in zip(net.state_dict().items(), own.state_dict().items(), strict=True):
        assert (name, ours.shape, ours.dtype, ours.stride()) == (other, theirs.shape, theirs.dtype, theirs.stride())


def test_the_command_prints_rows_and_exports_clean_ones(
    held: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_answers", Workers(1.0))
    monkeypatch.setattr("zoo.measure.this_device.this_device", lambda kind="cpu": HERE)
    out = tmp_path / "rows.jsonl"
    assert cli.main(["bench", SMALL, "--threads", "1,2", "--export", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["runtime"].get("threads", 1) for row in printed] == [1, 2]
    assert len(store.read_rows(out)[1]) == 2
    assert cli.main(["bench", SMALL]) == 0
    assert "eager float32 b1 t1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected names of models, --all or --blocks; found none"),
        ([SMALL, "--threads", "0,x"], "--threads expected whole numbers from 1, with commas between; found 0, x"),
        ([SMALL, "--form", "deplay"], "--form expected one of `train` or `deploy`; found `deplay`; nearest `deploy`"),
        (["no_*_net"], "no_*_net expected a pattern that some model matches; found none"),
    ],
)
def test_options_that_mean_nothing_are_sentences(
    arguments: list[str], message: str, held: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_killed_run_loses_nothing(tmp_path: Path) -> None:
    """The real thing: kill -9 in the middle, then --resume measures only what is missing."""
    command = [
        sys.executable,
        "-m",
        "zoo",
        "bench",
        SMALL,
        "--threads",
        "1,2",
        "--seconds",
        "0.01",
        "--resume",
        "--no-retry",
    ]
    environment = os.environ | {"ZOO_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + 60
    while _samples(tmp_path) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = _samples(tmp_path)
    assert kept >= 3
    rest = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in rest.stderr.splitlines() if " of 10 samples" in line]
    assert len(lines) == 10 - kept
    with sqlite3.connect(tmp_path / "measurements.sqlite") as db:
        assert db.execute("SELECT count(*) FROM rows").fetchone() == (2,)
        assert db.execute("SELECT count(*) FROM samples").fetchone() == (0,)
    db.close()


def _samples(folder: Path) -> int:
    try:
        with sqlite3.connect(f"file:{folder / 'measurements.sqlite'}?mode=ro", uri=True) as db:
            (count,) = db.execute("SELECT count(*) FROM samples").fetchone()
    except sqlite3.OperationalError:
        return 0
    finally:
        if "db" in locals():
            db.close()
    return int(count)


def test_this_machine_is_entered_once(held: Store) -> None:
    this_device.this_device.cache_clear()
    first = this_device.this_device()
    this_device.this_device.cache_clear()
    assert this_device.this_device().id == first.id and held.devices() == [first]
    this_device.this_device.cache_clear()


def test_between_two_starts_of_the_system_a_machine_becomes_no_other(
    held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = ["one"]
    monkeypatch.setattr(this_device, "_start_of_system", lambda: started[0])
    speeds = iter([Fingerprint(100.0, 10.0, 1.0), *[Fingerprint(40.0, 2.0, 3.0)] * 2])  # the second on a busy day
    monkeypatch.setattr(this_device, "identify", lambda kind: msgspec.structs.replace(HERE, fingerprint=next(speeds)))
    this_device.this_device.cache_clear()
    first = this_device.this_device()
    this_device.this_device.cache_clear()
    assert this_device.this_device() == first
    started[0] = "two"
    this_device.this_device.cache_clear()
    assert this_device.this_device() != first
    this_device.this_device.cache_clear()


def test_a_machine_first_seen_on_a_busy_day_turns_out_to_be_the_one_that_is_known(
    held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(this_device, "_start_of_system", lambda: "one")
    speeds = iter([40.0, 45.0, 30.0, 95.0])
    monkeypatch.setattr(
        this_device,
        "identify",
        lambda kind: msgspec.structs.replace(HERE, fingerprint=Fingerprint(next(speeds), 10.0, 1.0)),
    )
    held.add_device(HERE)
    seen = []
    for _ in range(4):  # the first process measures twice, the last not at all
        this_device.this_device.cache_clear()
        seen.append(this_device.this_device().fingerprint.gemm_gflops)
    this_device.this_device.cache_clear()
    assert seen == [40.0, 40.0, 100.0, 100.0]


def test_a_device_that_nobody_measured_on_is_refused_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    name = zoo.latency("resnet50", device="")[0].device
    assert zoo.latency("resnet50", device=name)
    with pytest.raises(InputError, match=rf"device\n    expected this or .*; found `{name[:-1]}`; nearest `{name}`"):
        zoo.latency("resnet50", device=name[:-1])
