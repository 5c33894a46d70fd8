"""Packed layers compute what their layers compute, and step aside where they do not apply."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import blocks
from blocks import packing
from blocks.packing import PackedConv, PackedDense, available, pack


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers are packed too, though it does not pay."""
    monkeypatch.setattr(packing.Packed, "least_work", 0)
    monkeypatch.setattr(packing.PackedLinear, "least_work", 0)


pytestmark = pytest.mark.skipif(
    not available(), reason="this torch is built without oneDNN, so there is nothing to pack"
)
X = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
ACTS = ["relu", "relu6", "silu", "sigmoid", "tanh", "hard_swish", "gelu", {"block": "gelu", "approximate": "tanh"}]


def frozen(module: nn.Module) -> Any:
    return module.eval().requires_grad_(False)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("act", ACTS, ids=str)
@pytest.mark.parametrize("groups", [1, 8])
def test_a_convolution_computes_its_activation_too(act: Any, groups: int) -> None:
    plain = frozen(blocks.get("conv_norm_act")(8, kernel_size=3, stride=2, groups=groups, act=act))
    packed = pack(copy.deepcopy(plain))
    assert list(packed._modules) == ["conv"] and type(packed.conv) is PackedConv
    close(packed(X), plain(X))


@pytest.mark.parametrize("kernel_size", [7, 13, 31])
def test_large_depthwise_kernels_stay_what_they_are(kernel_size: int) -> None:
    plain = frozen(blocks.get("depthwise_conv")(8, kernel_size=kernel_size))
    close(pack(copy.deepcopy(plain))(X), plain(X))


@pytest.mark.parametrize("act", ACTS, ids=str)
def test_a_linear_layer_computes_its_activation_too(act: Any) -> None:
    plain = frozen(blocks.get("mlp")(8, act=act))
    packed = pack(copy.deepcopy(plain))
    assert list(packed._modules) == ["fc1", "fc2"] and type(packed.fc1) is PackedDense
    close(packed(X), plain(X))
    tokens = torch.randn(2, 5, 8)
    close(packed(tokens), plain(tokens))


def test_an_activation_that_onednn_does_not_know_stays() -> None:
    packed = pack(frozen(blocks.get("mlp")(8, act="star_relu")))
    assert list(packed._modules) == ["fc1", "act", "fc2"]


def test_other_dtypes_and_gradients_take_the_ordinary_way() -> None:
    packed = pack(frozen(blocks.get("conv_norm_act")(8, act="relu")))
    x = X.clone().requires_grad_()
    packed(x).sum().backward()
    assert x.grad is not None and packed.conv.ready is None
    double = copy.deepcopy(packed).double()
    close(double(X.double()).float(), packed(X))
    assert double.conv.ready is None


def test_new_weights_are_packed_anew() -> None:
    packed = pack(frozen(blocks.get("conv")(8)))
    packed(X)
    with torch.no_grad():
        packed.weight.zero_()
        packed.bias.fill_(3.0)
    assert torch.equal(packed(X), torch.full_like(X, 3.0))
    packed.load_state_dict({"weight": torch.ones_like(packed.weight), "bias": torch.zeros(8)})
    close(packed(X), torch.nn.functional.conv2d(X, torch.ones(8, 8, 3, 3), padding=1))


def test_weights_are_packed_anew_for_other_threads_and_other_shapes_that_come_twice() -> None:
    plain = frozen(blocks.get("mlp")(8))
    packed = pack(copy.deepcopy(plain))
    threads, seen = torch.get_num_threads(), []
    try:
        for count, batch in ((1, 2), (1, 2), (2, 2), (2, 2), (2, 1), (2, 1), (2, 1)):
            torch.set_num_threads(count)
            close(packed(X[:batch]), plain(X[:batch]))
            seen.append(packed.fc1.ready)
    finally:
        torch.set_num_threads(threads)
    changed = [before is not after for before, after in itertools.pairwise(seen)]
    assert changed == [False, False, True, False, True, False]


def test_shapes_that_come_once_are_not_packed_for() -> None:
    plain = frozen(blocks.get("mlp")(8))
    packed = pack(copy.deepcopy(plain))
    packed(X)
    first = packed.fc1.ready
    for tokens in (3, 4, 5, 3, 4, 5):  # prompts of any length
        x = torch.randn(1, tokens, 8)
        close(packed(x), plain(x))
        assert packed.fc1.ready is first
    close(packed(X), plain(X))
    assert packed.fc1.ready is first


def test_packed_layers_are_copied_and_pickled_without_their_packing() -> None:
    packed = pack(frozen(blocks.get("mlp")(8)))
    expected = packed(X)
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert twin.fc1.ready is None
        close(twin(X), expected)


def test_names_of_the_state_stay() -> None:
    plain = frozen(blocks.get("mlp")(8))
    assert pack(copy.deepcopy(plain)).state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", ["mlp", "conv", "depthwise_conv"])
def test_counters_see_the_same_work(name: str) -> None:
    def flops(module: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter:
            module(X)
        return int(counter.get_total_flops())

    plain = frozen(blocks.get(name)(8))
    assert flops(pack(copy.deepcopy(plain))) == flops(plain)


def test_a_part_that_gives_its_input_back_is_never_written_over() -> None:
    layer = frozen(blocks.get("residual")(8, parts=["identity"]))
    x = X.clone()
    with torch.no_grad():
        close(layer(x), 2 * X)
    assert torch.equal(x, X)


def test_an_activation_writes_over_the_output_of_a_convolution_alone() -> None:
    net = blocks.Chain()
    net.add_module("0", blocks.get("relu")())
    x = X.clone()
    net(x)
    assert torch.equal(x, X)


@pytest.mark.parametrize("shape", [(2, 32), (2, 9, 32), (2, 8, 8, 32), (2, 3, 4, 5, 32)])
def test_a_linear_layer_of_torch_keeps_its_own_idea_of_channels(shape: tuple[int, ...]) -> None:
    net = nn.Sequential(nn.Linear(32, 1024)).eval()
    x = torch.randn(shape)
    with torch.no_grad():
        expected = net(x)
        found = pack(net)(x)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("threads", [1, 2])
def test_a_linear_layer_needs_as_much_work_again_for_each_thread(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    work, before = X.numel() * 8, torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for enough, both in ((work, False), (work // (2 * threads), True), (work // (2 * threads) + 1, False)):
            monkeypatch.setattr(packing.Packed, "least_work", enough)
            monkeypatch.setattr(packing.PackedLinear, "least_work", 2 * enough)
            net = blocks.Chain()
            net.add_module("conv", blocks.get("conv")(8, kernel_size=1))
            net.add_module("linear", blocks.get("dense")(8))
            pack(frozen(net))(X)
            assert net.conv.ready is not None
            assert (net.linear.ready is not None) is both
    finally:
        torch.set_num_threads(before)


def test_an_activation_inside_makes_a_linear_layer_worth_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing.PackedLinear, "least_work", 2**40)
    monkeypatch.setattr(packing.PackedLinear, "many_outputs", 1)
    packed = pack(frozen(blocks.get("mlp")(8)))
    packed(X)
    assert packed.fc1.ready is not None and packed.fc2.ready is None
