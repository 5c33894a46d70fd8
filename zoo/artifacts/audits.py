"""`zoo audit`: every file from which weights may be loaded here, hashed anew, and who vouches for it; as a table or a bill of materials."""

from __future__ import annotations

import importlib.metadata
import uuid
from datetime import UTC, datetime
from typing import Any, NamedTuple

from blocks.registry import plugins
from zoo.artifacts import lockfile as locks
from zoo.artifacts.inventory import Item, inventory
from zoo.artifacts.lock import lock
from zoo.errors import InputError, Problem, listed, nearest

FORMATS = ("cyclonedx",)
LIBRARIES = ("blockzoo", "torch", "safetensors", "huggingface-hub", "msgspec", "numpy", "Pillow", "fvcore", "rich")


class Finding(NamedTuple):
    """One file. A stranger has a `fault`: nobody vouches for it, or its bytes are others."""

    item: Item
    fault: str


def audit() -> list[Finding]:
    """Hashes every file of the package's weights, the zoo's store and the repositories in the Hub's cache, and asks who vouches for it: a
    manifest of the package, a pin, a lock. A pin that cannot be read is a finding, too."""
    findings = [Finding(item, item.fault()) for item in inventory() if item.kind != "leftover"]
    for path in sorted(locks.pins_folder().glob("*.json")):
        if locks.read_pin(path) is None:
            findings.append(Finding(Item("pinned", path.stem, path), "a pin that cannot be read"))
    return findings


def bill_of_materials(findings: list[Finding], layout: str = "cyclonedx") -> dict[str, Any]:
    """CycloneDX 1.6: the libraries that load weights and the distributions of plugins, and each weights file with its hash and licence.

    Raises InputError for another layout."""
    if layout not in FORMATS:
        raise InputError("audit", Problem("sbom", listed(list(FORMATS)), f"`{layout}`", nearest(layout, FORMATS)))
    licences = {entry.name: entry for entry in [*lock(path=None), *locks.entries().values()]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "tools": {"components": [_library("blockzoo")]},
        },
        "components": [
            *(_library(name) for name in (*LIBRARIES, *plugins.plugins())),
            *(_weights(finding, licences) for finding in findings if finding.item.kind != "compiled"),
        ],
    }


def _library(name: str) -> dict[str, Any]:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = locks.distributions([])["blockzoo"] if name == "blockzoo" else ""
    component = {"type": "library", "bom-ref": f"pkg:pypi/{name.lower()}@{version}", "name": name, "version": version}
    return {**component, "purl": component["bom-ref"]} if version else component


def _weights(finding: Finding, licences: dict[str, locks.Locked]) -> dict[str, Any]:
    item = finding.item
    entry = licences.get(item.name.partition("@")[0])
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"{item.kind}:{item.name or item.path.name}:{item.path.name}",
        "name": item.name or item.path.name,
        "version": entry.revision if entry else "",
        "hashes": [{"alg": "SHA-256", "content": item.sha256}] if item.sha256 else [],
        "properties": [
            {"name": "zoo:place", "value": item.kind},
            {"name": "zoo:file", "value": item.path.name},
            {"name": "zoo:verdict", "value": finding.fault or "vouched for"},
        ],
    }
    if entry:
        component["licenses"] = [{"license": {"name": entry.licence}}]
        component["externalReferences"] = [{"type": "distribution", "url": entry.source}]
    return component
