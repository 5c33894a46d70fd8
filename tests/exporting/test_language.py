"""Language models through ONNX Runtime and OpenVINO: logits and states equal the model's, in one piece and in several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from tests.exporting import language
from tests.exporting.scans import LENGTHS, error, run_onnxruntime, run_openvino
from zoo.catalog.listing import list_models
from zoo.exporting.export import export_graph
from zoo.exporting.language import Streaming, leaves_of, of_leaves, state_leaves

BOUND = 1e-4
NANO = [name for name in list_models("*_nano") if language.is_language(name)]
NOT_ZERO = {"spatten_nano", "miras_memora_nano", "miras_moneta_nano", "miras_yaad_nano"}
"""Models whose state does not begin at zeros (all heads are in use; memories begin as they were learned): a streaming graph of them is
refused in a sentence."""
every_model = pytest.mark.parametrize("name", [name for name in NANO if name not in NOT_ZERO])


QUICK = ("gla_nano", "llama_nano", "rwkv7_nano")
"""Models that every run of the tests records: a product, an attention, a loop."""
marked = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NANO]


@pytest.fixture(scope="module", params=marked)
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, onnx.ModelProto]:
    model = language.model_of(request.param)
    return model, language.graph_of(model, tmp_path_factory.mktemp("graph"))


def test_onnxruntime_gives_logits_and_state_at_any_length(recorded: tuple[Any, onnx.ModelProto]) -> None:
    model, graph = recorded
    leaves = state_leaves(model)
    for length in LENGTHS:
        inputs = {"tokens": language.tokens_of(model, length)} | {leaf.name: leaf.empty() for leaf in leaves}
        assert error(run_onnxruntime(graph, inputs), language.exact(model, length)) <= BOUND


def test_pieces_with_the_state_between_them_equal_the_whole(recorded: tuple[Any, onnx.ModelProto]) -> None:
    model, graph = recorded
    leaves, tokens = state_leaves(model), language.tokens_of(model, 64)
    state, logits = [leaf.empty() for leaf in leaves], []
    for piece in tokens.split([1, 40, 23], 1):
        part, *after = run_onnxruntime(
            graph, {"tokens": piece, **{leaf.name: x for leaf, x in zip(leaves, state, strict=True)}}
        )
        logits.append(torch.from_numpy(part))
        state = [torch.from_numpy(x) for x in after]
    assert error([torch.cat(logits, 1), *state], language.exact(model, 64)) <= BOUND


@pytest.mark.slow
def test_openvino_gives_logits_and_state(recorded: tuple[Any, onnx.ModelProto], tmp_path: Path) -> None:
    model, graph = recorded
    run, leaves = run_openvino(graph, tmp_path), state_leaves(model)
    for length in LENGTHS:
        inputs = {"tokens": language.tokens_of(model, length)} | {leaf.name: leaf.empty() for leaf in leaves}
        assert error(run(inputs), language.exact(model, length)) <= BOUND


@every_model
def test_leaves_say_what_the_state_is_before_the_first_token(name: str) -> None:
    model = language.model_of(name)
    leaves, tokens = state_leaves(model), language.tokens_of(model, 5)
    with torch.no_grad():
        logits, state = model(tokens, state={})
        begun = model(tokens, state=of_leaves(leaves, [leaf.empty() for leaf in leaves]))
    torch.testing.assert_close(begun.logits, logits, rtol=1e-4, atol=1e-5)
    assert len(leaves) == sum(len(kept) for kept in state.values())
    torch.testing.assert_close(leaves_of(leaves, begun.state), leaves_of(leaves, state), rtol=1e-4, atol=1e-5)


def test_without_leaves_a_model_keeps_nothing_and_last_is_the_last_position() -> None:
    model = language.model_of("gla_nano")
    tokens = language.tokens_of(model, 9, 2)
    with torch.no_grad():
        whole, last = Streaming(model)(tokens), Streaming(model, last=True)(tokens)
    assert last.shape == (2, 1, whole.shape[-1])
    torch.testing.assert_close(last, whole[:, -1:])


@pytest.mark.parametrize("to", ["onnx", pytest.param("torch-export", marks=pytest.mark.slow), "torchscript"])
def test_a_language_model_is_exported_with_its_state_and_proved(to: str, tmp_path: Path) -> None:
    written = export_graph("gla_nano", tmp_path / ("net.pt2" if to == "torch-export" else "net"), to)
    assert written.error is not None and written.error <= BOUND
    assert written.free == ("batch", "length")
