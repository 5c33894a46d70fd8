"""Which implementation of an op runs, why, and how it is forced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import blocks.ops
from blocks.ops import dispatch
from blocks.ops.dispatch import choose, implementation, implements, kernel
from blocks.registry.errors import BlockError

OP = "toy"


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """An op that tells what ran: eager, native for float32, reference, and a trace that asks for a kernel."""
    monkeypatch.setattr(dispatch, "_known", {})
    monkeypatch.setattr(dispatch, "_refusals", {})
    for name in ("reference", "eager", "native"):
        implements(OP, name, unless=only_float32 if name == "native" else None)(lambda x, name=name: name)
    implements(OP, "trace")(lambda x, backend="": f"trace {backend}".strip())


def only_float32(x: Tensor) -> str:
    return "" if x.dtype == torch.float32 else f"it computes in float32, not {x.dtype}"


def ran(x: Tensor) -> str:
    return implementation(OP, x)(x)


def test_fastest_that_can_is_chosen_and_the_others_say_why_not():
    assert choose(OP, torch.ones(1))[:2] == ("native", "")
    reason = "not native: it computes in float32, not torch.float64"
    assert choose(OP, torch.ones(1, dtype=torch.float64))[:2] == ("eager", reason)


@pytest.mark.parametrize("name", ["reference", "eager", "native"])
def test_forced_backend_runs(name):
    with blocks.ops.backend(name):
        assert ran(torch.ones(1)) == name


def test_forced_backend_that_cannot_says_why():
    with blocks.ops.backend("native"), pytest.raises(BlockError) as caught:
        ran(torch.ones(1, dtype=torch.float64))
    assert str(caught.value) == (
        "op `toy`: 1 error\n    expected a call that the forced backend `native` can take; "
        "found it computes in float32, not torch.float64"
    )


def test_forced_backend_that_an_op_lacks_lists_those_it_has():
    implements("other", "triton")(lambda x: x)
    with blocks.ops.backend("triton"), pytest.raises(BlockError) as caught:
        ran(torch.ones(1))
    assert caught.value.problems[0].sentence() == (
        "expected `eager`, `native`, `reference` or `trace`; found the forced backend `triton`"
    )


def test_unknown_backend_names_the_nearest():
    with pytest.raises(BlockError) as caught, blocks.ops.backend("egaer"):
        pass
    sentence = "expected `eager`, `native`, `reference` or `trace`; found `egaer`; nearest `eager`"
    assert caught.value.problems[0].sentence() == sentence


def test_forced_backend_ends_with_its_block_even_after_an_error():
    with pytest.raises(KeyError), blocks.ops.backend("reference"):
        raise KeyError
    assert ran(torch.ones(1)) == "native"


def test_wanted_gradient_goes_through_the_trace_with_the_kernel_named():
    x = torch.ones(1, requires_grad=True)
    assert ran(x) == "trace native" and choose(OP, x).backend == "native"
    with torch.no_grad():
        assert ran(x) == "native"
    with blocks.ops.backend("reference"):
        assert ran(x) == "reference"


def test_meta_tensors_dispatch_modes_and_subclasses_see_the_trace():
    assert ran(torch.ones(1, device="meta")) == "trace"
    with FlopCounterMode(display=False):
        assert ran(torch.ones(1)) == "trace"
    assert ran(torch.ones(1).as_subclass(type("Mine", (Tensor,), {}))) == "trace"


def test_counting_within_a_forced_backend_traces_that_backend():
    with blocks.ops.backend("eager"):
        assert ran(torch.ones(1, device="meta")) == "trace eager"


def test_op_without_a_trace_is_plain_torch_where_torch_looks_on():
    implements("plain", "eager")(lambda x: "eager")
    implements("plain", "native")(lambda x: "native")
    meta = torch.ones(1, device="meta")
    assert choose("plain", meta)[:2] == ("eager", "plain torch, since meta tensors")
    assert implementation("plain", torch.ones(1))(None) == "native"


def test_inside_a_trace_force_still_counts():
    assert kernel(OP, "", torch.ones(1))(None) == "native"
    with blocks.ops.backend("eager"):
        assert kernel(OP, "", torch.ones(1))(None) == "eager"
        assert kernel(OP, "native", torch.ones(1))(None) == "native"


def test_explain_counts_calls_by_backend_and_reason():
    def model() -> None:
        for dtype in (torch.float32, torch.float64, torch.float32):
            ran(torch.ones(1, dtype=dtype))
        with blocks.ops.backend("reference"):
            ran(torch.ones(1))

    assert blocks.ops.explain(model).splitlines() == [
        "toy on native, 2 calls",
        "toy on eager, 1 call; not native: it computes in float32, not torch.float64",
        "toy on reference, 1 call; forced",
    ]
