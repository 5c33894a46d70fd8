"""linear_recurrence and delta_rule: every backend against upstream's outputs and against the reference in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import blocks.ops
from blocks.ops.chunks import BACKWARD
from blocks.ops.delta_rule import delta_op, delta_rule, diagonal_plus_low_rank
from blocks.ops.linear_recurrence import linear_recurrence, recurrence_op
from tests.ops.backends import FAST, able

LENGTHS = [1, 2, 7, 64, 129, 1000]
FORWARD, GRADIENT, HALF = 1e-5, 1e-4, 1e-2
"""Bounds on |found - exact| / |exact|: float32 outputs, float32 gradients, both in bfloat16."""

Inputs = dict[str, Tensor]
OPS: dict[str, Callable[..., Any]] = {
    "no decay": linear_recurrence,
    "decay per head": linear_recurrence,
    "decay per key": linear_recurrence,
    "bonus": linear_recurrence,
    "delta": delta_rule,
    "gated delta": delta_rule,
    "delta, decay per key": delta_rule,
    "low rank": diagonal_plus_low_rank,
}


def arguments(kind: str, length: int, dtype: torch.dtype = torch.float32, samples: int = 2, states: int = 0) -> Inputs:
    """Inputs of 4 heads with keys of 11 and values of 19, no multiples of a vector's width; two heads share keys."""
    draw = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    along, low_rank = (samples, length), kind == "low rank"
    groups = 4 if low_rank else 2
    values = {"q": normal(*along, groups, 11), "k": normal(*along, groups, 11), "v": normal(*along, 4, 19)}
    if "delta" in kind:
        values["k"] = F.normalize(values["k"], dim=-1)
        values["beta"] = normal(*along, 4).sigmoid()
    if low_rank:
        read = F.normalize(normal(*along, 4, 11), dim=-1)
        values |= {"a": -read, "b": read * normal(*along, 4, 1).sigmoid()}
    if kind in ("decay per head", "gated delta"):
        values["log_decay"] = -normal(*along, 4).exp() / 4
    if kind in ("decay per key", "bonus", "delta, decay per key", "low rank"):
        values["log_decay"] = -normal(*along, 4, 11).exp() / 4
    if kind == "bonus":
        values["bonus"] = normal(4, 11)
    values["initial_state"] = normal(states or samples, 4, 11, 19)
    return {name: value.to(dtype) for name, value in values.items()}


def run(kind: str, inputs: Inputs, backend: str, **options: Any) -> tuple[Tensor, Tensor]:
    with blocks.ops.backend(backend):
        return OPS[kind](**inputs, return_final_state=True, **options)  # type: ignore[no-any-return]


def exact(kind: str, inputs: Inputs, **options: Any) -> tuple[Tensor, Tensor]:
    return run(kind, double(inputs), "reference", **options)


def double(inputs: Inputs) -> Inputs:
    return {name: value.double() for name, value in inputs.items()}


def gradients(kind: str, inputs: Inputs, backend: str, **options: Any) -> Inputs:
    """The gradients of a loss that weighs every output and the last state."""
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    y, state = run(kind, leaves, backend, **options)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device).view(y.shape)
    loss = (y.double() * weights).sum() + state.double().square().sum()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def error(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right.double()).norm() / right.double().norm())


every_kind = pytest.mark.parametrize("kind", OPS)
every_backend = pytest.mark.parametrize("backend", FAST)


@every_backend
@every_kind
@pytest.mark.parametrize("length", LENGTHS)
def test_outputs_and_last_state_equal_the_reference(kind, backend, length):
    able(backend)
    inputs = arguments(kind, length)
    for found, right in zip(run(kind, inputs, backend), exact(kind, inputs), strict=True):
        assert error(found, right) <= FORWARD


