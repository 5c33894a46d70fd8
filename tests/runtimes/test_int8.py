"""int8: what is quantised, how much stays in float32 where the loss asks for it, and that it passes the checks of all candidates."""

from __future__ import annotations

import collections
import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.build.deploy import fused
from zoo.runtimes import quantising
from zoo.runtimes.candidates import Candidate, plan_for
from zoo.runtimes.evidence import evidence_for
from zoo.runtimes.net import signature_of
from zoo.runtimes.registered import runtime
from zoo.runtimes.signature import Signature

RUNTIMES = ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def model() -> zoo.Backbone:
    return zoo.create("starnet_nano", pretrained=True)


def batches_of(model: zoo.Backbone, signature: Signature) -> Iterator[tuple[Tensor, ...]]:
    for inputs, _ in evidence_for(model, signature).batches(1):
        yield inputs


@pytest.mark.parametrize("name", RUNTIMES)
def test_int8_keeps_the_answers_and_says_what_it_loses(model: zoo.Backbone, name: str) -> None:
    fast = zoo.deploy(model, name, "int8", threads=1, minutes=5, max_loss=0.02)
    assert (fast.runtime, fast.precision) == (name, "int8")
    row = fast.report().chosen
    assert row.loss_of == "1,795 labelled pictures: 359 scans in 5 positions" and row.loss_high <= 0.02
    assert 1e-3 < row.error < 0.5  # it is quantised, and not broken
    (x,) = evidence_for(model, fast.signature).part(0, 32)
    assert float((fast(x).argmax(-1) == model(x).argmax(-1)).float().mean()) >= 0.9


def test_a_loss_that_is_not_allowed_is_refused_with_the_figure(model: zoo.Backbone) -> None:
    with pytest.raises(
        zoo.InputError, match=r"it may lose .* points .* of 1,795 labelled pictures.*and 0.0001 is the limit"
    ):
        zoo.deploy(model, "onnxruntime", "int8", threads=1, minutes=5, max_loss=1e-6)


def test_onnx_operators_that_lose_most_stay_in_float32_where_the_loss_asks_for_it(
    model: zoo.Backbone, tmp_path: pathlib.Path
) -> None:
    import onnx

    signature = signature_of(model)
    session = runtime("onnxruntime").compile(fused(model), signature, "float32", 1, tmp_path)
    counts: list[int] = []

    def loss() -> float:
        nodes = onnx.load(str(tmp_path / "model.onnx")).graph.node
        counts.append(collections.Counter(node.op_type for node in nodes)["DequantizeLinear"])
        return 1.0

    quantising.quantise(
        "onnxruntime", tmp_path, session.signature.input_names, lambda: batches_of(model, signature), loss, 0.005
    )
    assert len(counts) == len(quantising.LEFT_OUT) and counts[0] > counts[1] > counts[2] > 0
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".onnx"] == ["model.onnx"]


def test_int8_is_a_candidate_where_there_are_pictures_of_the_models_own_kind() -> None:
    wanted = {Candidate("onnxruntime", "int8"), Candidate("openvino", "int8")}
    assert wanted <= set(plan_for(["auto"], "auto", has_pictures=True).candidates)
    assert not wanted & set(plan_for(["auto"], "auto").candidates)
    assert set(plan_for(["auto"], "int8").eligible) == wanted


def test_a_library_that_is_absent_is_a_row_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec

    def absent(name: str, *arguments: Any) -> Any:
        return None if name == "nncf" else there(name, *arguments)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    plan = plan_for(["openvino", "onnxruntime"], "int8")
    assert plan.eligible == [Candidate("onnxruntime", "int8")]
    assert ("openvino", 'int8 needs nncf; next: pip install "blockzoo[int8]"') in [
        (row.runtime, row.reason) for row in plan.left_out
    ]


def test_quantisers_read_inputs_from_the_beginning_again() -> None:
    reader = quantising._Reader(("x",), lambda: iter([(torch.ones(4, 2),), (torch.zeros(4, 2),)]), 5)
    assert len(list(reader)) == 2 and list(reader) == []
    reader.rewind()
    first = reader.get_next()
    assert first is not None and first["x"].shape == (4, 2)
