"""Models of other inputs than one picture: a named input each, free where the model is, and proved at other sizes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blocks
import zoo
from blocks.primitives.resize import SamePad
from zoo.errors import InputError
from zoo.exporting import onnx
from zoo.exporting.export import export_graph
from zoo.exporting.ports import Port, Ports, example_of, ports_of


def names_in(path: Path) -> dict[str, list[Any]]:
    import onnx as format_of_onnx

    graph = format_of_onnx.load(str(path)).graph
    return {x.name: [axis.dim_param or axis.dim_value for axis in x.type.tensor_type.shape.dim] for x in graph.input}


def test_each_input_has_its_name_and_free_axes(tmp_path: Path) -> None:
    made = export_graph("dgmlp_nano", tmp_path / "net.onnx", "onnx")
    assert made.free == ("batch", "length")
    assert names_in(made.path) == {"numbers": ["batch", "length", 16], "edges": ["batch", "length", 32]}


@pytest.mark.parametrize("to", ["torch-export", "torchscript"])
def test_a_program_takes_them_in_the_order_of_the_model(tmp_path: Path, to: str) -> None:
    model: Any = zoo.create("dgmlp_nano", form="deploy")
    x = example_of(model)
    path = zoo.export(model, tmp_path / "net.pt2", to)
    net = torch.export.load(str(path)).module() if to == "torch-export" else torch.jit.load(str(path))
    torch.testing.assert_close(net(*x), model(*x), rtol=1e-4, atol=1e-4)
    if to == "torch-export":
        assert torch.export.load(str(path)).graph_signature.user_inputs == ("numbers", "edges")


def test_another_number_of_tensors_is_refused(tmp_path: Path) -> None:
    x = torch.zeros(1, 24, 16)
    with pytest.raises(InputError, match="example\n    expected a tensor for `numbers` and `edges` each; found 1"):
        zoo.export("dgmlp_nano", tmp_path / "net.onnx", "onnx", example=x)


@pytest.mark.parametrize(
    ("name", "kind", "free"),
    [
        ("lmuformer_nano", "series", {0: "batch", 1: "length"}),
        ("efficienttdnn_nano", "spectrogram", {0: "batch", 2: "length"}),
        ("movinet_nano", "video", {0: "batch", 3: "height", 4: "width"}),
        ("vivim_nano", "frames", {0: "batch", 3: "height", 4: "width"}),
        ("tensornet_nano", "numbers", {0: "points"}),
    ],
)
def test_the_axes_of_each_kind_of_input_are_known(name: str, kind: str, free: dict[int, str]) -> None:
    model: Any = zoo.create(name)
    first = ports_of(model, example_of(model), ("batch", "size")).inputs[0]
    assert (first.name, first.free) == (kind, free)


def test_other_inputs_keep_to_what_the_first_ones_may_be() -> None:
    ids = Port("ids", torch.zeros(1, 40, dtype=torch.int64), {0: "batch"}, (0, 7))
    times = Port("t", torch.zeros(1), {0: "batch"}, (0, 1))
    mask = Port("mask", torch.ones(1, 6, dtype=torch.bool), {0: "batch"})
    found_ids, found_times, found_mask = next(Ports((ids, times, mask), ()).others())
    assert found_ids.shape == (2, 40) and set(found_ids.unique().tolist()) == set(range(7))
    assert found_times.shape == (2,) and bool((found_times > 0).all()) and bool((found_times < 1).all())
    assert found_mask.tolist() == [[True] * 4 + [False] * 2] * 2


@pytest.mark.parametrize("size", [31, 32, 33])
def test_the_border_of_tensorflow_is_that_of_any_size_in_a_graph(tmp_path: Path, size: int) -> None:
    net = nn.Sequential(SamePad(kernel_size=3, stride=2)).eval()
    path = onnx.write_onnx(net, torch.ones(1, 2, 32, 32), tmp_path / "net.onnx", ("batch", "size"))
    x = torch.randn(1, 2, size, size + 1)
    run = onnx.opened(path, Ports((Port("image", x, {}),), ()))
    torch.testing.assert_close(run((x,))[0], net(x))


def test_the_transpose_of_the_last_axes_is_one_in_a_graph(tmp_path: Path) -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.mT

    assert onnx.write_onnx(Squares(), torch.ones(1, 2, 3, 4), tmp_path / "net.onnx", ("batch", "size")).exists()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_windows_along_an_axis_are_those_of_any_length(tmp_path: Path, step: int) -> None:
    class Windows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.unfold(2, 3, step)

    assert onnx.write_onnx(Windows(), torch.randn(1, 2, 8, 9), tmp_path / "net.onnx", ("batch", "size")).exists()


def test_the_first_of_equals_stays_first_in_a_graph(tmp_path: Path) -> None:
    class Order(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            rounded = (3 * x).round()
            values, places = rounded.sort(dim=-1, descending=True, stable=True)
            hidden = (rounded < 0).to(torch.uint8).argsort(dim=2, stable=True)
            return values, places.float(), hidden.float().permute(0, -1, 1, 2).movedim(-1, 1)

    assert onnx.write_onnx(Order(), torch.randn(1, 2, 8, 40), tmp_path / "net.onnx", ("batch", "size")).exists()


def test_groups_are_counted_and_added_up_in_a_graph(tmp_path: Path) -> None:
    class Sums(nn.Module):
        def forward(self, x: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
            counts = torch.bincount(groups)
            return x.new_zeros(counts.shape[0], x.shape[1]).index_add(0, groups, x), counts.float()

    x, groups = torch.randn(7, 3), torch.tensor([0, 2, 2, 0, 1, 4, 2])
    ports = Ports((Port("x", x, {0: "points"}), Port("groups", groups, {0: "points"}, (0, 5))), ("sums", "counts"))
    assert onnx.write_onnx(Sums(), ports, tmp_path / "net.onnx").exists()


def test_whole_numbers_stay_whole_in_a_graph(tmp_path: Path) -> None:
    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            places = torch.where(x[..., :1] > 0, 0, torch.full((*x.shape[:-1], 1), x.shape[-1] - 1))
            return x.gather(-1, places)

    assert onnx.write_onnx(First(), torch.randn(1, 2, 3, 4), tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("right", [False, True])
def test_places_in_a_sorted_sequence_are_counted_in_a_graph(tmp_path: Path, right: bool) -> None:
    class Places(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            edges = torch.tensor([-1.0, 0.0, 0.0, 1.0])
            rounded = x.round()
            return torch.searchsorted(edges, rounded, right=right).float(), torch.expm1(x), torch.expm1(1e-4 * x)

    assert onnx.write_onnx(Places(), 2 * torch.randn(1, 2, 3, 4), tmp_path / "net.onnx", ("batch", "size")).exists()


def test_an_entropy_counts_nothing_for_what_is_impossible(tmp_path: Path) -> None:
    class Entropy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            p = x.relu()
            return -torch.special.xlogy(p, p).sum(-1)

    assert onnx.write_onnx(Entropy(), torch.randn(1, 2, 3, 4), tmp_path / "net.onnx", ("batch", "size")).exists()


def divisions(path: Path) -> Iterator[str]:
    """Where floor divisions of something negative are, outside of what counts and what builds."""
    for scope in ast.walk(ast.parse(path.read_text())):
        if isinstance(scope, ast.FunctionDef) and scope.name not in ("macs", "__init__"):
            for node in ast.walk(scope):
                negative = isinstance(node, ast.BinOp) and isinstance(node.left, ast.UnaryOp)
                if negative and isinstance(node.op, ast.FloorDiv) and isinstance(node.left.op, ast.USub):  # type: ignore[attr-defined]
                    yield f"{path.name}: {ast.unparse(node)}"  # type: ignore[arg-type]


ON_NUMBERS = {
    "recurrences.py: -length // most",  # of lengths that are fixed
    "recurrences.py: -length // max(1, -(-length // most))",
    "native.py: -torch.get_num_threads() // max(1, sequences)",  # not recorded
    "triton.py: -length // STEPS",
    "feature_maps.py: -count // self.keys",  # first values
    "balanced_assignment.py: -T // E",  # only in training
    "structured.py: -width // count",  # widths of channels
    "tape.py: -self.rows[part.buffer] // LINE",  # room for numbers
}


def test_sizes_are_not_divided_as_negative_numbers() -> None:
    """A graph of ONNX divides towards zero."""
    found = {place for path in Path(blocks.__file__).parent.rglob("*.py") for place in divisions(path)}
    assert found == ON_NUMBERS
