"""Structured linear maps: equal to the matrix that they stand for, to upstream, and usable wherever a dense one is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blocks
import zoo
from blocks.structured.monarch import monarch
from blocks.structured.structured import block_diagonal, grid

LINEARS = ["block_diagonal", "monarch", "btt", "blast"]
WIDTHS = [(24, 30), (64, 192), (192, 64), (7, 5), (1, 3)]


def built(name: str, dim: int, out_dim: int, **params: Any) -> Any:
    torch.manual_seed(0)
    layer = blocks.get(name)(dim, out_dim, **params).double()
    nn.init.normal_(layer.bias)
    return layer


def matrix(layer: Any) -> Tensor:
    """The matrix of a linear map, column by column."""
    return (layer(torch.eye(layer.dim, dtype=torch.float64)) - layer.bias).T


def test_block_diagonal_product_equals_upstream(golden):
    case = golden("op_blockdiag_multiply")
    weight, x = case.inputs["weight"], case.inputs["x"].flatten(0, 1)
    y = block_diagonal(x.unflatten(1, (weight.shape[0], -1)), weight)
    case.check(y.transpose(0, 1).reshape(3, 7, -1))


@pytest.mark.parametrize("name", ["square", "rect"])
def test_monarch_product_equals_upstream(golden, name):
    case = golden(f"op_monarch_{name}")
    case.check(monarch(case.inputs["x"], case.inputs["w1_bfly"], case.inputs["w2_bfly"]))


@pytest.mark.parametrize("dim, out_dim", WIDTHS)
@pytest.mark.parametrize("name", LINEARS)
@torch.no_grad()
def test_map_is_linear_at_any_widths_and_layouts(name, dim, out_dim):
    layer = built(name, dim, out_dim)
    tokens = torch.randn(2, 6, dim, dtype=torch.float64)
    y = layer(tokens)
    torch.testing.assert_close(y, tokens @ matrix(layer).T + layer.bias)
    image = tokens.view(2, 3, 2, dim).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(image).permute(0, 2, 3, 1).flatten(1, 2), y)
    torch.testing.assert_close(layer(tokens[:, 0]), y[:, 0])


@torch.no_grad()
def test_btt_is_its_equation():
    layer = built("btt", 12, 20, rank=3)
    (n_1, n_2), (m_1, m_2) = (3, 4), (4, 5)
    R, L = layer.R.view(n_1, m_2, 3, n_2), layer.L.view(m_2, m_1, n_1, 3)
    expected = torch.einsum("bacs,cbsd->abcd", L, R).reshape(20, 12)
    torch.testing.assert_close(matrix(layer), expected)


@torch.no_grad()
def test_blast_shares_factors_along_rows_and_columns():
    layer = built("blast", 12, 20, num_blocks=4, rank=3)
    blocks_of = torch.einsum("ipr,ijr,jrq->ipjq", layer.B, layer.D, layer.C)
    torch.testing.assert_close(matrix(layer), blocks_of.reshape(20, 12))


@torch.no_grad()
@pytest.mark.parametrize("dim, out_dim", [(24, 30), (7, 5)])
@pytest.mark.parametrize("name", LINEARS)
def test_neighbouring_maps_are_taken_in(name, dim, out_dim):
    x, (scale, shift) = torch.randn(4, dim, dtype=torch.float64), torch.randn(2, dim, dtype=torch.float64)
    out_scale, out_shift = torch.randn(2, out_dim, dtype=torch.float64)
    layer = built(name, dim, out_dim)
    expected = layer(x * scale + shift) * out_scale + out_shift
    assert layer.absorb_input(scale, shift) and layer.absorb_output(out_scale, out_shift)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("width, table", [(64, (8, 8)), (48, (6, 8)), (23, (4, 6)), (1, (1, 1)), (2, (1, 2))])
def test_grid_is_nearly_square(width, table):
    assert grid(width) == table


@torch.no_grad()
@pytest.mark.parametrize("name, spread", [("btt", (0.6, 1.5)), ("blast", (0.6, 1.6)), ("monarch", (0.2, 0.5))])
def test_initial_outputs_have_the_spread_of_the_papers(name, spread):
    torch.manual_seed(0)
    y = blocks.get(name)(512, 512)(torch.randn(256, 512))
    assert spread[0] < y.std() < spread[1]


@torch.no_grad()
def test_initial_factors_of_btt_have_the_deviation_of_the_paper():
    torch.manual_seed(0)
    layer = blocks.get("btt")(400, 400, rank=4)
    assert layer.R.std() == pytest.approx(20**0.5 / 20, rel=0.05)
    assert layer.L.std() == pytest.approx(20**0.5 / 80, rel=0.05)


def test_rank_of_blast_halves_the_weights_where_none_is_given():
    layer = blocks.get("blast")(256, 512, bias=False)
    assert sum(weight.numel() for weight in layer.parameters()) == pytest.approx(256 * 512 / 2, rel=0.02)


@pytest.mark.parametrize("name", LINEARS)
@pytest.mark.parametrize("model", ["linear_vit_nano", "gmlp_nano", "vim_nano"])
def test_linears_of_a_whole_model_are_swapped(model, name):
    dense = zoo.create(model, device="meta")
    swapped = zoo.create(model, swap={"linear": name})
    assert swapped(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
    assert sum(p.numel() for p in swapped.parameters()) < sum(p.numel() for p in dense.parameters())


def test_factors_of_btt_learn_at_rates_of_their_own():
    model = zoo.create("linear_vit_nano", swap={"linear": "btt"}, device="meta")
    scale = {id(p): group["lr_scale"] for group in zoo.param_groups(model, lr=1.0) for p in group["params"]}
    layer = model.get_submodule("stages.0.layers.0.1.1.fc1")
    assert (scale[id(layer.R)], scale[id(layer.L)], scale[id(layer.bias)]) == (4.0, 2.0, 1.0)


def test_rates_of_blocks_and_of_depths_multiply():
    model = zoo.create("linear_vit_nano", swap={"linear": "btt"}, device="meta")
    groups = zoo.param_groups(model, layer_decay=0.5, lr=0.1)
    group = {id(p): group for group in groups for p in group["params"]}[
        id(model.get_submodule("stages.0.layers.3.1.1.fc1").R)
    ]
    assert (group["lr_scale"], group["lr"]) == (2.0, 0.2)


def test_training_heeds_the_rates_of_blocks():
    from zoo.training.digits import Recipe, _groups

    model = zoo.create("linear_vit_nano", swap={"linear": "btt"}, device="meta")
    rate = {id(p): group["lr"] for group in _groups(model, Recipe(lr=1e-3)) for p in group["params"]}
    assert rate[id(model.get_submodule("stages.0.layers.0.1.1.fc1").R)] == pytest.approx(4e-3)


def test_swap_of_linears_reports_parameters_and_macs_of_each():
    from zoo.measure.swaps import swap_report

    rows = swap_report(zoo.spec("linear_vit_nano"), {"linear": "monarch"})
    assert len(rows) == 16 and {row["after"] for row in rows} == {"monarch"}
    fc1 = next(row for row in rows if row["path"] == "stages.0.layers.0.1.1.fc1")
    assert (fc1["params_before"], fc1["params_after"]) == (64 * 128 + 128, 4 * 16 * (16 + 32) + 128)
    assert (fc1["macs_before"], fc1["macs_after"]) == (64 * 64 * 128, 64 * 4 * 16 * (16 + 32))


@pytest.mark.parametrize("name", LINEARS)
def test_structured_linears_are_exported(name):
    layer, x = built(name, 24, 30).float(), torch.randn(2, 5, 24)
    length = torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({1: length},))
    longer = torch.randn(2, 9, 24)
    torch.testing.assert_close(program.module()(longer), layer(longer))


@pytest.mark.parametrize("name", ["dense", *LINEARS])
def test_autocast_reaches_the_output(name):
    with torch.autocast("cpu", torch.bfloat16):
        assert blocks.get(name)(24, 30)(torch.randn(2, 5, 24)).dtype == torch.bfloat16
