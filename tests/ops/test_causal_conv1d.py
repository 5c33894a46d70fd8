"""The short causal convolution: upstream's outputs, every backend against the reference in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import blocks.ops
from blocks.ops.causal_conv1d import causal_conv1d, conv_state
from tests.ops.backends import FAST, able

BORDERS = [0, 1, 3, 3, 20, 64]


def arguments(length: int, kernel_size: int = 4, states: int = 2) -> dict[str, Tensor]:
    """Inputs for 2 samples, or one with as many packed as there are states, of 37 channels."""
    draw = torch.Generator().manual_seed(length)
    shapes = {"x": (2 if states == 2 else 1, 37, length), "weight": (37, kernel_size), "bias": (37,)}
    shapes["initial_state"] = (states, 37, kernel_size - 1)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def conv(inputs: dict[str, Tensor], backend: str, act="silu", borders: Tensor | None = None) -> Tensor:
    with blocks.ops.backend(backend):
        return causal_conv1d(**inputs, act=act, cu_seqlens=borders)


def gradients(inputs: dict[str, Tensor], backend: str, act="silu", borders: Tensor | None = None) -> dict[str, Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    y = conv(leaves, backend, act, borders)
    loss = (y.double() * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)).sum()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def judge(inputs: dict[str, Tensor], backend: str, act="silu", borders=None, forward=1e-5, gradient=1e-4) -> None:
    exact = {name: value.double() for name, value in inputs.items()}
    right = conv(exact, "reference", act, borders)
    assert (conv(inputs, backend, act, borders) - right).norm() <= forward * right.norm()
    rights = gradients(exact, "reference", act, borders)
    for name, found in gradients(inputs, backend, act, borders).items():
        assert (found - rights[name]).norm() <= gradient * rights[name].norm(), name


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("name", ["silu", "state"])
def test_convolution_equals_upstream(golden, name, backend):
    case = golden(f"op_causal_conv1d_{name}")
    able(backend, case.dtype)
    state = case.inputs.get("initial_states")
    with blocks.ops.backend(backend):
        act = "silu" if name == "silu" else None
        case.check(causal_conv1d(case.inputs["x"], case.inputs["weight"], case.inputs.get("bias"), state, act))
    case.check(conv_state(case.inputs["x"], case.inputs["weight"].shape[1], state), "final_states")


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", [1, 2, 7, 64, 129, 1000])
def test_outputs_and_gradients_equal_the_reference(backend, length):
    able(backend)
    judge(arguments(length), backend)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("kernel_size", [1, 2, 9])
def test_any_kernel_without_activation(backend, kernel_size):
    able(backend)
    inputs = arguments(20, kernel_size)
    if kernel_size == 1:
        del inputs["initial_state"]  # it is empty
    judge(inputs, backend, act=None)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("missing", ["bias", "initial_state"])
def test_optional_arguments_may_be_left_out(backend, missing):
    able(backend)
    judge({name: value for name, value in arguments(20).items() if name != missing}, backend)


@pytest.mark.parametrize("backend", FAST)
def test_bfloat16(backend):
    able(backend)
    inputs = {name: value.bfloat16() for name, value in arguments(64).items()}
    assert conv(inputs, backend).dtype == torch.bfloat16
    judge(inputs, backend, forward=1e-2, gradient=1e-2)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_packed_sequences_equal_separate_ones(backend):
    able(backend)
    inputs, borders = arguments(64, states=5), torch.tensor(BORDERS, dtype=torch.int32)
    found = conv(inputs, backend, borders=borders)
    after = conv_state(inputs["x"], 4, inputs["initial_state"], borders)
    for index, (begin, end) in enumerate(itertools.pairwise(BORDERS)):
        state = inputs["initial_state"][index : index + 1]
        alone = inputs | {"x": inputs["x"][..., begin:end], "initial_state": state}
        torch.testing.assert_close(found[..., begin:end], conv(alone, "reference"), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(after[index : index + 1], conv_state(alone["x"], 4, state))


@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_packed_sequences_equal_those_of_the_reference(backend):
    able(backend)
    judge(arguments(64, states=5), backend, borders=torch.tensor(BORDERS))


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("lengths", [[20], [1] * 20, [3, 2, 15]], ids=str)
def test_whole_equals_any_split(backend, lengths):
    able(backend)
    inputs = arguments(20)
    whole, state, parts = conv(inputs, backend), inputs["initial_state"], []
    for part in inputs["x"].split(lengths, -1):
        parts.append(conv(inputs | {"x": part, "initial_state": state}, backend))
        state = conv_state(part, 4, state)
    torch.testing.assert_close(torch.cat(parts, -1), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_native_threads_share_the_rows(threads):
    able("native")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        judge(arguments(64, states=5), "native", borders=torch.tensor(BORDERS))
    finally:
        torch.set_num_threads(before)


def test_halves_of_a_linear_layer_are_taken_as_they_lie():
    able("native")
    wide = torch.randn(2, 20, 74)
    half = wide[..., 37:].transpose(1, 2)
    inputs = arguments(20)
    right = conv(inputs | {"x": half.contiguous()}, "eager")
    torch.testing.assert_close(conv(inputs | {"x": half}, "native"), right, rtol=1e-5, atol=1e-6)


def test_counters_and_compiled_graphs_see_the_convolution_of_torch():
    inputs = arguments(20)
    del inputs["initial_state"]
    with FlopCounterMode(display=False) as counter:
        conv(inputs, "eager")
        causal_conv1d(**inputs)
    assert counter.get_total_flops() == 2 * 2 * (2 * 37 * 4 * 23)
    compiled = torch.compile(lambda *tensors: F.relu(causal_conv1d(*tensors)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs.values()), F.relu(conv(inputs, "eager", act=None)))


def test_convolution_state_of_a_short_input_keeps_what_came_before():
    state = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert conv_state(torch.tensor([[[9.0]]]), 4, state).tolist() == [[[2.0, 3.0, 9.0]]]


def test_unfit_shape_names_argument_found_and_expected(refused):
    inputs = arguments(7)
    inputs["initial_state"] = inputs["initial_state"][..., :2]
    with refused("`initial_state` has shape (2, 37, 2); for x of shape (2, 37, 7) it should be (2, 37, 3)"):
        causal_conv1d(**inputs)


def test_packed_sequences_are_one_sample(refused):
    with refused("`cu_seqlens` packs sequences into one sample; x has 2"):
        causal_conv1d(**arguments(7), cu_seqlens=torch.tensor([0, 3, 7]))
