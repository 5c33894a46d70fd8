"""Choosing a model: limits, ranks, reasons, fronts, pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

import zoo
from tests.benchmarks.choosing import regret
from tests.measure.rows import FACTS, quiet
from zoo import catalog, cli
from zoo.errors import InputError
from zoo.measure import store as stores
from zoo.measure.coverage import Errors
from zoo.measure.device import Device, Fingerprint
from zoo.measure.latency import Latency, Runtime, compose
from zoo.measure.predict import Calibration, Prediction, runtime_key
from zoo.measure.published import published
from zoo.measure.store import Store
from zoo.measure.work_hash import work_of
from zoo.publish.picked import write
from zoo.selection.figures import Figure
from zoo.selection.find import Candidate, find, pareto_front
from zoo.selection.pick import Measure, Picked, pick
from zoo.selection.plot import draw, layout

HERE = Device("cpu", "Test", "test", "avx2", 2, 8.0, False, Fingerprint(100.0, 10.0, 1.0))
MEASURED = {"starnet_s1": 10.0, "resnet50": 60.0, "mobileone_s0": 5.0}
GUESSED = {"starnet_s2": 12.0, "convformer_s18": 70.0, "mambavision_t": 80.0}


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A device on which three models are measured and three are predicted."""
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setattr(stores, "SHIPPED", tmp_path / "none.jsonl")
    monkeypatch.setattr("zoo.selection.find.this_device", lambda: HERE)
    monkeypatch.setattr("zoo.measure.this_device.this_device", lambda: HERE)
    with Store() as store:
        store.add_device(HERE)
        for name, ms in MEASURED.items():
            facts = FACTS | {"model": name, "digest": catalog.entry(name).digest, "form": "deploy", "device": HERE.id}
            store.add([compose(facts, quiet(ms))])
        key = runtime_key(Runtime())
        made = Calibration(
            device=HERE.id, runtime=key, torch="", version="", date="", errors=Errors(0.04, 0.12, 1.7, 100, 10),
            models={catalog.entry(name).digest: {"deploy": Prediction(ms, 0.9 * ms, 1.2 * ms)} for name, ms in GUESSED.items()},
        )  # fmt: skip
        store.set_calibration(HERE.id, key, msgspec.json.encode(made))
    yield


def names(**limits: object) -> list[str]:
    return [one.name for one in find(**limits)]  # type: ignore[arg-type]


def test_the_best_metric_within_a_budget_comes_first() -> None:
    assert names(max_latency_ms=20.0) == ["starnet_s2", "starnet_s1", "mobileone_s0"]


def test_measured_goes_before_predicted_and_predictions_carry_their_bar() -> None:
    found = {one.name: one for one in find(max_latency_ms=20.0)}
    assert (found["starnet_s1"].latency, found["starnet_s1"].ms) == ("measured", 10.0)
    guess = found["starnet_s2"]
    assert (guess.latency, guess.ms, guess.low_ms, guess.high_ms) == (
        "predicted",
        12.0,
        pytest.approx(10.8),
        pytest.approx(14.4),
    )


def test_the_ninetieth_percentile_of_a_prediction_is_the_upper_end_of_its_bar() -> None:
    assert "starnet_s2" in names(max_latency_ms=13.0) and "starnet_s2" not in names(max_latency_ms=13.0, quantile="p90")


def test_every_limit_holds() -> None:
    assert names(min_throughput=150.0) == ["mobileone_s0"]
    assert set(names(max_latency_ms=100.0, max_params=4e6)) == {"starnet_s1", "starnet_s2", "mobileone_s0"}
    assert set(names(max_latency_ms=100.0, min_metric=80.0)) == {"convformer_s18", "mambavision_t", "resnet50"}
    assert names(max_latency_ms=100.0, max_macs=3e8) == ["mobileone_s0"]


