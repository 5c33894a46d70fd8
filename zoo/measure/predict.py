"""What a calibration knows, and the latency that follows from it for every model whose pieces it has timed. Imports no torch."""

from __future__ import annotations

import importlib.metadata
from typing import NamedTuple

import msgspec

from zoo.measure.latency import Runtime
from zoo.measure.law import Errors, Laws, Load
from zoo.measure.store import Store


class Parts(msgspec.Struct, frozen=True):
    """What a model is made of: keys of pieces in the order in which they run, its weights, and whose law holds for it."""

    keys: list[str]
    megabytes: float
    group: str = ""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a device under one runtime. `models` holds the parts of each digest and form of the catalogue."""

    schema: str = "zoo.calibration/2"
    device: str
    runtime: str
    torch: str
    version: str
    date: str
    laws: Laws
    errors: Errors | None
    models: dict[str, dict[str, Parts]]
    complete: bool


class Prediction(NamedTuple):
    """Milliseconds, and the range that nine in ten lie in; None where the error is not known."""

    ms: float
    low_ms: float | None
    high_ms: float | None


def predictions(store: Store, device: str, runtime: Runtime) -> dict[tuple[str, str], Prediction]:
    """Of all models of the catalogue whose pieces are known on a device, by digest and form. Times nothing."""
    made = read(store, device, runtime)
    if made is None:
        return {}
    known = store.pieces(device, runtime_key(runtime))
    return {
        (digest, form): predicted(made, parts, known)
        for digest, forms in made.models.items()
        for form, parts in forms.items()
        if all(key in known for key in parts.keys)
    }


def read(store: Store, device: str, runtime: Runtime) -> Calibration | None:
    """None where there is none that can be read, or one of an older schema: its pieces are still known, so a new one begins with those."""
    data = store.calibration(device, runtime_key(runtime))
    try:
        return msgspec.json.decode(data, type=Calibration) if data else None
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return None


def predicted(made: Calibration, parts: Parts, known: dict[str, float]) -> Prediction:
    ms = made.laws.of(parts.group).ms(load_of(parts, known))
    if made.errors is None:
        return Prediction(ms, None, None)
    return Prediction(ms, ms * made.errors.low, ms * made.errors.high)


def load_of(parts: Parts, known: dict[str, float]) -> Load:
    return Load(sum(known[key] for key in parts.keys), len(parts.keys), parts.megabytes)


def runtime_key(runtime: Runtime) -> str:
    """Times of pieces hold for one version of torch."""
    return f"{runtime.key} torch {importlib.metadata.version('torch')}"
