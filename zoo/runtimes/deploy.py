"""`zoo.deploy`: the deploy form of torch, or with a word about the runtime the fastest verified form on this machine."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from blocks.packing import Packed
from zoo.build.deploy import deploy as torch_form
from zoo.build.deploy import fused
from zoo.build.language import LanguageModel
from zoo.catalog.runtimes import asked
from zoo.display.console import complain
from zoo.errors import InputError, Problem
from zoo.measure.processes import Progress
from zoo.runtimes import choices
from zoo.runtimes.candidates import PLAIN, Candidate, Plan, plan_for
from zoo.runtimes.choosing import Choosing, Made, Wish
from zoo.runtimes.compiling import checked_threads, deployed_in
from zoo.runtimes.deployed import Deployed
from zoo.runtimes.evidence import Data, evidence_for, reads_digits
from zoo.runtimes.judging import Judge
from zoo.runtimes.loss import DEFAULT_MAX_LOSS
from zoo.runtimes.narrowed import narrows
from zoo.runtimes.net import Example, signature_of
from zoo.runtimes.quantised import quantised_in
from zoo.runtimes.registered import runtime as runtime_named
from zoo.runtimes.report import Report, Tried, summary_of
from zoo.runtimes.signature import Signature

MINUTES = 3.0


def deploy(
    model: nn.Module,
    runtime: str | Sequence[str] | None = None,
    precision: str | None = None,
    *,
    example: Example = None,
    minutes: float | None = None,
    max_loss: float | None = None,
    data: Data = None,
    threads: int | None = None,
    dynamic: str | None = None,
    again: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Any:
    """The deploy form of a model: in torch, in a runtime that you name, or in the fastest of all that are installed.

    `zoo.deploy(model)` is torch's: a copy with branches merged and norms folded, in float64, equal up to rounding. On a CPU its layers keep
    their weights in the layout of the kernels and compute activations inside them, which takes memory for a second copy of the weights
    at the first call. An input of another shape takes the ordinary way, and from its second call in a row its own layout: the two agree up
    to rounding.

    With any other argument it is a `Deployed`: a callable like the model, with `.runtime`, `.precision`, `.report()` and `.save(folder)`.

    runtime: `torch`, `compile`, `aot`, `onnxruntime`, `openvino` or one of a plugin; several of them; or `auto`, all that are installed. Each
        is made, held against the train form in float64 and refused where it is not equal; those that are left are timed in turns, and the
        fastest is kept. With `auto` that is torch's deploy form where none is faster. A choice is remembered for this machine.
    precision: `float32`, `bfloat16`, `float16`, `int8`, or `auto`, which takes the fastest of them that loses no more than `max_loss`. Where
        there is something to choose it is `auto`, and `float32` for a runtime that is named.
    example: a tensor, or its shape, for which it is made and timed, and of a model of several inputs one for each: `(x, t)`; inputs of the
        model's own sizes without it.
    minutes: for making and timing, about (3).
    max_loss: the share of right answers that a lower precision may lose (0.005), by the upper end of a 95 % interval. It is measured on `data`:
        a folder of pictures, in folders that are called like classes, or `(x, y)`, all inputs with the classes behind them; without labels
        as answers that change, or as the relative error of all outputs, of 500 inputs at least. Without data it is measured on the scans
        that ship, for nets of digits, and on drawn inputs for all others.
    threads: of the deployed model; all cores without it.
    dynamic: `size` takes other batches and sizes as well, where the runtime and the net do, `batch` other batches, `none` the example's shape
        and no other.
    again: measures even where a choice for this machine is remembered.
    progress: called with what is going on; without it one line on stderr says what was chosen.

    Raises InputError: for an argument that is none, for a runtime that is not installed, and where nothing passes its checks, with what
    each candidate failed at.
    """
    given = (runtime, precision, example, minutes, max_loss, data, threads, dynamic)
    if all(value is None for value in given):
        return torch_form(model)
    wanted = asked(runtime, precision)
    _check_model(model)
    reads_tokens = isinstance(model, LanguageModel)
    has_pictures = not reads_tokens and (data is not None or reads_digits(model))
    plan = plan_for(*wanted, has_pictures, reads_tokens)
    net = fused(model)
    signature = signature_of(net, example, dynamic or "size")
    wish = Wish(_checked_loss(max_loss), _checked_minutes(minutes), signature.outputs[0] == "logits")
    work = _Work(model, net, signature, checked_threads(threads), data, wish)
    fast = work.deployed(plan, again, progress or (lambda _: None))
    if progress is None and not wanted.is_named:
        complain(fast.report().summary)
    return fast


class _Work:
    """One model on its way to be deployed."""

    def __init__(self, model: nn.Module, net: nn.Module, signature: Signature, threads: int, data: Data, wish: Wish):
        self.model, self.net, self.signature, self.threads, self.data = model, net, signature, threads, data
        self.wish = wish
        self.made: dict[Candidate, Deployed] = {}

    def deployed(self, plan: Plan, again: bool, progress: Callable[[Progress], None]) -> Deployed:
        """The form that is remembered as the choice, where there is one; else that of a new choice, which is remembered."""
        if len(plan.candidates) == 1:
            return self._chosen(plan, progress)
        key = choices.key_of(self.net, self.signature, plan, self.threads, self.wish.max_loss, _named_data(self.data))
        weights = choices.weights_hash(self.net)
        known = None if again else choices.recall(key)
        fast = self._as_before(known, weights, progress) if known is not None else None
        if fast is None:
            fast = self._chosen(plan, progress)
            report = fast.report()
            choices.remember(key, choices.Choice(self.name, weights, report.summary, list(report)))
        return fast

    @property
    def name(self) -> str:
        spec: Any = getattr(self.model, "spec", None)
        return spec.name if spec is not None else type(self.model).__name__

    def _as_before(self, choice: choices.Choice, weights: str, progress: Callable[[Progress], None]) -> Deployed | None:
        """What was chosen before: as it is for the same weights, and for others where it passes its checks again; else None."""
        candidate = choice.candidate
        try:
            if choice.weights == weights:
                fast = self._make(candidate)
                fast.tell(Report(choice.rows, choice.summary))
                return fast
            needed = [PLAIN, candidate] if candidate.precision != "float32" else [candidate]
            fast = self._chosen(Plan(needed, [candidate], []), progress)
        except (InputError, MemoryError):
            return None
        fast.tell(Report(_with_other_weights(choice.rows, fast.report().chosen), choice.summary))
        return fast

    def _chosen(self, plan: Plan, progress: Callable[[Progress], None]) -> Deployed:
        choosing = Choosing(plan, self.wish, self._timed, Judge(self.model, self.signature), self._evidence, progress)
        chosen = choosing.choose()
        fast = self.made.pop(chosen.candidate)
        self.made.clear()
        fast.tell(Report(chosen.rows, self._summary(chosen.rows)))
        return fast

    def _evidence(self) -> Any:
        return evidence_for(self.model, self.signature, self.data)

    def _make(self, candidate: Candidate) -> Deployed:
        runtime = runtime_named(candidate.runtime)
        if candidate.precision == "int8" and not narrows(runtime.name, self.signature.kind, candidate.precision):
            return quantised_in(runtime, self.net, self.signature, self.threads, self._evidence(), self.wish)
        return deployed_in(runtime, self.net, self.signature, candidate.precision, self.threads)

    def _timed(self, candidate: Candidate) -> Made:
        start = time.perf_counter()
        fast = self.made[candidate] = self._make(candidate)
        seconds = time.perf_counter() - start
        return Made(fast.session, seconds, sum(path.stat().st_size for path in fast.folder.iterdir() if path.is_file()))

    def _summary(self, rows: Sequence[Tried]) -> str:
        chosen = next(row for row in rows if row.outcome == "chosen")
        return summary_of(chosen, self.name, self.threads, self.signature.shown_example)


def _with_other_weights(rows: Sequence[Tried], chosen: Tried) -> list[Tried]:
    """Rows of a choice with the checks of the chosen form on other weights; of the others only times are known."""
    known = {
        "error": chosen.error,
        "loss": chosen.loss,
        "loss_low": chosen.loss_low,
        "loss_high": chosen.loss_high,
        "loss_of": chosen.loss_of,
    }
    unknown = {"error": None, "loss": None, "loss_low": None, "loss_high": None, "loss_of": ""}
    return [msgspec.structs.replace(row, **(known if row.outcome == "chosen" else unknown)) for row in rows]


def _check_model(net: nn.Module) -> None:
    """Raises InputError for what is no model of the zoo on the CPU in float32, and for one that was deployed already."""
    model: Any = net
    if not isinstance(net, nn.Module) or not hasattr(net, "spec"):
        found = f"a {type(net).__name__}"
        raise InputError("deploy", Problem("model", "a model that `zoo.create` made", found))
    if any(isinstance(module, Packed) for module in model.modules()):
        found = "the deploy form of torch, whose layers are packed for it"
        raise InputError(
            "deploy", Problem(model.spec.name, "the train form", found, next="give it the model that this was made of")
        )
    kinds = {(tensor.device.type, tensor.dtype) for tensor in model.parameters()}
    if strange := kinds - {("cpu", torch.float32)}:
        device, dtype = sorted(strange, key=str)[0]
        found = f"parameters on {device} in {str(dtype).removeprefix('torch.')}"
        step = 'model.float().cpu(); `precision="bfloat16"` deploys it in another dtype'
        raise InputError("deploy", Problem(model.spec.name, "a model on the CPU in float32", found, next=step))


def _checked_loss(max_loss: float | None) -> float:
    value = DEFAULT_MAX_LOSS if max_loss is None else max_loss
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(
            "deploy", Problem("max_loss", "a share in [0, 1], as 0.005 for half a point", repr(value)[:60])
        )
    return float(value)


def _checked_minutes(minutes: float | None) -> float:
    value = MINUTES if minutes is None else minutes
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise InputError("deploy", Problem("minutes", "a number above 0", repr(value)[:60]))
    return float(value)


def _named_data(data: Data) -> str:
    """What a choice hangs on of the user's data: the place of a folder, the bytes of tensors."""
    if data is None:
        return ""
    if isinstance(data, (str, os.PathLike)):
        return os.path.realpath(data)
    digest = hashlib.sha256()
    for tensor in data if isinstance(data, (tuple, list)) else [data]:
        if isinstance(tensor, Tensor):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