def test_models_are_chosen_by_a_block_that_they_use() -> None:
    found = names(max_latency_ms=100.0, block="depthwise_conv")
    assert set(found) == {name for name in names(max_latency_ms=100.0) if catalog.entry(name).uses("depthwise_conv")}
    assert found and found == names(max_latency_ms=100.0, block="core/depthwise_conv@1")
    routed = {one.name for one in find(block="router", metric="digits/top1", task="")}
    assert "moe_vit_nano" in routed and "starnet_nano" not in routed
    with pytest.raises(
        InputError, match=r"block\n    expected one of .*; found `depthwise_con`; nearest `depthwise_conv`"
    ):
        find(block="depthwise_con")


def test_licences_that_forbid_commerce_are_left_out_when_asked() -> None:
    assert "mambavision_t" in names(max_latency_ms=100.0)
    permissive = names(max_latency_ms=100.0, commercial=True)
    assert not {"mambavision_t", "mobileone_s0"} & set(permissive)
    assert permissive == names(max_latency_ms=100.0, licence="permissive")
    assert {catalog.entry(name).licence for name in names(licence="MIT")} == {"MIT"}
    with pytest.raises(InputError, match="nearest `permissive`"):
        find(licence="permisive")


def test_smoke_weights_rank_only_where_their_data_set_is_asked_for() -> None:
    assert not [name for name in names() if name.endswith("_nano")]
    digits = find(metric="digits/top1", task="")
    assert digits and all(one.name.endswith("_nano") and one.figure is not None for one in digits)
    assert [one.figure.value for one in digits if one.figure] == sorted(
        (one.figure.value for one in digits if one.figure), reverse=True
    )


def test_explanations_say_every_reason() -> None:
    found = {one.name: one for one in find(max_latency_ms=20.0, max_params=1e6, explain=True)}
    assert found["resnet50"].why == [
        "its latency in ms is 60, and 20 the most",
        "its number of parameters is 25.5 M, and 1 M the most",
    ]
    assert found["mobilenetv4_conv_small_035"].why[-1] == "there is no figure of imagenet-1k/top1 for it"
    assert found["swin_tiny_patch4_window7_224"].why[0] == "its latency in ms is not known"


def test_a_front_holds_nothing_that_a_faster_model_equals() -> None:
    front = find(max_latency_ms=100.0, pareto=True, sort="latency")
    assert [one.name for one in front] == ["mobileone_s0", "starnet_s1", "starnet_s2", "resnet50", "convformer_s18"]
    assert pareto_front([]) == []


def test_rows_of_other_work_are_stale() -> None:
    entry = catalog.entry("starnet_s1")
    facts = FACTS | {"model": entry.name, "digest": entry.digest, "form": "deploy", "device": HERE.id}
    for source, stale in ((work_of(entry.name, "deploy"), False), ("0" * 12, True)):
        with Store() as store:
            store.add([compose(facts | {"source": source, "date": f"2026-11-2{3 + stale}"}, quiet(10.0))])
        assert {one.name: one.stale for one in find(max_latency_ms=20.0)}["starnet_s1"] is stale


def test_an_unknown_device_names_the_nearest() -> None:
    with pytest.raises(InputError, match=f"nearest `{HERE.id}`"):
        find(device=HERE.id[:-1])


def test_words_that_mean_nothing_are_all_named() -> None:
    wrong = {
        "task": "image-clasification", "family": "resnt", "quantile": "p95", "metric": "imagenet/top1", "sort": "metrics",
        "form": "deplay", "dtype": "floot32",
    }  # fmt: skip
    with pytest.raises(InputError) as error:
        find(**wrong)  # type: ignore[arg-type]
    assert {problem.where: problem.nearest for problem in error.value.problems} == {
        "task": "image-classification", "family": "resnet", "quantile": "p90", "metric": "imagenet-1k/top1", "sort": "metric",
        "form": "deploy", "dtype": "float32",
    }  # fmt: skip


def test_detectors_are_ranked_by_their_printed_precision() -> None:
    found = find(task="object-detection", metric="coco/ap", min_metric=40, max_params=10e6, sort="metric")
    ranked = [one.name for one in found]
    assert ranked == ["efficientdet_tf_d2", "damo_yolo_tinynas_l20_t", "efficientdet_tf_d1"]
    figure = next(one.figure for one in found if one.name == "efficientdet_tf_d1")
    assert figure is not None and (figure.metric, figure.value) == ("coco/ap@640", 40.1)
    assert (
        figure.source == published()["efficientdet_tf_d1"].accuracy_source != published()["efficientdet_tf_d1"].source
    )


