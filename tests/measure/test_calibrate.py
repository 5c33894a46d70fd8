"""Learning a machine: pieces timed once, the law fitted to what was measured, predictions of specs that nobody built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.measure.rows import FACTS, quiet
from zoo import catalog
from zoo.errors import InputError
from zoo.measure import calibrate as module
from zoo.measure import store as stores
from zoo.measure.calibrate import Pace, calibrate, predict, time_piece
from zoo.measure.code import source_hash
from zoo.measure.device import Device, Fingerprint
from zoo.measure.latency import Latency, Runtime, compose
from zoo.measure.pieces import Piece
from zoo.measure.store import Store
from zoo.measure.worker import Job
from zoo.naming import spec

HERE = Device("cpu", "Test", "test", "avx2", 2, 8.0, False, Fingerprint(100.0, 10.0, 1.0))
MODELS = ["inceptionnext_nano", "linear_vit_nano", "starnet_nano"]


@pytest.fixture(autouse=True)
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Piece]]:
    """A machine on which a piece takes a tenth of a millisecond and one more for each megabyte; the pieces that were timed."""
    found: list[Piece] = []

    def of(piece: Piece, form: str, runtime: Runtime) -> float:
        found.append(piece)
        return 0.1 + piece.weight_bytes / 1e6

    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setattr(stores, "SHIPPED", tmp_path / "none.jsonl")
    monkeypatch.setattr(module, "this_device", lambda: HERE)
    monkeypatch.setattr(module, "time_piece", of)
    monkeypatch.setattr(module, "run", lambda jobs, **_: [])
    monkeypatch.setattr(Pace, "now", lambda self: 1.0)
    yield found


def measured(name: str, ms: float, source: str = "", form: str = "train") -> None:
    """A clean row of a model, of today's code unless `source` says otherwise."""
    entry = catalog.entry(name)
    facts = FACTS | {"model": name, "digest": entry.digest, "form": form, "device": HERE.id}
    with Store() as store:
        store.add([compose(facts | {"source": source or source_hash(tuple(entry.blocks))}, quiet(ms))])


def test_each_distinct_piece_is_timed_in_several_rounds_and_then_no_more(timed: list[Piece]) -> None:
    made = calibrate(models=MODELS)
    keys = {key for forms in made.models.values() for parts in forms.values() for key in parts.keys}
    rounds = [[piece.key for piece in timed[i : i + len(keys)]] for i in range(0, len(timed), len(keys))]
    assert made.complete and len(rounds) == module.LOOKS and all(set(one) == keys for one in rounds)
    calibrate(models=MODELS)
    assert len(timed) == module.LOOKS * len(keys)


def test_the_median_of_all_looks_counts_so_that_one_bad_moment_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    paces = iter([1.0] * len(MODELS) + [0.2] * len(MODELS) + [1.0] * len(MODELS))
    monkeypatch.setattr(Pace, "now", lambda self: next(paces))
    made = calibrate(models=MODELS)
    with Store() as store:
        looks = store.looks(HERE.id, made.runtime)
        known = store.pieces(HERE.id, made.runtime)
    assert all(len(times) == 3 and times[1] == pytest.approx(5 * times[0]) for times in looks.values())
    assert known == {key: times[0] for key, times in looks.items()}


def test_a_calibration_without_time_knows_that_it_is_not_complete(timed: list[Piece]) -> None:
    made = calibrate(minutes=0.0, models=MODELS)
    assert not timed and not made.complete
    assert calibrate(models=MODELS).complete


def test_the_law_is_fitted_to_what_was_measured_and_its_errors_are_those_of_families_left_out() -> None:
    plain = calibrate(models=MODELS)
    assert plain.errors is None and predict(MODELS[0]).low_ms is None
    for name in MODELS:
        measured(name, 3 * predict(name).ms)
    made = calibrate(models=MODELS)
    assert made.errors is not None and (made.errors.models, made.errors.families) == (3, 3)
    assert made.errors.p95 < 0.1  # three numbers, of two families each time
    for name in MODELS:
        guess = predict(name)
        assert guess.low_ms is not None and guess.high_ms is not None and guess.low_ms <= guess.ms * 1.02
        assert guess.ms == pytest.approx(3 * sum_of(name), rel=0.02)


