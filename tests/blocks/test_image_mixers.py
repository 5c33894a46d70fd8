"""Convolutional, pooling and parameter-free mixers, MLPs, wirings and heads: what is particular to each."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import blocks
from blocks.chain import run
from blocks.registry.errors import SizeError
from blocks.wiring.drop_path import drop_path


def refused(message: str):
    """The whole text of a ValueError."""
    import re

    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def test_pooling_counts_only_neighbours_inside_the_map() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert blocks.get("pooling")()(x)[0, 0].tolist() == [[2.0, 1.5, 1.0], [0.5, 0.0, -0.5], [-1.0, -1.5, -2.0]]


def test_pooling_of_a_constant_map_is_zero_up_to_the_border() -> None:
    assert blocks.get("pooling")(kernel_size=5)(torch.full((1, 2, 1, 7), 3.0)).abs().max() == 0


def test_inception_passes_the_first_channels_untouched() -> None:
    mixer, x = blocks.get("inception_dwconv")(16), torch.randn(1, 16, 5, 5)
    assert torch.equal(mixer(x)[:, :10], x[:, :10])
    torch.testing.assert_close(
        mixer(x)[:, 14:], F.conv2d(x[:, 14:], mixer.column.weight, mixer.column.bias, padding=(5, 0), groups=2)
    )


def test_inception_without_channels_for_its_branches_is_refused() -> None:
    with refused("ratio 0.125 of 4 channels gives three branches 0 channels each; take a ratio from 0.25 to 0.333"):
        blocks.get("inception_dwconv")(4)


@pytest.mark.parametrize("name", ["pooling", "separable_conv"])
def test_a_kernel_without_centre_is_refused(name: str) -> None:
    dims = () if name == "pooling" else (8,)
    with refused("a kernel of 4 has no centre; the nearest that has is 5"):
        blocks.get(name)(*dims, kernel_size=4)


def test_a_large_kernel_that_has_no_table_is_refused_with_those_that_have() -> None:
    with pytest.raises(blocks.BlockError, match="expected one of 5, 7, 9, 11, 13, 15, 17; found 19"):
        blocks.get("dilated_reparam_conv")(8, kernel_size=19)


def test_groups_of_a_convolution_divide_both_widths() -> None:
    with refused("4 groups do not divide 6 channels; the nearest number that does is 3"):
        blocks.get("conv")(8, 6, groups=4)


def test_random_mixing_averages_positions_and_is_never_trained() -> None:
    mixer = blocks.get("random_mixing")(input_size=(3, 5))
    torch.testing.assert_close(mixer.weight.sum(-1), torch.ones(15))
    assert not mixer.weight.requires_grad and list(mixer.state_dict()) == ["weight"]


def test_random_mixing_names_both_lengths() -> None:
    message = "this random_mixing was built for 15 positions and meets 16; build the model with that input size"
    with refused(message):
        blocks.get("random_mixing")(input_size=(3, 5))(torch.zeros(1, 16, 4))


def test_squeeze_excite_gates_by_the_mean() -> None:
    gate, x = blocks.get("squeeze_excite")(8), torch.randn(2, 8, 3, 5)
    summary = x.mean((2, 3))
    expected = torch.sigmoid(gate.up(F.relu(gate.down(summary))))
    torch.testing.assert_close(gate(x), x * expected[:, :, None, None])
    assert gate.down.weight.shape == (2, 8)


def test_mlp_keeps_its_slots_in_order() -> None:
    mlp = blocks.get("mlp")(8, pre="squeeze_excite", mid="grn", post="batch_norm", norm="layer_norm")
    assert list(mlp._modules) == ["pre", "fc1", "norm1", "act", "mid", "fc2", "norm2", "post"]


def test_empty_slots_own_no_module() -> None:
    assert list(blocks.get("mlp")(8, act="none")._modules) == ["fc1", "fc2"]


def test_hidden_dim_wins_over_ratio() -> None:
    assert blocks.get("mlp")(8, hidden_dim=5).fc1.out_dim == 5


def test_gated_mlp_follows_its_formula() -> None:
    mlp, x = blocks.get("gated_mlp")(8), torch.randn(2, 3, 8)
    expected = (F.silu(x @ mlp.gate.weight.T) * (x @ mlp.up.weight.T)) @ mlp.down.weight.T
    torch.testing.assert_close(mlp(x), expected)


def test_gated_conv_follows_its_formula_with_and_without_gradients() -> None:
    mixer, x = blocks.get("gated_conv")(8, ratio=2, kernel_size=3), torch.randn(2, 8, 5, 6)
    before = x.clone()
    gate, passed, spatial = (mixer.fc1(x)).split([16, 8, 8], 1)
    expected = mixer.fc2(F.gelu(gate) * torch.cat([passed, mixer.conv(spatial)], 1))
    torch.testing.assert_close(mixer(x), expected)
    with torch.no_grad():  # where the gate is written over
        torch.testing.assert_close(mixer(x), expected)
    assert torch.equal(x, before)


def test_spatial_gating_mlp_follows_its_formula() -> None:
    mixer, x = blocks.get("spatial_gating_mlp")(8, ratio=2, input_size=(3, 2)), torch.randn(3, 6, 8)
    torch.nn.init.normal_(mixer.gate.proj.weight)
    u, v = F.gelu(mixer.fc1(x)).chunk(2, -1)
    gate = mixer.gate.norm(v).transpose(1, 2) @ mixer.gate.proj.weight.T + mixer.gate.proj.bias
    torch.testing.assert_close(mixer(x), mixer.fc2(u * gate.transpose(1, 2)))


def test_residual_is_the_sum_of_skip_and_scaled_branch() -> None:
    layer, x = blocks.get("residual")(8, parts=["mlp"], scale=0.5, skip_scale=2.0), torch.randn(2, 8, 3, 5)
    torch.testing.assert_close(layer(x), 2 * x + 0.5 * layer.get_submodule("0")(x))


def test_part_paths_are_positions_counting_none_or_names() -> None:
    layer = blocks.get("residual")(
        8, parts=["none", "layer_norm", {"block": "mlp", "name": "ffn"}, ["relu", "none", "dense"]]
    )
    assert [name for name, _ in layer.named_parameters()] == [
        "1.weight", "1.bias", "ffn.fc1.weight", "ffn.fc1.bias", "ffn.fc2.weight", "ffn.fc2.bias",
        "3.2.weight", "3.2.bias",
    ]  # fmt: skip


def test_a_part_cannot_take_a_name_of_its_wiring() -> None:
    with refused("no part can be called `scale` here: the wiring has a member of that name"):
        blocks.get("residual")(8, parts=[{"block": "mlp", "name": "scale"}])


def test_two_parts_of_one_name_are_refused() -> None:
    with refused("two parts are called `a`; give each another name"):
        blocks.get("residual")(8, parts=[{"block": "mlp", "name": "a"}, {"block": "mlp", "name": "a"}])


@pytest.mark.parametrize(("name", "why"), [("residual", "x + f(x) needs"), ("gated", "the gate needs")])
def test_parts_that_change_the_width_are_refused(name: str, why: str) -> None:
    with refused(f"the parts lead from 8 to 12 channels, and {why} the same; give the last one out_dim = 8"):
        blocks.get(name)(8, parts=[{"block": "conv", "out_dim": 12}])


def test_the_last_part_returns_to_the_width() -> None:
    layer = blocks.get("residual")(8, parts=[{"block": "conv", "out_dim": 12}, "relu", "conv"])
    assert layer(torch.zeros(1, 8, 4, 4)).shape == (1, 8, 4, 4)


def test_a_shortcut_stands_where_the_skip_would() -> None:
    shortcut = {"block": "conv", "kernel_size": 1, "stride": 2}
    layer = blocks.get("residual")(8, out_dim=12, parts=[{"block": "conv", "stride": 2}], shortcut=shortcut)
    x = torch.randn(2, 8, 6, 6)
    assert layer(x).shape == (2, 12, 3, 3)
    torch.testing.assert_close(layer(x), layer.shortcut(x) + layer.get_submodule("0")(x))


def test_a_shortcut_of_another_width_than_the_parts_is_refused() -> None:
    with refused("the parts lead from 8 to 16 channels, and the shortcut to 12; give the last one out_dim = 12"):
        blocks.get("residual")(8, out_dim=12, parts=[{"block": "conv", "out_dim": 16}], shortcut="conv")


@pytest.mark.parametrize(("kernel", "size"), [(2, 3), (3, 4)])
def test_max_pool_halves_the_map(kernel: int, size: int) -> None:
    x = torch.randn(1, 2, 7, 7)
    y = blocks.get("max_pool")(kernel_size=kernel)(x)
    assert y.shape == (1, 2, size, size)
    assert y[0, 0, 0, 0] == (x[0, 0, :2, :2]).max()


def test_gated_interpolates_between_skip_and_branch() -> None:
    layer, x = blocks.get("gated")(8, parts=["mlp"], alpha=1.0), torch.randn(2, 5, 8)
    share = torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(layer(x), (1 - share) * x + share * layer.get_submodule("0")(x))


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (2, 5, 8)])
def test_parallel_concat_lines_up_channels(shape: tuple[int, ...]) -> None:
    layer, x = (
        blocks.get("parallel")(8, parts=["none", {"block": "dense", "out_dim": 3}], merge="concat"),
        torch.randn(shape),
    )
    y = layer(x)
    assert layer.out_dim == blocks.chain.channels(y) == 11
    torch.testing.assert_close(y.narrow(1 if len(shape) == 4 else -1, 0, 8), x)


def test_branches_of_unlike_widths_cannot_be_summed() -> None:
    with refused("branches of [8, 3] channels cannot be summed; give them one width, or merge by concat"):
        blocks.get("parallel")(8, parts=["identity", {"block": "dense", "out_dim": 3}])


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    y = drop_path(torch.ones(4000, 2, 3), 0.25, training=True)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(y, y[:, :1, :1].expand_as(y)) and abs(y.mean() - 1) < 0.05


def test_drop_path_rests_outside_of_training() -> None:
    y = torch.randn(3, 2)
    assert drop_path(y, 0.5, training=False) is y


@pytest.mark.parametrize("name", ["linear_head", "mlp_head"])
def test_head_reads_maps_and_tokens_alike(name: str) -> None:
    head, x = blocks.get(name)(8, num_classes=5), torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(head(x), head(x.flatten(2).transpose(1, 2)))


@pytest.mark.parametrize(("name", "width"), [("linear_head", 8), ("mlp_head", 32)])
def test_head_without_classes_returns_its_features(name: str, width: int) -> None:
    x = torch.randn(2, 8, 3, 4)
    bare = blocks.get(name)(8, num_classes=0)
    assert bare.classifier is None and bare(x).shape == (2, width) == (2, bare.num_features)
    assert blocks.get(name)(8, num_classes=5)(x, pre_logits=True).shape == (2, width)


@pytest.mark.parametrize(("pool", "value"), [("avg", 1.5), ("max", 3.0), ("avgmax", 2.25)])
def test_head_pools_as_it_is_told(pool: str, value: float) -> None:
    x = torch.arange(4.0).view(1, 1, 2, 2)
    assert blocks.get("linear_head")(1, num_classes=0, pool=pool)(x).item() == value


def test_norm_stands_before_or_after_the_pooling() -> None:
    x = torch.randn(2, 8, 3, 4)
    after, before = (
        blocks.get("linear_head")(8, num_classes=0, norm="layer_norm", norm_first=first) for first in (False, True)
    )
    torch.testing.assert_close(after(x), F.layer_norm(x.mean((2, 3)), (8,), eps=1e-6))
    torch.testing.assert_close(before(x), F.layer_norm(x.permute(0, 2, 3, 1), (8,), eps=1e-6).mean((1, 2)))


def test_gelu_is_written_over_the_hidden_map_only_without_gradients() -> None:
    mlp, x = blocks.get("mlp")(8), torch.randn(2, 5, 8)
    hidden: list[torch.Tensor] = []
    mlp.fc1.register_forward_hook(lambda *call: hidden.append(call[-1]))
    expected = mlp(x)
    assert torch.equal(hidden[0], mlp.fc1(x))
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected)
    assert torch.equal(hidden[-1], F.gelu(hidden[0]))


def test_random_mixing_takes_no_map_of_as_many_cells_in_other_rows() -> None:
    mixer = blocks.get("random_mixing")(input_size=(4, 4))
    assert run(mixer, torch.randn(1, 8, 4, 4)).shape == (1, 8, 4, 4)
    with pytest.raises(SizeError, match=r"this random_mixing was built for \(4, 4\) positions and meets \(8, 2\)"):
        run(mixer, torch.randn(1, 8, 8, 2))
