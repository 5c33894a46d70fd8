"""Train form and deploy form give the same numbers, with batch norms that have seen data and at awkward sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blocks
from blocks.conv.dilated_reparam_conv import BRANCHES, spread
from blocks.folding import fuse
from blocks.wiring.residual import Residual


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic away from its first value; variances positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if not tensor.is_floating_point():
                continue
            low, high = (0.5, 1.5) if name.endswith("running_var") else (-0.6, 0.8)
            tensor.uniform_(low, high, generator=generator)
    return module.eval()


def difference(module: nn.Module, x: torch.Tensor) -> float:
    """Relative error of the deploy form, in the dtype of `x`."""
    module = module.to(x.dtype)
    with torch.no_grad():
        expected, found = blocks.run(module, x), blocks.run(fuse(module), x)
    return float((found - expected).norm() / expected.norm())


def test_one_part_after_the_other_is_folded_in_float64_and_keeps_its_dtypes() -> None:
    """So a large model is not there three times."""
    seen: list[set[torch.dtype]] = []

    class Part(nn.Module):
        def __init__(self, dtype: torch.dtype):
            super().__init__()
            self.weight, self.rate = nn.Parameter(torch.ones(2, dtype=dtype)), nn.Parameter(torch.ones(2))
            self.register_buffer("count", torch.zeros(1, dtype=torch.long))

        def fuse(self) -> nn.Module:
            assert self.weight.dtype == self.rate.dtype == torch.float64
            self.both = nn.Parameter(self.weight * self.rate)
            seen.append({tensor.dtype for tensor in whole[0].parameters()})
            return self

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([Part(torch.bfloat16), Part(torch.bfloat16)])
            self.table = nn.Embedding(3, 2, dtype=torch.bfloat16)

        def __deepcopy__(self, memo: dict[int, object]) -> Whole:
            whole.append(Whole())
            return whole[0]

    whole: list[Whole] = []
    made = fuse(Whole())
    assert seen == [{torch.float64, torch.float32, torch.bfloat16}] * 2
    assert {
        name: str(value.dtype).removeprefix("torch.")
        for name, value in made.state_dict().items()
        if name[:6] != "parts."
    } == {"table.weight": "bfloat16"}
    assert [value.dtype for value in made.get_submodule("parts.0").state_dict().values()] == [
        torch.bfloat16, torch.float32, torch.float32, torch.int64,
    ]  # fmt: skip


CASES = {
    "dilated": lambda: blocks.get("dilated_reparam_conv")(8, kernel_size=7),
    "conv_norm_act": lambda: blocks.get("conv_norm_act")(8, bias=False, norm="batch_norm", act="relu"),
    "norm_first": lambda: Residual(8, parts=[["batch_norm", {"block": "conv", "kernel_size": 1}]]),
    "grouped": lambda: Residual(8, parts=["batch_norm", {"block": "conv", "kernel_size": 1, "groups": 4}]),
    "norm_before_a_border": lambda: Residual(8, parts=["batch_norm", {"block": "conv", "kernel_size": 3}]),
    "separable": lambda: Residual(8, parts=["batch_norm", "separable_conv", "batch_norm"], scale=0.5),
    "inception": lambda: Residual(8, parts=["inception_dwconv", "batch_norm", "mlp"], scale=1e-6),
    "mlp_norms": lambda: blocks.get("mlp")(8, norm="batch_norm", bias=False),
    "gated_mlp": lambda: Residual(8, parts=["batch_norm", "gated_mlp", "batch_norm"], scale=0.1),
    "low_rank": lambda: blocks.get("mlp")(8, linear={"block": "low_rank", "rank": 3}, norm="batch_norm"),
    "unireplknet": lambda: Residual(
        8,
        parts=[
            {"block": "dilated_reparam_conv", "kernel_size": 5},
            "batch_norm",
            {"block": "mlp", "pre": "squeeze_excite", "mid": "grn", "post": "batch_norm"},
        ],
        scale=1e-6,
    ),
    "skip_into_kernel": lambda: Residual(8, parts=[{"block": "depthwise_conv", "norm": "batch_norm"}], skip_scale=1.0),
    "skip_around_a_wide_kernel": lambda: Residual(8, parts=[{"block": "depthwise_conv", "kernel_size": 5, "dilation": 2}]),
    "skip_around_a_dense_kernel": lambda: Residual(8, parts=["conv"]),
    "patch_merging": lambda: blocks.get("patch_merging")(8, 16),
    "cascaded": lambda: blocks.get("cascaded_group_attention")(8, num_heads=2, window=4, kernel_sizes=[3, 5]),
    "gated": lambda: blocks.get("gated")(8, parts=[{"block": "depthwise_conv", "norm": "batch_norm"}]),
    "parallel": lambda: blocks.get("parallel")(8, parts=["identity", ["conv", "batch_norm"], "none"], merge="concat"),
    "identity": lambda: Residual(8, parts=["identity"], scale=0.3),
    "linear_head": lambda: blocks.get("linear_head")(8, num_classes=5, norm="batch_norm"),
    "linear_head_norm_first": lambda: blocks.get("linear_head")(8, num_classes=5, norm="batch_norm", norm_first=True),
    "linear_head_max": lambda: blocks.get("linear_head")(
        8, num_classes=5, pool="max", norm="batch_norm", norm_first=True
    ),
    "mlp_head": lambda: blocks.get("mlp_head")(8, num_classes=5, pre_norm="batch_norm", norm="batch_norm"),
    "conv_stack": lambda: blocks.get("conv_stack")(
        8, 16, norm="batch_norm", act="relu",
        convs=[{"kernel_size": 3, "stride": 2, "width": 0.5}, {"kernel_size": 2, "stride": 2}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_deploy_form_equals_train_form(case: str, dtype: torch.dtype, bound: float) -> None:
    x = (
        torch.randn(2, 8, 9, 7, generator=torch.Generator().manual_seed(1))
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
    )
    assert difference(randomised(CASES[case]()), x) <= bound


@pytest.mark.parametrize("kernel_size", BRANCHES)
def test_dilated_branches_fold_into_one_kernel_that_is_wider_than_the_image(kernel_size: int) -> None:
    module = randomised(blocks.get("dilated_reparam_conv")(3, kernel_size=kernel_size))
    assert difference(module, torch.randn(1, 3, 4, 5, dtype=torch.float64)) <= 1e-12
    assert {name: tuple(p.shape) for name, p in fuse(module).named_parameters()} == {
        "conv.weight": (3, 1, kernel_size, kernel_size),
        "conv.bias": (3,),
    }


@pytest.mark.parametrize("kernel_size", BRANCHES)
def test_no_branch_reaches_further_than_the_large_kernel(kernel_size: int) -> None:
    assert all(dilation * (size - 1) + 1 <= kernel_size for size, dilation in BRANCHES[kernel_size])


def test_spread_puts_zeros_between_the_taps() -> None:
    conv = nn.Conv2d(1, 1, 3, dilation=2, bias=False)
    nn.init.ones_(conv.weight)
    assert spread(conv, 7)[0, 0].nonzero().tolist() == [[row, column] for row in (1, 3, 5) for column in (1, 3, 5)]


def test_unireplknet_branch_leaves_one_convolution_and_no_scale() -> None:
    fused = fuse(CASES["unireplknet"]())
    assert sorted(name for name, _ in fused.named_parameters()) == [
        "0.conv.bias", "0.conv.weight",
        "2.fc1.bias", "2.fc1.weight", "2.fc2.bias", "2.fc2.weight", "2.mid.weight",
        "2.pre.down.bias", "2.pre.down.weight", "2.pre.up.bias", "2.pre.up.weight",
    ]  # fmt: skip


def test_a_norm_before_zero_padding_stays() -> None:
    assert "0.running_mean" in fuse(CASES["norm_before_a_border"]()).state_dict()


def test_a_norm_under_a_maximum_stays() -> None:
    assert "norm.running_mean" in fuse(CASES["linear_head_max"]()).state_dict()


def test_identity_leaves_no_module() -> None:
    assert list(fuse(CASES["identity"]()).children()) == []
