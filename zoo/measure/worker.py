"""One fresh process of a measurement: `python -m zoo.measure.worker` takes jobs as JSON on stdin and answers each with a line.

A process works through all jobs that it is given, so that its start is paid once. An anchor model is timed before and after
every job: the ratio to it survives what a busy machine does to milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from zoo.measure.clock import Clock, CpuClock, CudaClock, ProcessClock, measure
from zoo.measure.device import query_gpu
from zoo.measure.engines import Running, running
from zoo.measure.latency import Runtime, Sample
from zoo.runtimes.registered import version_of
from zoo.specs.model import Spec

ANCHOR = "mobilenetv4_conv_small"
STATUS = "/proc/self/status"
CLOCKS = "clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_throttle_reasons.active"

P = TypeVar("P")


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """One figure to find: a model as `zoo.create` takes it, its form, and how to run it."""

    key: str
    model: str
    form: Literal["train", "deploy"]
    runtime: Runtime
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def subject(self) -> str:
        """What is run."""
        return self.model

    @property
    def title(self) -> str:
        """The whole job in words."""
        return f"{self.model} {self.form} {self.runtime.key}"


class Plan(msgspec.Struct, frozen=True):
    """What a worker is told. `seconds` is the time for the samples of one job."""

    jobs: list[Job]
    seconds: float
    files: list[str] = []
    """The user's own files of blocks, loaded first."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A sample, or the sentence that says why there is none."""

    key: str
    sample: Sample | None = None
    error: str = ""


def work(plan: Plan) -> Iterator[Answer]:
    """One answer for each job, as soon as there is one. A model is built once for all jobs in a row that share it."""
    from zoo.catalog.local_files import load_file

    for file in plan.files:
        load_file(file)
    anchors: dict[str, nn.Module] = {}
    current: tuple[Any, ...] = ()
    model: Any = None  # a module, or what runs instead of one
    for job in plan.jobs:
        try:
            settings = (
                job.model,
                job.form,
                job.device,
                job.runtime if not job.runtime.is_torch else _module(job.runtime),
            )
            if settings != current:
                model = None
                _give_back_memory()
                current, before = settings, _memory()
                model = prepared(job) if job.runtime.is_torch else _in_its_runtime(job)
            if job.device not in anchors:
                anchors[job.device] = prepared(Job("", ANCHOR, "train", Runtime(), job.device))
            assert model is not None
            yield Answer(job.key, _sample(job, model, anchors[job.device], plan.seconds, before))
        except Exception as error:  # whatever a model raises is its own; the others go on
            current = ()
            yield Answer(job.key, None, f"{type(error).__name__}: {error}".splitlines()[0])


def _module(runtime: Runtime) -> tuple[str, str]:
    """What a module that torch runs depends on: it takes any batch, on any number of threads."""
    return runtime.dtype, runtime.engine


def _in_its_runtime(job: Job) -> Running:
    """The deploy form of a job's model in a runtime that is not torch. What it was made of is given back."""
    from zoo.build.inputs import meta_inputs

    net: Any = prepared(msgspec.structs.replace(job, runtime=Runtime()), pack_layers=False)
    made = running(net, job.runtime, [tuple(x.shape) for x in meta_inputs(net.spec, job.runtime.batch)])
    del net
    _give_back_memory()
    return made


def prepared(job: Job, spec: Spec | None = None, pack_layers: bool = True) -> nn.Module:
    """The model of a job, or of a spec in its stead, with values that keep activations normal numbers, on its device.

    Raises MemoryError where its weights would not fit."""
    import zoo
    from blocks.packing import pack
    from zoo.build.deploy import packs
    from zoo.catalog.sources import find_source
    from zoo.measure.segments import give_values

    torch.manual_seed(0)
    dtype = getattr(torch, job.runtime.dtype)
    packed = pack_layers and job.form == "deploy" and packs(job.device, dtype)
    model: Any
    if find_source(spec or job.model).spec.factory is not None:  # whose code alone gives values
        model, packed = zoo.create(job.model, form=job.form).to(dtype), False
    else:
        model = zoo.create(spec or job.model, device="meta", form=job.form).to(dtype)
        _check_room(model, job.device, copies=2 if packed else 1)
        model = model.to_empty(device="cpu")
        give_values(model)
    model = model.to(device=job.device, dtype=dtype).to(memory_format=torch.channels_last).eval()
    model = pack(model) if packed else model
    return torch.compile(model) if job.runtime.engine == "compile" else model  # type: ignore[return-value]


