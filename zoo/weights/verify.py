"""Are these the bytes of the manifest? Size and sha256, hashed once per file and remembered by a stamp.

A stamp says: the file with this device, inode, size, mtime and ctime had this sha256. It is believed only where nobody else can
have written it, nor put it there (`blocks.foreign`). `ZOO_VERIFY=always` hashes at every load, `once` (the default) trusts stamps,
`never` checks only the size, but for what `ZOO_LOCKED=1` asks of a file.

`unchanged` holds a file against change while it is hashed and read: both use one descriptor, and a file that another size or other
times at the end has was written to meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from blocks.foreign import foreign
from zoo.errors import Problem, WeightsError, nearest
from zoo.system.folders import at_home, replacing
from zoo.weights.errors import BytesError, refuse_file
from zoo.weights.manifest import Manifest

POLICIES = ("always", "once", "never")
CLOCK_GRAIN_NS = 50_000_000  # file times move in steps of up to 10 ms: a file as young as this could change unseen


def verify(path: str | Path, manifest: Manifest) -> None:
    """Return if the file has the size and sha256 of the manifest (or its published prefix); else raise WeightsError."""
    try:
        with Path(path).open("rb") as file:
            verify_open(file, manifest)
    except OSError as error:
        raise refuse_file(
            f"{manifest.name}: the file cannot be read; nothing was loaded",
            manifest.source,
            expected=f"a file at {path}",
            found=error.strerror or str(error),
            next=way_out(manifest),
        ) from None


def verify_open(file: BufferedReader, manifest: Manifest) -> None:
    """The same for a file that is open, from its beginning. Raises OSError, too."""
    rule = policy()
    promised = manifest.sha256 or manifest.sha256_prefix
    if not promised:
        raise refuse_file(
            f"{manifest.name}: the manifest holds no hash; nothing was loaded",
            manifest.source,
            expected="a sha256 of bytes that were seen",
            found=f"state `{manifest.state}`, no sha256",
            next="give a file that you trust as `weights=PATH`",
        )
    size_bytes = os.fstat(file.fileno()).st_size
    same = manifest.size_bytes in (None, size_bytes)
    digest = "" if rule == "never" and same else sha256_of_open(file, use_stamps=rule == "once" and same)
    if not same or (digest and not digest.startswith(promised)):
        raise _mismatch(manifest, digest, size_bytes)


def sha256_of(path: str | Path, use_stamps: bool = True) -> str:
    """The sha256 of a file, 64 hexadecimal digits; from its stamp if it has one. Raises OSError."""
    with Path(path).open("rb") as file:
        return sha256_of_open(file, use_stamps)


def sha256_of_open(file: BufferedReader, use_stamps: bool = True) -> str:
    """That of a file that is open; it is then at its beginning. Raises OSError."""
    before = _identity(os.fstat(file.fileno()))
    if use_stamps and (stamped := _read_stamp(before)):
        return stamped
    started_ns = time.time_ns()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    if use_stamps and _age_ns(before, started_ns) > CLOCK_GRAIN_NS and _identity(os.fstat(file.fileno())) == before:
        _write_stamp(before, digest)
    return digest


@contextlib.contextmanager
def unchanged(file: BufferedReader, subject: str, where: str) -> Iterator[None]:
    """Raises WeightsError at the end of the block if the open file was written to since its beginning."""
    before = _identity(os.fstat(file.fileno()))
    yield
    if _identity(os.fstat(file.fileno())) != before:
        headline = f"{subject}: the file was written to while it was read; nothing was loaded"
        raise refuse_file(headline, where, next="load it again when its writer is done")


def settle(file: BufferedReader) -> None:
    """Waits, some hundredths of a second at most, until the open file is so old that a change would show in its times."""
    age_ns = _age_ns(_identity(os.fstat(file.fileno())), time.time_ns())
    if 0 <= age_ns <= CLOCK_GRAIN_NS:
        time.sleep((CLOCK_GRAIN_NS + 1_000_000 - age_ns) / 1e9)


def cache_folder() -> Path:
    """`$ZOO_CACHE`, else `$XDG_CACHE_HOME/zoo`, else `~/.cache/zoo`."""
    if chosen := os.environ.get("ZOO_CACHE"):
        return at_home(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zoo"


def policy() -> str:
    """`$ZOO_VERIFY`. Raises WeightsError for another word."""
    chosen = os.environ.get("ZOO_VERIFY") or "once"
    if chosen not in POLICIES:
        expected = "`always`, `once` or `never`"
        raise WeightsError("ZOO_VERIFY", Problem("", expected, f'"{chosen}"', nearest(chosen.lower(), POLICIES)))
    return chosen


def _mismatch(manifest: Manifest, digest: str, size_bytes: int) -> BytesError:
    prefix = "" if manifest.sha256 else " (a published prefix)"
    size = "" if manifest.size_bytes is None else f", {manifest.size_bytes:,} bytes"
    return refuse_file(
        f"{manifest.name}: the bytes are not those of the manifest; nothing was loaded",
        manifest.source,
        expected=f"sha256 {manifest.sha256 or manifest.sha256_prefix}{prefix}{size}",
        found=f"sha256 {digest}, {size_bytes:,} bytes",
        next=way_out(manifest),
    )


def way_out(manifest: Manifest) -> str:
    """What to do about a file that is missing or is another than its manifest says."""
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


def _age_ns(identity: dict[str, int], now_ns: int) -> int:
    """Since the file was last written or changed; negative where the clock was set back, and then no stamp is made."""
    return now_ns - max(identity["mtime_ns"], identity["ctime_ns"])


def _stamp_path(identity: dict[str, int]) -> Path:
    """One small file per stamp: two processes never rewrite each other's stamps."""
    return cache_folder() / "stamps" / f"{identity['dev']:x}-{identity['inode']:x}.json"


def _read_stamp(identity: dict[str, int]) -> str:
    path = _stamp_path(identity)
    try:
        if foreign(path.parent) or foreign(path):
            return ""
        stamp = json.loads(path.read_bytes())
        digest = stamp.pop("sha256")
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return ""  # no stamp, or not one of ours: hash again
    return digest if stamp == identity and isinstance(digest, str) and len(digest) == 64 else ""


def _write_stamp(identity: dict[str, int], digest: str) -> None:
    path = _stamp_path(identity)
    with contextlib.suppress(OSError):  # a read-only or full cache costs time at the next load, nothing else
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if foreign(path.parent):
            return
        with replacing(path) as draft:
            draft.touch(mode=0o600)
            draft.write_text(json.dumps(identity | {"sha256": digest}))
