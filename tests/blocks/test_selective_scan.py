"""The selective scan: against upstream's outputs, against its own reference, as a torch op, and what it counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import blocks.ops
from blocks.errors import BlockError
from blocks.ops.causal_conv1d import causal_conv1d, conv_state
from blocks.ops.dispatch import implementation
from blocks.ops.selective_scan import scan_op, selective_scan

BACKENDS = ["reference", "eager"]
LENGTHS = [1, 2, 7, 64, 129]
NAMES = ("u", "delta", "A", "B", "C", "initial_state")


def arguments(
    length: int, dtype: torch.dtype = torch.float64, groups: int = 2, grad: bool = False
) -> dict[str, Tensor]:
    """Inputs for 3 samples and 6 channels of state 5; A reaches -16, where careless forms lose their digits."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    values = {
        "u": normal(3, 6, length),
        "delta": normal(3, 6, length).exp() / 10,
        "A": -torch.linspace(1, 16, 30, dtype=torch.float64).view(6, 5),
        "B": normal(3, groups, 5, length),
        "C": normal(3, groups, 5, length),
        "initial_state": normal(3, 6, 5),
    }
    return {name: value.to(dtype).requires_grad_(grad) for name, value in values.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["bare", "full", "groups"])
def test_scan_equals_upstream(golden, name, backend):
    case = golden(f"op_selective_scan_{name}")
    with blocks.ops.backend(backend):
        y, state = selective_scan(**case.inputs, **case.about["arguments"], return_final_state=True)
    case.check(y)
    case.check(state, "final_state")


@pytest.mark.parametrize("length", LENGTHS)
def test_eager_equals_reference_at_any_length(length):
    inputs = arguments(length)
    with blocks.ops.backend("reference"):
        expected = selective_scan(**inputs, return_final_state=True)
    torch.testing.assert_close(selective_scan(**inputs, return_final_state=True), expected, rtol=1e-12, atol=1e-12)


def gradients(inputs: dict[str, Tensor]) -> list[Tensor]:
    """Of a loss that weighs every output and the last state."""
    y, state = selective_scan(**inputs, return_final_state=True)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return list(torch.autograd.grad((y * weights).sum() + state.square().sum(), [inputs[name] for name in NAMES]))


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=["float64", "float32"])
@pytest.mark.parametrize("length", LENGTHS)
def test_eager_gradients_equal_those_of_the_reference(length, dtype, bound):
    with blocks.ops.backend("reference"):
        expected = gradients(arguments(length, grad=True))
    for name, found, right in zip(NAMES, gradients(arguments(length, dtype, grad=True)), expected, strict=True):
        assert (found.double() - right).norm() <= bound * right.norm(), name


def test_blocks_and_slices_of_samples_leave_no_seam(monkeypatch):
    monkeypatch.setattr("blocks.ops.selective_scan.BLOCK_NUMBERS", 500)  # 1 sample at a time, 16 steps a block
    with blocks.ops.backend("reference"):
        expected = gradients(arguments(37, grad=True))
    torch.testing.assert_close(gradients(arguments(37, grad=True)), expected, rtol=1e-12, atol=1e-12)


def test_gradient_without_initial_state_and_of_the_output_alone():
    inputs = arguments(9, grad=True)
    del inputs["initial_state"]
    with blocks.ops.backend("reference"):
        expected = torch.autograd.grad(selective_scan(**inputs).sum(), list(inputs.values()))
    torch.testing.assert_close(torch.autograd.grad(selective_scan(**inputs).sum(), list(inputs.values())), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("border", [1, 7, 64])
def test_final_state_continues_a_scan(backend, border):
    inputs = arguments(80)
    A, state = inputs.pop("A"), inputs.pop("initial_state")
    with blocks.ops.backend(backend):
        whole = selective_scan(**inputs, A=A, initial_state=state)
        parts = []
        for part in (slice(None, border), slice(border, None)):
            along = {name: value[..., part] for name, value in inputs.items()}
            y, state = selective_scan(**along, A=A, initial_state=state, return_final_state=True)
            parts.append(y)
    torch.testing.assert_close(torch.cat(parts, -1), whole, rtol=1e-12, atol=1e-12)


def test_bfloat16_streams_are_scanned_in_float32():
    inputs = arguments(64, torch.bfloat16)
    y, state = selective_scan(**inputs, return_final_state=True)
    exact = selective_scan(**{name: value.double() for name, value in inputs.items()})
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert (y - exact).norm() <= 2**-8 * exact.norm()


def test_scan_on_meta_gives_shapes_and_counts_nine_per_state_update():
    inputs = {name: value.to("meta") for name, value in arguments(4000, torch.float32).items()}
    with FlopCounterMode(display=False) as counter:
        y, state = selective_scan(**inputs, return_final_state=True)
    assert y.shape == (3, 6, 4000) and state.shape == (3, 6, 5)
    assert counter.get_total_flops() == 9 * 3 * 4000 * 6 * 5


def test_backward_pass_counts_twice_the_forward_pass():
    inputs = arguments(20, torch.float32, grad=True)
    with FlopCounterMode(display=False) as counter:
        selective_scan(**inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 9 * 3 * 20 * 6 * 5


@pytest.mark.parametrize("keep", [False, True])
def test_scan_is_a_sound_torch_op(keep):
    sample = (*arguments(20, torch.float32, grad=keep).values(), keep)
    torch.library.opcheck(scan_op, sample, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


def test_unfit_shape_names_argument_found_and_expected(refused):
    inputs = arguments(7)
    inputs["B"] = inputs["B"][..., :6]
    with refused("`B` has shape (3, 2, 5, 6); for u of shape (3, 6, 7) it should be (3, 2, 5, 7)"):
        selective_scan(**inputs)


def test_groups_divide_the_channels(refused):
    with refused("4 groups do not divide 6 channels"):
        selective_scan(**arguments(7, groups=4))


def test_unknown_backend_names_the_nearest():
    with pytest.raises(BlockError) as caught, blocks.ops.backend("egaer"):
        pass
    assert caught.value.problems[0].sentence() == "expected `eager` or `reference`; found `egaer`; nearest `eager`"


def test_forced_backend_ends_with_its_block_even_after_an_error():
    before = implementation("selective_scan")
    with pytest.raises(KeyError), blocks.ops.backend("reference"):
        assert implementation("selective_scan") is not before
        raise KeyError
    assert implementation("selective_scan") is before


@pytest.mark.parametrize("name", ["silu", "state"])
def test_causal_convolution_equals_upstream(golden, name):
    case = golden(f"op_causal_conv1d_{name}")
    state = case.inputs.get("initial_states")
    y = causal_conv1d(case.inputs["x"], case.inputs["weight"], case.inputs.get("bias"), state)
    case.check(torch.nn.functional.silu(y) if name == "silu" else y)
    case.check(conv_state(case.inputs["x"], case.inputs["weight"].shape[1], state), "final_states")


def test_convolution_state_of_a_short_input_keeps_what_came_before():
    state = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert conv_state(torch.tensor([[[9.0]]]), 4, state).tolist() == [[[2.0, 3.0, 9.0]]]