def test_a_metric_may_name_the_size_that_it_was_taken_at() -> None:
    at_384 = names(metric="imagenet-1k/top1@384")
    assert "mobilenetv4_conv_large" in at_384 and "starnet_s1" not in at_384


def test_an_accuracy_at_another_size_than_that_of_the_latency_ranks_nothing() -> None:
    assert published()["unireplknet_xl"].metric == "imagenet-1k/top1@384"
    assert "unireplknet_xl" not in names()


def test_fewer_bits_per_byte_rank_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = {"gla_nano": 2.1, "llama_nano": 1.9, "mamba_nano": 2.4}
    monkeypatch.setattr(
        "zoo.selection.figures.figures",
        lambda name: [Figure("pydoc/bits_per_byte@256", bits[name], "")] if name in bits else [],
    )
    asked = {"task": "language-modeling", "metric": "pydoc/bits_per_byte"}
    assert names(**asked) == ["llama_nano", "gla_nano", "mamba_nano"]
    assert names(**asked, min_metric=2.2) == ["llama_nano", "gla_nano"]
    found = [msgspec.structs.replace(one, ms=bits[one.name] * 10, latency="measured") for one in find(**asked)]  # type: ignore[arg-type]
    assert [one.name for one in pareto_front(found)] == ["llama_nano"]
    heights = {point.candidate.name: point.y for point in layout(found, asked["metric"]).points}
    assert heights["llama_nano"] < heights["gla_nano"] < heights["mamba_nano"]  # up is better


def test_find_on_an_unknown_device_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "new"))
    assert cli.main(["find", "--max-latency-ms", "20"]) == 1
    assert "`zoo calibrate` predicts all models" in capsys.readouterr().err


def test_a_number_of_threads_that_nobody_measured_names_those_that_are_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["find", "--max-latency-ms", "20", "--threads", "2"]) == 1
    told = capsys.readouterr().err
    assert (
        f"no latency is known for {HERE.id} with 2 threads" in told
        and "known are those of --threads 1: `zoo calibrate --threads 2`" in told
    )


def test_each_row_names_its_device_and_on_how_many_the_model_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with Store() as store:
        facts = FACTS | {"model": "starnet_s1", "digest": catalog.entry("starnet_s1").digest, "form": "deploy"}
        store.add([compose(facts | {"device": "another-4c-0"}, quiet(8.0))] * 2)
    found = {one.name: one for one in find(max_latency_ms=20.0)}
    assert (found["starnet_s1"].device, found["starnet_s1"].devices, found["starnet_s1"].ms) == (HERE.id, 2, 10.0)
    assert (found["starnet_s2"].device, found["starnet_s2"].devices) == (HERE.id, 0)
    assert cli.main(["find", "--max-latency-ms", "20"]) == 0
    assert "2 devices" in capsys.readouterr().out


