"""Faults of the native kernels."""

from tests.faults.catalogue import fault


def mamba_under(dtype):
    """How far the logits of mamba_nano move when `dtype` becomes torch's default after the model was made."""
    import torch

    import zoo

    model = zoo.create("mamba_nano")
    ids = torch.arange(64)[None]
    with torch.no_grad():
        logits = model(ids).logits
        torch.set_default_dtype(dtype)
        return max((model(ids).logits - logits).abs().max().item() for _ in range(5))


def sentence_of(call):
    """What `call` was refused by: a sentence of a ValueError, None; anything else is told."""
    try:
        call()
    except ValueError as error:
        return None if "cu_seqlens" in str(error) else f"it says {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it was accepted"


@fault("C1a", "critical", "the native scan under a default dtype of float64 gives the logits of float32")
def default_float64():
    import torch

    apart = mamba_under(torch.float64)
    return f"logits differ by {apart:.3g}" if apart else None


@fault("C1b", "critical", "the native kernels under a default dtype of bfloat16 stay within their buffers")
def default_bfloat16():
    import torch

    apart = mamba_under(torch.bfloat16)
    return f"logits differ by {apart:.3g}" if apart else None


@fault("C1c", "critical", "the native kernels train under a default dtype of float16")
def default_float16():
    import torch

    import zoo

    model = zoo.create("mamba_nano").train()
    ids = torch.arange(64)[None]
    torch.set_default_dtype(torch.float16)
    for _ in range(5):
        model(ids).logits.float().square().mean().backward()
    bad = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    return f"gradients are missing or not finite: {bad[:3]}" if bad else None


@fault("C1d", "critical", "the native kernels compute on the CPU though the default device is meta")
def default_meta():
    import torch

    from blocks.ops.causal_conv1d import causal_conv1d
    from blocks.ops.selective_scan import selective_scan

    u, A, B = torch.randn(2, 8, 20), -torch.rand(8, 4), torch.randn(2, 4, 20)
    weight = torch.randn(8, 4)
    right = selective_scan(u, u.abs(), A, B, B), causal_conv1d(u, weight)
    with torch.device("meta"):
        found = selective_scan(u, u.abs(), A, B, B), causal_conv1d(u, weight)
    same = all(torch.equal(one, other) for one, other in zip(found, right, strict=True))
    return None if same else "outputs differ"


@fault("C2a", "critical", "an empty batch goes through models with native recurrences")
def empty_batch():
    import torch

    import zoo

    for name in ("gla_nano", "gated_delta_net_nano", "mamba_nano"):
        shape = zoo.create(name)(torch.zeros(0, 8, dtype=torch.long)).logits.shape
        if shape[:2] != (0, 8):
            return f"{name} gives {tuple(shape)}"
    return None


@fault("C2b", "critical", "recurrences with no heads, keys, values or steps give outputs and gradients of these sizes")
def zero_sizes():
    import torch

    from blocks.ops.delta_rule import delta_rule
    from blocks.ops.linear_recurrence import linear_recurrence

    for axis in range(5):
        B, L, H, K, V = (0 if index == axis else 3 for index in range(5))
        q, k = (torch.randn(B, L, H, K, requires_grad=True) for _ in range(2))
        v, beta = torch.randn(B, L, H, V, requires_grad=True), torch.rand(B, L, H, requires_grad=True)
        state = torch.randn(B, H, K, V, requires_grad=True)
        for y, last in (
            linear_recurrence(q, k, v, -beta, initial_state=state, return_final_state=True),
            delta_rule(q, k, v, beta, -beta, initial_state=state, return_final_state=True),
        ):
            if y.shape != v.shape or last.shape != state.shape:
                return f"with axis {axis} empty the shapes are {tuple(y.shape)} and {tuple(last.shape)}"
            if K == 0 and y.any():
                return "without keys something was read"
            (y.sum() + last.sum()).backward()
    return None


@fault("C3a", "critical", "cu_seqlens of floating-point numbers are refused by every op")
def float_borders():
    import torch

    return _refused_by_all(torch.tensor([0.0, 33.0]))


@fault("C3b", "critical", "cu_seqlens that are boolean or lie on another device are refused by every op")
def odd_borders():
    import torch

    return _refused_by_all(torch.tensor([False, True])) or _refused_by_all(torch.tensor([0, 33], device="meta"))


@fault("C3c", "critical", "cu_seqlens without an entry are refused by every op")
def no_borders():
    import torch

    return _refused_by_all(torch.tensor([], dtype=torch.long))


