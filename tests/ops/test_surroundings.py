"""Every op under any default of torch, of any size down to 0, with any borders, under autocast and with mixed dtypes.

B samples, L steps, H heads or channels, K what a state has of keys, V of values; an op has those of them that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import blocks.ops
from blocks.ops.causal_conv1d import causal_conv1d, conv_state
from blocks.ops.delta_rule import delta_rule, diagonal_plus_low_rank
from blocks.ops.dispatch import refusal
from blocks.ops.linear_recurrence import linear_recurrence
from blocks.ops.long_conv import long_conv
from blocks.ops.selective_scan import selective_scan
from tests.ops.backends import able

Inputs = dict[str, Tensor]
SIZES = {"B": 2, "L": 7, "H": 4, "K": 3, "V": 5}
FORMULAS: dict[str, tuple[Callable[..., Any], dict[str, str], dict[str, Any]]] = {
    "conv": (causal_conv1d, {"x": "BHL", "weight": "H3", "bias": "H", "initial_state": "BH2"}, {"act": "silu"}),
    "scan": (
        selective_scan,
        {"u": "BHL", "delta": "BHL", "A": "HK", "B": "B2KL", "C": "B2KL", "D": "H", "z": "BHL", "delta_bias": "H",
         "initial_state": "BHK"},
        {"delta_softplus": True, "return_final_state": True},
    ),
    "no decay": (
        linear_recurrence,
        {"q": "BLHK", "k": "BLHK", "v": "BLHV", "initial_state": "BHKV"},
        {"return_final_state": True},
    ),
    "decay per head, bonus": (
        linear_recurrence,
        {"q": "BLHK", "k": "BLHK", "v": "BLHV", "log_decay": "BLH", "bonus": "HK", "initial_state": "BHKV"},
        {"return_final_state": True},
    ),
    "decay per key": (
        linear_recurrence,
        {"q": "BLHK", "k": "BLHK", "v": "BLHV", "log_decay": "BLHK", "initial_state": "BHKV"},
        {"return_final_state": True},
    ),
    "delta": (
        delta_rule,
        {"q": "BLHK", "k": "BLHK", "v": "BLHV", "beta": "BLH", "initial_state": "BHKV"},
        {"return_final_state": True},
    ),
    "gated delta": (
        delta_rule,
        {"q": "BLHK", "k": "BLHK", "v": "BLHV", "beta": "BLH", "log_decay": "BLH", "initial_state": "BHKV"},
        {"return_final_state": True},
    ),
    "low rank": (
        diagonal_plus_low_rank,
        {"q": "BLHK", "k": "BLHK", "v": "BLHV", "a": "BLHK", "b": "BLHK", "log_decay": "BLHK", "initial_state": "BHKV"},
        {"return_final_state": True},
    ),
    "long conv": (long_conv, {"x": "BHL", "kernel": "HL", "kernel_back": "HL", "bias": "H"}, {"act": "gelu"}),
}  # fmt: skip
PACKING = [name for name in FORMULAS if name != "long conv"]
NATIVE = PACKING
EMPTY = [
    (name, axis) for name, (_, shapes, _) in FORMULAS.items() for axis in SIZES if axis in "".join(shapes.values())
]

every_op = pytest.mark.parametrize("name", FORMULAS)
every_native_op = pytest.mark.parametrize("name", NATIVE)
every_packing_op = pytest.mark.parametrize("name", PACKING)


def arguments(name: str, dtype: torch.dtype = torch.float32, sequences: int | None = None, **sizes: int) -> Inputs:
    """Inputs of the given sizes; with `sequences`, of one sample and a state for each of so many."""
    draw = torch.Generator().manual_seed(0)
    sizes = SIZES | sizes | ({} if sequences is None else {"B": 1})

    def drawn(key: str, letters: str) -> Tensor:
        shape = [int(letter) if letter.isdigit() else sizes[letter] for letter in letters]
        if key == "initial_state" and sequences is not None:
            shape[0] = sequences
        x = torch.randn(shape, generator=draw, dtype=torch.float64, device="cpu") / 2
        return -x.abs() if key in ("log_decay", "A") else x

    return {key: drawn(key, letters).to(dtype) for key, letters in FORMULAS[name][1].items()}


def outputs(name: str, inputs: Inputs, backend: str, **options: Any) -> tuple[Tensor, ...]:
    op, _, own = FORMULAS[name]
    with blocks.ops.backend(backend):
        found = op(**inputs, **own, **options)
    return found if isinstance(found, tuple) else (found,)


def outcome(name: str, inputs: Inputs, backend: str, **options: Any) -> dict[str, Tensor]:
    """Outputs by number, and by name the gradients of a loss that weighs all of them; zeros where none arrives."""
    leaves = {key: value.clone().requires_grad_() for key, value in inputs.items()}
    found = outputs(name, leaves, backend, **options)
    loss = sum((y.double() * (1 + y.double())).sum() for y in found)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {str(index): y for index, y in enumerate(found)} | dict(zip(leaves, grads, strict=True))


def double(inputs: Inputs) -> Inputs:
    return {key: value.double() for key, value in inputs.items()}


def check_close(found: dict[str, Tensor], right: dict[str, Tensor], bound: float = 1e-4) -> None:
    assert list(found) == list(right)
    for key, value in found.items():
        assert value.shape == right[key].shape, key
        assert (value.double() - right[key].double()).norm() <= bound * (1 + right[key].double().norm()), key


@contextmanager
def defaults(of: str) -> Iterator[None]:
    """A dtype, or a device, that torch gives to what names none."""
    dtype = torch.get_default_dtype()
    try:
        if of == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, of))
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(dtype)


@every_op
@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("default", ["float16", "bfloat16", "float64", "meta"])
def test_defaults_of_torch_change_nothing(name, backend, default):
    if backend == "native" and name not in NATIVE:
        pytest.skip("it has no native form")
    able(backend)
    whole, packed = arguments(name), arguments(name, sequences=3, L=60) if name in PACKING else {}
    borders = torch.tensor([0, 3, 3, 60])

    def found() -> list[dict[str, Tensor]]:
        alone = outputs(name, whole, backend)  # without a gradient other buffers are made
        given = [dict(zip("012", alone, strict=False)), outcome(name, whole, backend)]
        return given + ([outcome(name, packed, backend, cu_seqlens=borders)] if packed else [])

    right = found()
    with defaults(default):
        again = found()
    for one, other in zip(again, right, strict=True):
        for key in other:
            assert one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("name, axis", EMPTY)
def test_any_size_may_be_zero(name, axis, backend):
    if backend == "native" and name not in NATIVE:
        pytest.skip("it has no native form")
    able(backend)
    inputs = arguments(name, **{axis: 0})
    right = outcome(name, double(inputs), "reference")
    check_close(outcome(name, inputs, backend), right)
    check_close(
        dict(zip("012", outputs(name, inputs, backend), strict=False)),
        {key: right[key] for key in "01" if key in right},
    )
    check_close(outcome(name, double(inputs), "eager"), right, 1e-12)


@pytest.mark.parametrize("axis", SIZES)
def test_no_choice_of_a_backend_is_disturbed_by_a_size_of_zero(axis):
    for name, (op, _, own) in FORMULAS.items():
        for leaf in (False, True):
            inputs = {key: value.requires_grad_(leaf) for key, value in arguments(name, **{axis: 0}).items()}
            found = op(**inputs, **own)
            assert all(y.requires_grad == leaf for y in (found if isinstance(found, tuple) else (found,)))


@every_packing_op
@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize(
    "borders, dtype",
    [([0, 3, 3, 13], torch.int64), ([0, 0, 13, 13], torch.int32), ([0, 3, 3, 13], torch.uint8), ([0, 0], torch.int16),
     ([0], torch.int64), ([0, 13], torch.uint16)],
    ids=str,
)  # fmt: skip
def test_packed_sequences_may_be_empty_and_borders_any_integers(name, backend, borders, dtype):
    able(backend)
    inputs = arguments(name, sequences=len(borders) - 1, L=borders[-1])
    right = outcome(name, double(inputs), "reference", cu_seqlens=torch.tensor(borders))
    found = outcome(name, inputs, backend, cu_seqlens=torch.tensor(borders).to(dtype))
    check_close(found, right)
    check_close(outcome(name, double(inputs), "eager", cu_seqlens=torch.tensor(borders).to(dtype)), right, 1e-12)


@every_packing_op
@pytest.mark.parametrize("backend", ["reference", "eager", "native"])
@pytest.mark.parametrize(
    "borders, found",
    [
        (torch.tensor([0.0, 7.0]), "float32 of shape (2,) on cpu"),
        (torch.tensor([False, True]), "bool of shape (2,) on cpu"),
        (torch.empty(0, dtype=torch.int64), "int64 of shape (0,) on cpu"),
        (torch.tensor([[0, 7]]), "int64 of shape (1, 2) on cpu"),
        (torch.tensor(7), "int64 of shape () on cpu"),
        (torch.tensor([0, 7], device="meta"), "int64 of shape (2,) on meta"),
        ([0, 7], "no tensor but a list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_borders_are_refused_by_one_sentence(refused, name, backend, borders, found):
    able(backend)
    with refused(f"`cu_seqlens` should be integers that rise from 0 to 7, the length, on cpu; it is {found}"):
        outputs(name, arguments(name, sequences=1), backend, cu_seqlens=borders)


@every_packing_op
@pytest.mark.parametrize("backend", ["reference", "eager", "native"])
@pytest.mark.parametrize("borders", [[0, 6], [1, 7], [0, 9, 7], [-1, 7], [0], [7, 0]], ids=str)
def test_borders_that_do_not_rise_are_refused(refused, name, backend, borders):
    able(backend)
    inputs = arguments(name, sequences=len(borders) - 1)
    with refused(f"`cu_seqlens` should rise from 0 to 7, the length; it is {borders}"):
        outputs(name, inputs, backend, cu_seqlens=torch.tensor(borders))


def test_state_of_a_convolution_asks_the_same_of_borders(refused):
    x = torch.randn(1, 4, 7)
    with refused(
        "`cu_seqlens` should be integers that rise from 0 to 7, the length, on cpu; it is bool of shape (2,) on cpu"
    ):
        conv_state(x, 3, cu_seqlens=torch.tensor([False, True]))
    assert conv_state(x[..., :0], 3, cu_seqlens=torch.tensor([0])).shape == (0, 4, 2)
    assert conv_state(x, 3, cu_seqlens=torch.tensor([0, 7, 7], dtype=torch.uint16)).shape == (2, 4, 2)


@every_native_op
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_under_autocast_all_backends_give_one_dtype_and_one_answer(name, dtype, half):
    able("native")
    if name != "conv" and {dtype, half} == {torch.bfloat16, torch.float16}:
        pytest.skip("torch itself puts no bfloat16 tensors together under an autocast to float16")
    inputs, found = arguments(name, dtype), {}
    with torch.autocast("cpu", half):
        for backend in ("reference", "eager", "native"):
            if backend != "native" or dtype != torch.float64:
                found[backend] = outcome(name, inputs, backend)
    for backend, given in found.items():
        check_close(given, found["eager"], 2e-2)
        assert given["0"].dtype == (half if name == "conv" and dtype != torch.float64 else dtype), backend
        assert all(given[key].dtype == dtype for key in inputs)


@every_native_op
@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_mixed_dtypes_are_treated_alike_by_all_backends(name, narrow, wide):
    able("native")
    inputs = arguments(name, narrow)
    for key in list(inputs)[1::2]:
        inputs[key] = inputs[key].to(wide)
    found = {backend: outcome(name, inputs, backend) for backend in ("reference", "eager")}
    if wide == torch.float32:
        found["native"] = outcome(name, inputs, "native")
    for given in found.values():
        check_close(given, found["reference"], 2e-2)
        assert given["0"].dtype == found["reference"]["0"].dtype
        assert all(given[key].dtype == inputs[key].dtype for key in inputs)


@every_native_op
def test_numbers_that_lie_otherwise_in_memory_are_no_case_for_a_kernel(name):
    able("native")
    inputs = arguments(name)
    first = next(iter(inputs))
    op, _, own = FORMULAS[name]
    right = outputs(name, inputs | {first: -inputs[first]}, "eager")
    turned = inputs | {first: torch._neg_view(inputs[first])}
    assert "a tensor is not the numbers that lie in its memory" in blocks.ops.explain(op, **turned, **own)
    found = op(**turned, **own)
    torch.testing.assert_close(found[0] if isinstance(found, tuple) else found, right[0])


@pytest.mark.parametrize("op", ["causal_conv1d", "selective_scan", "linear_recurrence", "delta_rule"])
def test_tensors_of_several_devices_are_no_case_for_a_kernel(op):
    here, elsewhere = torch.ones(2, 2), torch.ones(2, 2, device="meta")
    for place in range(4):
        tensors = [elsewhere if index == place else here for index in range(4 if op == "causal_conv1d" else 5)]
        assert refusal(op, "native", *tensors) == "the tensors are on meta"
