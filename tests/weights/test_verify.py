"""The bytes are those of the manifest, or nothing is loaded; stamps save hashing and are never trusted blindly."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time

import pytest

from zoo.errors import WeightsError
from zoo.weights import verify as verify_module
from zoo.weights.manifest import Manifest
from zoo.weights.verify import sha256_of, verify

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_VERIFY", raising=False)
    monkeypatch.setattr(verify_module, "CLOCK_GRAIN_NS", 0)  # the files of these tests are younger than 50 ms
    path = tmp_path / "net.safetensors"
    path.write_bytes(CONTENT)
    time.sleep(0.02)
    return path


def manifest(**changes) -> Manifest:
    facts = dict(
        model="net",
        tag="digits",
        digest="0" * 64,
        source="embedded:net.safetensors",
        state="embedded",
        size_bytes=len(CONTENT),
        sha256=DIGEST,
        licence="Apache-2.0",
        licence_class="permissive",
        origin="a test",
    )
    return Manifest(**(facts | changes))


def stamps(file) -> list:
    return sorted((file.parent / "cache" / "stamps").glob("*"))


def tamper(file) -> str:
    """Change one bit in place, keep the size; the sha256 of the result."""
    data = bytearray(file.read_bytes())
    data[3000] ^= 1
    with file.open("r+b") as stream:
        stream.write(data)
    return hashlib.sha256(data).hexdigest()


def test_the_promised_bytes_pass(file):
    verify(file, manifest())


def test_one_changed_byte_is_refused(file):
    found = tamper(file)
    with pytest.raises(WeightsError) as caught:
        verify(file, manifest())
    assert str(caught.value) == (
        "net.digits: the bytes are not those of the manifest; nothing was loaded\n"
        "  where     embedded:net.safetensors\n"
        f"  expected  sha256 {DIGEST}, 7,000 bytes\n"
        f"  found     sha256 {found}, 7,000 bytes\n"
        "  next      install the package again: a file inside it is damaged, changed or missing"
    )


def test_a_changed_byte_is_found_behind_a_stamp_and_a_restored_mtime(file):
    verify(file, manifest())
    old = file.stat()
    tamper(file)
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    with pytest.raises(WeightsError, match="the bytes are not those of the manifest"):
        verify(file, manifest())


def test_a_cut_file_is_refused_even_without_hashing(file, monkeypatch):
    monkeypatch.setenv("ZOO_VERIFY", "never")
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="6,999 bytes"):
        verify(file, manifest())


def test_a_published_prefix_is_checked(file):
    listed = dict(source="file:net.safetensors", state="listed", sha256="", size_bytes=None)
    verify(file, manifest(**listed, sha256_prefix=DIGEST[:8]))
    with pytest.raises(WeightsError, match=r"expected  sha256 00000000 \(a published prefix\)\n"):
        verify(file, manifest(**listed, sha256_prefix="0" * 8))


def test_a_manifest_without_any_hash_loads_nothing(file):
    with pytest.raises(WeightsError) as caught:
        verify(file, manifest(source="file:net.safetensors", state="listed", sha256="", size_bytes=None))
    assert "the manifest holds no hash; nothing was loaded" in str(caught.value)
    assert "give a file that you trust as `weights=PATH`" in str(caught.value)


def test_a_missing_file_is_named(file):
    file.unlink()
    with pytest.raises(WeightsError) as caught:
        verify(file, manifest())
    assert f"expected  a file at {file}\n  found     No such file or directory" in str(caught.value)


def test_a_second_load_does_not_hash(file, monkeypatch):
    verify(file, manifest())
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    verify(file, manifest())


def test_a_file_that_is_always_verified_is_hashed_every_time(file, monkeypatch):
    verify(file, manifest())
    calls = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: calls.append(args) or real(*args))
    monkeypatch.setenv("ZOO_VERIFY", "always")
    verify(file, manifest())
    verify(file, manifest())
    assert len(calls) == 2


def test_a_file_that_is_never_verified_is_not_hashed(file, monkeypatch):
    monkeypatch.setenv("ZOO_VERIFY", "never")
    tamper(file)
    verify(file, manifest())


def test_an_unknown_policy_names_the_nearest(file, monkeypatch):
    monkeypatch.setenv("ZOO_VERIFY", "allways")
    with pytest.raises(WeightsError) as caught:
        verify(file, manifest())
    assert str(caught.value) == (
        'ZOO_VERIFY: 1 error\n    expected `always`, `once` or `never`; found "allways"; nearest `always`'
    )


def test_a_file_younger_than_the_clock_grain_gets_no_stamp(file, monkeypatch):
    monkeypatch.setattr(verify_module, "CLOCK_GRAIN_NS", 10**12)
    assert sha256_of(file) == DIGEST
    assert not stamps(file)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"{}", b'{"sha256": 3}', b"\xff", b'"x"', b"1"])
def test_a_broken_stamp_is_ignored_and_replaced(file, garbage):
    sha256_of(file)
    (stamp,) = stamps(file)
    stamp.write_bytes(garbage)
    assert sha256_of(file) == DIGEST
    assert json.loads(stamp.read_bytes())["sha256"] == DIGEST


@pytest.mark.parametrize(("folder", "stamp"), [(0o777, 0o600), (0o770, 0o600), (0o700, 0o666), (0o700, 0o620)])
def test_a_stamp_that_others_could_have_written_is_not_believed(file, folder, stamp):
    sha256_of(file)
    (path,) = stamps(file)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": "f" * 64}))
    assert sha256_of(file) == "f" * 64
    path.parent.chmod(folder), path.chmod(stamp)
    assert sha256_of(file) == DIGEST


def test_a_stamp_is_readable_by_its_owner_alone_whatever_the_umask(file):
    before = os.umask(0)
    try:
        sha256_of(file)
    finally:
        os.umask(before)
    (path,) = stamps(file)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


def test_a_clock_that_was_set_back_costs_hashing_and_nothing_else(file):
    os.utime(file, (time.time() + 10**6,) * 2)
    assert sha256_of(file) == sha256_of(file) == DIGEST and not stamps(file)
    tamper(file)
    assert sha256_of(file) != DIGEST


def test_a_cache_that_cannot_be_written_is_no_error(file, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(file / "below-a-file"))
    assert sha256_of(file) == DIGEST


HASH_ALL = """
import sys, pathlib
from zoo.weights import verify
verify.CLOCK_GRAIN_NS = 0
for _ in range(10):
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.bin")):
        print(path.name, verify.sha256_of(path))
        for stamp in (verify.cache_folder() / "stamps").glob("*.json"):
            if hash(stamp.name) % 3 == 0:
                stamp.unlink(missing_ok=True)
"""


def test_processes_that_stamp_the_same_files_do_not_disturb_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for place in range(20):
        (tmp_path / f"{place}.bin").write_bytes(bytes([place]) * 5000)
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.bin")}
    command = [sys.executable, "-c", HASH_ALL, str(tmp_path)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for worker in workers:
        out, err = worker.communicate(timeout=60)
        assert worker.returncode == 0, err
        pairs = [line.split() for line in out.splitlines()]
        assert len(pairs) == 200 and all(expected[name] == digest for name, digest in pairs)
    assert all(path.suffix == ".json" for path in (tmp_path / "cache" / "stamps").iterdir())
