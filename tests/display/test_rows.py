"""Answers that are tables: rows that pandas and polars read, short forms, tables in notebooks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

import zoo
from zoo.display.rows import Row, Table, flat
from zoo.measure.compare import Compared
from zoo.selection.find import Candidate

ROW = Candidate("<net>", "family", "deploy", 2_500_000, 300_000_000, 1, "MIT", "permissive", ms=1.25)


def answers() -> dict[str, list[Any]]:
    profile = zoo.profile("starnet_nano")
    return {
        "find": zoo.find(max_params=5e6), "blocks": profile.blocks, "ops": profile.ops, "info": [zoo.info("resnet50")],
        "latency": zoo.latency("resnet50", device=""), "compare": [Compared("a", 1.0, 1.0, 1.0, 1.0, "clean", "")],
    }  # fmt: skip


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_libraries_read_every_answer_as_a_table(library: str) -> None:
    made = pytest.importorskip(library).DataFrame
    for name, rows in answers().items():
        frame = made(rows)
        assert frame.shape[0] == len(rows) > 0 and len(frame.columns) > 3, name


def test_rows_are_mappings_with_all_their_fields() -> None:
    assert isinstance(ROW, Mapping) and not isinstance(ROW, dict)
    assert dict(ROW) == ROW.to_dict() and list(ROW) == list(Candidate.__struct_fields__)
    assert ROW["name"] == "<net>" and "figure" in ROW and ROW.get("colour") is None
    with pytest.raises(KeyError):
        ROW["colour"]


def test_records_inside_rows_are_plain_data() -> None:
    found = zoo.find(max_params=5e6)[0]
    assert found["figure"] == {
        "metric": found.figure.metric,
        "value": found.figure.value,
        "source": found.figure.source,
    }


def test_rows_stay_what_they_were() -> None:
    assert pickle.loads(pickle.dumps(ROW)) == ROW == copy.deepcopy(ROW)
    assert msgspec.convert(msgspec.to_builtins(ROW), Candidate) == ROW
    assert hash(msgspec.structs.replace(zoo.latency("resnet50", device="")[0].runtime))


def test_short_forms_are_short() -> None:
    assert repr(ROW) == "<<net>, deploy: 1.25 ms, 2.5 M parameters, 300 MMACs, MIT>"
    assert repr(Table([ROW] * 5)) == "<5 rows: <net>, <net>, <net>, and 2 more>"
    assert repr(Table()) == "<no rows>"
    assert repr(zoo.profile("starnet_nano")).startswith("<Profile starnet_nano, train, input 1 x 1 x 32 x 32: ")
    assert len(repr(zoo.profile("starnet_nano"))) < 150


def test_notebooks_show_escaped_tables() -> None:
    shown = Table([ROW])._repr_html_()
    assert "<th>name</th>" in shown and "<td>&lt;net&gt;</td>" in shown and "2,500,000" in shown
    assert "low_ms" not in shown  # nothing stands there
    assert zoo.profile("starnet_nano")._repr_html_().count("<table>") == 2
    assert Table([Compared("<b>", 1.0, 1.0, 1.0, 1.0, "clean", "")])._repr_html_().count("&lt;b&gt;") == 1


def test_measurements_call_their_median_as_candidates_do() -> None:
    assert zoo.latency("resnet50", device="")[0].ms > 0


def test_names_may_come_in_lists() -> None:
    assert flat(("a", ["b", "c"])) == ("a", "b", "c")
    with pytest.raises(zoo.InputError, match="expected two models and five rounds at least; found 1 models"):
        zoo.compare(["resnet50"])


def test_answers_are_lists_of_rows() -> None:
    found = zoo.find(max_params=5e6)
    assert isinstance(found, list) and all(isinstance(row, Row) for row in found)
    assert found.to_dicts()[0]["name"] == found[0].name


def test_the_front_door_shows_what_is_public() -> None:
    assert [name for name in dir(zoo) if not name.startswith("__")] == sorted(zoo.__all__)


def test_a_picture_given_to_the_prediction_of_latencies_is_told_the_way() -> None:
    with pytest.raises(
        zoo.InputError, match="zoo.transform.model..picture.. classifies pictures; zoo.predict predicts latencies"
    ):
        zoo.predict("resnet50", "photo.jpg")
    assert zoo.predict_latency.__module__ == "zoo.measure.calibrate"
