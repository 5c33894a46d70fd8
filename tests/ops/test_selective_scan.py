"""The selective scan: every backend against upstream's outputs and against the reference in float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import blocks.ops
from blocks.ops.selective_scan import selective_scan
from blocks.ops.selective_scan.scan import scan_op
from tests.ops.backends import FAST, able

LENGTHS = [1, 2, 7, 64, 129, 1000]
FORWARD, GRADIENT, HALF = 1e-5, 1e-4, 1e-2
"""Bounds on |found - exact| / |exact|: float32 outputs, float32 gradients, both in bfloat16."""


def arguments(length: int, dtype: torch.dtype = torch.float32, groups: int = 2, states: int = 3) -> dict[str, Tensor]:
    """Every input of a scan of 3 samples and 38 channels (19 a group, no multiple of a vector's width) of state 5.

    A reaches -16, where careless forms lose their digits. Values are those of `dtype`, exact in float64 too.
    """
    draw = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    samples = 1 if states != 3 else 3
    values = {
        "u": normal(samples, 38, length),
        "delta": normal(samples, 38, length) - 2,
        "A": -torch.linspace(1, 16, 190, dtype=torch.float64).view(38, 5),
        "B": normal(samples, groups, 5, length),
        "C": normal(samples, groups, 5, length),
        "D": normal(38),
        "z": normal(samples, 38, length),
        "delta_bias": normal(38) / 2,
        "initial_state": normal(states, 38, 5),
    }
    return {name: value.to(dtype) for name, value in values.items()}


def scan(inputs: dict[str, Tensor], backend: str, **options: Any) -> tuple[Tensor, Tensor]:
    with blocks.ops.backend(backend):
        return selective_scan(**inputs, delta_softplus=True, return_final_state=True, **options)  # type: ignore[return-value]


def exact(inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    return scan({name: value.double() for name, value in inputs.items()}, "reference", **options)


def gradients(inputs: dict[str, Tensor], backend: str, **options: Any) -> dict[str, Tensor]:
    """The gradients of a loss that weighs every output and the last state."""
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    y, state = scan(leaves, backend, **options)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device).view(y.shape)
    loss = (y.double() * weights).sum() + state.double().square().sum()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def error(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right.double()).norm() / right.double().norm())


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("name", ["bare", "full", "groups"])
def test_scan_equals_upstream(golden, name, backend):
    case = golden(f"op_selective_scan_{name}")
    able(backend, case.dtype)
    with blocks.ops.backend(backend):
        y, state = selective_scan(**case.inputs, **case.about["arguments"], return_final_state=True)
    case.check(y)
    case.check(state, "final_state")


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", LENGTHS)
def test_outputs_and_last_state_equal_the_reference(backend, length):
    able(backend)
    inputs = arguments(length)
    for found, right in zip(scan(inputs, backend), exact(inputs), strict=True):
        assert error(found, right) <= FORWARD


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("length", LENGTHS)
def test_all_gradients_equal_those_of_the_reference(backend, length):
    able(backend)
    inputs = arguments(length)
    right = gradients({name: value.double() for name, value in inputs.items()}, "reference")
    for name, found in gradients(inputs, backend).items():
        assert error(found, right[name]) <= GRADIENT, name


@pytest.mark.parametrize("backend", FAST)
def test_bfloat16_streams_are_scanned_in_float32(backend):
    able(backend)
    inputs = arguments(129, torch.bfloat16)
    y, state = scan(inputs, backend)
    right_y, right_state = exact(inputs)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert error(y, right_y) <= HALF and error(state, right_state) <= FORWARD
    right = gradients({name: value.double() for name, value in inputs.items()}, "reference")
    for name, found in gradients(inputs, backend).items():
        assert found.dtype == torch.bfloat16 and error(found, right[name]) <= HALF, name


@pytest.mark.parametrize("length", [1, 33])
def test_eager_in_float64_equals_the_reference_to_its_last_digits(length):
    inputs = arguments(length, torch.float64)
    torch.testing.assert_close(scan(inputs, "eager"), exact(inputs), rtol=1e-12, atol=1e-12)
    right = gradients(inputs, "reference")
    for name, found in gradients(inputs, "eager").items():
        torch.testing.assert_close(found, right[name], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("missing", ["D", "z", "delta_bias", "initial_state"])
def test_optional_arguments_may_be_left_out(backend, missing):
    able(backend)
    inputs = {name: value for name, value in arguments(20).items() if name != missing}
    right = gradients({name: value.double() for name, value in inputs.items()}, "reference")
    assert error(scan(inputs, backend)[0], exact(inputs)[0]) <= FORWARD
    for name, found in gradients(inputs, backend).items():
        assert error(found, right[name]) <= GRADIENT, name


@pytest.mark.parametrize("backend", FAST)
def test_gradient_of_the_output_alone(backend):
    able(backend)
    inputs = {name: value.requires_grad_() for name, value in arguments(9).items()}
    twins = {name: value.detach().double().requires_grad_() for name, value in inputs.items()}
    found = torch.autograd.grad(scan(inputs, backend)[0].sum(), list(inputs.values()))
    right = torch.autograd.grad(scan(twins, "reference")[0].sum(), list(twins.values()))
    assert max(map(error, found, right)) <= GRADIENT


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("groups", [1, 19, 38])
def test_gradients_with_any_number_of_groups(backend, groups):
    able(backend)
    inputs = arguments(49, groups=groups)
    right = gradients({name: value.double() for name, value in inputs.items()}, "reference")
    for name, found in gradients(inputs, backend).items():
        assert error(found, right[name]) <= GRADIENT, name


@pytest.mark.parametrize("backend", FAST)
def test_gradient_of_the_last_state_alone(backend):
    able(backend)
    inputs = {name: value.requires_grad_() for name, value in arguments(33).items()}
    twins = {name: value.detach().double().requires_grad_() for name, value in inputs.items()}
    found = torch.autograd.grad(scan(inputs, backend)[1].sum(), list(inputs.values()))
    right = torch.autograd.grad(
        scan(twins, "reference")[1].sum(), list(twins.values()), allow_unused=True, materialize_grads=True
    )
    for name, ours, theirs in zip(inputs, found, right, strict=True):
        assert (ours.double() - theirs).norm() <= GRADIENT * theirs.norm(), name  # of C, D and z exactly 0


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("state_dim", [1, 2, 16, 19])
@pytest.mark.parametrize("channels", [1, 16, 37])
def test_any_width_and_size_of_state(backend, channels, state_dim):
    able(backend)
    draw = torch.Generator().manual_seed(channels)
    shapes = {"u": (2, channels, 21), "delta": (2, channels, 21), "A": (channels, state_dim)}
    shapes |= {"B": (2, state_dim, 21), "C": (2, state_dim, 21)}
    inputs = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    inputs["A"] = -inputs["A"].exp()
    right = gradients({name: value.double() for name, value in inputs.items()}, "reference")
    assert error(scan(inputs, backend)[0], exact(inputs)[0]) <= FORWARD
    for name, found in gradients(inputs, backend).items():
        assert error(found, right[name]) <= GRADIENT, name


BORDERS = [0, 1, 17, 17, 49, 64]
"""Sequences of 1, 16, 0, 32 and 15 steps: ends within and on the borders of blocks."""


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_packed_sequences_equal_separate_ones(backend):
    able(backend)
    inputs = arguments(64, states=5)
    y, last = scan(inputs, backend, cu_seqlens=torch.tensor(BORDERS, dtype=torch.int32))
    for index, (begin, end) in enumerate(itertools.pairwise(BORDERS)):
        alone = {name: value[..., begin:end] if value.shape[-1] == 64 else value for name, value in inputs.items()}
        alone["initial_state"] = inputs["initial_state"][index : index + 1]
        right_y, right_last = exact(alone)
        torch.testing.assert_close(y[..., begin:end], right_y.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(last[index : index + 1], right_last.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_packed_sequences_equal_those_of_the_reference(backend):
    able(backend)
    inputs, borders = arguments(64, states=5), torch.tensor(BORDERS)
    right = gradients({name: value.double() for name, value in inputs.items()}, "reference", cu_seqlens=borders)
    for name, found in gradients(inputs, backend, cu_seqlens=borders).items():
        assert error(found, right[name]) <= GRADIENT, name


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("lengths", [[80], [1, 79], [7, 9, 64], [1] * 80], ids=str)
def test_whole_equals_any_split(backend, lengths):
    able(backend)
    inputs = arguments(80)
    whole, last = scan(inputs, backend)
    state, parts, begin = inputs.pop("initial_state"), [], 0
    for length in lengths:
        part = slice(begin, begin + length)
        along = {name: value[..., part] if value.shape[-1] == 80 else value for name, value in inputs.items()}
        y, state = scan(along | {"initial_state": state}, backend)
        parts.append(y)
        begin += length
    assert error(torch.cat(parts, -1), whole) <= FORWARD and error(state, last) <= FORWARD


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("rate", [0.0, -1e-8, -1.0, -1e4, -1e30])
def test_extreme_decays_stay_finite_and_right(backend, rate):
    able(backend)
    inputs = arguments(129)
    inputs["A"] = torch.full_like(inputs["A"], rate)
    y, last = scan(inputs, backend)
    right_y, right_last = exact(inputs)
    assert error(y, right_y) <= FORWARD and error(last, right_last) <= FORWARD
    assert all(grad.isfinite().all() for grad in gradients(inputs, backend).values())


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("raw", [-torch.inf, -1e4, -30.0, 30.0])
def test_extreme_steps_stay_finite_and_right(backend, raw):
    able(backend)
    inputs = arguments(33)
    inputs["delta"][..., 5:20] = raw
    assert error(scan(inputs, backend)[0], exact(inputs)[0]) <= FORWARD
    assert all(grad.isfinite().all() for grad in gradients(inputs, backend).values())


@pytest.mark.parametrize("backend", FAST)
def test_nan_stays_visible_and_in_its_channel(backend):
    able(backend)
    inputs = arguments(20)
    inputs["delta"][1, 4, 7] = torch.nan
    y, _ = scan(inputs, backend)
    assert y[1, 4, 7:].isnan().all() and y.isnan().sum() == 13


@pytest.mark.parametrize("backend", FAST)
def test_inputs_may_lie_in_memory_as_they_like(backend):
    able(backend)
    inputs = arguments(24)
    right = scan(inputs, backend)
    wide = torch.stack([inputs["u"], inputs["z"]], -1).permute(0, 2, 3, 1).contiguous()  # (B, L, 2, D)
    halves = dict(zip("uz", wide.permute(0, 3, 1, 2).unbind(-1), strict=True))
    steps_last = {name: inputs[name].transpose(1, 2).contiguous().transpose(1, 2) for name in ("delta", "z")}
    expanded = {"B": inputs["B"][:1].expand(3, -1, -1, -1)}
    for given in (halves, steps_last):
        torch.testing.assert_close(scan(inputs | given, backend), right)
    same = inputs | {"B": inputs["B"][:1].repeat(3, 1, 1, 1)}
    torch.testing.assert_close(scan(inputs | expanded, backend), scan(same, backend))


def test_inputs_are_left_as_they_were():
    inputs = arguments(20)
    before = {name: value.clone() for name, value in inputs.items()}
    for backend in FAST:
        able(backend)
        gradients(inputs, backend)
        assert all(torch.equal(inputs[name], before[name]) for name in inputs)


def test_samples_in_slices_leave_no_seam(monkeypatch):
    monkeypatch.setattr("blocks.ops.selective_scan.eager.BLOCK_NUMBERS", 500)  # a sample at a time
    inputs = arguments(37)
    right = gradients({name: value.double() for name, value in inputs.items()}, "reference")
    for name, found in gradients(inputs, "eager").items():
        assert error(found, right[name]) <= GRADIENT, name


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_native_threads_share_the_channels(threads):
    able("native")
    inputs = arguments(40)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = gradients({name: value[:1] if value.ndim > 2 else value for name, value in inputs.items()}, "native")
    finally:
        torch.set_num_threads(before)
    one = {name: value[:1].double() if value.ndim > 2 else value.double() for name, value in inputs.items()}
    for name, right in gradients(one, "reference").items():
        assert error(found[name], right) <= GRADIENT, name


def test_scan_on_meta_gives_shapes_and_counts_nine_per_state_update():
    inputs = {name: value.to("meta") for name, value in arguments(4000).items()}
    with FlopCounterMode(display=False) as counter:
        y, state = selective_scan(**inputs, return_final_state=True)
    assert y.shape == (3, 38, 4000) and state.shape == (3, 38, 5)
    assert counter.get_total_flops() == 9 * 3 * 4000 * 38 * 5


@pytest.mark.parametrize("backend", FAST)
def test_counts_are_the_same_on_every_backend_and_triple_with_a_gradient(backend):
    able(backend)
    inputs = arguments(20)
    with FlopCounterMode(display=False) as counter:
        scan(inputs, backend)
        gradients(inputs, backend)
    assert counter.get_total_flops() == (1 + 3) * 9 * 3 * 20 * 38 * 5


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_scan_is_a_sound_torch_op(keep, packed):
    inputs = arguments(64, states=5 if packed else 3)
    values = [value.requires_grad_(keep) for value in inputs.values()]
    by_step = [values[i].permute(0, -1, *range(1, values[i].ndim - 1)).detach() for i in (0, 1, 3, 4, 6)]
    u, delta, B, C, z = (value.contiguous().requires_grad_(keep) for value in by_step)
    borders = torch.tensor(BORDERS) if packed else None
    sample = (u, delta, values[2], B, C, values[5], z, values[7], True, values[8], borders, keep, "eager")
    torch.library.opcheck(scan_op, sample, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


@pytest.mark.parametrize("backend", FAST)
def test_training_keeps_numbers_by_step_and_channel_not_by_state(backend):
    able(backend)
    inputs = {name: value.requires_grad_() for name, value in arguments(1000).items()}
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t.numel()}) or t, lambda t: t):
        y, _ = scan(inputs, backend)
    assert sum(kept.values()) <= 5 * y.numel()  # u, delta, z, and a state of 5 every 16 steps


@pytest.mark.parametrize("backend", FAST)
def test_checkpointing_gives_the_same_gradients(backend):
    able(backend)
    inputs = {name: value.requires_grad_() for name, value in arguments(40).items()}

    def loss(*values: Tensor) -> Tensor:
        return scan(dict(zip(inputs, values, strict=True)), backend)[0].square().sum()

    plain = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    again = torch.autograd.grad(checkpoint(loss, *inputs.values(), use_reentrant=False), list(inputs.values()))
    torch.testing.assert_close(again, plain)


def test_compiled_scan_is_one_graph_with_the_same_gradients():
    inputs = {name: value.requires_grad_() for name, value in arguments(40).items()}

    def loss(*values: Tensor) -> Tensor:
        return F.silu(selective_scan(*values[:8], delta_softplus=True, initial_state=values[8])).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    plain = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs.values()), list(inputs.values())), plain)


class Scan(torch.nn.Module):
    def forward(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return selective_scan(u, delta, A, B, C, delta_softplus=True)  # type: ignore[return-value]


def test_exported_scan_is_one_op_for_any_length():
    names = ("u", "delta", "A", "B", "C")
    short, long = (tuple(arguments(length)[name] for name in names) for length in (20, 33))
    length = torch.export.Dim("length", min=2, max=4096)
    shapes = {name: None if name == "A" else {arguments(20)[name].ndim - 1: length} for name in names}
    program = torch.export.export(Scan(), short, dynamic_shapes=shapes)
    ops = [str(node.target) for node in program.graph.nodes if "zoo" in str(node.target)]
    assert ops == ["zoo.selective_scan.default"]
    torch.testing.assert_close(program.module()(*long), Scan()(*long))


def test_reference_is_chosen_only_when_forced_and_float64_goes_to_eager():
    inputs = arguments(7)
    double = {name: value.double() for name, value in inputs.items()}
    assert "not native: it computes in float32, not float64" in blocks.ops.explain(selective_scan, **double)
    assert blocks.ops.explain(selective_scan, **double).startswith("selective_scan on eager, 1 call")


def test_native_runs_without_being_asked_for():
    able("native")
    assert blocks.ops.explain(selective_scan, **arguments(7)).startswith("selective_scan on native, 1 call")


def test_without_native_kernels_the_scan_is_eager(monkeypatch):
    monkeypatch.setenv("ZOO_NATIVE", "off")
    found = blocks.ops.explain(selective_scan, **arguments(7))
    assert found.startswith("selective_scan on eager, 1 call") and "not native: ZOO_NATIVE=off" in found


def test_unfit_shape_names_argument_found_and_expected(refused):
    inputs = arguments(7)
    inputs["B"] = inputs["B"][..., :6]
    with refused("`B` has shape (3, 2, 5, 6); for u of shape (3, 38, 7) it should be (3, 2, 5, 7)"):
        selective_scan(**inputs)


def test_groups_divide_the_channels(refused):
    with refused("4 groups do not divide 38 channels"):
        selective_scan(**arguments(7, groups=4))


def test_packed_sequences_are_one_sample(refused):
    inputs = arguments(64)
    inputs["initial_state"] = inputs["initial_state"][:2]
    with refused("`cu_seqlens` packs sequences into one sample; u has 3"):
        selective_scan(**inputs, cu_seqlens=torch.tensor([0, 9, 64]))


@pytest.mark.parametrize("borders", [[0, 9, 63], [0, 70, 64], [1, 9, 64]])
@pytest.mark.parametrize("backend", ["reference", "eager", "native"])
def test_borders_rise_from_zero_to_the_length(refused, backend, borders):
    able(backend)
    inputs = arguments(64, states=2)
    with refused(f"`cu_seqlens` should rise from 0 to 64, the length; it is {borders}"):
        scan(inputs, backend, cu_seqlens=torch.tensor(borders))