@every_backend
@every_kind
@pytest.mark.parametrize("length", [1, 2, 7, 129])
def test_all_gradients_equal_those_of_the_reference(kind, backend, length):
    able(backend)
    inputs = arguments(kind, length)
    right = gradients(kind, double(inputs), "reference")
    for name, found in gradients(kind, inputs, backend).items():
        assert error(found, right[name]) <= GRADIENT or right[name].norm() < 1e-12, name


@every_kind
def test_gradients_of_long_sequences_keep_their_digits(kind):
    able("native")
    inputs = arguments(kind, 1000, samples=1)
    right = gradients(kind, double(inputs), "eager")
    for name, found in gradients(kind, inputs, "native").items():
        assert error(found, right[name]) <= GRADIENT, name


@every_kind
@pytest.mark.parametrize("length", [1, 70])
def test_eager_in_float64_equals_the_reference_to_its_last_digits(kind, length):
    inputs = arguments(kind, length, torch.float64)
    for found, expected in zip(run(kind, inputs, "eager"), exact(kind, inputs), strict=True):
        assert error(found, expected) <= 1e-13
    right = gradients(kind, inputs, "reference")
    for name, found in gradients(kind, inputs, "eager").items():
        assert error(found, right[name]) <= 1e-11 or right[name].norm() < 1e-12, name


@every_backend
@every_kind
def test_bfloat16_streams_are_kept_in_float32(kind, backend):
    able(backend)
    inputs = arguments(kind, 129, torch.bfloat16)
    y, state = run(kind, inputs, backend)
    right_y, right_state = exact(kind, inputs)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert error(y, right_y) <= HALF and error(state, right_state) <= FORWARD
    right = gradients(kind, double(inputs), "reference")
    for name, found in gradients(kind, inputs, backend).items():
        assert found.dtype == torch.bfloat16 and error(found, right[name]) <= HALF, name


@every_backend
@pytest.mark.parametrize(
    "kind", ["decay per head", "decay per key", "bonus", "gated delta", "delta, decay per key", "low rank"]
)
@pytest.mark.parametrize("decay", [0.0, 1e-8, 1.0])
def test_extreme_decays_stay_finite_and_right(kind, backend, decay):
    able(backend)
    inputs = arguments(kind, 129)
    inputs["log_decay"][:, 3::5] = math.log(decay) if decay else -torch.inf
    for found, right in zip(run(kind, inputs, backend), exact(kind, inputs), strict=True):
        assert error(found, right) <= FORWARD
    right_grads = gradients(kind, double(inputs), "reference")
    for name, found in gradients(kind, inputs, backend).items():
        assert error(found, right_grads[name]) <= GRADIENT, name


@every_backend
@every_kind
def test_a_decay_of_zero_forgets_the_state(kind, backend):
    able(backend)
    inputs = arguments(kind, 100)
    if "log_decay" not in inputs or kind in ("bonus", "low rank"):  # these two read the state before it decays
        inputs = arguments("decay per head", 100)
        kind = "decay per head"
    inputs["log_decay"][:, 70] = -torch.inf
    y, last = run(kind, inputs, backend)
    after = {name: x[:, 70:] if x.shape[1] == 100 else torch.zeros_like(x) for name, x in inputs.items()}
    right_y, right_last = exact(kind, after)
    assert error(y[:, 70:], right_y) <= FORWARD and error(last, right_last) <= FORWARD


BORDERS = [0, 1, 17, 17, 49, 80]
"""Sequences of 1, 16, 0, 32 and 31 steps."""


