"""All that is known of the models of a site, gathered from the records: costs, rows, predictions, figures, weights. Imports no torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec

from blocks.registry import describe, identity_of
from zoo import catalog
from zoo.catalog.manifests import published as listed_weights
from zoo.catalog.published import published_spec
from zoo.errors import InputError, Problem
from zoo.measure.block_latency import BlockLatency
from zoo.measure.device import Device
from zoo.measure.latency import Latency
from zoo.measure.parts import Parts
from zoo.measure.predict import Calibration
from zoo.measure.published import published
from zoo.measure.store import MAX_IMPORT_BYTES, newest, read_rows, shipped_blocks, shipped_devices, shipped_rows
from zoo.measure.work_hash import is_stale
from zoo.selection.figures import in_percent
from zoo.site.figures import Shown
from zoo.specs.model import Spec
from zoo.system.folders import read_whole
from zoo.weights.licences import licence_class
from zoo.weights.manifest import Manifest, Metric, read_manifest

MIXING = {
    "attention": "attention",
    "conv": "convolution",
    "linear_attention": "recurrence",
    "ssm": "recurrence",
    "mlp": "MLP",
    "structured": "MLP",
}
"""How tokens or pixels see each other, by the folder of the block that sees to it. A state space and a linear attention are recurrences."""


class Accuracy(NamedTuple):
    """How good a model is with some weights: `dataset/metric@size`; where it was printed, or the command that measured it."""

    metric: str
    figure: Shown
    source: str
    weights: str
    interval: tuple[Shown, ...] = ()
    command: str = ""

    @property
    def short(self) -> str:
        return self.metric.partition("@")[0]


class Measurements(NamedTuple):
    """Rows of models and of blocks by themselves, the newest of each kind; predictions; and the devices that they are of."""

    rows: list[Latency]
    blocks: list[BlockLatency]
    calibrations: list[Calibration]
    devices: list[Device]


def measurements(files: Sequence[Path] = ()) -> Measurements:
    """What ships, and what files hold: JSON lines of `zoo bench --export`, or what `zoo calibrate --json` printed. Raises InputError."""
    alone = shipped_blocks()
    rows, blocks, devices, calibrations = shipped_rows(), alone.blocks, [*shipped_devices(), *alone.devices], []
    for path in files:
        calibration = _calibration(path)
        if calibration is not None:
            calibrations.append(calibration)
            continue
        found = read_rows(path)
        rows, blocks, devices = rows + found.rows, blocks + found.blocks, devices + found.devices
    by_id = {device.id: device for device in devices}
    return Measurements(list(newest(rows)), list(newest(blocks)), calibrations, list(by_id.values()))


def _calibration(path: Path) -> Calibration | None:
    """None for a file that begins like no calibration."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                if b'"zoo.calibration/' not in file.read(200):
                    return None
        return msgspec.json.decode(read_whole(path, MAX_IMPORT_BYTES), type=Calibration)
    except OSError as error:
        raise InputError(str(path), Problem("", "a file of measurements", error.strerror or str(error))) from None
    except (ValueError, RecursionError) as error:
        expected = "what `zoo calibrate --json` prints today"
        raise InputError(str(path), Problem("", expected, str(error)[:300])) from None


