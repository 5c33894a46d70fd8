"""Are these the bytes of the manifest? Size and sha256, hashed once per file and remembered by a stamp.

A stamp says: the file with this device, inode, size, mtime and ctime had this sha256. `ZOO_VERIFY=always` hashes at
every load, `once` (the default) trusts stamps, `never` checks only the size.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from pathlib import Path

from zoo.errors import Problem, WeightsError, nearest
from zoo.weights.manifest import Manifest
from zoo.weights.refusals import BytesError, refuse_file

POLICIES = ("always", "once", "never")
CLOCK_GRAIN_NS = 50_000_000  # file times move in steps of up to 10 ms: a file as young as this could change unseen


def verify(path: str | Path, manifest: Manifest) -> None:
    """Return if the file has the size and sha256 of the manifest (or its published prefix); else raise WeightsError."""
    path, policy = Path(path), _policy()
    promised = manifest.sha256 or manifest.sha256_prefix
    if not promised:
        raise refuse_file(
            f"{manifest.name}: the manifest holds no hash; nothing was loaded",
            manifest.source,
            expected="a sha256 of bytes that were seen",
            found=f"state `{manifest.state}`, no sha256",
            next="give a file that you trust as `weights=PATH`",
        )
    try:
        size_bytes = path.stat().st_size
        same = manifest.size_bytes in (None, size_bytes)
        digest = "" if policy == "never" and same else sha256_of(path, use_stamps=policy == "once" and same)
    except OSError as error:
        raise refuse_file(
            f"{manifest.name}: the file cannot be read; nothing was loaded",
            manifest.source,
            expected=f"a file at {path}",
            found=error.strerror or str(error),
            next=_way_out(manifest),
        ) from None
    if not same or (digest and not digest.startswith(promised)):
        raise _mismatch(manifest, digest, size_bytes)


def sha256_of(path: str | Path, use_stamps: bool = True) -> str:
    """The sha256 of a file, 64 hexadecimal digits; from its stamp if it has one. Raises OSError."""
    with Path(path).open("rb") as file:
        before = _identity(os.fstat(file.fileno()))
        if use_stamps and (known := _read_stamp(before)):
            return known
        started_ns = time.time_ns()
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        settled = started_ns - max(before["mtime_ns"], before["ctime_ns"]) > CLOCK_GRAIN_NS
        if use_stamps and settled and _identity(os.fstat(file.fileno())) == before:
            _write_stamp(before, digest)
    return digest


def cache_folder() -> Path:
    """`$ZOO_CACHE`, else `$XDG_CACHE_HOME/zoo`, else `~/.cache/zoo`."""
    if chosen := os.environ.get("ZOO_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zoo"


def _policy() -> str:
    policy = os.environ.get("ZOO_VERIFY") or "once"
    if policy not in POLICIES:
        expected = "`always`, `once` or `never`"
        raise WeightsError("ZOO_VERIFY", Problem("", expected, f'"{policy}"', nearest(policy.lower(), POLICIES)))
    return policy


def _mismatch(manifest: Manifest, digest: str, size_bytes: int) -> BytesError:
    prefix = "" if manifest.sha256 else " (a published prefix)"
    size = "" if manifest.size_bytes is None else f", {manifest.size_bytes:,} bytes"
    return refuse_file(
        f"{manifest.name}: the bytes are not those of the manifest; nothing was loaded",
        manifest.source,
        expected=f"sha256 {manifest.sha256 or manifest.sha256_prefix}{prefix}{size}",
        found=f"sha256 {digest}, {size_bytes:,} bytes",
        next=_way_out(manifest),
    )


def _way_out(manifest: Manifest) -> str:
    if manifest.state == "embedded":
        return "install the package again: a file inside it is damaged, changed or missing"
    if manifest.sha256 and manifest.sha256 in manifest.source:  # the store keeps files under their hashes
        return f"`zoo cache verify` sets the file aside, `zoo pin {manifest.name}` fetches it again"
    if manifest.revision:
        return "run again to download anew; a repeat means that the repository changed"
    return "restore the file; if the change is meant, write its manifest anew"


def _identity(stat: os.stat_result) -> dict[str, int]:
    """ctime cannot be set back by a program as mtime can, so a restored mtime does not hide a change."""
    return {
        "dev": stat.st_dev,
        "inode": stat.st_ino,
        "size_bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
    }


def _stamp_path(identity: dict[str, int]) -> Path:
    """One small file per stamp: two processes never rewrite each other's stamps."""
    return cache_folder() / "stamps" / f"{identity['dev']:x}-{identity['inode']:x}.json"


def _read_stamp(identity: dict[str, int]) -> str:
    try:
        stamp = json.loads(_stamp_path(identity).read_bytes())
        digest = stamp.pop("sha256")
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return ""  # no stamp, or not one of ours: hash again
    return digest if stamp == identity and isinstance(digest, str) and len(digest) == 64 else ""


def _write_stamp(identity: dict[str, int], digest: str) -> None:
    path = _stamp_path(identity)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            draft.write_text(json.dumps(identity | {"sha256": digest}))
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError:
        pass  # a read-only or full cache costs time at the next load, nothing else