def _check_room(model: nn.Module, device: str, copies: int) -> None:
    """Raises MemoryError where the weights would not fit: the system would end this process without a word, or another one.

    A packed layer keeps its weights a second time, in the layout of the kernels.
    """
    needed, free = copies * sum(tensor.nbytes for tensor in model.state_dict().values()), free_memory(device)
    if needed > free > 0:
        packed = ", packed ones among them" if copies > 1 else ""
        raise MemoryError(
            f"its weights take {needed / 1e9:.1f} GB{packed}, and {free / 1e9:.1f} GB are free; bfloat16 takes half of float32"
        )


def example(job: Job, model: Callable[..., Any]) -> Tensor:
    """A random input of the model's own form, in the memory format of its stream."""
    from zoo.build.inputs import meta_input

    spec: Any = getattr(model, "_orig_mod", model).spec
    empty = torch.empty_like(meta_input(spec, job.runtime.batch), device=job.device)
    if not empty.is_floating_point():
        return empty.random_(0, spec.input.vocab_size)
    if not job.runtime.is_torch:  # which takes pictures as they come, whatever it computes in
        return empty.normal_().contiguous()
    x = empty.normal_().to(getattr(torch, job.runtime.dtype))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def examples(job: Job, model: Callable[..., Any]) -> tuple[Tensor, ...]:
    """All inputs of a call in their order, the first as `example` gives it."""
    from zoo.build.inputs import drawn_inputs

    spec: Any = getattr(model, "_orig_mod", model).spec
    dtype = getattr(torch, job.runtime.dtype)
    others = drawn_inputs(spec, job.runtime.batch, device=job.device)[1:] if spec.inputs else ()
    return (example(job, model), *(x.to(dtype) if x.is_floating_point() else x for x in others))


def _sample(job: Job, model: Callable[..., Any], anchor: nn.Module, seconds: float, before: int) -> Sample:
    torch.set_num_threads(job.runtime.threads)
    clock: Clock = CudaClock() if job.device == "cuda" else CpuClock() if job.runtime.is_torch else ProcessClock()
    inputs = examples(job, model)
    beside = example(Job("", ANCHOR, "train", Runtime(), job.device), anchor)
    with torch.inference_mode():
        output = model(*inputs)
        if not all(bool(torch.isfinite(value).all()) for value in _tensors(output)):
            raise ValueError("its outputs are not finite")
        version = "" if job.runtime.is_torch else version_of(job.runtime.engine)
        return sampled(lambda: model(*inputs), lambda: anchor(beside), clock, seconds, job.device, before, version)


def sampled(
    call: Callable[[], Any], anchor: Callable[[], Any], clock: Clock, seconds: float, device: str, before: int = 0, version: str = "",
) -> Sample:  # fmt: skip
    """A call, timed for `seconds` between two shorter looks at the anchor. `before` are the bytes that the process held without what is
    called; `version` is that of a runtime which is not torch."""
    short = min(0.03, seconds)
    first = measure(anchor, short, 3, clock)
    _reset_peak(device)
    timing = measure(call, seconds, 5, clock)
    peak = _peak(device) - before
    last = measure(anchor, short, 3, clock)
    clocks = query_gpu(CLOCKS) if device == "cuda" else ""
    return Sample(
        timing.ms,
        timing.cpu_ms,
        first.ms + last.ms,
        timing.loops,
        timing.warm_up,
        max(0, peak),
        str(torch.__version__),
        clocks,
        version,
    )


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, (list, tuple)) else []


def free_memory(device: str) -> int:
    """Bytes that a process can still have, 0 where the system does not tell."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return _kibibytes("/proc/meminfo", "MemAvailable")


def _memory() -> int:
    """Resident bytes of this process, 0 where the system does not tell."""
    return _kibibytes(STATUS, "VmRSS")


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: str) -> int:
    """Peak bytes since the reset: of the process, or of the device's allocator."""
    return torch.cuda.max_memory_allocated() + _memory() if device == "cuda" else _kibibytes(STATUS, "VmHWM")


def _kibibytes(path: str, field: str) -> int:
    """Bytes that a file of the system gives in kB, 0 where there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def _give_back_memory() -> None:
    """Freed memory goes back to the system, so that the next model's own can be seen."""
    trim: Callable[[int], int] | None = (
        getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    )
    if trim is not None:
        trim(0)


def serve(kind: type[P], work: Callable[[P], Iterator[Answer]]) -> int:
    """Answers the plan on stdin with a line for each job, on stdout."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=kind)
    out = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr):  # a model that prints does not garble the answers
        for answer in work(plan):
            out.write(msgspec.json.encode(answer) + b"\n")
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(serve(Plan, work))
