"""`zoo.export`: a model as a file that stands alone."""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.answering.answers import Answering
from zoo.build.backbone import Backbone
from zoo.build.deploy import check_form, fused
from zoo.build.language import LanguageModel
from zoo.errors import InputError, Problem, nearest
from zoo.exporting.formats import Format, Written, refuse_missing, refuse_path, write
from zoo.exporting.language import streaming
from zoo.exporting.ports import FREE, example_of
from zoo.exporting.python import export_python
from zoo.exporting.quiet import OperatorError
from zoo.factory import create

GRAPHS = {
    "onnx": "zoo.exporting.onnx:ONNX",
    "openvino": "zoo.exporting.openvino:OPENVINO",
    "torch-export": "zoo.exporting.torch_formats:PROGRAM",
    "aot": "zoo.exporting.torch_formats:AOT",
    "torchscript": "zoo.exporting.torch_formats:SCRIPT",
    "executorch": "zoo.exporting.executorch:EXECUTORCH",
}
TARGETS = ("python", *GRAPHS)
CHOICES = (FREE, ("batch",), ())
"""Which sizes may be free, the most first."""


def export(
    model: Backbone | str,
    path: str | os.PathLike[str],
    to: str = "python",
    form: str | None = None,
    force: bool = False,
    *,
    pretrained: bool = False,
    example: Tensor | Sequence[Tensor] | None = None,
    dynamic: Collection[str] | None = None,
    answers: bool = False,
) -> Path:
    """Writes a model as a file that stands alone, and returns its path.

    `to`: `python`, one readable source file that needs torch alone; a graph with its weights, for a runtime: `onnx`, `openvino`
    (an .xml with a .bin beside it), `executorch`; or one of torch's own: `torch-export`, `aot` (compiled for this machine, .pt2),
    `torchscript`. A graph is run and compared with the model in float64 before it is handed out.
    `form`: `train`, or `deploy`, the usual one of graphs. A name is created first, with initial values unless `pretrained`.
    A language model reads tokens and its state, and gives logits and the state behind them (`zoo.exporting.language`).
    A model of several inputs gives a graph with as many, each under its own name.
    `example`: the input to record the graph with, or a tensor for each of several; without it one sample of what the model declares. `dynamic`:
    which sizes stay free, of `batch` and `size` (rows and columns, or the length); as many as the model and the format allow without it.
    A graph that computes something else at other sizes is refused.
    `answers`: of a graph of a net for a task, that it holds what comes behind the net, too: boxes that are picked, the class of each pixel.
    Raises InputError for a file that is there already, unless `force`; for another format; for what the format cannot express, with
    the operator's name; and for outputs that differ.
    """
    if to not in TARGETS:
        raise InputError("export", Problem("to", f"one of {', '.join(TARGETS)}", f"`{to}`", nearest(to, TARGETS)))
    if to == "python":
        made = create(model, device="meta", form=form or "train") if isinstance(model, str) else model
        return export_python(made, path, force)
    options: Any = {"pretrained": pretrained, "example": example, "dynamic": dynamic, "answers": answers}
    return export_graph(model, path, to, form, force, **options).path


def export_graph(
    model: Backbone | str,
    path: str | os.PathLike[str],
    to: str,
    form: str | None = None,
    force: bool = False,
    *,
    pretrained: bool = False,
    example: Tensor | Sequence[Tensor] | None = None,
    dynamic: Collection[str] | None = None,
    answers: bool = False,
) -> Written:
    """`export` to a graph; tells how far its outputs are from those in float64, too."""
    wanted, target = format_of(to), Path(path)
    refuse_path(target, wanted, force)
    refuse_missing(wanted)
    check_form(form or "deploy", "export")
    net: Any = create(model, pretrained=pretrained) if isinstance(model, str) else model
    if form != "train":
        net = fused(net)
    if isinstance(net, LanguageModel):
        tokens = example if example is None or isinstance(example, Tensor) else example[0]
        return _at_any_length(wanted, net.eval(), tokens, target, dynamic, force)
    net = Answering(net) if answers else net
    example = example_of(net) if example is None else example
    return _as_free_as_can_be(wanted, net.eval(), example, target, dynamic, force)


def _as_free_as_can_be(
    wanted: Format,
    net: Any,
    example: Tensor | Sequence[Tensor],
    target: Path,
    dynamic: Collection[str] | None,
    force: bool,
) -> Written:
    """The file with the sizes free that are asked for; without a wish with the most that the net can have."""
    for choice in CHOICES[:-1] if dynamic is None else ():
        try:
            return write(wanted, net, example, target, choice, force)
        except OperatorError:
            raise
        except InputError:
            continue
    return write(wanted, net, example, target, CHOICES[-1] if dynamic is None else dynamic, force)


def _at_any_length(
    wanted: Format,
    net: LanguageModel,
    tokens: Tensor | None,
    target: Path,
    dynamic: Collection[str] | None,
    force: bool,
) -> Written:
    """The file of a language model that takes any number of tokens; without a wish one a call, where what it does follows from how many."""
    if dynamic is None:
        try:
            return write(wanted, *streaming(net, tokens), target, force=force)
        except OperatorError:
            raise
        except InputError as refusal:
            if tokens is not None and tokens.shape[1] > 1:
                raise
            try:
                return write(wanted, *streaming(net, tokens, ("batch",)), target, force=force)
            except InputError:
                raise refusal from None
    return write(wanted, *streaming(net, tokens, dynamic), target, force=force)


def format_of(to: str) -> Format:
    """The format of a graph, imported when it is asked for."""
    module, _, name = GRAPHS[to].partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
