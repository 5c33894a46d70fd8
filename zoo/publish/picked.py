"""The folder that `zoo pick --out` writes: a net that is ready to run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from blocks.registry.words import printable
from zoo import factory
from zoo.catalog.labels import labels as labels_of
from zoo.catalog.manifests import manifests
from zoo.data import transforms
from zoo.errors import InputError, Problem
from zoo.exporting.expressions import literal
from zoo.exporting.python import export_python
from zoo.exporting.sources import docstring_text
from zoo.measure.latency import Runtime
from zoo.publish.save import save
from zoo.selection.pick import Picked
from zoo.system.folders import write_text

DEPLOYED = "deployed"
RUN = '''"""Classifies image files with {told}: python run.py IMAGE..."""

import json
import sys
from pathlib import Path

import torch
import zoo

HERE = Path(__file__).parent
weights = HERE / "model.safetensors"
deployed = HERE / "deployed"
if not weights.exists():
    print("there is no model.safetensors beside this file: the answers are random", file=sys.stderr)
if deployed.exists():
    model = zoo.load_deployed(deployed)
else:
    model = zoo.create({name}, weights=weights if weights.exists() else None, form="{form}")
prepare = zoo.transform(zoo.Preprocess(**json.loads((HERE / "preprocess.json").read_text())))
labels = (HERE / "labels.txt").read_text().splitlines() if (HERE / "labels.txt").exists() else None
torch.set_num_threads({threads})
with torch.inference_mode():
    for path in sys.argv[1:]:
        shares = model(prepare(path)).softmax(-1)[0]
        best = shares.topk(min(3, len(shares)))
        for share, index in zip(best.values.tolist(), best.indices.tolist()):
            print(f"{{path}}: {{share:.1%}} {{labels[index] if labels else index}}")
'''


def write(picked: Picked, folder: Path) -> list[Path]:
    """A folder to start from: the net as one file, its spec, weights where there are any, pre-processing, labels, `run.py`, a report.

    Raises InputError for a folder that holds something already.
    """
    if os.path.exists(folder) and any(folder.iterdir()):
        raise InputError(str(folder), Problem("", "a new or an empty folder", "one with files in it"))
    folder.mkdir(parents=True, exist_ok=True)
    name = picked.choice.name
    usable = [manifest for manifest in manifests(name) if manifest.state != "listed"]
    model = factory.create(name, pretrained=bool(usable))
    export_python(model, folder / "net.py")
    write_text(folder / "spec.json", json.dumps(model.spec.tree, indent=1))
    if usable:
        save(model, folder / "model.safetensors")
    prepare = transforms.transform(model)
    write_text(folder / "preprocess.json", json.dumps(msgspec.to_builtins(prepare.preprocess), indent=1))
    labels = _labels(name)
    if labels:
        write_text(folder / "labels.txt", "\n".join(labels) + "\n")
    runtime = picked.row.runtime
    if not runtime.is_torch:
        _deploy(model, runtime).save(folder / DEPLOYED)
    write_text(
        folder / "run.py",
        RUN.format(
            told=docstring_text(printable(name)),
            name=literal(name),
            form=picked.row.form,
            threads=picked.row.runtime.threads,
        ),
    )
    write_text(folder / "report.json", json.dumps(report(picked), indent=1))
    return sorted(folder.iterdir())


def _deploy(model: Any, runtime: Runtime) -> Any:
    """The model in the runtime in which it was measured. Raises InputError where it loses more there than `zoo.deploy` allows."""
    from zoo.runtimes.deploy import deploy

    return deploy(model, runtime.name, runtime.dtype, threads=runtime.threads, progress=lambda _: None)


def report(picked: Picked) -> dict[str, Any]:
    """What was chosen, and against what, in plain values."""
    rows = [
        msgspec.to_builtins(candidate) | {"measured": msgspec.to_builtins(row)} for candidate, row in picked.finalists
    ]
    return {
        "choice": picked.choice.name,
        "p50_ms": picked.row.p50_ms,
        "prepare_ms": picked.prepare_ms,
        "verdict": picked.row.verdict,
        "trials": {name: tried._asdict() for name, tried in picked.trials.items()},
        "finalists": rows,
    }


def _labels(name: str) -> list[str]:

    try:
        return labels_of(name)
    except (InputError, ImportError):
        return []
