"""Models in repositories of the Hub: data only, a filled spec and safetensors, verified before a byte of them is used.

A repository holds `zoo.json` (the spec, and the manifest of the weights), `model.safetensors` and a card. The real client of the Hub
fetches and pushes; its cache stays usable by other tools. It does not check what it downloads, so we do: the bytes are hashed once
and held against the manifest; what differs is set aside and fetched once more. What is cached at a commit costs no request at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard
from urllib.parse import urlsplit

import msgspec

from zoo.errors import InputError, Problem, WeightsError
from zoo.specs.model import Spec
from zoo.specs.read import MAX_BYTES, read_bytes
from zoo.specs.resolve import resolve
from zoo.weights.manifest import Manifest, manifest_json, parse_manifest
from zoo.weights.refusals import BytesError
from zoo.weights.verify import sha256_of, verify

if TYPE_CHECKING:
    from torch import nn

SCHEMA = "zoo.json/1"
RECORD, WEIGHTS = "zoo.json", "model.safetensors"
REFERENCE = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 0.8
"""Seconds that the Hub's address has to answer before we say that it cannot be reached; the client itself waits for twenty."""


class Reference(NamedTuple):
    """`hub:org/repo@revision`."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"hub:{self.repo}@{self.revision}"


class Repository(NamedTuple):
    """What a repository says: the spec, the manifest of its weights, and the folder in which they lie."""

    spec: Spec
    manifest: Manifest
    folder: Path


def is_hub(model: Any) -> TypeGuard[str]:
    return isinstance(model, str) and model.startswith("hub:")


def parse(text: str) -> Reference:
    """Raises InputError for what is no reference."""
    found = REFERENCE.fullmatch(text)
    if found is None:
        raise InputError("create", Problem("", "hub:org/repo or hub:org/repo@revision", f"`{text}`"))
    return Reference(found["repo"], found["revision"] or "main")


def repository(text: str) -> Repository:
    """Fetches what is missing, and verifies it. Raises InputError when it cannot be had, WeightsError and SpecError for its content."""
    reference = parse(text)
    record = fetch(reference, RECORD)
    if record.stat().st_size > MAX_BYTES:
        raise WeightsError(
            str(reference), Problem(RECORD, f"at most {MAX_BYTES:,} bytes", f"{record.stat().st_size:,}")
        )
    spec, manifest = _read(record.read_bytes(), reference)
    pinned = reference._replace(revision=_commit_of(record) or reference.revision)
    path = fetch(pinned, WEIGHTS)
    try:
        verify(path, manifest)
    except BytesError:
        path = _fetched_anew(pinned, path)
        verify(path, manifest)
    return Repository(spec, msgspec.structs.replace(manifest, revision=pinned.revision), path.parent)


def _read(data: bytes, reference: Reference) -> tuple[Spec, Manifest]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WeightsError(str(reference), Problem(RECORD, "JSON", str(error))) from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise WeightsError(str(reference), Problem(f"{RECORD}: schema", f"`{SCHEMA}`", f"`{found}`"))
    manifest = parse_manifest(json.dumps(content.get("manifest")), f"{reference}: {RECORD}: manifest")
    if manifest.source != f"file:{WEIGHTS}" or not manifest.sha256:
        problem = Problem(f"{RECORD}: manifest.source", f"`file:{WEIGHTS}` with its sha256", f"`{manifest.source}`")
        raise WeightsError(str(reference), problem)
    spec = resolve(read_bytes(json.dumps(content.get("spec")).encode(), f"{reference.repo}.json"), "")
    spec.name = manifest.model
    if spec.digest != manifest.digest:
        problem = Problem(
            f"{RECORD}: manifest.digest", f"that of the spec beside it, {spec.digest[:12]}", manifest.digest[:12]
        )
        raise WeightsError(str(reference), problem)
    return spec, manifest


def fetch(reference: Reference, name: str, anew: bool = False) -> Path:
    """A file of a repository on this machine: from the cache without a request where a commit is asked for. Raises InputError."""
    hub = _client()
    if not anew:
        cached = hub.try_to_load_from_cache(reference.repo, name, revision=reference.revision)
        if isinstance(cached, str) and (COMMIT.fullmatch(reference.revision) or _offline()):
            return Path(cached)
    if _offline():
        found, next_step = (
            "no such file in the cache, and no network is wanted",
            "unset ZOO_OFFLINE and HF_HUB_OFFLINE, once",
        )
        raise InputError(str(reference), Problem(name, "a file of the cache", found, next=next_step))
    if not _reachable():
        found = f"no answer from {hub.constants.ENDPOINT} within {PATIENCE:g} s"
        raise InputError(
            str(reference), Problem(name, "a Hub that can be reached", found, next="check the network, or HF_ENDPOINT")
        )
    try:
        return Path(hub.hf_hub_download(reference.repo, name, revision=reference.revision, force_download=anew))
    except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, OSError) as error:
        raise InputError(str(reference), Problem(name, "a file that can be fetched", _told(error))) from None


def _fetched_anew(reference: Reference, path: Path) -> Path:
    """Sets a file aside whose bytes are not those of its manifest, and fetches it once more."""
    blob = path.resolve()
    with contextlib.suppress(OSError):
        os.replace(blob, blob.with_name(f"{blob.name}.quarantine-{sha256_of(blob, use_stamps=False)[:12]}"))
        path.unlink(missing_ok=True)
    return fetch(reference, WEIGHTS, anew=True)


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
    hub = _client()
    if not isinstance(getattr(model, "spec", None), Spec):
        raise InputError("push", Problem("model", "a model that was made from a spec", type(model).__name__))
    if _offline() or not _reachable():
        raise InputError("push", Problem("", "a Hub that can be reached", f"no answer from {hub.constants.ENDPOINT}"))
    with tempfile.TemporaryDirectory() as folder:
        _write(model, Path(folder), licence, licence_class)
        try:
            api = hub.HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message=message or f"{model.spec.name} by blockzoo"
            )  # type: ignore[union-attr]
        except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
            raise InputError("push", Problem(repo, "a repository that takes the files", _told(error))) from None
    return f"hub:{repo}@{done.oid}"


def pull(text: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Copies what a repository holds of a model, verified, into a folder: weights and `zoo.json`. Returns the files.

    Raises as `repository` does, and InputError for a folder that holds such files already.
    """
    target = Path(folder)
    there = [name for name in (RECORD, WEIGHTS) if (target / name).exists()]
    if there:
        raise InputError("pull", Problem(str(target), "a folder without these files", ", ".join(there)))
    found = repository(text)
    target.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(found.folder / name, target / name)) for name in (RECORD, WEIGHTS)]


