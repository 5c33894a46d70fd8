"""What a loss is measured on: the user's pictures, the scans that ship for nets of digits, text for models of bytes, or drawn inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.catalog.labels import labels as labels_of
from zoo.errors import InputError, Problem, listed
from zoo.runtimes.drawing import drawn
from zoo.runtimes.loss import ENOUGH, natural_noise
from zoo.runtimes.signature import Input, Signature, shown
from zoo.system.file_kinds import PICTURES

LEAST = 500
"""Inputs without labels that say anything."""
LENGTH, LEAST_SEQUENCES, TOKENS = 128, 16, 2 * ENOUGH
"""Tokens of a sequence where any length goes, and at least so many sequences and tokens: a rise of perplexity varies little between them."""
MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Pixels of the input by which a scan is moved, so that 359 scans make 1,795 pictures."""

PICTURE = ("height", "width")
"""The last axes of a picture (B, C, H, W), as a signature names them."""

Data = Any
"""What `zoo.deploy(data=)` takes: a folder of pictures, (x, y), or x alone; x is one tensor for each input of the model."""


class Evidence(NamedTuple):
    """`size` samples of all inputs of a signature, drawn or opened when they are asked for, and where they are known their classes."""

    size: int
    part: Callable[[int, int], tuple[Tensor, ...]]
    """All inputs of the samples `start` to `stop`, which are at most `size`."""
    labels: Tensor | None
    what: str
    """As a report says it: `labelled pictures of my_folder`."""

    def batches(self, count: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
        """Parts of exactly `count` samples; what is left over at the end is not used."""
        for start in range(0, self.size - count + 1, count):
            stop = start + count
            yield self.part(start, stop), self.labels[start:stop] if self.labels is not None else None


def evidence_for(model: nn.Module, signature: Signature, data: Data = None) -> Evidence:
    """The best that there is: what the user gave, the scans of digits for a net that was trained on them, and drawn inputs for all others.

    Raises InputError for data of the user's that the model cannot be tried on."""
    if data is not None and signature.kind == "language":
        return _text(data, signature, "text of yours")
    if data is not None:
        return _of_folder(model, Path(data)) if isinstance(data, (str, os.PathLike)) else _of_tensors(signature, data)
    first = signature.inputs[0]
    if len(signature.inputs) > 1:
        return _drawn(signature)
    if signature.kind == "language" or not first.dtype.startswith("float"):
        return _tokens(model, signature)
    scans = _scans(model, first.example[1:]) if reads_digits(model) else None
    return scans or _drawn(signature)


def _of_tensors(signature: Signature, data: Data) -> Evidence:
    """Tensors of the user's, one for each input, and behind them where they are known the classes (N,)."""
    inputs, given = signature.inputs, tuple(data) if isinstance(data, (tuple, list)) else (data,)
    places = [index for one in inputs for index in range(len(one.shape)) if one.axis(index) == "batch"]
    if len(places) < len(inputs):
        expected = "none: what goes into this model are no samples of one size"
        raise InputError("deploy", Problem("data", expected, _told(given)))
    x, labels = given[: len(inputs)], given[len(inputs) :]
    count = x[0].shape[places[0]] if isinstance(x[0], Tensor) and x[0].ndim else 0
    fits = [
        isinstance(one, Tensor) and one.shape == wanted.sized(batch=count)
        for one, wanted in zip(x, inputs, strict=False)
    ]
    if len(x) < len(inputs) or len(labels) > 1 or not all(fits):
        words = " and ".join(shown(_any_batch(one)) for one in inputs)
        expected = (
            f"a folder, or a tensor {words}, alone or with" if len(inputs) == 1 else f"tensors {words}, alone or with"
        )
        found = "a list" if isinstance(data, list) else _told(given)
        raise InputError("deploy", Problem("data", f"{expected} its classes (N,)", found))
    y = labels[0] if labels else None
    if y is not None and (not isinstance(y, Tensor) or y.shape != (count,) or y.is_floating_point()):
        raise InputError("deploy", Problem("data", f"whole numbers ({count},), a class for each input", _told(labels)))
    what = "labelled inputs of yours" if y is not None else "inputs of yours"

    def part(start: int, stop: int) -> tuple[Tensor, ...]:
        return tuple(one.narrow(place, start, stop - start) for one, place in zip(x, places, strict=True))

    return _refuse_few(Evidence(count, part, y, what), "data")


def _any_batch(one: Input) -> tuple[int | None, ...]:
    """The sizes of an example, of any number of samples."""
    return tuple(None if one.axis(index) == "batch" else size for index, size in enumerate(one.example))


def _told(given: tuple[Any, ...]) -> str:
    """What was given, as sentences say it: shapes of tensors, the kinds of others."""
    return " and ".join(
        f"{shown(tuple(one.shape))} of {one.dtype}" if isinstance(one, Tensor) else f"a {type(one).__name__}"
        for one in given
    )


def _of_folder(model: nn.Module, folder: Path) -> Evidence:
    """Pictures in folders that are called like classes are labelled; where none is, all are used without labels."""
    from zoo.data.transforms import open_image, transform

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise InputError(
            "deploy", Problem("data", f"a folder with pictures: {listed(PICTURES, 5)}", f"none in {folder}")
        )
    classes = _classes(model)
    labelled = [path for path in files if path.parent.name in classes]
    chosen, prepare = labelled or files, transform(model)
    labels = torch.tensor([classes[path.parent.name] for path in labelled]) if labelled else None
    what = f"labelled pictures of {folder.name}" if labelled else f"pictures of {folder.name}"

    def opened(start: int, stop: int) -> tuple[Tensor, ...]:
        return (prepare([open_image(path) for path in chosen[start:stop]]),)

    return _refuse_few(Evidence(len(chosen), opened, labels, what), str(folder))


def _refuse_few(evidence: Evidence, where: str) -> Evidence:
    least = LEAST if evidence.labels is None else 1
    if evidence.size < least:
        step = (
            "fewer say something where they are labelled: (x, y), or folders that are called like the model's classes"
        )
        expected = f"at least {least} inputs" + (" without labels" if evidence.labels is None else "")
        raise InputError("deploy", Problem(where, expected, str(evidence.size), next=step))
    return evidence


def _classes(model: nn.Module) -> dict[str, int]:
    try:
        return {label: index for index, label in enumerate(labels_of(model))}  # type: ignore[arg-type]
    except (InputError, ImportError):
        return {}


def reads_digits(model: nn.Module) -> bool:
    """Whether it has the weights that were trained on the scans which ship."""
    manifest = getattr(model, "pretrained", None)
    return getattr(manifest, "tag", "") == "digits" and getattr(manifest, "preprocess", None) is not None


def _scans(model: Any, sizes: Sequence[int]) -> Evidence | None:
    """The 359 held-out scans, each in five positions a pixel apart; None for a net that was asked for at other sizes."""
    from zoo.data.digits import held_out, to_input

    images, classes = held_out()
    x = to_input(images, model.pretrained.preprocess)
    if tuple(x.shape[1:]) != tuple(sizes):
        return None
    moved = torch.cat([x.roll(move, dims=(-2, -1)) for move in MOVES])
    what = f"labelled pictures: {len(x)} scans in {len(MOVES)} positions"
    return Evidence(
        len(moved), lambda start, stop: (moved[start:stop],), torch.from_numpy(classes).repeat(len(MOVES)), what
    )


def _drawn(signature: Signature) -> Evidence:
    """Pictures with nature's spectrum; for what is no picture normal numbers, and what else goes in. Each part has a seed of its own."""
    first = signature.inputs[0]
    is_picture = first.axes[2:] == PICTURE

    def part(start: int, stop: int) -> tuple[Tensor, ...]:
        sizes = {"batch": stop - start}
        x, *others = drawn(signature, 2 + start, **sizes)
        if is_picture:
            x = natural_noise(first.sized(**sizes), torch.Generator().manual_seed(2 + start))  # type: ignore[arg-type]
        return (x, *others)

    return Evidence(ENOUGH, part, None, "pictures drawn with nature's spectrum" if is_picture else "random inputs")


def _tokens(model: nn.Module, signature: Signature) -> Evidence:
    """Sequences (N, L) of at least `TOKENS` tokens in all: text for a model of bytes, else random tokens."""
    from zoo.data.pydoc import held_out_text

    first = signature.inputs[0]
    length = first.example[1] if len(first.example) > 1 else 1
    if first.takes((first.example[0], LENGTH)):
        length = max(length, LENGTH)
    count = max(first.example[0], LEAST_SEQUENCES, -(-TOKENS // length))
    text = held_out_text() if _reads_bytes(model) else b""
    if len(text) >= count * length > count:
        ids = torch.tensor(list(text[: count * length])).view(count, length)
        return (
            _text(ids, signature, "held-out text")
            if signature.kind == "language"
            else _unlabelled(ids, "held-out text")
        )
    longer = (
        signature.with_example((first.example[0], length, *first.example[2:])) if len(first.example) > 1 else signature
    )
    return _unlabelled(drawn(longer, 2, batch=count)[0], "random tokens")


def _unlabelled(ids: Tensor, what: str) -> Evidence:
    return Evidence(len(ids), lambda start, stop: (ids[start:stop],), None, what)


def _text(ids: Any, signature: Signature, what: str) -> Evidence:
    """Token ids (N, L) as a text, in which each token is what should have followed. Raises InputError for what is none, or too little."""
    first = signature.inputs[0]
    sound = isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point() and min(ids.shape) > 1
    if not sound or not first.takes((first.example[0], ids.shape[1])) or ids.numel() < LEAST:
        found = f"{shown(tuple(ids.shape))} of {ids.dtype}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        expected = (
            f"token ids (N, L), {LEAST} or more in two sequences at least, of lengths that the model is deployed for"
        )
        raise InputError("deploy", Problem("data", expected, found))
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= first.high:
        raise InputError("deploy", Problem("data", f"tokens in [0, {int(first.high)})", f"{low} to {high}"))
    return Evidence(len(ids), lambda start, stop: (ids[start:stop],), ids[:, 1:].long(), what)


def _reads_bytes(model: Any) -> bool:
    from zoo.data.pydoc import BYTES

    return getattr(getattr(getattr(model, "spec", None), "input", None), "vocab_size", 0) == BYTES