def sum_of(name: str, form: str = "train") -> float:
    with Store() as store:
        known = store.pieces(HERE.id, module.runtime_key(Runtime()))
    return sum(known[piece.key] for piece in module._pieces(spec(name), form, Runtime()))


def test_rows_of_older_code_teach_nothing() -> None:
    for name in MODELS:
        measured(name, 1000.0, source="older")
    assert calibrate(models=MODELS).errors is None


def test_a_spec_that_nobody_built_is_predicted_and_its_new_pieces_are_timed_then(timed: list[Piece]) -> None:
    calibrate(models=MODELS)
    before = len(timed)
    deeper = spec("starnet_nano", {"depths": [1, 5, 1]})
    assert predict(deeper).ms > predict("starnet_nano").ms and len(timed) == before  # the same layers, more of them
    wider = spec("starnet_nano", {"**.<gated_mlp>.ratio": 8})
    assert predict(wider).ms > 0 and len(timed) > before
    after = len(timed)
    predict(wider)
    assert len(timed) == after


def test_where_little_was_measured_models_of_other_families_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(jobs: list[Job], **_: object) -> list[Latency]:
        asked.extend(job.model for job in jobs)
        for job in jobs:
            measured(job.model, 20 * sum_of(job.model, job.form), form=job.form)
        return []

    monkeypatch.setattr(module, "run", run)
    measured(MODELS[0], 5.0)
    made = calibrate(models=[*MODELS, "starnet_s1", "starnet_s2"])
    assert asked == ["linear_vit_nano", "starnet_s1"]  # one of each other family, and not its smallest
    assert made.errors is not None and (made.errors.models, made.errors.families) == (3, 3)
    calibrate(minutes=0.0, models=MODELS)
    assert len(asked) == 2  # no time is left for it


def test_a_piece_that_does_not_fit_into_memory_is_left_out_and_its_model_not_predicted(
    timed: list[Piece], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 150_000)
    made = calibrate(models=MODELS)
    assert made.complete and timed and max(piece.weight_bytes for piece in timed) < 50_000
    with pytest.raises(InputError, match="expected pieces that fit into the free memory"):
        predict("inceptionnext_nano")


def test_pieces_have_the_dtype_of_the_runtime() -> None:
    pieces = list(module._pieces(spec("linear_vit_nano"), "train", Runtime(dtype="bfloat16")))
    assert {parameter.dtype for piece in pieces for parameter in piece.module.parameters()} == {torch.bfloat16}
    assert {piece.x.dtype for piece in pieces} == {torch.bfloat16}
    assert not {piece.key for piece in pieces} & {
        piece.key for piece in module._pieces(spec("linear_vit_nano"), "train", Runtime())
    }
    assert pieces[1].ready(packed=False)().dtype == torch.bfloat16


def test_pieces_are_told_as_they_are_when_the_machine_is_as_fast_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(models=MODELS)
    usual = sum_of(MODELS[0])
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "slow"))
    monkeypatch.setattr(Pace, "now", lambda self: 2.0)  # a piece took what it took, but all else took twice as long
    calibrate(models=MODELS)
    assert sum_of(MODELS[0]) == pytest.approx(usual / 2)


def test_the_pace_is_that_of_the_anchor_against_what_it_usually_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    first = Pace(Runtime(), None)
    assert first.now() == 1.0 and first.usual_ms is not None and first.usual_ms > 0
    assert Pace(Runtime(), first.usual_ms / 1000).now() > 100


def test_without_a_calibration_a_prediction_is_refused() -> None:
    with pytest.raises(InputError, match="run `zoo calibrate`"):
        predict("starnet_nano")


def test_a_calibration_of_an_older_schema_is_made_again_without_timing(timed: list[Piece]) -> None:
    calibrate(models=MODELS)
    before, key = len(timed), module.runtime_key(Runtime())
    with Store() as store:
        store.set_calibration(HERE.id, key, b'{"schema":"zoo.calibration/1","law":{}}')
    with pytest.raises(InputError, match="run `zoo calibrate`"):
        predict("starnet_nano")
    calibrate(models=MODELS)
    assert len(timed) == before and predict("starnet_nano").ms > 0


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_a_piece_takes_time_and_leaves_the_random_numbers_alone(form: str) -> None:
    piece = list(module._pieces(spec("starnet_nano"), form, Runtime()))[1]
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert time_piece(piece, form, Runtime()) > 0
    assert torch.equal(torch.rand(3), expected)
