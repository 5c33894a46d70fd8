"""Which machine this is: what the system says, and what it does.

Names lie (virtual machines above all), so a device is its facts together with a measured fingerprint. Two machines that
call themselves the same are told apart by it, and one machine is known again on another day.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from zoo.measure.clock import on_threads

CPUINFO = Path("/proc/cpuinfo")
ISA = ("amx_tile", "avx512_bf16", "avx512f", "avx2", "sse4_2", "asimddp", "asimd", "sve")
"""Instruction sets that decide how fast a network runs, the strongest first."""

SPREAD = {"gemm_gflops": 1.3, "copy_gb_s": 3.0, "dispatch_us": 1.6}
"""The share by which the best of many runs may differ between two days on one machine that other work shares; it takes memory first."""


class Fingerprint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The best of many short runs on one thread: fp32 matrix product, copy of a large array, cost of an empty operation."""

    gemm_gflops: float
    copy_gb_s: float
    dispatch_us: float


class Device(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A machine, or the accelerator in it. `id` is what records carry."""

    kind: Literal["cpu", "cuda"]
    name: str
    vendor: str
    isa: str
    cores: int
    memory_gb: float
    virtualised: bool
    fingerprint: Fingerprint
    driver: str = ""

    @property
    def facts(self) -> tuple[object, ...]:
        """What the system says of it; equal for many machines."""
        return self.kind, self.name, self.vendor, self.isa, self.cores, self.virtualised

    @property
    def id(self) -> str:
        """A short word for people and a hash of everything, fingerprint included."""
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:8]
        return f"{_word(self.name)}-{self.cores}c-{digest}"


def same_machine(a: Device, b: Device) -> bool:
    """Whether the facts are equal and no part of the fingerprints differs by more than a busy day explains."""
    if a.facts != b.facts:
        return False
    pairs = [(getattr(a.fingerprint, name), getattr(b.fingerprint, name), limit) for name, limit in SPREAD.items()]
    pairs.append((a.memory_gb, b.memory_gb, 1.05))  # what the system keeps for itself differs from start to start
    return all(max(x, y) <= limit * min(x, y) for x, y, limit in pairs)


def recognise(device: Device, known: Iterable[Device]) -> Device:
    """The device among those known before, or itself if it is new."""
    return next((other for other in known if same_machine(device, other)), device)


def identify(kind: str = "cpu") -> Device:
    """This machine, measured now (about 0.3 s), or its first CUDA device."""
    return _cuda() if kind == "cuda" else _cpu()


def _cpu() -> Device:
    text, flags = _cpuinfo(), instructions()
    return Device(
        kind="cpu",
        name=_field(text, "model name") or platform.processor() or platform.machine(),
        vendor=_field(text, "vendor_id") or platform.machine(),
        isa=next((isa for isa in ISA if isa in flags), platform.machine()),
        cores=cores(),
        memory_gb=_memory_gb(),
        virtualised="hypervisor" in flags,
        fingerprint=_fingerprint("cpu"),
    )


def instructions() -> frozenset[str]:
    """The instruction sets of this CPU, as the system names them: `avx2`, `amx_bf16`. Empty where it does not say."""
    text = _cpuinfo()
    return frozenset((_field(text, "flags") or _field(text, "Features")).split())


def _cpuinfo() -> str:
    return CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return 0.0


def _cuda() -> Device:
    import torch

    facts = torch.cuda.get_device_properties(0)
    return Device(
        kind="cuda",
        name=facts.name,
        vendor="nvidia" if torch.version.cuda else "amd",
        isa=f"sm_{facts.major}{facts.minor}",
        cores=facts.multi_processor_count,
        memory_gb=facts.total_memory / 2**30,
        virtualised=False,
        fingerprint=_fingerprint("cuda"),
        driver=query_gpu("driver_version"),
    )


def query_gpu(fields: str) -> str:
    """One line of nvidia-smi's answer, "" where it cannot be asked."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _fingerprint(kind: str) -> Fingerprint:
    """Best values: other work can only make a run slower."""
    import torch

    with on_threads(1):
        side = 4096 if kind == "cuda" else 512
        a, b = torch.ones(side, side, device=kind), torch.ones(side, side, device=kind)
        source = torch.ones(2**26 if kind == "cuda" else 2**24, device=kind)
        target, tiny = torch.empty_like(source), torch.ones(1, device=kind)
        with torch.inference_mode():
            gemm = _best(lambda: torch.mm(a, b), kind)
            copy = _best(lambda: target.copy_(source), kind)
            dispatch = _best(lambda: [tiny.neg() for _ in range(100)], kind) / 100
    return Fingerprint(
        round(2 * side**3 / gemm / 1e9, 1), round(2 * source.nbytes / copy / 1e9, 2), round(dispatch * 1e6, 2)
    )


def _best(call: Callable[[], object], kind: str, seconds: float = 0.1, least: int = 5) -> float:
    """Seconds of the fastest of many calls."""
    import torch

    wait = torch.cuda.synchronize if kind == "cuda" else lambda: None
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def _word(name: str) -> str:
    """`Intel(R) Xeon(R) Processor` -> `xeon`; `NVIDIA H200` -> `h200`."""
    plain = re.sub(r"\((r|tm)\)", "", name.lower())
    words = [word for word in re.findall(r"[a-z0-9][a-z0-9-]*", plain) if word not in DULL]
    return words[0][:LONGEST_WORD] if words else "device"


DULL = {"intel", "amd", "nvidia", "apple", "processor", "cpu", "core", "genuine", "arm", "tesla", "geforce", "gpu"}
LONGEST_WORD = 60
"""Letters of a name within an id, which is a name itself: `blocks.registry.words.DEVICE`."""
