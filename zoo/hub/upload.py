"""A model pushed to the Hub: weights, `zoo.json` with spec, manifest, the packages that hold its blocks, profile and latency rows, and a card."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from zoo.errors import InputError, Problem
from zoo.hub.client import client, offline, reachable, told
from zoo.hub.record import RECORD, SCHEMA, WEIGHTS
from zoo.specs.model import Spec
from zoo.supply.locks import distributions
from zoo.weights.manifest import Manifest, manifest_json
from zoo.weights.verify import sha256_of
from zoo.weights.wrappers import unwrapped

if TYPE_CHECKING:
    from torch import nn


def push(
    model: nn.Module,
    repo: str,
    *,
    private: bool = False,
    message: str = "",
    licence: str = "",
    licence_class: str = "unknown",
) -> str:
    """Uploads a model as a repository: weights, `zoo.json` with spec, manifest, profile and latency rows, and a card.

    Returns `hub:org/repo@commit`, which `zoo.create` takes. Files that are there already are not sent again. Raises InputError when the
    Hub refuses or cannot be reached, and for a model without a spec.
    """
    hub, model = client(), unwrapped(model)
    if not isinstance(getattr(model, "spec", None), Spec):
        raise InputError("push", Problem("model", "a model that was made from a spec", type(model).__name__))
    if offline() or not reachable():
        raise InputError("push", Problem("", "a Hub that can be reached", f"no answer from {hub.constants.ENDPOINT}"))
    with tempfile.TemporaryDirectory() as folder:
        _write(model, repo, Path(folder), licence, licence_class)
        try:
            api = hub.HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message=message or f"{model.spec.name} by blockzoo"
            )  # type: ignore[union-attr]
        except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
            raise InputError("push", Problem(repo, "a repository that takes the files", told(error))) from None
    return f"hub:{repo}@{done.oid}"


def _write(model: Any, repo: str, folder: Path, licence: str, licence_class: Any) -> None:
    from zoo.front import save
    from zoo.measure.profile import profile
    from zoo.measure.store import Store

    save(model, folder / WEIGHTS)
    spec: Spec = model.spec
    known = model.pretrained
    manifest = Manifest(
        model=spec.name, tag="hub", digest=spec.digest, source=f"file:{WEIGHTS}", state="pinned",
        size_bytes=(folder / WEIGHTS).stat().st_size, sha256=sha256_of(folder / WEIGHTS, use_stamps=False),
        licence=licence or (known.licence if known else spec.family.licence or "unknown"),
        licence_class=licence_class if licence or known is None else known.licence_class,
        origin=known.origin if known else "pushed by its owner", preprocess=known.preprocess if known else None,
        labels=known.labels if known else "", metrics=known.metrics if known and getattr(model, "adapt_report", None) is None else {},
    )  # fmt: skip
    with Store() as store:
        rows = store.rows(digest=spec.digest, verdict="clean")
    record = {
        "schema": SCHEMA,
        "manifest": json.loads(manifest_json(manifest)),
        "spec": spec.plain(),
        "distributions": distributions(spec.blocks()),
        "profile": msgspec.to_builtins(msgspec.structs.replace(profile(model), blocks=[], ops=[])),
        "latency": [msgspec.to_builtins(row) for row in rows],
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1))
    (folder / "README.md").write_text(_card(spec, manifest, repo))


def _card(spec: Spec, manifest: Manifest, repo: str) -> str:
    from zoo.cards import HUB_LICENCES, HUB_TASKS, model_index
    from zoo.choosing.find import Figure

    task = spec.family.task
    figures = [
        Figure(name, round(100 * one.value, 2), one.source) for name, one in manifest.metrics.items() if one.value <= 1
    ]
    index = [line for figure in figures for line in model_index(spec.name, task, figure)]
    front = ["---", f"license: {HUB_LICENCES.get(manifest.licence, 'other')}", "library_name: blockzoo"]
    front += [f"pipeline_tag: {HUB_TASKS.get(task, task)}", *(["model-index:", *index] if index else []), "---"]
    said = [f"# {spec.name}", "", f"Digest of the spec: `{spec.digest}`. Licence: {manifest.licence}."]
    code = ["```python", "import zoo", "", f'model = zoo.create("hub:{repo}")', "```"]
    return "\n".join([*front, "", *said, "", *code, ""])
