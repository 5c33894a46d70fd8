"""Models timed in other runtimes than torch: which may be asked for, rows of them, and choosing among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.measure.rows import FACTS, quiet
from zoo import catalog, cli
from zoo.errors import InputError
from zoo.measure import store as stores
from zoo.measure.bench import jobs_for, run
from zoo.measure.device import Device, Fingerprint
from zoo.measure.engines import engines_named, runtime_meant, usual_forms
from zoo.measure.latency import Latency, Runtime, compose
from zoo.measure.predict import calibrate_command, runtime_key
from zoo.measure.store import Store
from zoo.publish.picked import write
from zoo.runtimes.loading import load_deployed
from zoo.runtimes.registered import version_of
from zoo.selection.find import find
from zoo.selection.pick import Picked, pick

HERE = Device("cpu", "Test", "test", "avx2", 2, 8.0, False, Fingerprint(100.0, 10.0, 1.0))
ONNX = Runtime(engine="onnxruntime")


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store of a device on which nothing is known."""
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setattr(stores, "SHIPPED", tmp_path / "none.jsonl")
    for place in ("zoo.selection.find", "zoo.measure.bench", "zoo.measure.this_device"):
        monkeypatch.setattr(f"{place}.this_device", lambda kind="cpu": HERE)
    with Store() as store:
        store.add_device(HERE)
        yield store


def measured(name: str, ms: float, runtime: Runtime) -> Latency:
    facts = {
        "model": name,
        "digest": catalog.entry(name).digest,
        "form": "deploy",
        "device": HERE.id,
        "runtime": runtime,
    }
    return compose(FACTS | facts, quiet(ms))


def test_any_stands_for_torch_and_all_that_are_installed() -> None:
    pytest.importorskip("onnxruntime", reason="needs a runtime beside torch: the extra `deploy`")
    assert engines_named(["any"], "bench")[0] == "eager" and "onnxruntime" in engines_named(["any"], "bench")
    assert engines_named(["torch", "compile", "torch"], "bench") == ["eager", "compile"]
    assert runtime_meant("any", "any") == Runtime() and runtime_meant("openvino", "bfloat16").name == "openvino"


def test_a_runtime_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="nearest `onnxruntime`"):
        engines_named(["onxruntime"], "bench")


def test_what_a_runtime_does_not_run_is_refused_before_anything_is_timed() -> None:
    pytest.importorskip("onnxruntime", reason="needs a runtime beside torch: the extra `deploy`")
    with pytest.raises(InputError) as caught:
        jobs_for(["starnet_nano"], ["train"], [1], dtypes=["bfloat16"], engines=["onnxruntime"])
    assert "expected the deploy form, which is what it runs; found the train form" in str(caught.value)
    assert "expected a dtype in which it computes on this machine: `float32`; found `bfloat16`" in str(caught.value)


def test_the_form_is_that_which_all_named_runtimes_run() -> None:
    assert usual_forms(["eager", "compile"]) == ["train"] and usual_forms(["eager", "openvino"]) == ["deploy"]


def test_a_model_is_timed_in_a_process_of_its_runtime(held: Store) -> None:
    pytest.importorskip("onnxruntime", reason="needs a runtime beside torch: the extra `deploy`")
    jobs = jobs_for(["linear_vit_nano"], ["deploy"], [1], engines=["eager", "onnxruntime"])
    torch_row, onnx_row = run(jobs, processes=1, seconds=0.02, store=held)
    assert torch_row.runtime.key == "eager float32 b1 t1" and onnx_row.runtime.key == "onnxruntime float32 b1 t1"
    assert onnx_row.runtime.version == version_of("onnxruntime") and 0 < onnx_row.p50_ms < 1000
    assert held.rows(engine="onnxruntime") == [onnx_row]


def test_find_takes_each_model_in_the_runtime_in_which_it_is_fastest(held: Store) -> None:
    held.add([measured("starnet_s1", 10.0, Runtime()), measured("starnet_s1", 4.0, ONNX)])
    held.add([measured("resnet50", 50.0, Runtime()), measured("resnet50", 60.0, ONNX)])
    found = {one.name: (one.ms, one.runtime) for one in find(runtime="any", max_latency_ms=100.0)}
    assert found == {"starnet_s1": (4.0, "onnxruntime"), "resnet50": (50.0, "torch")}
    assert [one.ms for one in find(runtime="onnxruntime", max_latency_ms=100.0, sort="latency")] == [4.0, 60.0]
    assert [one.ms for one in find(max_latency_ms=100.0, sort="latency")] == [10.0, 50.0]


def test_dtypes_are_chosen_among_in_the_same_way(held: Store) -> None:
    held.add(
        [measured("starnet_s1", 10.0, ONNX), measured("starnet_s1", 3.0, Runtime(1, "bfloat16", engine="openvino"))]
    )
    (best,) = find(runtime="any", dtype="any", max_latency_ms=100.0)
    assert (best.ms, best.runtime, best.dtype) == (3.0, "openvino", "bfloat16")


def test_finalists_are_measured_in_their_own_runtimes(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="needs a runtime beside torch: the extra `deploy`")
    held.add([measured("starnet_s1", 10.0, Runtime()), measured("starnet_s1", 4.0, ONNX)])
    held.add([measured("mobileone_s0", 3.0, Runtime())])
    asked: list[tuple[str, str]] = []

    def timed(jobs: object, progress: object) -> Iterator[Latency]:
        for job in jobs:  # type: ignore[attr-defined]
            asked.append((job.model, job.runtime.engine))
            yield measured(job.model, 4.0, job.runtime)

    monkeypatch.setattr("zoo.selection.pick.run", timed)
    picked = pick(5.0, runtime="any")
    assert picked.choice.name == "starnet_s1" and picked.row.runtime.engine == "onnxruntime"
    assert ("starnet_s1", "onnxruntime") in asked and ("starnet_s1", "eager") not in asked


def test_a_calibration_is_of_one_runtime_and_its_version() -> None:
    assert runtime_key(ONNX) == f"onnxruntime float32 b1 t1 version {version_of('onnxruntime')}"
    assert calibrate_command(ONNX) == "zoo calibrate --runtime onnxruntime"


def test_a_calibration_of_any_runtime_is_refused(held: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "--runtime", "any"]) != 0
    assert "expected one runtime: a calibration is of one; found `any`" in capsys.readouterr().err


def test_what_was_picked_in_a_runtime_is_written_deployed_in_it(held: Store, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs a runtime beside torch: the extra `deploy`")
    candidate = next(one for one in find(metric="digits/top1", task="", explain=True) if one.name == "starnet_nano")
    row = measured("starnet_nano", 4.0, ONNX)
    write(Picked(candidate, row, [(candidate, row)]), tmp_path / "out")
    with load_deployed(tmp_path / "out" / "deployed") as model:
        assert (model.runtime, model.threads) == ("onnxruntime", 1)
