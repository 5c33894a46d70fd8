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
ONE_A_CALL = {"spatten_nano", "miras_memora_nano", "miras_moneta_nano", "miras_yaad_nano"}
"""Models that go from token to token by what they hold, so that a graph of them reads one a call."""
every_model = pytest.mark.parametrize("name", NANO)


QUICK = ("gla_nano", "llama_nano", "rwkv7_nano")
"""Models that every run of the tests records: a product, an attention, a loop."""
marked = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NANO if name not in ONE_A_CALL
]


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


@pytest.mark.parametrize("name", ["spatten_nano", pytest.param("miras_yaad_nano", marks=pytest.mark.slow)])
def test_a_model_that_goes_token_by_token_reads_one_a_call(name: str, tmp_path: Path) -> None:
    model = language.model_of(name)
    made = export_graph(model, tmp_path / "net.onnx", "onnx")
    assert made.free == ("batch",)
    leaves, tokens = state_leaves(model), language.tokens_of(model, 12)
    state, logits = [leaf.empty() for leaf in leaves], []
    for token in tokens.split(1, 1):
        inputs = {"tokens": token, **{leaf.name: x for leaf, x in zip(leaves, state, strict=True)}}
        part, *after = run_onnxruntime(onnx.load(str(made.path)), inputs)
        logits.append(torch.from_numpy(part))
        state = [torch.from_numpy(x) for x in after]
    assert error([torch.cat(logits, 1)], language.exact(model, 12)[:1]) <= 1e-3


def test_a_state_that_begins_elsewhere_is_how_far_it_has_come() -> None:
    model = language.model_of("spatten_nano")
    leaves, tokens = state_leaves(model), language.tokens_of(model, 3)
    elsewhere = [leaf for leaf in leaves if leaf.origin is not None]
    assert elsewhere and all(bool((leaf.to_block(leaf.empty()) == -1).all()) for leaf in elsewhere)
    with torch.no_grad():
        state = model(tokens, state={}).state
    again = of_leaves(leaves, leaves_of(leaves, state))
    assert all(torch.equal(x, y) for path in state for x, y in zip(state[path], again[path], strict=True))


def test_a_language_model_says_which_sizes_are_free(tmp_path: Path) -> None:
    made = export_graph("gla_nano", tmp_path / "net.onnx", "onnx", dynamic=("batch",))
    assert made.free == ("batch",)
    shape = onnx.load(str(made.path)).graph.input[0].type.tensor_type.shape
    assert [axis.dim_param or axis.dim_value for axis in shape.dim] == ["batch", 1]


def test_an_input_that_nothing_reads_is_an_input_of_the_graph(tmp_path: Path) -> None:
    model = language.model_of("cskv_nano")
    graph = language.graph_of(model, tmp_path).graph
    assert [one.name for one in graph.input] == ["tokens", *(leaf.name for leaf in state_leaves(model))]
    read = {name for node in graph.node for name in node.input}
    assert [one.name for one in graph.input if one.name not in read]
