"""Products with narrow weights: equal to those with the weights that the codes stand for, at any size, on any number of threads."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks.ops
from blocks.ops.dispatch import choose
from blocks.ops.narrow_linear import FEW, GROUP, OP, narrow_linear, narrowed, widened
from tests.ops.backends import FAST, able

FORMS = ["int8", "bfloat16"]
SIZES = [(1, 1), (3, 5), (16, 64), (7, 65), (33, 63), (64, 200), (130, 127), (4, 1000)]
"""Outputs and inputs: with whole groups and without, narrower than a vector, and than a tile."""

every_form = pytest.mark.parametrize("form", FORMS)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def case(form: str, outputs: int, inputs: int, *rows: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    return drawn(*rows, inputs), *narrowed(drawn(outputs, inputs), form), drawn(outputs)  # type: ignore[arg-type]


def exact(x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None) -> Tensor:
    wide = widened(weight, None if scales is None else scales, torch.float64)
    return F.linear(x.double(), wide, None if bias is None else bias.double())


@every_form
@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_product_is_that_of_the_weights_that_the_codes_stand_for(form, backend, size):
    able(backend)
    for rows in ((), (1,), (1, 1), (2, 3), (FEW,), (FEW + 1,), (3, 0), (0,)):
        x, weight, scales, bias = case(form, *size, *rows)
        for given in (bias, None):
            right = exact(x, weight, scales, given)
            with blocks.ops.backend(backend):
                found = narrow_linear(x, weight, scales, given)
            assert found.shape == right.shape
            assert (
                (found.double() - right).abs().max() <= 2e-6 * (1 + right.abs().max()) * size[1] ** 0.5
                if right.numel()
                else True
            )


@every_form
def test_many_rows_of_a_wide_map_are_exact_at_every_border_of_a_panel(form):
    able("native")
    for outputs, rows in ((70, 2 * FEW), (31, FEW + 1), (33, 29), (1, 24), (64, 100)):
        x, weight, scales, bias = case(form, outputs, 300, rows)
        right = exact(x, weight, scales, bias)
        with blocks.ops.backend("native"):
            found = narrow_linear(x, weight, scales, bias)
        assert (found.double() - right).norm() <= 1e-6 * right.norm()


@every_form
def test_an_output_hangs_neither_on_threads_nor_on_other_rows(form):
    able("native")
    x, weight, scales, bias = case(form, 131, 515, FEW)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            with blocks.ops.backend("native"):
                found.append(narrow_linear(x, weight, scales, bias))
                found.append(
                    torch.cat([narrow_linear(part, weight, scales, bias) for part in x.split([1, 2, 5, FEW - 8])])
                )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, found[0]) for one in found)


def test_codes_are_off_by_half_a_scale_at_most():
    weight = drawn(9, 150) * torch.logspace(-6, 6, 9).unsqueeze(1)
    codes, scales = narrowed(weight, "int8")
    assert scales is not None
    assert codes.dtype == torch.int8
    assert codes.abs().max() == 127
    assert scales.shape == (9, -(-150 // GROUP))
    step = scales.double().repeat_interleave(GROUP, 1)[:, :150]
    assert ((widened(codes, scales, torch.float64) - weight.double()).abs() <= step * (0.5 + 1e-6)).all()


def test_a_group_of_zeros_stays_zero_and_the_largest_stays_itself():
    weight = torch.zeros(2, 2 * GROUP)
    weight[1, 3] = -5.5
    codes, scales = narrowed(weight, "int8")
    torch.testing.assert_close(widened(codes, scales), weight)
    assert torch.equal(narrowed(weight, "bfloat16")[0], weight.bfloat16())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_weights_that_are_not_finite_have_no_codes(value):
    weight = drawn(4, 4)
    weight[1, 2] = value
    with pytest.raises(ValueError, match=r"^a weight to be narrowed should be finite; found inf or nan in it$"):
        narrowed(weight, "int8")
    with pytest.raises(ValueError, match=r"^a weight to be narrowed should be a matrix \(O, I\); found \(4,\)$"):
        narrowed(weight[0], "int8")


def test_shapes_that_do_not_fit_are_named():
    x, weight, scales, bias = case("int8", 4, 70, 2)
    expected = "`x` has shape (2, 69); for weights of shape (4, 70) it should be (2, 70)"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        narrow_linear(x[:, 1:], weight, scales, bias)
    expected = "`scales` has shape (4, 1); for weights of shape (4, 70) it should be (4, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        narrow_linear(x, weight, scales[:, :1], bias)


def test_inputs_get_a_gradient_in_plain_torch():
    x, weight, scales, bias = case("int8", 5, 70, 2)
    x.requires_grad_()
    assert "a gradient is wanted" in choose(OP, x, weight, scales, bias).reason
    narrow_linear(x, weight, scales, bias).sum().backward()
    torch.testing.assert_close(x.grad, widened(weight, scales).sum(0).expand(2, -1))
