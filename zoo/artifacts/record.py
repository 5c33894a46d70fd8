"""The record of a model, `zoo.json`: the spec, the manifest of the weights, and how the module was made of the spec.

It stands beside the weights in a repository of the Hub and in a folder that `zoo.save` wrote, and under the key `zoo.json` in the
metadata of every file of weights that `zoo.save` wrote. There its manifest has the state `saved` and no hash, since no file can
hold its own. Reading is strict and bounded, and imports no torch.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

import msgspec

from blocks.registry import plugins
from zoo.errors import Problem, SpecError, WeightsError, listed, nearest
from zoo.specs.model import Spec
from zoo.specs.read import MAX_BYTES, family_of, read_json
from zoo.specs.resolve import resolve
from zoo.weights.manifest import Manifest, manifest_from

SCHEMA = "zoo.json/1"
RECORD, WEIGHTS = "zoo.json", "model.safetensors"
PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
"""A name that may stand in a command that we print."""
KEYS = ("schema", "manifest", "spec", "made", "distributions", "profile", "latency")


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a module is beside its spec: in the deploy form, without a head, or returning the levels `out_indices`."""

    form: Literal["train", "deploy"] = "train"
    headless: bool = False
    out_indices: tuple[int, ...] | None = None


class Record(NamedTuple):
    """`source` of the manifest is the file of the weights."""

    spec: Spec
    manifest: Manifest
    made: Made


def read_record(data: bytes, subject: object, inside: bool = False) -> Record:
    """What a `zoo.json` says; `inside` a file of weights its manifest holds no hash. Raises WeightsError, and SpecError for its spec."""
    content, manifest = _content(data, str(subject), inside)
    made = _made(content.get("made", {}), str(subject))
    try:
        spec = resolve(family_of(content.get("spec"), f"{subject}: {RECORD}"), "")
    except SpecError as error:
        raise SpecError(error.subject, [*error.problems, *_missing(content.get("distributions"))]) from None
    spec.name = manifest.model
    if spec.digest != manifest.digest:
        problem = Problem(
            f"{RECORD}: manifest.digest", f"that of the spec beside it, {spec.digest[:12]}", manifest.digest[:12]
        )
        raise WeightsError(str(subject), problem)
    return Record(spec, manifest, made)


def _content(data: bytes, subject: str, inside: bool) -> tuple[dict[str, Any], Manifest]:
    if len(data) > MAX_BYTES:
        raise WeightsError(subject, Problem(RECORD, f"at most {MAX_BYTES:,} bytes", f"{len(data):,}"))
    try:
        content = read_json(data, subject)
    except SpecError as error:
        raise WeightsError(subject, [problem._replace(where=RECORD) for problem in error.problems]) from None
    schema = content.get("schema") if isinstance(content, dict) else type(content).__name__
    if schema != SCHEMA:
        newer = isinstance(schema, str) and schema.startswith("zoo.json/")
        step = "a newer blockzoo wrote this: `pip install -U blockzoo`" if newer else ""
        raise WeightsError(subject, Problem(f"{RECORD}: schema", f"`{SCHEMA}`", f"`{str(schema)[:60]}`", next=step))
    unknown = [
        Problem(f"{RECORD}: {key}", "", "an unknown key", nearest(key, KEYS)) for key in content.keys() - {*KEYS}
    ]
    if unknown:
        raise WeightsError(subject, unknown)
    manifest = manifest_from(content.get("manifest"), f"{subject}: {RECORD}: manifest")
    hashed = manifest.state == "saved" if inside else bool(manifest.sha256)
    if manifest.source != f"file:{WEIGHTS}" or not hashed:
        expected = f"`file:{WEIGHTS}`" + (", and the state `saved`" if inside else " with its sha256")
        problem = Problem(f"{RECORD}: manifest.source", expected, f"`{manifest.source}`")
        raise WeightsError(subject, problem)
    return content, manifest


def _made(values: Any, subject: str) -> Made:
    try:
        made = msgspec.convert(values, Made)
    except msgspec.ValidationError as error:
        raise WeightsError(
            subject, Problem(f"{RECORD}: made", "how the module was made of its spec", str(error))
        ) from None
    if made.out_indices is not None and (made.form == "deploy" or not made.out_indices):
        found = "both the deploy form and levels" if made.out_indices else "no level"
        raise WeightsError(subject, Problem(f"{RECORD}: made", "levels of a train form", found))
    return made


def _missing(claimed: Any) -> list[Problem]:
    """Packages that the record says its blocks are from, and that are not installed: its claim, which nobody has checked."""
    names = claimed if isinstance(claimed, dict) else {}
    packages = {"blockzoo", *plugins.plugins()}
    absent = [
        f"{name} {version}" for name, version in names.items() if PACKAGE.fullmatch(name) and name not in packages
    ]
    if not absent:
        return []
    hint = f"pip install --no-deps {absent[0].partition(' ')[0]}, if you trust it"
    return [
        Problem("", "the packages that the repository claims to need", f"{listed(absent)} not installed", next=hint)
    ]