def _refused_by_all(borders):
    import torch

    from blocks.ops.causal_conv1d import causal_conv1d
    from blocks.ops.delta_rule import delta_rule
    from blocks.ops.linear_recurrence import linear_recurrence
    from blocks.ops.selective_scan import selective_scan

    u, A, B = torch.randn(1, 8, 33), -torch.rand(8, 4), torch.randn(1, 4, 33)
    q = torch.randn(1, 33, 2, 4)
    calls = {
        "linear_recurrence": lambda: linear_recurrence(q, q, q, cu_seqlens=borders),
        "delta_rule": lambda: delta_rule(q, q, q, torch.rand(1, 33, 2), cu_seqlens=borders),
        "selective_scan": lambda: selective_scan(u, u, A, B, B, cu_seqlens=borders),
        "causal_conv1d": lambda: causal_conv1d(u, torch.randn(8, 4), cu_seqlens=borders),
    }
    for name, call in calls.items():
        if told := sentence_of(call):
            return f"{name}: {told}"
    return None


@fault(
    "C4",
    "critical",
    "a step of training of MobileOne, whose strided pointwise convolutions are in channels_last",
    seconds=180,
)
def strided_pointwise():
    import torch

    import zoo

    model = zoo.create("mobileone_s0", num_classes=4).train()
    for _ in range(3):
        model(torch.randn(2, 3, 128, 128)).square().mean().backward()
    return None


def _with_compiler(compiler):
    """What a forward pass says, in a cache of its own, when CXX is `compiler`: None where it runs in plain torch."""
    import os

    import torch

    import blocks.ops
    from blocks.ops.causal_conv1d import causal_conv1d

    os.environ["CXX"] = compiler
    try:
        told = blocks.ops.explain(causal_conv1d, torch.randn(1, 8, 9), torch.randn(8, 4))
    except Exception as error:
        return f"with CXX={compiler!r} {type(error).__name__}: {error}"
    return None if "on eager" in told else f"with CXX={compiler!r}: {told}"


@fault("L1a", "low", 'a compiler whose command is not closed (CXX="g++ \'") means plain torch, not a traceback')
def unclosed_compiler():
    return _with_compiler("g++ '")


@fault("L1b", "low", "an empty compiler command (CXX=' ') means plain torch, not a traceback")
def blank_compiler():
    return _with_compiler(" ")


@fault("L2", "low", "a library that compiles and cannot be loaded is compiled once, not in every process")
def unloadable_library():
    import os
    import subprocess
    import sys
    from pathlib import Path

    lying = Path("lying")
    lying.write_text('#!/bin/sh\necho run >> "$COUNT"\nwhile [ "$1" != -o ]; do shift; done\necho nonsense > "$2"\n')
    lying.chmod(0o700)
    counted = Path("count").absolute()
    environment = os.environ | {"CXX": str(lying.absolute()), "COUNT": str(counted)}
    code = "from blocks.ops import native; print(native.missing('causal_conv1d'))"
    runs = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
        runs.append(len(counted.read_text().split()))
    return (
        f"the compiler ran {runs[0]} times, and {runs[1] - runs[0]} times in the next process"
        if runs[1] > runs[0]
        else None
    )


@fault("L3a", "low", "what a killed build leaves behind is removed by a later one")
def leftovers():
    import os
    import time

    from blocks.ops import native
    from blocks.ops.native.build import folder

    if native.missing("causal_conv1d"):
        return None  # no compiler here
    left = folder() / "tmpabcdefgh"
    left.mkdir()
    (left / "kernel.o").write_bytes(b"half")
    os.utime(left, (time.time() - 86400,) * 2)
    native.missing("recurrence")
    return f"{left.name} is still there" if left.exists() else None


@fault("L3b", "low", "the cache folder is private under umask 000")
def open_umask():
    import os

    from blocks.ops import native
    from blocks.ops.native.build import folder

    os.environ["ZOO_CACHE"] = os.path.abspath("cache")
    os.umask(0)
    native.missing("causal_conv1d")
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (folder(), folder().parent) if path.exists()}
    return f"modes are {modes}" if any(int(mode, 8) & 0o022 for mode in modes.values()) else None


@fault("L10a", "low", "causal_conv1d under autocast has one dtype on every backend")
def autocast():
    import torch

    import blocks.ops
    from blocks.ops.causal_conv1d import causal_conv1d

    x, weight, dtypes = torch.randn(2, 8, 9), torch.randn(8, 4), {}
    with torch.autocast("cpu", torch.bfloat16):
        for backend in ("eager", "native"):
            with blocks.ops.backend(backend):
                dtypes[backend] = causal_conv1d(x, weight).dtype
    return f"dtypes are {dtypes}" if len(set(dtypes.values())) > 1 else None


@fault("L10b", "low", "causal_conv1d takes mixed dtypes on every backend or on none")
def mixed_dtypes():
    import torch

    import blocks.ops
    from blocks.ops.causal_conv1d import causal_conv1d

    x, weight, found = torch.randn(2, 8, 9).bfloat16(), torch.randn(8, 4), {}
    for backend in ("eager", "native"):
        try:
            with blocks.ops.backend(backend):
                found[backend] = str(causal_conv1d(x, weight).dtype)
        except Exception as error:
            found[backend] = type(error).__name__
    return f"{found}" if len(set(found.values())) > 1 else None
