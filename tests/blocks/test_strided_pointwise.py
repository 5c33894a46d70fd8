"""1 x 1 convolutions with a stride: they take their pixels first, wherever they are made and in every form."""

from __future__ import annotations

import ast
import copy
import importlib.util
import pathlib

import pytest
import torch
from torch import nn

import blocks
import zoo
from blocks.conv.conv import (
    Conv,
    ConvNormAct,
    StridedPointwise,
    conv2d,
    is_strided_pointwise,
    use_right_gradients,
)
from blocks.packing import PackedConv, available, pack

SHAPES = [(3, 48, 1, 2, 9), (8, 64, 1, 3, 16), (12, 24, 4, 2, 7), (16, 16, 16, 2, 32), (5, 7, 1, 4, 1)]
every_shape = pytest.mark.parametrize("dim, out_dim, groups, stride, side", SHAPES)


def twins(dim: int, out_dim: int, groups: int, stride: int, dtype: torch.dtype) -> tuple[nn.Conv2d, nn.Conv2d]:
    """torch's convolution and ours, with the same weights."""
    ours = Conv(dim, out_dim, kernel_size=1, stride=stride, padding=0, groups=groups).to(dtype)
    theirs = nn.Conv2d(dim, out_dim, 1, stride, groups=groups).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


@every_shape
def test_outputs_and_gradients_equal_those_of_torch_in_float64(dim, out_dim, groups, stride, side):
    theirs, ours = twins(dim, out_dim, groups, stride, torch.float64)
    assert isinstance(ours, StridedPointwise) and isinstance(ours, Conv)
    x = torch.randn(2, dim, side, side, dtype=torch.float64, requires_grad=True)
    found = ours(x.to(memory_format=torch.channels_last))
    right = theirs(x)
    weights = torch.randn_like(right)
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
    grads = [
        torch.autograd.grad((y * weights).sum(), (x, *conv.parameters()))
        for y, conv in ((found, ours), (right, theirs))
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@every_shape
def test_training_in_channels_last_gives_the_gradients_of_float64(dim, out_dim, groups, stride, side):
    """Held by norms: a gradient that is a sum of thousands of numbers of both signs may itself be next to 0."""
    theirs, ours = twins(dim, out_dim, groups, stride, torch.float64)
    ours = copy.deepcopy(ours).float().to(memory_format=torch.channels_last)
    for _ in range(3):
        x = torch.randn(2, dim, 4 * side, 4 * side)
        laid = x.to(memory_format=torch.channels_last).requires_grad_()
        wide = x.double().requires_grad_()
        weights = torch.randn_like(theirs(wide))
        found = torch.autograd.grad((ours(laid) * weights.float()).sum(), (laid, *ours.parameters()))
        right = torch.autograd.grad((theirs(wide) * weights).sum(), (wide, *theirs.parameters()))
        for one, other in zip(found, right, strict=True):
            assert (one.double() - other).norm() <= 1e-5 * other.norm()
        assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_only_strided_pointwise_convolutions_without_a_border_are_changed():
    plain = [Conv(8, kernel_size=1), Conv(8, kernel_size=2, stride=2), Conv(8, kernel_size=1, stride=2, padding=1)]
    assert not any(isinstance(conv, StridedPointwise) for conv in plain)
    assert isinstance(ConvNormAct(8, 16, kernel_size=1, stride=2).conv, StridedPointwise)


def test_blocks_make_convolutions_in_one_place():
    home = pathlib.Path(blocks.__file__).parent
    makers = {
        path.relative_to(home).as_posix()
        for path in home.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "nn.Conv2d"
    }
    assert makers == {"conv/conv.py"}


def test_a_convolution_inside_a_block_takes_its_pixels_first():
    assert type(conv2d(3, 8, 1, stride=2)) is StridedPointwise
    assert type(conv2d(8, 8, (1, 11), padding=(0, 5), groups=8)) is nn.Conv2d


def test_layers_of_others_are_turned_in_place_with_their_state():
    net = nn.Sequential(nn.Conv2d(3, 8, 1, 2), nn.Conv2d(8, 8, 3, padding=1))
    x, before = torch.randn(2, 3, 9, 9), dict(net.state_dict())
    right = net(x)
    use_right_gradients(net)
    assert [type(layer) for layer in net] == [StridedPointwise, nn.Conv2d]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(net(x), right)


@pytest.mark.skipif(not available(), reason="this torch has no oneDNN")
def test_packed_layers_compute_the_same_with_and_without_a_gradient():
    theirs, ours = twins(64, 256, 1, 2, torch.float32)
    packed = pack(copy.deepcopy(ours).eval().to(memory_format=torch.channels_last))
    assert type(packed) is PackedConv and packed.strided
    x = torch.randn(1, 64, 56, 56).to(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed(x.requires_grad_()), theirs(x), rtol=1e-5, atol=1e-5)


def test_exported_file_takes_the_pixels_first_too(tmp_path):
    model = zoo.create("mobileone_s0", num_classes=4)
    zoo.export(model, tmp_path / "net.py")
    spec = importlib.util.spec_from_file_location("net", tmp_path / "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = [made for made in vars(module).values() if isinstance(made, type) and issubclass(made, nn.Module)][-1]()
    net.load_state_dict(model.state_dict())
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and is_strided_pointwise(layer)]
    assert layers and {type(layer).__name__ for layer in layers} == {"StridedPointwise"}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), model.eval()(x), rtol=1e-5, atol=1e-5)