def _write(model: Any, folder: Path, licence: str, licence_class: Any) -> None:
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
        "profile": msgspec.to_builtins(msgspec.structs.replace(profile(model), blocks=[], ops=[])),
        "latency": [msgspec.to_builtins(row) for row in rows],
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1))
    (folder / "README.md").write_text(_card(spec, manifest))


def _card(spec: Spec, manifest: Manifest) -> str:
    from zoo.cards import HUB_LICENCES

    lines = ["---", f"license: {HUB_LICENCES.get(manifest.licence, 'other')}", "library_name: blockzoo"]
    lines += [f"pipeline_tag: {spec.family.task}"] if spec.family.task else []
    lines += [
        "---",
        "",
        f"# {spec.name}",
        "",
        f"Digest of the spec: `{spec.digest}`. Licence: {manifest.licence}.",
        "",
        "```python",
    ]
    return "\n".join([*lines, "import zoo", "", 'model = zoo.create("hub:ORG/REPO")', "```", ""])


def _client() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the client asks at import
    import huggingface_hub
    import huggingface_hub.errors

    return huggingface_hub


def _offline() -> bool:
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE")
    )


def _reachable() -> bool:
    """Whether the Hub's address takes a connection. Behind a proxy that is for the client to find out."""
    parts = urlsplit(_client().constants.ENDPOINT)
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")):
        return True
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), PATIENCE
        ).close()
    except OSError:
        return False
    return True


def _commit_of(path: Path) -> str:
    """The commit in whose snapshot a cached file stands."""
    return path.parent.name if COMMIT.fullmatch(path.parent.name) else ""


def _told(error: Exception) -> str:
    """What the client says, without its addresses and advice."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