@pytest.mark.parametrize("backend", ["reference", *FAST])
@every_kind
def test_packed_sequences_equal_separate_ones(kind, backend):
    able(backend)
    inputs = arguments(kind, 80, samples=1, states=5)
    y, last = run(kind, inputs, backend, cu_seqlens=torch.tensor(BORDERS, dtype=torch.int32))
    for index, (begin, end) in enumerate(itertools.pairwise(BORDERS)):
        alone = {name: x[:, begin:end] if x.ndim > 2 and x.shape[1] == 80 else x for name, x in inputs.items()}
        alone["initial_state"] = inputs["initial_state"][index : index + 1]
        right_y, right_last = exact(kind, alone)
        torch.testing.assert_close(y[:, begin:end], right_y.float(), rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(last[index : index + 1], right_last.float(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@every_kind
@pytest.mark.parametrize("lengths", [[1, 79], [7, 9, 64], [1] * 80], ids=str)
def test_whole_equals_any_split(kind, backend, lengths):
    able(backend)
    inputs = arguments(kind, 80)
    whole, last = run(kind, inputs, backend)
    state, parts, begin = inputs.pop("initial_state"), [], 0
    for length in lengths:
        part = {name: x[:, begin : begin + length] if x.ndim > 2 else x for name, x in inputs.items()}
        y, state = run(kind, part | {"initial_state": state}, backend)
        parts.append(y)
        begin += length
    assert error(torch.cat(parts, 1), whole) <= FORWARD and error(state, last) <= FORWARD


@every_backend
@pytest.mark.parametrize("keys", [1, 16, 37])
@pytest.mark.parametrize("values", [1, 16, 40])
def test_any_width(backend, keys, values):
    able(backend)
    draw = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(2, 21, 3, width, generator=draw) for width in (keys, keys, values))
    decay = -torch.rand(2, 21, 3, keys, generator=draw)
    for kind, inputs in (
        ("decay per key", {"q": q, "k": k, "v": v, "log_decay": decay}),
        (
            "gated delta",
            {"q": q, "k": F.normalize(k, dim=-1), "v": v, "beta": torch.rand(2, 21, 3), "log_decay": decay[..., 0]},
        ),
    ):
        for found, right in zip(run(kind, inputs, backend), exact(kind, inputs), strict=True):
            assert error(found, right) <= FORWARD


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", ["decay per key", "gated delta"])
def test_native_threads_share_heads_and_values(kind, threads):
    able("native")
    inputs = arguments(kind, 40, samples=1)
    one_head = {name: x[:, :, :1] if name != "initial_state" else x[:, :1] for name, x in inputs.items()}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = [run(kind, given, "native")[0] for given in (inputs, one_head)]
    finally:
        torch.set_num_threads(before)
    for y, given in zip(found, (inputs, one_head), strict=True):
        assert error(y, exact(kind, given)[0]) <= FORWARD


@every_backend
@every_kind
def test_inputs_may_lie_in_memory_as_they_like_and_are_left_as_they_were(kind, backend):
    able(backend)
    inputs = arguments(kind, 24)
    right = run(kind, inputs, backend)
    wide = torch.randn(2, 24, 200)
    elsewhere = dict(inputs)
    for name, start in (("q", 3), ("k", 60), ("v", 110)):
        heads, width = inputs[name].shape[2:]
        elsewhere[name] = wide[..., start : start + heads * width].unflatten(-1, (heads, width)).copy_(inputs[name])
    if "log_decay" in inputs:
        elsewhere["log_decay"] = inputs["log_decay"].transpose(1, 2).contiguous().transpose(1, 2)
    held = {name: x.clone() for name, x in elsewhere.items()}
    for found, expected in zip(run(kind, elsewhere, backend), right, strict=True):
        assert error(found, expected) <= FORWARD
    assert all(torch.equal(elsewhere[name], held[name]) for name in held)


@pytest.mark.parametrize("order", BACKWARD)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("decays", ["none", "head", "keys", "values"])
def test_each_order_and_its_gradient_equal_the_reference(order, reverse, decays):
    q, k, v, state = (
        torch.randn(2, *shape, dtype=torch.float64) for shape in ((9, 2, 3), (9, 2, 3), (9, 4, 2), (4, 3, 2))
    )
    shape = {"none": None, "head": (2, 9, 4), "keys": (2, 9, 4, 3), "values": (2, 9, 4, 2)}[decays]
    decay = None if shape is None else -torch.rand(shape, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (q, k, v, decay, state) if x is not None]

    def loss(backend: str) -> Tensor:
        tail = order, reverse, decays == "values"
        with blocks.ops.backend(backend):
            run = recurrence_op if backend != "reference" else None
            if run is None:
                from blocks.ops.linear_recurrence import reference

                y, last = reference(q, k, v, decay, state, *tail)
            else:
                y, last = run(q, k, v, decay, state, *tail, backend)
        return (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum() + last.square().sum()

    found, right = (torch.autograd.grad(loss(backend), leaves) for backend in ("eager", "reference"))
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["decay per key", "low rank"])
def test_second_derivatives_are_right(kind):
    inputs = arguments(kind, 3, torch.float64, samples=1)
    small = {name: x[:, :2, :2, :2] if name == "initial_state" else x[:, :, :2, :2] for name, x in inputs.items()}
    leaves = [x.clone().requires_grad_() for x in small.values()]

    def op(*values: Tensor) -> tuple[Tensor, Tensor]:
        with blocks.ops.backend("eager"):
            return OPS[kind](**dict(zip(small, values, strict=True)), return_final_state=True)  # type: ignore[no-any-return]

    assert torch.autograd.gradgradcheck(op, leaves)


@every_backend
@every_kind
def test_checkpointing_gives_the_same_gradients(kind, backend):
    able(backend)
    inputs = {name: value.requires_grad_() for name, value in arguments(kind, 40).items()}

    def loss(*values: Tensor) -> Tensor:
        return run(kind, dict(zip(inputs, values, strict=True)), backend)[0].square().sum()

    plain = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    again = torch.autograd.grad(checkpoint(loss, *inputs.values(), use_reentrant=False), list(inputs.values()))
    torch.testing.assert_close(again, plain)


@pytest.mark.parametrize("kind", ["decay per head", "bonus", "gated delta", "low rank"])
def test_compiled_op_is_one_graph_with_the_same_gradients(kind):
    inputs = {name: value.requires_grad_() for name, value in arguments(kind, 40).items()}

    def loss(*values: Tensor) -> Tensor:
        return OPS[kind](**dict(zip(inputs, values, strict=True))).square().sum()  # type: ignore[no-any-return]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    plain = torch.autograd.grad(loss(*inputs.values()), list(inputs.values()))
    found = torch.autograd.grad(compiled(*inputs.values()), list(inputs.values()))
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


class Recurrence(torch.nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.op = OPS[kind]

    def forward(self, inputs: Inputs) -> Tensor:
        return self.op(**inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["decay per head", "gated delta"])
def test_exported_op_is_one_op_for_any_length(kind):
    short, long = (
        {name: x for name, x in arguments(kind, size).items() if name != "initial_state"} for size in (20, 33)
    )
    length = torch.export.Dim("length", min=2, max=4096)
    program = torch.export.export(Recurrence(kind), (short,), dynamic_shapes=({name: {1: length} for name in short},))
    ops = [str(node.target) for node in program.graph.nodes if "zoo" in str(node.target)]
    assert ops == [f"zoo.{'delta_rule' if 'delta' in kind else 'linear_recurrence'}.default"]
    torch.testing.assert_close(program.module()(long), Recurrence(kind)(long), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind, per_state", [("no decay", 4), ("decay per head", 5), ("decay per key", 5), ("delta", 6), ("gated delta", 7)]
)
def test_op_on_meta_gives_shapes_and_counts_by_the_size_of_the_state(kind, per_state):
    inputs = {name: x.to("meta") for name, x in arguments(kind, 4000).items()}
    with FlopCounterMode(display=False) as counter:
        y, state = OPS[kind](**inputs, return_final_state=True)
    assert y.shape == (2, 4000, 4, 19) and state.shape == (2, 4, 11, 19)
    assert counter.get_total_flops() == per_state * 2 * 4000 * 4 * 11 * 19


@every_backend
@pytest.mark.parametrize("kind", ["decay per key", "gated delta"])
def test_counts_are_the_same_on_every_backend(kind, backend):
    able(backend)
    with FlopCounterMode(display=False) as counter:
        run(kind, arguments(kind, 20), backend)
    assert counter.get_total_flops() == (7 if "delta" in kind else 5) * 2 * 20 * 4 * 11 * 19


def test_ops_are_sound_torch_ops():
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")
    given = {name: x.requires_grad_() for name, x in arguments("decay per key", 9).items()}
    torch.library.opcheck(
        recurrence_op, (*given.values(), "decay, write, read", False, False, "eager"), test_utils=utils
    )
    q, k, v, beta, decay, state = (x.requires_grad_() for x in arguments("gated delta", 9).values())
    torch.library.opcheck(
        delta_op, (q, k, k, v, beta, -beta, decay, state, "decay, read, write", "eager"), test_utils=utils
    )


@pytest.mark.parametrize("kind", ["decay per head", "gated delta"])
def test_native_runs_without_being_asked_for_and_float64_goes_to_eager(kind):
    able("native")
    op, inputs = OPS[kind], arguments(kind, 7)
    name = "delta_rule" if "delta" in kind else "linear_recurrence"
    assert blocks.ops.explain(op, **inputs).startswith(f"{name} on native, ")
    told = blocks.ops.explain(op, **double(inputs))
    assert told.startswith(f"{name} on eager, ") and "not native: it computes in float32, not float64" in told


def test_widest_keys_of_the_native_kernels():
    able("native")
    for keys in (512, 513):
        q, k, v = torch.randn(3, 1, 5, 1, keys)
        decay = -torch.rand(1, 5, 1, keys)
        told = blocks.ops.explain(linear_recurrence, q, k, v, decay)
        assert ("on native" in told) == (keys == 512)
        found, right = linear_recurrence(q, k, v, decay), linear_recurrence(*(x.double() for x in (q, k, v, decay)))
        assert error(found, right) <= FORWARD
    assert told.endswith("its keys are at most 512 wide, not 513")


def test_unfit_shapes_name_argument_found_and_expected(refused):
    inputs = arguments("gated delta", 7)
    with refused("`beta` has shape (2, 6, 4); for v of shape (2, 7, 4, 19) it should be (2, 7, 4)"):
        delta_rule(**inputs | {"beta": inputs["beta"][:, :6]})
    with refused("`log_decay` has shape (2, 7, 4, 3); for v of shape (2, 7, 4, 19) it should be (2, 7, 4, 11)"):
        delta_rule(**inputs | {"log_decay": torch.zeros(2, 7, 4, 3)})
    with refused("`initial_state` has shape (2, 4, 19, 11); for v of shape (2, 7, 4, 19) it should be (2, 4, 11, 19)"):
        delta_rule(**inputs | {"initial_state": inputs["initial_state"].mT})
    with refused("the 3 heads of `q` do not divide the 4 heads of `v`"):
        delta_rule(**inputs | {"q": torch.zeros(2, 7, 3, 11)})


def test_packed_sequences_are_one_sample_with_rising_borders(refused):
    inputs = arguments("no decay", 64)
    del inputs["initial_state"]
    with refused("`cu_seqlens` packs sequences into one sample; v has 2"):
        linear_recurrence(**inputs, cu_seqlens=torch.tensor([0, 9, 64]))
    with refused("`cu_seqlens` should rise from 0 to 64, the length; it is [0, 9, 63]"):
        linear_recurrence(**{name: x[:1] for name, x in inputs.items()}, cu_seqlens=torch.tensor([0, 9, 63]))


def heads_second(*tensors: Tensor) -> list[Tensor]:
    """(B, H, L, …) -> (B, L, H, …)."""
    return [x.transpose(1, 2) for x in tensors]


def upstream(name: str, given: Inputs, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(output, last state) of our ops in the layout of a golden."""
    state = given.get("initial_state")
    ends: dict[str, Any] = {"initial_state": state, "return_final_state": True}
    if name.startswith("op_ssd"):
        first = given.get("initial_states")
        ends["initial_state"] = None if first is None else first[:, 0].mT
        y, last = linear_recurrence(given["C"], given["B"], given["X"], given["A"], **ends)
        return y, last.mT
    if name == "op_hgrn":
        x, g = given["x"].unsqueeze(-1), given["g"]
        one = torch.ones_like(x)
        ends["initial_state"] = state[..., None, None]
        y, last = linear_recurrence(one, one, x, g, **ends)
        return y[..., 0], last[..., 0, 0]
    if name == "op_rwkv7":
        r, w, k, v, a, b = (given[key].unflatten(-1, (-1, arguments["head_size"])) for key in "rwkvab")
        y, last = diagonal_plus_low_rank(r, k, v, a, b, -torch.exp(w), **ends)
        return y.flatten(2), last
    if name == "op_hgrn2":
        q, f, i = F.silu(given["q"]), F.logsigmoid(given["f"]), given["i"]
        return linear_recurrence(q, 1 - torch.exp(f), i, f, scale=q.shape[-1] ** -0.5, **ends)  # type: ignore[return-value]
    scale = {"scale": given["q"].shape[-1] ** -0.5}
    if name in ("op_gla", "op_gla_state", "op_simple_gla"):
        decay = given["gk"] if "gk" in given else given["g"]
        return linear_recurrence(given["q"], given["k"], given["v"], decay, **scale, **ends)  # type: ignore[return-value]
    if name in ("op_gated_delta_rule", "op_kda"):
        q, k, v, beta, g = (given[key] for key in ("q", "k", "v", "beta", "g"))
        return delta_rule(q, k, v, beta, g, **scale, **ends)  # type: ignore[return-value]
    q, k, v = heads_second(given["q"], given["k"], given["v"])
    if name == "op_delta_rule":
        y, last = delta_rule(q, k, v, *heads_second(given["beta"]), **scale, **ends)
    elif name == "op_rwkv6":
        y, last = linear_recurrence(q, k, v, *heads_second(given["w"]), bonus=given["u"], **scale, **ends)
    else:
        decay = torch.log1p(-(2.0 ** (-5 - torch.arange(q.shape[2], dtype=q.dtype)))).expand(q.shape[:3])
        y, last = linear_recurrence(q, k, v, decay, **scale, **ends)
    return y.transpose(1, 2), last


GOLDEN = [
    *("op_retention", "op_simple_gla", "op_gla", "op_gla_state", "op_hgrn", "op_hgrn2", "op_rwkv6", "op_ssd_minimal"),
    *("op_ssd_minimal_init", "op_delta_rule", "op_gated_delta_rule", "op_kda", "op_rwkv7"),
]


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("name", GOLDEN)
def test_op_equals_upstream(golden, name, backend):
    case = golden(name)
    able(backend, case.dtype)
    with blocks.ops.backend(backend):
        y, last = upstream(name, case.inputs, case.about["arguments"])
    case.check(y)
    case.check(last, "final_state")


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_recurrence_with_shared_keys_equals_upstream_whole_and_token_by_token(golden, backend):
    case = golden("op_ssd_combined_groups")
    able(backend, case.dtype)
    given = case.inputs
    dt = F.softplus(given["dt"] + given["dt_bias"])
    streams = (given["C"], given["B"], given["x"] * dt.unsqueeze(-1), given["A"] * dt)
    skip, gate = given["D"].unsqueeze(-1) * given["x"], F.silu(given["z"])
    with blocks.ops.backend(backend):
        case.check((linear_recurrence(*streams) + skip) * gate)
        state, parts = None, []
        for token in zip(*(stream.split(1, 1) for stream in streams), strict=True):
            y, state = linear_recurrence(*token, initial_state=state, return_final_state=True)
            parts.append(y)
    case.check((torch.cat(parts, 1) + skip) * gate)
    case.check(state.mT, "step_final_state")
