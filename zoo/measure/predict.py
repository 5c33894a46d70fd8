"""What a calibration knows: the latency of every model of the catalogue on one device. Imports neither torch nor numpy."""

from __future__ import annotations

import importlib.metadata
import re
from typing import NamedTuple

import msgspec

from zoo.measure.coverage import Errors
from zoo.measure.latency import Runtime
from zoo.measure.store import Store
from zoo.runtimes.registered import version_of


class Prediction(NamedTuple):
    """Milliseconds, and the range that nine in ten lie in; None where the error is not known."""

    ms: float
    low_ms: float | None
    high_ms: float | None


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a device under one runtime. `models` holds a prediction for each digest and form of the catalogue, `fitted` the
    names of the models that were measured for it."""

    schema: str = "zoo.calibration/3"
    device: str
    runtime: str
    torch: str
    version: str
    date: str
    errors: Errors | None
    models: dict[str, dict[str, Prediction]]
    fitted: list[str] = []


def predictions(store: Store, device: str, runtime: Runtime) -> dict[tuple[str, str], Prediction]:
    """The latencies of all models of the catalogue that a calibration of the device knows, by digest and form. Times nothing."""
    calibration = read(store, device, runtime)
    if calibration is None:
        return {}
    return {(digest, form): guess for digest, forms in calibration.models.items() for form, guess in forms.items()}


def read(store: Store, device: str, runtime: Runtime) -> Calibration | None:
    """None where there is none that can be read, or one of an older schema: its measurements are still known, so a new one begins with
    those."""
    data = store.calibration(device, runtime_key(runtime))
    try:
        return msgspec.json.decode(data, type=Calibration) if data else None
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return None


def runtime_key(runtime: Runtime) -> str:
    """Predictions and times of pieces hold for one version of torch, or of the runtime that runs instead of it."""
    if not runtime.is_torch:
        return f"{runtime.key} version {version_of(runtime.engine)}"
    return f"{runtime.key} torch {importlib.metadata.version('torch')}"


def known_threads(store: Store, device: str, runtime: Runtime) -> list[int]:
    """The numbers of threads with which latencies of a device are known, measured or predicted, all else being as in a runtime."""
    keys = {row.runtime.key for row in store.rows(device=device, verdict="clean")}
    version = runtime_key(runtime).removeprefix(runtime.key)
    keys |= {key.removesuffix(version) for key in store.calibrated(device) if key.endswith(version)}
    rest, _ = runtime.key.rsplit(" t", 1)
    return sorted(int(match[1]) for key in keys if (match := re.fullmatch(rf"{re.escape(rest)} t(\d+)", key)))


def calibrate_command(runtime: Runtime) -> str:
    """What to type for a calibration under a runtime."""
    words = [
        f" --threads {runtime.threads}" if runtime.threads != 1 else "",
        f" --batch {runtime.batch}" if runtime.batch != 1 else "",
        f" --dtype {runtime.dtype}" if runtime.dtype != "float32" else "",
        f" --runtime {runtime.name}" if runtime.name != "torch" else "",
    ]
    return f"zoo calibrate{''.join(words)}"
