"""`zoo doctor`: what this installation has, what is missing, what is broken."""

from __future__ import annotations

import os
import platform
from argparse import Namespace
from typing import Any

from zoo.cli.options import command
from zoo.display.console import dump, table
from zoo.errors import ProblemsError

PACKAGES = ("torch", "safetensors", "huggingface-hub", "fvcore", "msgspec", "rich", "pillow", "numpy")
OPTIONAL = {"timm": "timm", "scikit-learn": "train", "tokenizers": "text"}


def add(commands: Any) -> None:
    command(commands, "doctor", doctor)


def doctor(arguments: Namespace) -> int:
    """Exit code 1 when something that should work does not."""
    rows = [
        ("python", "ok", platform.python_version()),
        *_packages(),
        *_catalogue(),
        *_native(),
        *_device(),
        *_plugins(),
    ]
    if arguments.json:
        dump([{"what": what, "state": state, "detail": detail} for what, state, detail in rows])
    else:
        table(["what", "state", "detail"], rows)
    return 1 if any(state == "broken" for _, state, _ in rows) else 0


def _device() -> list[tuple[str, str, str]]:
    """What this machine does, and the name that its measurements carry."""
    from zoo.measure.this_device import this_device

    try:
        device = this_device()
    except ProblemsError as error:
        return [("device", "broken", str(error).replace("\n", " "))]
    done = device.fingerprint
    speed = (
        f"{done.gemm_gflops:g} GFLOP/s and {done.copy_gb_s:g} GB/s on one thread, {done.dispatch_us:g} us an operation"
    )
    return [("device", "ok", f"{device.id}: {device.name}, {device.cores} cores, {device.isa}, {speed}")]


def _packages() -> list[tuple[str, str, str]]:
    import importlib.metadata

    rows = []
    for name in PACKAGES:
        try:
            rows.append((name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "broken", f"not installed: pip install {name}"))
    for name, extra in OPTIONAL.items():
        try:
            rows.append((name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "absent", f'optional: pip install "blockzoo[{extra}]"'))
    return rows


def _catalogue() -> list[tuple[str, str, str]]:
    """Blocks, models and embedded weights: readable and whole."""
    import blocks
    from zoo import catalog
    from zoo.catalog.collection import CORE
    from zoo.weights.manifest import read_manifest
    from zoo.weights.source import path_of

    rows = [
        ("blocks", "ok", f"{len(blocks.list_blocks())} registered"),
        ("models", "ok", f"{len(catalog.entries())} in the catalogue"),
    ]
    for path in sorted(CORE.weights.glob("*.json")):
        try:
            path_of(read_manifest(path), CORE.weights)
            rows.append((f"weights {path.stem}", "ok", "bytes verified"))
        except ProblemsError as error:
            rows.append((f"weights {path.stem}", "broken", str(error).replace("\n", " ")))
    return rows


def _native() -> list[tuple[str, str, str]]:
    """Kernels in C++: without them everything works, slower."""
    from blocks.ops import native

    reasons = {name: native.missing(name) for name in native.names()}
    return [(f"native {name}", "absent" if why else "ok", why or "built") for name, why in reasons.items()]


def _plugins() -> list[tuple[str, str, str]]:
    from zoo.authoring.report import checked

    rows = []
    for report in checked(60):
        well = report.state in ("available", "loaded")
        summary = f"{report.version}, {len(report.blocks)} blocks, {report.models} models"
        state = "ok" if well else "absent" if report.state == "disabled" else "broken"
        rows.append((f"plugin {report.name}", state, summary if well else report.cause))
    if os.environ.get("ZOO_PLUGINS"):
        rows.append(("ZOO_PLUGINS", "ok", os.environ["ZOO_PLUGINS"]))
    return rows