class Known:
    """One model. `timings` are its rows, by device, runtime and form."""

    def __init__(self, entry: catalog.Entry, timings: Sequence[Latency], parts: Parts | None):
        self.entry, self.parts = entry, parts
        self.timings = sorted(timings, key=lambda row: (row.device, row.runtime.key, row.form))

    @property
    def name(self) -> str:
        return self.entry.name

    @cached_property
    def spec(self) -> Spec | None:
        """None of a model that a plugin's code builds. Raises SpecError."""
        return published_spec(self.name) if self.entry.file else None

    @cached_property
    def input_words(self) -> str:
        """What costs and latencies are of: `224 x 224`, `50 frames of 172 x 172`, `128 tokens`."""
        size = self.entry.input_size
        words = " x ".join(map(str, size)) if len(size) > 1 else f"{size[0]} tokens"
        frames = getattr(self.spec.input, "frames", 0) if self.spec is not None else 0
        return f"{frames} frames of {words}" if frames else words

    @property
    def licence_class(self) -> str:
        return licence_class(self.entry.licence)

    @property
    def sellable(self) -> bool:
        """Whether code, and weights where there are some, are under permissive licences."""
        classes = [manifest.licence_class for manifest in self.weights]
        return self.licence_class == "permissive" and (not classes or "permissive" in classes)

    @property
    def weights_state(self) -> str:
        return "shipped" if self.entry.tags else "listed" if self.entry.listed else "none"

    def is_stale(self, row: Latency) -> bool:
        """Whether the model asks other work of a machine today."""
        return is_stale(row, self.name)

    @cached_property
    def mixing(self) -> str:
        return mixing_of(self.entry.blocks)

    @cached_property
    def weights(self) -> list[Manifest]:
        """Those that ship, then those that others published. What is pinned on one machine is no part of a site."""
        name, entry = self.name, self.entry
        shipped = [read_manifest(catalog.weights_manifest(name, tag)) for tag in entry.tags]
        return shipped + [listed_weights(f"{name}.{tag}") for tag in entry.listed]

    @cached_property
    def accuracies(self) -> list[Accuracy]:
        """That of weights that ship, that which is printed for the model at its own size, that of listed weights."""
        shipped, listed = self.weights[: len(self.entry.tags)], self.weights[len(self.entry.tags) :]
        return [
            *(
                _of_weights(manifest, metric, value)
                for manifest in shipped
                for metric, value in manifest.metrics.items()
            ),
            *_printed(self.entry),
            *(
                _of_weights(manifest, metric, value)
                for manifest in listed
                for metric, value in manifest.metrics.items()
            ),
        ]

    @property
    def own(self) -> list[Accuracy]:
        """Without those of listed weights: what `zoo find` ranks by."""
        own = {manifest.name for manifest in self.weights[: len(self.entry.tags)]} | {""}
        return [accuracy for accuracy in self.accuracies if accuracy.weights in own]


def mixing_of(blocks: Iterable[str]) -> str:
    """`convolution`, `attention`, `recurrence`, `MLP`, `hybrid` of several, `other` of a plugin's."""
    kinds = {_mixing_of(block) for block in blocks} - {""}
    if not kinds and any(_area(block) == "conv" for block in blocks):
        return "convolution"
    return kinds.pop() if len(kinds) == 1 else "hybrid" if kinds else "other"


def _mixing_of(block: str) -> str:
    info = describe(block) if identity_of(block) else None
    return MIXING.get(_area(block), "other") if info is not None and info.kind == "token_mixer" else ""


def _area(block: str) -> str:
    """`conv` of a block in `blocks/conv`; "" of one that is not the core's."""
    target = describe(block).target if identity_of(block) else ""
    match = re.match(r"blocks\.(\w+)\.", target)
    return match[1] if match else ""


def _of_weights(manifest: Manifest, metric: str, found: Metric) -> Accuracy:
    factor = 100 if in_percent(metric) else 1
    value = round(factor * found.value, 4)
    record = f"weights:{manifest.name}:{metric}"
    interval = tuple(
        Shown(end, f"{factor * end:.4g}", f"{record}:ci95.{place}") for place, end in enumerate(found.ci95 or ())
    )
    shown = Shown(value, f"{round(value, 2):g}", record)
    return Accuracy(metric, shown, found.source or manifest.origin, manifest.name, interval, found.command)


def _printed(entry: catalog.Entry) -> Iterable[Accuracy]:
    """Only at the model's own size, as the latencies beside it are."""
    found = published().get(entry.name)
    if found is not None and found.accuracy is not None and found.size == entry.input_size[-1]:
        shown = Shown(found.accuracy, f"{found.accuracy:g}", f"printed:{entry.name}:accuracy")
        yield Accuracy(found.metric, shown, found.accuracy_source, "")


def gather(names: Sequence[str], rows: Sequence[Latency], parts: Mapping[str, Parts]) -> dict[str, Known]:
    """The models by name, each with the rows of its digest."""
    of_digest: dict[str, list[Latency]] = defaultdict(list)
    for row in rows:
        of_digest[row.digest].append(row)
    found = {name: catalog.entry(name) for name in names}
    return {name: Known(entry, of_digest[entry.digest], parts.get(name)) for name, entry in found.items()}
