"""Views, the wiring that runs parts inside them, learned positions and the spatial gate of gMLP."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks
from blocks.mlp.spatial_gating import SpatialGatingMlp
from blocks.primitives.positions import PositionEmbedding
from blocks.primitives.views import Scan2d, Tokens, Window
from blocks.registry.slots import Place, Slot

ROUTES = ["row", "column", "row_reversed", "column_reversed"]


def image(height: int = 5, width: int = 3, dim: int = 8) -> Tensor:
    return torch.randn(2, height, width, dim, generator=torch.Generator().manual_seed(1)).permute(0, 3, 1, 2)


def numbered(height: int, width: int) -> Tensor:
    """(1, 1, height, width), numbered row by row."""
    return torch.arange(float(height * width)).view(1, 1, height, width)


@pytest.mark.parametrize("routes", [list(chosen) for n in (1, 2, 4) for chosen in itertools.combinations(ROUTES, n)])
def test_scan_comes_back_to_the_image(routes):
    view = Scan2d(routes=routes)
    y, memo = view.enter(image())
    assert y.shape == (2 * len(routes), 15, 8)
    torch.testing.assert_close(view.exit(y, memo), image())


def test_routes_read_the_image_in_their_order():
    y, _ = Scan2d(routes=ROUTES).enter(numbered(2, 3))
    orders = [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]
    assert y[:, :, 0].tolist() == orders


def test_routes_may_be_summed():
    view = Scan2d(merge="sum")
    torch.testing.assert_close(view.exit(*view.enter(image())), 4 * image())


def test_unknown_route_is_refused_with_those_that_exist():
    with pytest.raises(blocks.BlockError, match='each one of "column", "column_reversed", "row", "row_reversed"'):
        Scan2d(routes=["diagonal"])


@pytest.mark.parametrize("height, width", [(4, 6), (5, 3), (1, 7), (2, 2)])
def test_windows_come_back_to_the_image(height, width):
    view = Window(size=2)
    y, memo = view.enter(image(height, width))
    assert y.shape == (2 * -(-height // 2) * -(-width // 2), 8, 2, 2)
    assert torch.equal(view.exit(y, memo), image(height, width))


def test_a_window_is_a_piece_of_the_image_filled_up_with_zeros():
    y, _ = Window(size=2).enter(numbered(2, 3))
    assert y[:, 0].tolist() == [[[0, 1], [3, 4]], [[2, 0], [5, 0]]]


@pytest.mark.parametrize("cls_token", [None, "first", "middle"])
def test_tokens_come_back_to_the_image_without_the_class_token(cls_token):
    view = Tokens(8, cls_token=cls_token, input_size=(5, 3))
    y, memo = view.enter(image())
    assert y.shape == (2, *view.inner_size((5, 3)), 8)
    assert torch.equal(view.exit(y, memo), image())


@pytest.mark.parametrize("cls_token, at", [("first", 0), ("middle", 7)])
def test_class_token_stands_where_it_should_and_leaves_alone(cls_token, at):
    view = Tokens(8, cls_token=cls_token, keep="cls", input_size=(5, 3))
    y, memo = view.enter(image())
    assert torch.equal(y[:, at], view.cls_token[0].expand(2, -1))
    assert torch.equal(view.exit(y, memo), y[:, at : at + 1])


def test_all_tokens_may_be_kept():
    view = Tokens(8, cls_token="first", positions=True, keep="tokens", input_size=(5, 3))
    y, memo = view.enter(image())
    assert view.exit(y, memo) is y
    torch.testing.assert_close(y[:, 1:], image().permute(0, 2, 3, 1).flatten(1, 2) + view.pos_embed[:, 1:])


def test_tokens_without_class_or_positions_copy_nothing():
    x = image()
    assert Tokens(8).enter(x)[0].data_ptr() == x.data_ptr()


def test_keeping_a_class_token_that_is_not_there_is_refused(refused):
    with refused('keep = "cls" needs a class token: cls_token = "first", "middle" or "last"'):
        Tokens(8, keep="cls")


def test_positions_of_another_size_are_refused(refused):
    with refused("these positions are for images of size (3, 5) and meet (5, 3); build the model with that input size"):
        Tokens(8, positions=True, input_size=(3, 5)).enter(image())


def test_table_of_tokens_is_resized_around_its_class_token():
    old, new = (Tokens(8, cls_token="middle", positions=True, input_size=size) for size in ((4, 4), (6, 6)))
    with torch.no_grad():
        old.pos_embed.fill_(2.0)[:, 8] = 7.0
    table = new.resize_table("pos_embed", old.pos_embed, tuple(new.pos_embed.shape))
    assert table.shape == (1, 37, 8)
    torch.testing.assert_close(table[:, 18], torch.full((1, 8), 7.0))
    torch.testing.assert_close(torch.cat([table[:, :18], table[:, 19:]], 1), torch.full((1, 36, 8), 2.0))


def test_within_runs_parts_on_what_the_view_shows():
    layer = blocks.get("within")(8, parts=["layer_norm", "mlp"], view={"block": "window", "size": 2})
    norm, mlp = layer.get_submodule("0"), layer.get_submodule("1")
    torch.testing.assert_close(layer(image()), mlp(norm(image())), rtol=1e-4, atol=1e-5)


def test_a_part_within_is_built_for_the_size_that_the_view_shows():
    gate = "spatial_gating_mlp"
    for view, length in (
        ({"block": "window", "size": 2}, 4),
        ("scan_2d", 15),
        ({"block": "tokens", "cls_token": "first"}, 16),
    ):
        call = {"block": "within", "parts": [gate], "view": view}
        layer = Slot(call, Place("layer", sizes=lambda: (5, 3)))(8)
        assert layer.get_submodule("0").gate.proj.in_features == length
        assert layer(image()).shape == (2, 8, 5, 3)


def test_state_paths_within_are_those_of_the_parts():
    layer = Slot({"within": ["none", "mlp"], "view": "scan_2d"}, Place("layer"))(8)
    assert {name.partition(".")[0] for name in layer.state_dict()} == {"1"}
    assert layer.get_submodule("1").path == "layer.1"


def test_position_table_is_added_to_image_and_tokens_alike():
    block, x = PositionEmbedding(8, input_size=(5, 3)), image()
    tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(block(tokens), tokens + block.pos_embed)
    torch.testing.assert_close(block(x).permute(0, 2, 3, 1).flatten(1, 2), block(tokens))


@pytest.mark.parametrize("old, new", [((4, 4), (6, 6)), ((4, 2), (8, 4)), ((3, 3), (6, 2))])
def test_position_table_is_resized_as_an_image(old, new):
    block, table = PositionEmbedding(2, input_size=new), torch.randn(1, old[0] * old[1], 2)
    grid = table.view(1, *old, 2).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=new, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(block.resize_table("pos_embed", table, tuple(block.pos_embed.shape)), expected)


@pytest.mark.parametrize("size, count", [((36,), 16), ((4, 4), 17)])
def test_a_table_that_is_no_grid_is_left_to_others(size, count):
    block = PositionEmbedding(2, input_size=size)
    assert block.resize_table("pos_embed", torch.zeros(1, count, 2), tuple(block.pos_embed.shape)) is None


def test_position_table_refuses_another_size(refused):
    with refused("these positions are for inputs of size (3, 5) and meet (5, 3); build the model with that input size"):
        PositionEmbedding(8, input_size=(3, 5))(image())


def test_spatial_gate_is_the_equation():
    block, x = SpatialGatingMlp(8, ratio=3.0, input_size=(5,)), torch.randn(2, 5, 8)
    with torch.no_grad():
        block.gate.proj.weight.normal_()
    u, v = F.gelu(block.fc1(x)).chunk(2, -1)
    v = F.layer_norm(v, (12,), block.gate.norm.weight, block.gate.norm.bias, 1e-6)
    mixed = torch.einsum("lm,bmc->blc", block.gate.proj.weight, v) + block.gate.proj.bias[:, None]
    torch.testing.assert_close(block(x), block.fc2(u * mixed), rtol=1e-4, atol=1e-5)


def test_spatial_gate_is_open_at_first():
    block, x = SpatialGatingMlp(8, input_size=(2, 3)), torch.randn(2, 6, 8)
    u, _ = F.gelu(block.fc1(x)).chunk(2, -1)
    torch.testing.assert_close(block(x), block.fc2(u), rtol=1e-3, atol=1e-4)


def test_spatial_gate_names_both_lengths(refused):
    with refused("this spatial_gating_mlp was built for 6 positions and meets 7; build the model with that input size"):
        SpatialGatingMlp(8, input_size=(2, 3))(torch.zeros(1, 7, 8))


def test_a_hidden_width_without_halves_is_refused(refused):
    with refused(
        "ratio 2.6 of 5 channels is a hidden width of 13, which has no two halves; the nearest ratio that works is 2.4"
    ):
        SpatialGatingMlp(5, ratio=2.6)
