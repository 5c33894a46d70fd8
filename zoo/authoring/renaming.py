"""A block under a new name: specs, weights and records go with it, once it is proved that old and new compute the same.

State-dict names do not hold the names of blocks, so tensors stay as they are; digests do, so manifests, latency rows and the records
inside files of weights get the new one.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any, NamedTuple

import msgspec
import torch

from blocks import registry
from zoo.artifacts.lockfile import distributions
from zoo.artifacts.record import RECORD
from zoo.build.builder import build
from zoo.build.init import materialise
from zoo.build.inputs import meta_input
from zoo.catalog.collection import Collection
from zoo.catalog.published import backbone_spec
from zoo.errors import InputError, Problem
from zoo.measure.block_latency import BlockLatency
from zoo.measure.source_hash import source_hash
from zoo.measure.store import SHIPPED, SHIPPED_BLOCKS, Store, export_rows, read_rows
from zoo.specs.inputs import TokenInput
from zoo.specs.model import Spec
from zoo.specs.read import read_bytes, read_file
from zoo.specs.resolve import resolve
from zoo.system.folders import write_whole
from zoo.weights.header import read_header
from zoo.weights.load import expected_header, load_state, read_tensors
from zoo.weights.manifest import manifest_from, read_manifest, write_manifest
from zoo.weights.metadata import write_metadata
from zoo.weights.verify import sha256_of


class Renamed(NamedTuple):
    """A model whose spec has changed its name for the block."""

    model: str
    before: str
    after: str
    weights: int
    rows: int


def rename(old: str, new: str, folder: str | pathlib.Path) -> list[Renamed]:
    """Renames a block in a folder: one with `zoo.json`, as `zoo pull` writes it, or one with families, the `models` of a plugin.

    Both blocks must be registered. Nothing is written before every model in the folder has been built with both, with equal
    names, shapes and outputs, on its own weights where it has some. Raises InputError, SpecError, WeightsError, BlockError.
    """
    place = pathlib.Path(folder)
    names = Names(registry.info_of(registry.get(old)).id, registry.info_of(registry.get(new)).id)
    if (place / "zoo.json").is_file():
        return [_repository(names, place)]
    if any(place.glob("*.toml")):
        return _collection(names, place)
    raise InputError(
        "rename", Problem(str(place), "a folder with zoo.json, or with the families of a plugin", "neither")
    )


class Names:
    """The two identities, and how specs spell the old one."""

    def __init__(self, old: str, new: str):
        self.old, self.new = old, new
        bare = old.removesuffix("@1")
        self.spellings = {old, bare} | (
            {bare.removeprefix("local/")} if registry.identity_of(bare.removeprefix("local/")) == old else set()
        )
        self.written = new.removesuffix("@1")

    def in_text(self, text: str) -> str:
        """The same TOML with the new name wherever a string is the old one."""
        either = "|".join(sorted(map(re.escape, self.spellings), key=len, reverse=True))
        return re.sub(rf"""(["'])(?:{either})\1""", rf"\g<1>{self.written}\1", text)

    def in_tree(self, node: Any) -> Any:
        """The same data with the new identity wherever a value is the old one."""
        if isinstance(node, dict):
            return {key: self.in_tree(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.in_tree(value) for value in node]
        return self.new if isinstance(node, str) and node in self.spellings else node

    def in_row(self, row: BlockLatency) -> BlockLatency:
        """The same row of a block, under the new name if it is of the old one."""
        if row.block != self.old:
            return row
        return msgspec.structs.replace(row, block=self.new, source=source_hash((self.new,)))

    def check(self, before: Spec, after: Spec) -> None:
        """Raises InputError unless the specs differ in the name alone."""
        if self.in_tree(before.plain()["spec"]) != after.plain()["spec"]:
            problem = Problem(self.written, "the same parameters and defaults as the old block", "others")
            raise InputError(before.name, problem)


def prove(before: Spec, after: Spec, weights: pathlib.Path | None) -> None:
    """Raises InputError unless both models have the same names and shapes, and the same outputs up to rounding."""
    nets = build(before), build(after)
    if expected_header(nets[0]) != expected_header(nets[1]):
        raise InputError(before.name, Problem("state dict", "the same names and shapes under both names", "others"))
    torch.manual_seed(0)
    materialise(nets[0], before.init)
    if weights is not None:
        load_state(nets[0], read_tensors(weights, before.name), before.name)
    load_state(nets[1], nets[0].state_dict(), before.name)
    empty = meta_input(before, 2)
    x = torch.zeros_like(empty, device="cpu")
    x = x.random_(0, before.input.vocab_size) if isinstance(before.input, TokenInput) else x.normal_()
    with torch.no_grad():
        first, second = (net.eval()(x) for net in nets)
    error = float((first - second).abs().max() / first.abs().max().clamp_min(1e-30))
    if not error <= 1e-6:
        raise InputError(
            before.name, Problem("", "equal outputs under both names", f"a relative difference of {error:.1e}")
        )


def _collection(names: Names, folder: pathlib.Path) -> list[Renamed]:
    """All families of a folder, in three steps: resolve, prove, write."""
    home = Collection("", folder, "")
    texts = {path: names.in_text(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.toml"))}
    pairs: dict[str, tuple[Spec, Spec]] = {}
    for path, text in texts.items():
        family, fresh = read_file(path), read_bytes(text.encode(), path.name)
        for variant in family.variants:
            before, after = (resolve(each, variant, models=backbone_spec) for each in (family, fresh))
            if names.old in before.blocks():
                pairs[variant] = before, after
    if not pairs:
        raise InputError("rename", Problem(str(folder), f"a model with `{names.old}`", "none"))
    manifests = {name: sorted(home.weights.glob(f"{name}.*.json")) for name in pairs}
    for name, (before, after) in pairs.items():
        names.check(before, after)
        weights = [home.weights / read_manifest(path).source.partition(":")[2] for path in manifests[name]]
        prove(before, after, weights[0] if weights else None)
    digests = {before.digest: after for before, after in pairs.values()}
    for path, text in texts.items():
        write_whole(path, text.encode())
    for name, (_, after) in pairs.items():
        for path in manifests[name]:
            manifest = read_manifest(path)
            facts = _rename_inside(names, home.weights / manifest.source.partition(":")[2])
            write_manifest(msgspec.structs.replace(manifest, digest=after.digest, **facts), path)
    for shipped in (home.data / SHIPPED, home.data / SHIPPED_BLOCKS):
        if shipped.is_file():
            found = read_rows(shipped)
            rows = [_carried(row, digests) or row for row in found.rows]
            export_rows(rows, found.devices, shipped, [names.in_row(row) for row in found.blocks])
    carried = _carry_rows(digests)
    return [
        Renamed(name, before.digest, after.digest, len(manifests[name]), carried.get(before.digest, 0))
        for name, (before, after) in pairs.items()
    ]


def _repository(names: Names, folder: pathlib.Path) -> Renamed:
    """A folder with `zoo.json` and `model.safetensors`."""
    path = folder / RECORD
    record = json.loads(path.read_text(encoding="utf-8"))
    before, after = _specs(names, record, path.name)
    if names.old not in before.blocks():
        raise InputError("rename", Problem(str(path), f"a model with `{names.old}`", "none"))
    names.check(before, after)
    manifest = manifest_from(record["manifest"], str(path))
    weights = folder / manifest.source.partition(":")[2]
    prove(before, after, weights)
    record = _renamed(record, after, _rename_inside(names, weights))
    for row in record.get("latency", []):
        row["digest"] = after.digest if row.get("digest") == before.digest else row.get("digest")
    write_whole(path, json.dumps(record, indent=1).encode())
    rows = _carry_rows({before.digest: after})
    return Renamed(manifest.model, before.digest, after.digest, 1, rows.get(before.digest, 0))


def _specs(names: Names, record: dict[str, Any], subject: str) -> tuple[Spec, Spec]:
    """The spec of a record, and the same under the new name."""
    trees = record["spec"], record["spec"] | {"spec": names.in_tree(record["spec"]["spec"])}
    before, after = (resolve(read_bytes(json.dumps(tree).encode(), subject), "") for tree in trees)
    return before, after


def _renamed(record: dict[str, Any], after: Spec, facts: dict[str, Any]) -> dict[str, Any]:
    """A record of the renamed spec; `facts` are fields of its manifest that change beside the digest."""
    manifest = record["manifest"] | {"digest": after.digest} | facts
    needs = {"distributions": distributions(after.blocks())} if "distributions" in record else {}
    return record | {"spec": after.plain(), "manifest": manifest} | needs


def _rename_inside(names: Names, weights: pathlib.Path) -> dict[str, Any]:
    """Renames the block in the record that a file of weights carries; returns the size and hash of the file, nothing where it has none."""
    metadata = read_header(weights).metadata if weights.is_file() else {}
    if RECORD not in metadata:
        return {}
    record = json.loads(metadata[RECORD])
    before, after = _specs(names, record, weights.name)
    if names.old in before.blocks():
        text = json.dumps(_renamed(record, after, {}), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        write_metadata(weights, metadata | {RECORD: text})
    return {"size_bytes": weights.stat().st_size, "sha256": sha256_of(weights, use_stamps=False)}


def _carry_rows(digests: dict[str, Spec]) -> dict[str, int]:
    """Enters this machine's own rows under the new digests too; returns how many, by old digest."""
    counts: dict[str, int] = {}
    with Store() as store:
        for old in digests:
            measured = store.rows(shipped=False, digest=old)
            everything = store.rows(shipped=False, glances=True, digest=old)
            glances = [row for row in everything if row not in measured]
            counts[old] = store.add(_carried(row, digests) for row in measured)
            counts[old] += store.add_glances(_carried(row, digests) for row in glances)
    return counts


def _carried(row: Any, digests: dict[str, Spec]) -> Any:
    after = digests.get(row.digest)
    if after is None:
        return None
    return msgspec.structs.replace(row, digest=after.digest)
