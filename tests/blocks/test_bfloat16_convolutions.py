"""Convolutions that oneDNN gets wrong in bfloat16 have the outputs and gradients of float64, where a CPU has such kernels and where not."""

from __future__ import annotations

import copy
import pathlib

import pytest
import torch
from torch import nn

import zoo
from blocks.conv.conv import Conv, ConvNormAct, FewChannels, Strided, conv2d, use_right_gradients
from blocks.packing import PackedConv, available, pack

# channels, kernel, stride, border, rows, columns: outputs of the first ones were of no use on a CPU with AMX, of the next the gradients, and
# of the last, which leave one column, the outputs again
FEW_CHANNELS = [
    (16, 4, 4, 0, 12, 12),
    (24, 4, 4, 0, 4, 4),
    (8, 8, 8, 0, 24, 17),
    (4, 16, 16, 0, 32, 48),
    (12, 8, 1, 0, 16, 24),
]
ONE_STEP = [(16, 2, 2, 1, 4, 1), (16, 3, 2, 1, 4, 1), (16, 7, 2, 3, 4, 1), (16, 4, 4, 2, 1, 1), (3, 3, 2, 1, 1, 1)]
ONE_COLUMN = [(1, 3, 2, 0, 17, 3), (16, 3, 2, 0, 13, 3), (8, 5, 4, 0, 33, 5)]
every_shape = pytest.mark.parametrize(
    "dim, kernel_size, stride, padding, height, width", FEW_CHANNELS + ONE_STEP + ONE_COLUMN
)


def results(conv, x, weights):
    x = x.requires_grad_()
    y = conv(x)
    return y, *torch.autograd.grad((y.to(weights.dtype) * weights).sum(), (x, *conv.parameters()))


@every_shape
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_outputs_and_gradients_in_bfloat16_are_those_of_float64(
    dim, kernel_size, stride, padding, height, width, autocast, layout
):
    exact = Conv(dim, 16, kernel_size=kernel_size, stride=stride, padding=padding).double()
    assert isinstance(exact, (FewChannels, Strided))
    conv = copy.deepcopy(exact).to(torch.float32 if autocast else torch.bfloat16, memory_format=layout)
    x = torch.randn(3, dim, height, width, dtype=torch.float64)
    weights = torch.randn_like(exact(x))
    right = results(exact, x, weights)
    laid = x.detach().to(conv.weight.dtype).to(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        values = results(conv, laid, weights.float())
        with torch.no_grad():
            assert torch.equal(conv(laid), values[0])
    assert values[0].dtype == torch.bfloat16
    for value, exact_value in zip(values, right, strict=True):
        assert (value.double() - exact_value).norm() <= 2e-2 * exact_value.norm()


@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_types_are_left_to_torch(dim, kernel_size, stride, padding, height, width, dtype):
    ours = Conv(dim, 16, kernel_size=kernel_size, stride=stride, padding=padding).to(dtype)
    theirs = nn.Conv2d(dim, 16, kernel_size, stride, padding).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, dim, height, width, dtype=dtype)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("kernel_size, stride", [(3, 2), (4, 4), (7, 2), (2, 2)])
def test_maps_of_more_than_one_stride_are_left_to_torch(kernel_size, stride):
    ours = Conv(3, 16, kernel_size=kernel_size, stride=stride).bfloat16()
    theirs = nn.Conv2d(3, 16, kernel_size, stride, ours.padding).bfloat16()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.bfloat16)
    assert type(ours).__name__ == "StridedConv" and torch.equal(ours(x), theirs(x))


def test_shapes_that_oneDNN_gets_right_are_not_changed():
    plain = [Conv(32, kernel_size=8), Conv(16, kernel_size=3), Conv(4, kernel_size=8), Conv(20, kernel_size=4)]
    assert [type(conv) for conv in plain] == [Conv] * 4
    assert not any(isinstance(Conv(3, 8, kernel_size=size, stride=size), FewChannels) for size in (4, 14, 16))
    assert isinstance(ConvNormAct(4, 8, kernel_size=16, stride=16).conv, FewChannels)
    assert [type(conv2d(8, 8, size)) for size in (8, 7)] == [FewChannels, nn.Conv2d]
    net = nn.Sequential(nn.Conv2d(8, 8, 8), nn.Conv2d(8, 8, 3, 2), nn.Conv2d(8, 8, 3))
    use_right_gradients(net)
    assert [type(layer) for layer in net] == [FewChannels, Strided, nn.Conv2d]


def of_four_channels(**arguments):
    """A model that cuts patches of 16 x 16 pixels of four channels, and a picture."""
    torch.manual_seed(0)
    model = zoo.create("vit_tiny_patch16_224", in_chans=4, img_size=64, num_classes=4, **arguments)
    return model, torch.randn(1, 4, 64, 64)


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_a_model_of_four_channels_computes_in_bfloat16_what_it_computes_in_float32(form):
    model, x = of_four_channels(form=form)
    with torch.no_grad():
        right = model(x)
        y = model.bfloat16()(x.bfloat16()).float()
    assert (y - right).norm() <= 5e-2 * right.norm()


@pytest.mark.skipif(not available(), reason="this torch has no oneDNN")
def test_strided_ones_are_packed_as_others_and_those_of_few_channels_stay():
    assert type(pack(conv2d(8, 8, 3, stride=2).eval())) is PackedConv
    assert type(pack(conv2d(8, 8, 8).eval())) is FewChannels


def test_exported_file_computes_the_same_in_bfloat16(tmp_path):
    model, x = of_four_channels()
    path = pathlib.Path(tmp_path, "net.py")
    zoo.export(model, path)
    names: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    kind = [value for value in names.values() if isinstance(value, type) and issubclass(value, nn.Module)][-1]
    net = kind().eval()
    net.load_state_dict(model.state_dict())
    with torch.no_grad():
        right = model(x)
        y = net.bfloat16()(x.bfloat16()).float()
    assert (y - right).norm() <= 5e-2 * right.norm()
