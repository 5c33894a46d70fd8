"""Convolutions with groups and a dilation: trained in bfloat16 on a CPU they have the gradients of float64."""

from __future__ import annotations

import copy
import pathlib

import pytest
import torch
from torch import nn

import zoo
from blocks.conv.conv import Conv, GroupedDilated, conv2d, use_right_gradients
from blocks.packing import PackedConv, available, pack

# channels, kernel, dilation, groups, rows, columns: each was wrong on a CPU with bfloat16, the last by rows that were never written
SHAPES = [
    (16, 3, 2, 16, 56, 56),
    (12, 5, 2, 12, 56, 56),
    (16, 7, 3, 16, 56, 56),
    (16, 3, 2, 4, 32, 40),
    (64, 3, 2, 8, 8, 56),
]
every_shape = pytest.mark.parametrize("dim, kernel_size, dilation, groups, height, width", SHAPES)


def gradients(conv, x, weights):
    x = x.requires_grad_()
    return torch.autograd.grad((conv(x).to(weights.dtype) * weights).sum(), (x, *conv.parameters()))


@every_shape
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_in_bfloat16_are_those_of_float64(dim, kernel_size, dilation, groups, height, width, autocast):
    exact = Conv(dim, kernel_size=kernel_size, dilation=dilation, groups=groups).double()
    conv = copy.deepcopy(exact).to(torch.float32 if autocast else torch.bfloat16, memory_format=torch.channels_last)
    x = torch.randn(2, dim, height, width, dtype=torch.float64)
    weights = torch.randn_like(exact(x))
    right = gradients(exact, x, weights)
    laid = x.detach().to(conv.weight.dtype).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert conv(laid).dtype == torch.bfloat16
        values = gradients(conv, laid, weights.float())
    for value, exact_value in zip(values, right, strict=True):
        assert (value.double() - exact_value).norm() <= 2e-2 * exact_value.norm()


def test_only_convolutions_with_groups_and_a_dilation_are_changed():
    plain = [Conv(8, kernel_size=3, groups=8), Conv(8, kernel_size=3, dilation=2)]
    assert [type(conv) for conv in plain] == [Conv] * 2
    grouped = Conv(8, kernel_size=3, dilation=2, groups=8)
    assert isinstance(grouped, GroupedDilated) and isinstance(grouped, Conv)
    assert type(conv2d(8, 8, 3, padding=2, dilation=2, groups=8)) is GroupedDilated
    net = nn.Sequential(nn.Conv2d(8, 8, 3, dilation=2, groups=2), nn.Conv2d(8, 8, 3))
    use_right_gradients(net)
    assert [type(layer) for layer in net] == [GroupedDilated, nn.Conv2d]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_outputs_are_those_of_torch(dtype):
    ours = conv2d(8, 8, 3, padding=2, dilation=2, groups=8).to(dtype)
    theirs = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 9, 9, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    if dtype != torch.bfloat16:
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.skipif(not available(), reason="this torch has no oneDNN")
def test_grouped_dilated_convolutions_are_packed_as_others():
    assert type(pack(conv2d(8, 8, 3, padding=2, dilation=2, groups=8).eval())) is PackedConv


def test_exported_file_of_a_net_that_has_them_computes_the_same(tmp_path):
    model = zoo.create("moganet_nano")
    assert any(isinstance(module, GroupedDilated) for module in model.modules())
    path = pathlib.Path(tmp_path, "net.py")
    zoo.export(model, path)
    names: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    kind = [value for value in names.values() if isinstance(value, type) and issubclass(value, nn.Module)][-1]
    net = kind().eval()
    net.load_state_dict(model.state_dict())
    x = torch.randn(1, model.spec.input.channels, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), model(x), rtol=1e-5, atol=1e-5)
