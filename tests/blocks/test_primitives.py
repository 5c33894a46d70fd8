"""Norms, activations, linears and convolution stacks: what is particular to each."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import blocks


def image(channels: int = 6) -> torch.Tensor:
    x = torch.randn(2, channels, 5, 3, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm", "batch_norm", "grn"])
@pytest.mark.parametrize("training", [False, True])
def test_norm_of_a_map_is_the_norm_of_its_tokens(name: str, training: bool) -> None:
    norm, x = blocks.get(name)(6).train(training), image()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 1.5)
    tokens = x.flatten(2).transpose(1, 2)
    torch.testing.assert_close(norm(x).flatten(2).transpose(1, 2), norm(tokens))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm", "batch_norm", "grn"])
def test_norm_keeps_channels_last_memory(name: str) -> None:
    assert blocks.get(name)(6)(image()).is_contiguous(memory_format=torch.channels_last)


def test_batch_norm_state_holds_no_counter() -> None:
    assert list(blocks.get("batch_norm")(4).state_dict()) == ["weight", "bias", "running_mean", "running_var"]


def test_batch_norm_follows_torch_through_training_steps() -> None:
    ours, theirs = blocks.get("batch_norm")(6), torch.nn.BatchNorm2d(6)
    for _ in range(3):
        torch.testing.assert_close(ours(image()), theirs(image()))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)


def test_a_batch_norm_may_begin_as_nothing() -> None:
    norm = blocks.get("batch_norm")(8, weight=0)
    assert not norm(torch.randn(2, 8, 3, 3)).any()


def test_the_second_norm_of_an_mlp_may_differ() -> None:
    mlp = blocks.get("mlp")(8, norm="batch_norm", out_norm={"block": "batch_norm", "weight": 0})
    assert (mlp.norm1.weight.sum(), mlp.norm2.weight.sum()) == (32, 0)


def test_grn_follows_its_formula() -> None:
    norm, x = blocks.get("grn")(6), image()
    torch.nn.init.constant_(norm.weight, 0.7)
    torch.nn.init.constant_(norm.bias, 0.2)
    response = x.pow(2).sum((2, 3), keepdim=True).sqrt()
    expected = 0.7 * x * response / (response.mean(1, keepdim=True) + 1e-6) + 0.2 + x
    torch.testing.assert_close(norm(x), expected)


def test_groups_that_do_not_divide_are_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="^4 groups do not divide 6 channels; the nearest number that does is 3$"):
        blocks.get("group_norm")(6, groups=4)


def test_norm_without_bias_has_a_scale_only() -> None:
    assert list(blocks.get("layer_norm")(4, bias=False).state_dict()) == ["weight"]


def test_star_relu_squares_scales_and_shifts() -> None:
    act = blocks.get("star_relu")(scale=0.5, bias=-1.0)
    assert act(torch.tensor([-3.0, 2.0])).tolist() == [-1.0, 1.0]
    assert {name: tuple(p.shape) for name, p in act.named_parameters()} == {"scale": (1,), "bias": (1,)}


def test_gelu_takes_its_approximation_from_the_spec() -> None:
    x = torch.linspace(-3, 3, 63)
    torch.testing.assert_close(blocks.get("gelu")(approximate="tanh")(x), F.gelu(x, approximate="tanh"))
    torch.testing.assert_close(blocks.get("gelu")(approximate="none")(x), F.gelu(x))


def test_dense_is_a_pointwise_convolution() -> None:
    dense, x = blocks.get("dense")(6, 4), image()
    torch.testing.assert_close(dense(x), F.conv2d(x, dense.weight[:, :, None, None], dense.bias))


def test_low_rank_beyond_the_widths_is_refused() -> None:
    with pytest.raises(ValueError, match="^rank 9 exceeds a map from 8 to 16 channels, whose rank is at most 8$"):
        blocks.get("low_rank")(8, 16, rank=9)


def test_stack_defaults_hold_for_entries_that_state_nothing() -> None:
    convs = [{"kernel_size": 3, "stride": 2, "width": 0.5}, {"kernel_size": 3, "norm": "none"}, {"kernel_size": 1}]
    stack = blocks.get("conv_stack")(3, 8, convs=convs, norm="batch_norm", act="relu", bias=False)
    assert [list(unit._modules) for unit in stack.children()] == [
        ["conv", "norm", "act"],
        ["conv", "act"],
        ["conv", "norm"],
    ]
    assert [unit.out_dim for unit in stack.children()] == [4, 8, 8]
    assert all(unit.conv.bias is None for unit in stack.children())


def test_own_activation_of_the_last_entry_wins_over_last_act() -> None:
    stack = blocks.get("conv_stack")(3, 8, convs=[{"kernel_size": 3, "act": "gelu"}], last_act="relu")
    assert next(stack.children()).act.block_id == "core/gelu@1"


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 15), (3, 2, 8), (4, 4, 3), (7, 4, 4), (2, 2, 7)])
def test_padding_keeps_the_size_but_patches_have_no_border(kernel: int, stride: int, size: int) -> None:
    assert blocks.get("conv")(3, 8, kernel_size=kernel, stride=stride)(torch.zeros(1, 3, 15, 15)).shape == (
        1,
        8,
        size,
        size,
    )


def test_two_statements_of_one_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^convs\.0 states both out_dim = 4 and width = 0\.5; state one of them$"):
        blocks.get("conv_stack")(3, 8, convs=[{"kernel_size": 3, "out_dim": 4, "width": 0.5}])


def test_a_stack_that_ends_in_another_width_is_refused() -> None:
    with pytest.raises(
        ValueError, match="^the last convolution leaves 4 channels, and 8 are asked for: leave its width out$"
    ):
        blocks.get("conv_stack")(3, 8, convs=[{"kernel_size": 3, "out_dim": 4}])


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (1, 1, 8), (1, 8), (0, 8, 2, 2)])
def test_a_batch_norm_names_what_one_value_lacks(shape: tuple[int, ...]) -> None:
    norm, count = blocks.get("batch_norm")(8).train(), int(shape[0] > 0)
    norm.path = "stages.1.norm"
    with pytest.raises(ValueError) as error:
        norm(torch.zeros(shape))
    assert str(error.value) == (
        f"stages.1.norm cannot standardise {count} values of a channel in training, and meets an input of shape {shape}; "
        "next: a batch of at least two, a larger input, or `.eval()`"
    )
    assert torch.equal(norm.running_mean, torch.zeros(8))
    assert norm.eval()(torch.zeros(shape)).shape == shape