def test_the_command_marks_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["find", "--max-latency-ms", "20"]) == 0
    text = capsys.readouterr().out
    assert "~12" in text and "starnet_s1" in text and "10.8 to 14.4" in text
    assert cli.main(["find", "--max-latency-ms", "0.01"]) == 1
    assert "--explain says why" in capsys.readouterr().err
    assert cli.main(["find", "--max-latency-ms", "20", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == names(max_latency_ms=20.0)


def some(count: int) -> list[Candidate]:
    return [
        Candidate(f"net_{i}", f"f{i % 3}", "deploy", 1, 10**6, 4, "MIT", "permissive", ms=1.0 + i / 50, latency="measured",
                  figure=Figure("imagenet-1k/top1@224", 70 + (i * 7 % 13), ""))
        for i in range(count)
    ]  # fmt: skip


def test_labels_overlap_neither_each_other_nor_points() -> None:
    picture = layout(some(60), "imagenet-1k/top1")
    boxes = [
        (p.label[0], p.label[1] - 10, p.label[0] + 6.4 * len(p.candidate.name), p.label[1] + 3)
        for p in picture.points
        if p.label
    ]
    assert len(boxes) >= 20
    for i, a in enumerate(boxes):
        assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[i + 1 :])
        assert not any(a[0] < p.x + 4 and p.x - 4 < a[2] and a[1] < p.y + 4 and p.y - 4 < a[3] for p in picture.points)


def test_pictures_are_written_as_png(tmp_path: Path) -> None:
    from PIL import Image

    draw(some(20), tmp_path / "a.png", "imagenet-1k/top1")
    assert Image.open(tmp_path / "a.png").size == (2000, 1280)


def test_one_model_alone_can_be_drawn(tmp_path: Path) -> None:
    draw(some(1), tmp_path / "a.png", "imagenet-1k/top1")


def test_models_without_an_accuracy_are_drawn_by_their_work(tmp_path: Path) -> None:
    plain = [msgspec.structs.replace(one, figure=None) for one in some(5)]
    assert layout(plain, "m").up == "GMACs"


def test_few_models_without_a_latency_are_counted_and_left_out_and_many_put_all_by_their_macs() -> None:
    def untimed(count: int) -> list[Candidate]:
        return [msgspec.structs.replace(one, ms=None) for one in some(count)] + some(10)

    few, many = layout(untimed(2), "m"), layout(untimed(11), "m")
    assert (len(few.points), few.across) == (10, "latency in ms; 2 were not measured")
    assert (len(many.points), many.across) == (21, "GMACs")


def test_another_ending_and_nothing_to_draw_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ends in .png"):
        draw(some(2), tmp_path / "a.gif", "m")
    with pytest.raises(InputError, match="models with a latency"):
        draw([], tmp_path / "a.png", "m")


def test_models_are_compared_in_turns() -> None:
    rows = zoo.compare("linear_vit_nano", "starnet_nano", rounds=5)
    assert [row.name for row in rows] == ["linear_vit_nano", "starnet_nano"]
    assert rows[0].ratio == 1.0 and all(row.low <= row.ratio <= row.high for row in rows)
    with pytest.raises(InputError, match="two models and five rounds at least; found 1 models and 21 rounds"):
        zoo.compare("starnet_nano")


def measured(**ms: float) -> Measure:
    def measure(names: Sequence[str]) -> dict[str, Latency]:
        return {name: compose(FACTS | {"model": name, "form": "deploy"}, quiet(ms[name])) for name in names}

    return measure


def test_the_best_model_that_keeps_the_budget_is_picked_though_a_better_one_was_thought_to() -> None:
    times = {"starnet_s2": 16.0, "starnet_s1": 10.0, "mobileone_s0": 5.0}
    picked = pick(13.0, measure=measured(**times))
    assert picked.choice.name == "starnet_s1"
    assert [one.name for one, _ in picked.finalists] == ["starnet_s2", "starnet_s1", "mobileone_s0"]


def test_a_model_that_is_faster_than_thought_is_picked() -> None:
    times = {"starnet_s2": 9.0, "starnet_s1": 10.0, "mobileone_s0": 5.0}
    assert pick(10.0, measure=measured(**times)).choice.name == "starnet_s2"


def ladder(*milliseconds: float) -> list[Candidate]:
    """Models that are the better the slower they are, the best first, predicted within a tenth."""
    return [
        Candidate(f"net_{ms:g}", "net", "deploy", 1, 1, 4, "MIT", "permissive", ms=ms, low_ms=0.9 * ms, high_ms=1.1 * ms,
                  latency="predicted", figure=Figure("imagenet-1k/top1@224", ms, "")) for ms in sorted(milliseconds, reverse=True)
    ]  # fmt: skip


@pytest.mark.parametrize("off", [0.4, 0.55, 0.8, 1.0, 1.3, 1.8, 2.5])
def test_the_best_model_is_picked_even_if_all_predictions_are_off(off: float) -> None:
    known = ladder(*(1.3**i for i in range(3, 20)))
    measure = measured(**{one.name: off * one.ms for one in known if one.ms})
    picked = pick(20.0, measure=measure, known=known)
    best = max((one for one in known if one.ms and off * one.ms <= 20.0), key=lambda one: one.ms or 0.0)
    assert picked.choice.name == best.name
    beyond = {one.name for one in known if off * (one.ms or 0.0) > 20.0} & {one.name for one, _ in picked.finalists}
    assert beyond  # a step further was tried


def test_a_budget_that_nothing_keeps_names_the_fastest() -> None:
    with pytest.raises(InputError, match="the fastest, mobileone_s0, takes 5 ms"):
        pick(0.5, measure=measured())


def test_decoding_and_resizing_count_when_asked_for() -> None:
    times = {"starnet_s2": 12.0, "starnet_s1": 10.0, "mobileone_s0": 0.1}
    with pytest.raises(InputError):
        pick(0.2, measure=measured(**times), end_to_end=True)
    picked = pick(
        2000.0, measure=measured(**times, resnet50=60.0, convformer_s18=70.0, mambavision_t=80.0), end_to_end=True
    )
    assert picked.prepare_ms > 1


def labelled(folder: Path) -> list[Path]:
    """Held-out scans of digits, in folders that are called like them."""
    from PIL import Image

    from zoo.data import digits

    images, labels = digits.held_out()
    paths = []
    for i in range(24):
        path = folder / str(labels[i]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((images[i] * (255 / images.max())).astype("uint8")).save(path)
        paths.append(path)
    return paths


def test_finalists_are_tried_on_labelled_images_of_the_user(tmp_path: Path) -> None:
    nano = {"gmlp_nano": 2.0, "linear_vit_nano": 1.0, "starnet_nano": 3.0}
    known = [
        Candidate(name, name, "deploy", 1, 1, 4, "Apache-2.0", "permissive", ms=ms, latency="predicted",
                  figure=Figure("digits/top1@32", 99.0, "")) for name, ms in nano.items()
    ]  # fmt: skip
    picked = pick(2.5, "digits/top1", measure=measured(**nano), images=labelled(tmp_path), known=known)
    assert set(picked.trials) == {"gmlp_nano", "linear_vit_nano"}  # starnet_nano is too slow
    assert all(tried.n == 24 and tried.correct >= 20 for tried in picked.trials.values())
    assert picked.choice.name == max(picked.trials, key=lambda name: picked.trials[name].accuracy)


def test_images_without_labels_and_models_without_weights_are_not_tried(tmp_path: Path) -> None:
    from zoo.selection.evaluation import trial

    images = labelled(tmp_path)
    assert trial("starnet_s1", images) is None
    (tmp_path / "flat").mkdir()
    flat = [path.rename(tmp_path / "flat" / path.name) for path in images]
    assert trial("gmlp_nano", flat) is None


def test_the_folder_runs(tmp_path: Path) -> None:
    from PIL import Image

    choice = Candidate("starnet_nano", "starnet", "deploy", 1, 1, 4, "Apache-2.0", "permissive", ms=1.0)
    row = compose(FACTS | {"model": "starnet_nano", "form": "deploy"}, quiet(1.0))
    files = write(Picked(choice, row, [(choice, row)]), tmp_path / "out")
    assert [path.name for path in files] == [
        "labels.txt", "model.safetensors", "net.py", "preprocess.json", "report.json", "run.py", "spec.json",
    ]  # fmt: skip
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    command = [sys.executable, str(tmp_path / "out" / "run.py"), str(tmp_path / "a.png")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path(zoo.__file__).parents[1])}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("a.png: ") == 3
    with pytest.raises(InputError, match="a new or an empty folder"):
        write(Picked(choice, row, []), tmp_path / "out")


def test_regret_is_what_exhaustive_measurement_would_have_found_beyond_the_choice() -> None:
    truth, figures = {"a": 10.0, "b": 8.0, "c": 5.0}, {"a": 80.0, "b": 79.0, "c": 70.0}
    assert regret(truth, {"a": 10.5, "b": 8.0, "c": 5.0}, figures, 10.0) == 0
    assert regret(truth, {"a": 20.0, "b": 8.0, "c": 5.0}, figures, 10.0) == 1.0
    assert regret(truth, truth, figures, 1.0) is None
