"""Triton kernels of recurrences: on a GPU where there is one, else in Triton's interpreter; and compiled for a GPU without one."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest
import torch

from tests.ops.test_recurrences import (
    FORWARD,
    GRADIENT,
    HALF,
    OPS,
    Inputs,
    arguments,
    double,
    error,
    exact,
    gradients,
    run,
)

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
    assert "21 passed" in done.stdout


def judged(kind: str, inputs: Inputs, forward: float, gradient: float) -> None:
    """Holds outputs, last state and all gradients against the reference in float64."""
    there = {name: x.to(DEVICE) for name, x in inputs.items()}
    for found, right in zip(run(kind, there, "triton"), exact(kind, inputs), strict=True):
        assert error(found.cpu(), right) <= forward
    rights = gradients(kind, double(inputs), "reference")
    for name, found in gradients(kind, there, "triton").items():
        assert error(found.cpu(), rights[name]) <= gradient or rights[name].norm() < 1e-12, name


@on_gpu_or_interpreted
@pytest.mark.parametrize("length", [1, 9])
@pytest.mark.parametrize("kind", OPS)
def test_outputs_and_gradients_equal_the_reference(kind, length):
    judged(kind, arguments(kind, length, samples=1), FORWARD, GRADIENT)


@on_gpu_or_interpreted
@pytest.mark.parametrize("kind", ["decay per key", "gated delta"])
def test_bfloat16_streams_are_kept_in_float32(kind):
    judged(kind, arguments(kind, 9, torch.bfloat16, samples=1), HALF, HALF)


@on_gpu_or_interpreted
@pytest.mark.parametrize("kind", ["decay per head", "decay per key", "gated delta"])
def test_decays_of_zero_and_one_stay_finite_and_right(kind):
    inputs = arguments(kind, 9, samples=1)
    inputs["log_decay"][:, 2::4], inputs["log_decay"][:, 3] = -torch.inf, 0
    judged(kind, inputs, FORWARD, GRADIENT)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from blocks.ops import _recurrence_triton_kernels as kernels

FLAGS = {"KIND": 2, "REVERSE": True, "BEFORE_READ": True, "BEHIND_WRITE": False, "SEES_ITSELF": True}
FLAGS |= {"READ_FIRST": True, "KEEP": True, "P": 64, "W": 64}
SIZES = ("length", "heads", "keys", "values")
for kernel in (kernels.recurrence_kernel, kernels.delta_kernel):
    values = {name: FLAGS[name] for name in kernel.arg_names if name in FLAGS}
    kind = lambda name: "constexpr" if name in values else "i32" if name.endswith(("_b", "_t", "_h", *SIZES)) else "*fp32"
    signature = {name: kind(name) for name in kernel.arg_names}
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
