"""Triton kernels: on a GPU where there is one, else in Triton's interpreter; and compiled for a GPU without one."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest
import torch

from tests.ops.test_selective_scan import BORDERS, FORWARD, GRADIENT, HALF, arguments, error, exact, gradients, scan

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (pip install triton)"
)
ROOT = pathlib.Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
on_gpu_or_interpreted = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="a process with TRITON_INTERPRET=1 runs this"
)


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the tests below run by themselves")
def test_kernels_pass_in_the_interpreter():
    """Triton decides at its first import whether it interprets, so the tests below run in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "13 passed" in done.stdout


def on_device(inputs):
    return {name: value.to(DEVICE) for name, value in inputs.items()}


def judged(inputs, forward: float, gradient: float, borders: torch.Tensor | None = None) -> None:
    """Holds outputs, last state and all gradients against the reference in float64."""
    there = None if borders is None else borders.to(DEVICE)
    for found, right in zip(
        scan(on_device(inputs), "triton", cu_seqlens=there), exact(inputs, cu_seqlens=borders), strict=True
    ):
        assert error(found.cpu(), right) <= forward
    rights = gradients({name: value.double() for name, value in inputs.items()}, "reference", cu_seqlens=borders)
    founds = gradients(on_device(inputs), "triton", cu_seqlens=there)
    for name, right in rights.items():
        assert error(founds[name].cpu(), right) <= gradient, name


@on_gpu_or_interpreted
@pytest.mark.parametrize("length", [1, 17, 40])
def test_outputs_and_gradients_equal_the_reference(length):
    judged(arguments(length), FORWARD, GRADIENT)


@on_gpu_or_interpreted
def test_bfloat16_streams_are_scanned_in_float32():
    judged(arguments(33, torch.bfloat16), HALF, HALF)


@on_gpu_or_interpreted
def test_packed_sequences_equal_the_reference():
    judged(arguments(64, states=5), FORWARD, GRADIENT, torch.tensor(BORDERS))


@on_gpu_or_interpreted
@pytest.mark.parametrize("missing", ["D", "z", "delta_bias", "initial_state"])
def test_optional_arguments_may_be_left_out(missing):
    judged({name: value for name, value in arguments(20).items() if name != missing}, FORWARD, GRADIENT)


@on_gpu_or_interpreted
@pytest.mark.parametrize("rate", [0.0, -1e-8, -1e4, -1e30])
def test_extreme_decays_stay_finite_and_right(rate):
    inputs = arguments(20)
    inputs["A"] = torch.full_like(inputs["A"], rate)
    y, _ = scan(on_device(inputs), "triton")
    assert error(y.cpu(), exact(inputs)[0]) <= FORWARD


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from blocks.ops.selective_scan import _triton_kernels

KINDS = {"borders": "*i64", "blocks": "*i64", "groups": "i32", "channels": "i32", "size": "i32"}
for kernel in (_triton_kernels.forward_kernel, _triton_kernels.backward_kernel):
    values = {"SOFTPLUS": True, "T": 16, "W": 4, "P": 16}
    kind = lambda name: "constexpr" if name in values else "i32" if "_row" in name or "_group" in name else "*bf16"
    signature = {name: KINDS.get(name, kind(name)) for name in kernel.arg_names}
    signature |= {name: "*fp32" for name in signature if name in ("starts", "last") or name[:6] in ("grad_B", "grad_C")}
    at = {(kernel.arg_names.index(name),): value for name, value in values.items()}
    built = triton.compile(ASTSource(kernel, signature, constexprs=at), target=GPUTarget("cuda", 90, 32))
    print("cubin" in built.asm)
"""


@pytest.mark.skipif(INTERPRETED, reason="an interpreter compiles nothing")
def test_kernels_compile_for_a_gpu_that_is_not_here(tmp_path):
    file = tmp_path / "compile.py"  # not interpreted: in a process of its own
    file.write_text(f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{COMPILE}")
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["True", "True"], done.stderr
