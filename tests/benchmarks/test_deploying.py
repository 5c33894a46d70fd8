"""The arithmetic of the benchmark of deployed models, and that a run goes on where it was broken off."""

from __future__ import annotations

import json
import math
import pathlib

import pytest

from tests.benchmarks import deploying
from tests.benchmarks.__main__ import markdown
from tests.benchmarks.deploying import EAGER, HEADING, PLAIN_ORT, PLAIN_OV, PLAIN_OV_BF16, section, table, with_section
from zoo import catalog


def row(net: str = "a", batch: int = 1, **speed: float) -> deploying.Row:
    """Speeds as multiples of timm's, `_` standing for a space and `__` for a comma with one."""
    named = {form.replace("__", ", ").replace("_", " "): value for form, value in speed.items()}
    return {
        "net": net, "batch": batch, "threads": 2, "others": 0.01, "ms": {EAGER: 20.0},
        "speed": {form: [value, value, value] for form, value in {EAGER: 1.0, **named}.items()},
        "chosen": {"float32": "zoo, openvino float32", "auto": "zoo, openvino bfloat16"},
    }  # fmt: skip


ROW = row(
    timm__onnxruntime=2.0, timm__openvino=3.0, timm__openvino_bfloat16=5.0, zoo__torch_float32=2.5, zoo__onnxruntime_float32=4.0,
    zoo__openvino_float32=3.6, zoo__openvino_bfloat16=7.5,
)  # fmt: skip


def test_the_chosen_form_is_compared_with_the_best_plain_export_and_with_the_best_of_ours() -> None:
    assert set(ROW["speed"]) >= {PLAIN_ORT, PLAIN_OV, PLAIN_OV_BF16}
    assert deploying.auto_speed(ROW) / deploying.plain_speed(ROW) == pytest.approx(1.2)
    assert deploying.auto_speed(ROW, "auto") / deploying.plain_bfloat16_speed(ROW) == pytest.approx(1.5)
    assert deploying.found_share(ROW) == pytest.approx(0.9)
    assert deploying.found_share(ROW, "auto") == 1.0


def test_an_exporter_that_failed_leaves_a_gap_and_no_ratio_to_it() -> None:
    lame = {**ROW, "speed": {form: value for form, value in ROW["speed"].items() if form != PLAIN_OV_BF16}}
    assert math.isnan(deploying.COLUMNS["OpenVINO bf16"](lame))
    assert deploying.plain_bfloat16_speed(lame) == 3.0
    assert "|  |" in table([lame])[2]


def test_the_table_ends_with_means_and_the_worst_for_each_batch() -> None:
    double = {
        **ROW,
        "net": "b",
        "speed": {form: [2 * value for value in values] for form, values in ROW["speed"].items()},
    }
    lines = table([ROW, double, {"net": "c", "batch": 1, "threads": 2, "failed": "no word"}])
    mean = next(line for line in lines if "geometric mean of 2" in line)
    assert mean.split(" | ")[3:5] == ["2.83", "4.24"]
    worst = next(line for line in lines if "worst of 2" in line)
    assert worst.split(" | ")[3:5] == ["2.00", "3.00"]
    assert any("within 2 % of the fastest of our forms in 0 of 2 rows; worst 0.90" in line for line in lines)


def test_a_page_of_results_keeps_its_other_parts() -> None:
    page = markdown({}, "2 threads")
    once = with_section(page, section([ROW], "2 threads"))
    assert with_section(once, section([ROW], "2 threads")) == once
    assert once.startswith(page.rstrip("\n")) and once.count(HEADING) == 1
    assert markdown({}, "2 threads", once) == once
    more = once + "\n## Another part\n\ntext\n"
    assert with_section(more, section([{**ROW, "net": "z"}], "2 threads")).endswith("\n## Another part\n\ntext\n")


def test_a_run_goes_on_where_it_was_broken_off_and_measures_what_failed_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, int]] = []

    def apart(name: str, batch: int, *_: object) -> deploying.Row:
        measured.append((name, batch))
        return {**ROW, "net": name, "batch": batch}

    monkeypatch.setattr(deploying, "_apart", apart)
    file = tmp_path / "rows.jsonl"
    file.write_text(
        json.dumps({**ROW, "net": "a"})
        + "\n"
        + json.dumps({"net": "b", "batch": 1, "threads": 2, "failed": "killed"})
        + "\n"
    )
    told: list[str] = []
    rows = deploying.run(["a", "b"], [1, 16], 2, 1.0, 5, file, tell=told.append)
    assert measured == [("a", 16), ("b", 1), ("b", 16)] and len(rows) == len(told) == 4
    measured.clear()
    deploying.run(["a", "b"], [1, 16], 2, 1.0, 5, file, tell=told.append)
    assert measured == []


def test_the_nets_are_at_least_twenty_of_fifteen_families_that_timm_has_too() -> None:
    from tests.models.parity import entries

    assert set(deploying.NETS) <= entries("timm").keys() and len(deploying.NETS) >= 20
    assert len({catalog.entry(name).family for name in deploying.NETS}) >= 15
