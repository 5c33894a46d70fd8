"""The long convolution: upstream's outputs, Hyena made of our ops, and the reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import blocks.ops
from blocks.ops.causal_conv1d import causal_conv1d
from blocks.ops.flops import kind_of
from blocks.ops.long_conv import long_conv, long_conv_op, smooth

NAMES = ("x", "kernel", "bias", "kernel_back")


def arguments(length: int, taps: int | None = None, per_sample: bool = False, both: bool = True) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(length)
    kernel = (2, 5, taps or length) if per_sample else (5, taps or length)
    shapes = {"x": (2, 5, length), "kernel": kernel, "bias": (5,)} | ({"kernel_back": kernel} if both else {})
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def conv(inputs: dict[str, Tensor], backend: str) -> Tensor:
    with blocks.ops.backend(backend):
        return long_conv(**inputs)


def gradients(inputs: dict[str, Tensor], backend: str) -> list[Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    y = conv(leaves, backend)
    loss = (y.double() * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)).sum()
    return list(torch.autograd.grad(loss, list(leaves.values())))


def judge(inputs: dict[str, Tensor], forward: float = 1e-5, gradient: float = 1e-4) -> None:
    exact = {name: value.double() for name, value in inputs.items()}
    right = conv(exact, "reference")
    assert (conv(inputs, "eager") - right).norm() <= forward * right.norm()
    for name, found, right in zip(inputs, gradients(inputs, "eager"), gradients(exact, "reference"), strict=True):
        assert (found - right).norm() <= gradient * right.norm(), name


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("name", ["", "_gelu"])
def test_convolution_equals_upstream(golden, name, backend):
    case = golden(f"op_fft_long_conv{name}")
    with blocks.ops.backend(backend):
        case.check(long_conv(case.inputs["u"], case.inputs["k"], case.inputs["D"], act="gelu" if name else None))


@pytest.mark.parametrize("name", ["layer_hyena", "layer_hyena_order3_short"])
def test_hyena_of_our_convolutions_equals_upstream(golden, name):
    """y = x_0 * conv(h_1, x_1 * ...), all factors from one short convolution; the filter is upstream's output."""
    case = golden(name)
    dim, length = case.inputs["u"].shape[2], case.inputs["u"].shape[1]
    inner = F.linear(case.inputs["u"], case.state["in_proj.weight"], case.state["in_proj.bias"]).transpose(1, 2)
    short = causal_conv1d(inner, case.state["short_filter.weight"], case.state["short_filter.bias"])
    *gates, v = short.split(dim, 1)
    filters = case.data["filter.f64" if case.dtype == torch.float64 else "filter"][0]
    filters = filters.t().reshape(-1, dim, length)
    biases = case.state["filter_fn.bias"].reshape(-1, dim)
    for gate, h, bias in zip(reversed(gates[1:]), filters, biases, strict=True):
        v = long_conv(v * gate, h, bias)
    y = (v * gates[0]).transpose(1, 2)
    case.check(F.linear(y, case.state["out_proj.weight"], case.state["out_proj.bias"]))


@pytest.mark.parametrize("length", [1, 2, 7, 64, 129, 1000])
def test_outputs_and_gradients_equal_the_reference(length):
    judge(arguments(length))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("taps", [1, 6])
def test_short_kernels_and_kernels_of_each_sample(taps, per_sample, both):
    judge(arguments(20, taps, per_sample, both))


def test_bfloat16_is_transformed_in_float32():
    inputs = {name: value.bfloat16() for name, value in arguments(64).items()}
    assert conv(inputs, "eager").dtype == torch.bfloat16
    judge(inputs, 1e-2, 1e-2)


def test_causal_convolution_never_looks_ahead():
    inputs = arguments(30, both=False)
    before = conv(inputs, "eager")
    inputs["x"][..., 17:] += 100
    torch.testing.assert_close(conv(inputs, "eager")[..., :17], before[..., :17], rtol=1e-3, atol=1e-3)


def test_counted_as_transforms_on_meta():
    inputs = {name: value.to("meta") for name, value in arguments(513, both=False).items()}
    with FlopCounterMode(display=False) as counter:
        assert long_conv(**inputs).shape == (2, 5, 513)
    ((op, flops),) = counter.get_flop_counts()["Global"].items()
    assert kind_of(op) == "fft" and flops == round(2.5 * 1025 * 10.0014) * (2 * 10 + 5) + 6 * 513 * 10


def test_long_convolution_is_a_sound_torch_op():
    x, kernel, _, back = (value.requires_grad_() for value in arguments(9).values())
    torch.library.opcheck(long_conv_op, (x, kernel, back))
    torch.library.opcheck(long_conv_op, (x, kernel, None))


def test_compiled_and_exported_it_is_one_op():
    inputs = arguments(20)
    compiled = torch.compile(lambda *a: F.relu(long_conv(*a)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs.values()), F.relu(long_conv(*inputs.values())))

    class Conv(torch.nn.Module):
        def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
            return long_conv(x, kernel)

    program = torch.export.export(Conv(), (inputs["x"], inputs["kernel"]))
    ops = [str(node.target) for node in program.graph.nodes if "zoo" in str(node.target)]
    assert ops == ["zoo.long_conv.default"]


def test_sizes_of_transforms_are_smooth_even_and_no_smaller():
    assert [smooth(least) for least in (1, 2, 7, 11, 257, 1999)] == [2, 2, 8, 12, 270, 2000]


def test_kernel_longer_than_the_sequence_is_refused(refused):
    with refused(
        "`kernel` has shape (5, 9); for x of shape (2, 5, 8) it should be (5, K) or (2, 5, K) with K from 1 to 8"
    ):
        long_conv(torch.zeros(2, 5, 8), torch.zeros(5, 9))
