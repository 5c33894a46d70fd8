"""Pictures of any size when asked, a finer last map when asked, and messages that speak of the picture."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import zoo
from zoo._timm import import_timm
from zoo.errors import InputError

VIT = {"dims": [64], "depths": [2], "num_classes": 10}
TRANSNEXT = {"dims": [24, 48, 72, 96], "depths": [1, 1, 1, 1], "num_classes": 10, "input.size": 96}
SMALL = {"vit_tiny_patch16_224": VIT, "transnext_micro": TRANSNEXT}


def net(name: str, **arguments: object) -> zoo.Backbone:
    torch.manual_seed(0)
    return zoo.create(name, SMALL.get(name), **arguments)


@pytest.mark.parametrize(
    "name", ["linear_vit_nano", "activator_nano", "vim_nano", "moe_vit_nano", "vit_tiny_patch16_224", "transnext_micro"]
)
def test_a_net_of_one_size_takes_any_when_asked(name: str) -> None:
    model, plain = net(name, dynamic_size=True), net(name)
    side, channels = plain.spec.input.size, plain.spec.input.channels
    x = torch.randn(2, channels, side, side)
    assert torch.equal(model(x), plain(x))
    for size in ((side // 2, side), (side + 32, side // 2 + 16)):
        x = torch.randn(2, channels, *size)
        assert model(x).isfinite().all()
        with pytest.raises(
            InputError, match=rf"expected pictures of {side} x {side}; found {size[0]} x {size[1]}; next: "
        ):
            plain(x)


def test_dynamic_size_equals_set_input_size() -> None:
    for name in ("linear_vit_nano", "vit_tiny_patch16_224"):
        model, size = net(name, dynamic_size=True), (64, 96)
        x = torch.randn(1, model.spec.input.channels, *size)
        expected = model(x)
        model.set_input_size(size)
        torch.testing.assert_close(model(x), expected)


def test_distances_of_another_size_are_those_of_a_net_built_for_it() -> None:
    dynamic, built = net("transnext_micro", dynamic_size=True), net("transnext_micro", img_size=(128, 64))
    built.load_state_dict(dynamic.state_dict())
    x = torch.randn(1, 3, 128, 64)
    expected = built(x)
    torch.testing.assert_close(dynamic(x), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(copy.deepcopy(dynamic)))(x), expected)


def test_a_message_about_a_size_names_the_picture_and_the_ways_out() -> None:
    with pytest.raises(InputError) as error:
        net("vit_tiny_patch16_224")(torch.zeros(1, 3, 240, 320))
    assert str(error.value) == (
        "vit_tiny_patch16_224: 1 error\n"
        "    expected pictures of 224 x 224; found 240 x 320; next: create it with `img_size=(240, 320)`, or call "
        "`set_input_size((240, 320))`; with `dynamic_size=True` it takes any size"
    )


def test_features_of_another_size_are_refused_in_terms_of_the_picture() -> None:
    with pytest.raises(InputError, match="expected pictures of 32 x 32; found 48 x 32"):
        zoo.create("linear_vit_nano", features_only=True)(torch.zeros(1, 1, 48, 32))


def test_a_net_with_a_weight_for_each_position_says_that_it_cannot() -> None:
    with pytest.raises(InputError, match="expected blocks that take any size; found `spatial_gating_mlp`"):
        zoo.create("gmlp_nano", dynamic_size=True)
    with pytest.raises(InputError) as error:
        zoo.create("gmlp_nano")(torch.zeros(1, 1, 48, 32))
    assert "img_size=(48, 32)" in str(error.value) and "dynamic_size" not in str(error.value)


def test_a_net_that_takes_any_size_stays_as_it_is() -> None:
    assert zoo.create("starnet_nano", dynamic_size=True).digest == zoo.create("starnet_nano").digest


@pytest.mark.parametrize(
    ("name", "theirs", "asked", "size"),
    [
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}, {"dynamic_size": True}, (96, 160)),
        ("swin_tiny_patch4_window7_224", {"strict_img_size": False}, {"dynamic_size": True}, (92, 132)),
        ("resnet50", {"output_stride": 8}, {"output_stride": 8}, (64, 88)),
        ("convnext_tiny", {"output_stride": 16}, {"output_stride": 16}, (64, 96)),
    ],
)
@pytest.mark.slow
def test_other_sizes_and_strides_are_timms(name: str, theirs: dict, asked: dict, size: tuple[int, int]) -> None:
    timm = import_timm()
    whole = timm.create_model(name, **theirs).eval()
    ours = zoo.create(name, weights=whole.state_dict(), source="timm", **asked).double()
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), whole.double()(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["resnet50", "convnext_tiny", "mobilenetv4_conv_small", "starnet_s1", "inceptionnext_tiny"]
)
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_strides_beyond_the_one_asked_for_become_dilations(name: str, stride: int) -> None:
    model = zoo.create(name, device="meta", output_stride=stride, features_only=True)
    plain = zoo.create(name, device="meta", features_only=True)
    expected = [min(reduction, stride) for reduction in plain.feature_info.reduction()]
    assert model.feature_info.reduction() == expected
    assert model.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        sizes = [tuple(y.shape[2:]) for y in model(torch.empty(1, 3, 64, 96, device="meta"))]
    assert sizes == [(64 // reduction, 96 // reduction) for reduction in expected]


def test_a_dilated_net_sees_at_its_old_positions_what_it_saw() -> None:
    model = zoo.create("mobilenetv4_nano", num_classes=0, global_pool="").eval()
    dense = zoo.create("mobilenetv4_nano", {"stem.stride": 2}, num_classes=0, global_pool="", output_stride=8).eval()
    strided = zoo.create("mobilenetv4_nano", {"stem.stride": 2}, num_classes=0, global_pool="").eval()
    for net in (dense, strided):
        net.load_state_dict(model.state_dict())
    x = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(dense(x)[:, :, ::2, ::2], strided(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("resnet50", 4, "expected 8, 16 or 32; found 4"),
        ("vit_tiny_patch16_224", 8, "found `conv_stack`, which cannot"),
        ("swin_tiny_patch4_window7_224", 8, "found `space_to_depth`, which cannot"),
        ("efficientvim_m1", 16, "`patch_merging`.*which cannot"),
    ],
)
def test_a_net_that_cannot_be_dilated_is_refused(name: str, stride: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        zoo.create(name, device="meta", output_stride=stride)


@pytest.mark.parametrize(
    "name", ["convformer_nano", "mobilenetv4_nano", "starnet_nano", "inceptionnext_nano", "efficientvim_nano"]
)
def test_levels_of_a_padded_picture_double_exactly(name: str) -> None:
    model = net(name, features_only=True)
    multiple, x = model.feature_info.multiple, torch.randn(1, model.spec.input.channels, 83, 111)
    filled = model.pad_to_multiple(x)
    assert multiple == max(model.feature_info.reduction())
    assert filled.shape[2:] == (-(-83 // multiple) * multiple, -(-111 // multiple) * multiple)
    assert torch.equal(filled[..., :83, :111], x) and filled.count_nonzero() == x.count_nonzero()
    for level, reduction in zip(model(filled), model.feature_info.reduction(), strict=True):
        assert level.shape[2:] == (filled.shape[2] // reduction, filled.shape[3] // reduction)


def test_labels_are_padded_with_the_value_that_a_loss_ignores() -> None:
    model = net("starnet_nano", features_only=True, out_indices=(0,))
    multiple, labels = model.feature_info.multiple, torch.zeros(2, 9, 8, dtype=torch.long)
    filled = model.pad_to_multiple(labels, 255)
    assert filled.dtype == torch.long and filled.shape[1] % multiple == 0
    assert (filled == 255).sum() == filled.numel() - labels.numel()
    assert model.pad_to_multiple(filled) is filled


def test_the_multiple_is_that_of_the_levels_that_are_chosen() -> None:
    model = net("starnet_nano")
    whole = model.feature_info.multiple
    assert model.pad_to_multiple(torch.zeros(1, 1, 1, 1)).shape[2] == whole
    model.prune_intermediate_layers([0])
    model.out_indices = (0,)
    assert model.pad_to_multiple(torch.zeros(1, 1, 1, 1)).shape[2] == model.feature_info.multiple < whole
