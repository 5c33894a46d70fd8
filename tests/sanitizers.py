"""`python -m tests.sanitizers [--calls N] [--seed S]`: the native kernels built with the address and undefined-behaviour sanitizers.

The kernels are compiled anew into a cache of their own and driven with odd and empty sizes, packed sequences, states, gradients, several
threads and other defaults of torch. A report of a sanitizer ends the process that runs them, and this command with 1. Before
that, as a control, a kernel is given an output that is too short, which has to be reported.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -g"
RUNTIMES = ("libasan.so", "libubsan.so")
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 47, 64, 65, 129)
FORMS = ("int8", "bfloat16")
REPORTS = ("AddressSanitizer", "runtime error:")


def compiler() -> str | None:
    """A g++ that has the sanitizers, or None."""
    found = shutil.which("g++")
    return found if found and all(Path(path).is_absolute() for path in _runtimes(found)) else None


def _runtimes(compiler: str) -> list[str]:
    """Where the compiler's runtimes are; the bare name of one that it lacks."""
    asked = [[compiler, f"-print-file-name={name}"] for name in RUNTIMES]
    return [subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip() for ask in asked]


def sanitized(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process whose kernels are built with the sanitizers."""
    chosen = compiler()
    if chosen is None:
        raise RuntimeError("there is no g++ with the sanitizers here; next: install libasan and libubsan")
    root = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "CXX": f"{chosen} {FLAGS}",
            "LD_PRELOAD": " ".join(_runtimes(chosen)),
            "ZOO_CACHE": cache,
            "ZOO_NATIVE": "build",
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=1",  # Python keeps what it has to its end
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        }
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", cwd=cache)


def drive(calls: int, seed: int) -> None:
    """Calls every native op so many times in all, each time with other sizes, and with a gradient every second time."""
    import torch

    from blocks.ops import native
    from blocks.ops.native import build
    from tests.ops.test_surroundings import NATIVE, PACKING, arguments, defaults, outcome, outputs

    build.SECONDS, build.FLAGS[0] = 3600, "-O1"  # instrumented and optimised, a file takes many minutes
    missing = {name: native.missing(name) for name in native.names()}
    if any(missing.values()):
        raise RuntimeError(f"kernels are missing: {missing}")
    draw = random.Random(seed)
    for call in range(calls):
        name = NATIVE[call % len(NATIVE)]
        sizes = {axis: draw.choice(SIZES) for axis in "LHKV"} | {"B": draw.randrange(4)}
        sizes["H"] += sizes["H"] % 2  # two groups of channels share B and C of the scan
        options, sequences = {}, None
        if name in PACKING and draw.random() < 0.4:
            inner = sorted(draw.randint(0, sizes["L"]) for _ in range(draw.randrange(5)))
            options["cu_seqlens"] = torch.tensor([0, *inner, sizes["L"]], dtype=draw.choice([torch.int32, torch.int64]))
            sequences = len(inner) + 1
        inputs = arguments(name, draw.choice([torch.float32, torch.bfloat16]), sequences, **sizes)
        if draw.random() < 0.3:
            del inputs["initial_state"]
        torch.set_num_threads(draw.choice([1, 2, 3, 5]))
        with defaults(draw.choice(["float32", "float64", "bfloat16", "meta"])):
            print(name, sizes, list(inputs), options, flush=True)
            (outcome if draw.random() < 0.5 else outputs)(name, inputs, "native", **options)
            if draw.random() < 0.3:
                _drive_narrow(draw)
        if draw.random() < 0.1:
            _drive_steps(draw)
    print("done", calls, flush=True)


def _drive_narrow(draw: random.Random) -> None:
    """A product with narrow weights, of few rows or of many."""
    import torch

    from blocks.ops import narrow_linear

    rows, inputs, outputs = draw.choice(SIZES), draw.choice(SIZES[1:]), draw.choice(SIZES)
    form = draw.choice(narrow_linear.FORMS)
    print("narrow", form, rows, inputs, outputs, flush=True)
    here = {"device": "cpu", "dtype": torch.float32}
    weight, scales = narrow_linear.narrowed(torch.randn(outputs, inputs, **here), form)
    bias = draw.choice([None, torch.randn(outputs, **here)])
    narrow_linear.natively(torch.randn(rows, inputs, **here), weight, scales, bias)


def _drive_steps(draw: random.Random) -> None:
    """Tokens one by one through a small net of odd sizes."""
    import torch

    import zoo
    from blocks.narrowing import narrow
    from zoo.build.deploy import fused

    groups, heads, head_dim = draw.choice([1, 2, 3]), draw.choice([1, 2, 3]), 2 * draw.choice([1, 3, 8, 17, 33])
    name, rows, begun = (
        draw.choice(["llama_nano", "jamba_nano", "qwen3_next_nano"]),
        draw.choice([1, 2, 5]),
        draw.choice([1, 70]),
    )
    own = {"define.attention": {"num_heads": heads * groups, "num_kv_heads": groups, "head_dim": head_dim}}
    form = draw.choice(["float32", *FORMS])
    print("steps", name, own, form, rows, begun, flush=True)
    net = fused(zoo.create(name, own if name == "llama_nano" else None))
    net = net if form == "float32" else narrow(net, form)  # type: ignore[arg-type]
    net.write_steps()
    with torch.no_grad():
        state = net(torch.randint(0, 200, (rows, begun)), state={}).state
        for _ in range(3):
            state = net(torch.randint(0, 200, (rows, 1)), state=state).state


def control() -> None:
    """A convolution that writes 60 numbers into room for one."""
    import torch

    from blocks.ops.causal_conv1d import native

    inputs = native._inputs(torch.randn(1, 6, 10), torch.randn(6, 4), None, None)
    native._run("causal_conv1d", inputs | {"y": torch.empty(1)}, [10], None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sanitizers", description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    checked = sanitized("from tests.sanitizers import control; control()")
    if not any(report in checked.stderr for report in REPORTS):
        print("the control, a write beyond a buffer, was not reported:", checked.stderr[-2000:])
        return 1
    run = sanitized(
        "import sys; from tests.sanitizers import drive; drive(int(sys.argv[1]), int(sys.argv[2]))",
        str(options.calls), str(options.seed),
    )  # fmt: skip
    lines = run.stdout.splitlines()
    if run.returncode or lines[-1:] != [f"done {options.calls}"]:
        print(f"after {len(lines)} calls the process ended with {run.returncode}; the last one was {lines[-1:]}")
        print(run.stderr[-6000:])
        return 1
    print(f"{options.calls} calls of native ops under the address and undefined-behaviour sanitizers: no report")
    return 0


if __name__ == "__main__":
    sys.exit(main())
