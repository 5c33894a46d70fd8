"""From a connected machine through a folder to one without a network; what is cached is listed, verified, pruned and accounted for."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

import zoo
from tests.artifacts.loopback import Hub
from zoo import catalog, cli
from zoo.artifacts import convert, pinning, store
from zoo.artifacts import lockfile as locks
from zoo.errors import InputError, WeightsError
from zoo.weights.manifest import Manifest

X = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def answer() -> Tensor:
    with torch.no_grad():
        return zoo.create("vim_nano", pretrained=True)(X)


@pytest.fixture
def pinned(hub: Hub, listing: Callable[..., str], upstream: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> str:
    """Converted in this process, which is quicker; test_pinning.py has the child."""

    def here(manifest: Manifest, path: Path, out: Path) -> None:
        assert convert.main(manifest.model, manifest.key_rules, manifest.dtype, str(path), str(out)) == 0

    monkeypatch.setattr(pinning, "_convert", here)
    hub.put("acme/upstream", {"model.safetensors": save(upstream)})
    return zoo.pin(listing()).name


@pytest.fixture
def pushed(hub: Hub) -> str:
    return zoo.push(zoo.create("vim_nano", pretrained=True), "acme/vim")


@pytest.fixture
def carried(pinned: str, pushed: str, tmp_path: Path) -> Path:
    """A folder with pinned weights, shipped ones and a repository, as it is carried to another machine."""
    zoo.lock([pinned, "vim_nano", "hub:acme/vim"], tmp_path / "made.lock")
    zoo.mirror(tmp_path / "made.lock", tmp_path / "carried")
    return tmp_path / "carried"


@pytest.fixture
def elsewhere(carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another machine: nothing cached, no socket, the folder as mirror."""
    import huggingface_hub.constants as constants

    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "new data"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "new cache"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.setenv("ZOO_MIRROR", str(carried))

    def barred(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "create_connection", barred)
    monkeypatch.setattr(socket.socket, "connect", barred)
    return carried


def same(name: str, answer: Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(zoo.create(name, pretrained=not name.startswith("hub:"))(X), answer)


def test_a_folder_stands_for_the_network(elsewhere: Path, answer: Tensor) -> None:
    same("hub:acme/vim", answer)
    same("vim_nano", answer)
    assert zoo.create("starnet_nano.up").pretrained.state == "pinned"


def test_a_copy_of_a_repository_that_is_damaged_is_taken_from_the_mirror_again(elsewhere: Path, answer: Tensor) -> None:
    same("hub:acme/vim", answer)
    path = store.place(locks.entries()["hub:acme/vim"].files[1])
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    same("hub:acme/vim", answer)
    assert len(list(store.folder().glob("*.quarantine-*"))) == 1


def test_only_the_locked_is_loaded_when_that_is_wanted(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_LOCKED", "1")
    zoo.create("starnet_nano.up"), zoo.create("vim_nano.digits"), zoo.create("hub:acme/vim")
    with pytest.raises(WeightsError, match="because ZOO_LOCKED is set; found sha256 [0-9a-f]{64}; next: `zoo lock`"):
        zoo.create("gmlp_nano.digits")
    with pytest.raises(WeightsError, match="because ZOO_LOCKED is set"):
        zoo.create("gmlp_nano", weights=catalog.home_of("vim_nano").weights / "gmlp_nano.digits.safetensors")
    zoo.create("gmlp_nano")


@pytest.fixture
def served(carried: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(carried))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def moved(monkeypatch: pytest.MonkeyPatch, mirror: str) -> None:
    """The same user with an empty store, who keeps his pins."""
    for path in store.folder().glob("*"):
        path.unlink()
    monkeypatch.setenv("ZOO_MIRROR", mirror)


def test_a_mirror_may_be_an_address(served: str, pinned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(monkeypatch, served)
    assert zoo.create(pinned).pretrained.name == pinned
    moved(monkeypatch, served)
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(InputError, match="a mirror that is a folder, because no network is wanted"):
        zoo.create(pinned)


def test_a_mirror_with_other_bytes_is_not_believed(carried: Path, pinned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(monkeypatch, str(carried))
    (file,) = (carried / pinned).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError, match="found other bytes, [0-9,]+ of them; next: make the mirror anew"):
        zoo.create(pinned)
    assert list(store.folder().glob("*")) == []


def test_a_mirror_cannot_lead_out_of_its_folder(carried: Path, pinned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(monkeypatch, str(carried))
    sums = carried / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(f"  {pinned}/", f"  ../{pinned}/"))
    with pytest.raises(WeightsError, match=r"the bytes are not at hand(.|\n)*`zoo pin starnet_nano\.up`"):
        zoo.create(pinned)


def test_a_mirror_is_checked_by_the_usual_command(carried: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=carried, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == len(done.stdout.splitlines()) == 9


def test_threads_that_ask_a_mirror_at_once_all_get_the_bytes(
    carried: Path, pinned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = locks.pins()[pinned].files[0]
    for _ in range(5):
        moved(monkeypatch, str(carried))
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda _: store.obtain(file, pinned) == store.place(file), range(8)))
        assert hashlib.sha256(store.place(file).read_bytes()).hexdigest() == file.sha256
        assert [path.name for path in store.folder().iterdir()] == [store.place(file).name]


def test_a_folder_as_mirror_is_bounded_as_an_address_is(
    carried: Path, pinned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = carried / "SHA256SUMS"
    weights = next(path for path in (carried / pinned).iterdir() if path.suffix == ".safetensors")
    kept, size = sums.read_bytes(), weights.stat().st_size
    with weights.open("ab") as file:
        file.truncate(size * 100)
    moved(monkeypatch, str(carried))
    with pytest.raises(InputError, match=f"found more than {size:,} bytes"):
        zoo.create(pinned)
    sums.unlink(), os.mkfifo(sums)
    with pytest.raises(InputError, match="found something else than a file"):
        zoo.create(pinned)
    sums.unlink(), sums.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="found something else than a file"):
        zoo.create(pinned)
    sums.unlink(), sums.write_bytes(kept + b" " * 2**24)
    with pytest.raises(InputError, match="found more than 16,777,216 bytes"):
        zoo.create(pinned)


@pytest.mark.parametrize("offline", ["", "1"])
def test_a_password_in_the_address_of_a_mirror_is_in_no_sentence(
    carried: Path, pinned: str, offline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in (
        "http://user:secret@127.0.0.1:9",
        "http://user:secret@127.0.0.1:9/x?key=secret",
        "http://[user:secret",
    ):
        moved(monkeypatch, address)
        monkeypatch.setenv("ZOO_OFFLINE", offline)
        with pytest.raises((InputError, WeightsError)) as caught:
            zoo.create(pinned)
        assert "secret@" not in str(caught.value) and "=secret" not in str(caught.value)


def test_a_mirror_holds_licences_and_cards(carried: Path, pinned: str) -> None:
    assert (
        f"| {pinned} | MIT | permissive | hub:acme/upstream/model.safetensors |"
        in (carried / "LICENCES.md").read_text()
    )
    assert "Converted from model.safetensors, sha256" in (carried / pinned / "card.md").read_text()


def test_a_lock_holds_spec_commit_bytes_licence_and_distribution(hub: Hub, pinned: str, tmp_path: Path) -> None:
    zoo.lock(pinned, tmp_path / "one.lock")
    (entry,) = json.loads((tmp_path / "one.lock").read_text())["models"]
    assert (
        entry["digest"] == zoo.spec("starnet_nano").digest and entry["revision"] == hub.commits["acme/upstream"][0][0]
    )
    assert entry["licence"] == "MIT" and entry["distributions"] == {"blockzoo": zoo.__version__}
    bytes_read = store.place(locks.pins()[pinned].files[0]).read_bytes()
    assert entry["files"][0]["sha256"] == hashlib.sha256(bytes_read).hexdigest()
    zoo.lock(pinned, tmp_path / "two.lock")
    assert (tmp_path / "one.lock").read_bytes() == (tmp_path / "two.lock").read_bytes()


def test_a_locked_repository_stays_at_its_commit(
    hub: Hub, pushed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,) = zoo.lock("hub:acme/vim", tmp_path / "zoo.lock")
    monkeypatch.setenv("ZOO_LOCK", str(tmp_path / "zoo.lock"))
    hub.put("acme/vim", {"zoo.json": b"moved on"})
    assert zoo.create("hub:acme/vim").pretrained.revision == entry.revision == pushed.partition("@")[2]


def test_unpinned_weights_cannot_be_locked(listing: Callable[..., str], tmp_path: Path) -> None:
    name = listing()
    with pytest.raises(WeightsError, match=r"found none to lock; next: `zoo pin starnet_nano\.up`"):
        zoo.lock(name, tmp_path / "zoo.lock")
    assert not (tmp_path / "zoo.lock").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"no json", "Expecting value"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"schema": "zoo.lock/9", "models": []}', "Invalid enum value 'zoo.lock/9'"),
        (b'{"x": ' + b"[" * 100_000, "levels of nesting"),
        (b'{"models": [], "models": []}', "key `models` twice in one table"),
    ],
)
def test_a_lock_that_is_none_is_a_sentence(content: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "zoo.lock").write_bytes(content)
    with pytest.raises(InputError, match=f"expected a lock of the schema zoo.lock/1; found .*({found})"):
        locks.read_lock(tmp_path / "zoo.lock")


def test_a_lock_cannot_name_a_file_outside(tmp_path: Path) -> None:
    entry = zoo.lock("vim_nano", None)[0]
    bad = locks.Locked(
        **{**{f: getattr(entry, f) for f in entry.__struct_fields__}, "files": (locks.File("../x", "0" * 64, 1),)}
    )
    locks.write_lock([bad], tmp_path / "zoo.lock")
    with pytest.raises(InputError, match=r"expected the name of a file; found `\.\.` in it"):
        locks.read_lock(tmp_path / "zoo.lock")


def test_the_cache_is_listed_by_kind(pinned: str, pushed: str, capsys: pytest.CaptureFixture[str]) -> None:
    zoo.create(pushed)
    assert cli.main(["cache", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in rows} == {"shipped", "pinned", "repository"}
    assert [row["name"] for row in rows if row["kind"] == "pinned"] == [pinned]


def test_damaged_bytes_are_found_set_aside_and_fetched_anew(pinned: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "verify"]) == 0
    assert capsys.readouterr().out == "every file is what it should be\n"
    path = store.place(locks.pins()[pinned].files[0])
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(
        WeightsError, match=f"next      `zoo cache verify` sets the file aside, `zoo pin {pinned}` fetches"
    ):
        zoo.create(pinned)
    assert cli.main(["cache", "verify"]) == 1
    assert f"`zoo pin {pinned}` fetches it again" in capsys.readouterr().out
    assert not path.exists() and list(path.parent.glob("*.quarantine-*"))
    zoo.pin(pinned)
    assert cli.main(["cache", "verify"]) == 0


def test_pruning_takes_leftovers_and_nothing_else(pinned: str, capsys: pytest.CaptureFixture[str]) -> None:
    old, young, lost = (
        store.folder() / ".pin-old",
        store.folder() / ".pin-young",
        store.folder() / f"{'0' * 64}.safetensors",
    )
    for folder in (old, young):
        folder.mkdir()
        (folder / "part").write_bytes(b"half")
    lost.write_bytes(b"no pin names me")
    os.utime(old, (time.time() - 7200,) * 2)
    assert cli.main(["cache", "prune", "--dry-run"]) == 0 and old.exists()
    assert "2 files would be deleted" in capsys.readouterr().out
    assert cli.main(["cache", "prune"]) == 0
    assert not old.exists() and not lost.exists() and young.exists()
    zoo.create(pinned)


def test_an_audit_vouches_for_every_file(pinned: str, pushed: str, capsys: pytest.CaptureFixture[str]) -> None:
    zoo.create(pushed)
    assert cli.main(["audit"]) == 0
    assert "vouched for" in capsys.readouterr().out
    assert all(found.fault == "" for found in zoo.audit())


def test_an_audit_names_strangers(
    pinned: str, pushed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.create(pushed)
    (catalog.home_of("vim_nano").weights / "stranger.safetensors").write_bytes(b"who am I")
    assert cli.main(["audit", "--json"]) == 1
    faults = {
        row["path"].rpartition("/")[2]: row["fault"] for row in json.loads(capsys.readouterr().out) if row["fault"]
    }
    assert faults == {"stranger.safetensors": "nobody vouches for it"}
    (catalog.home_of("vim_nano").weights / "stranger.safetensors").unlink()
    zoo.lock(pinned, tmp_path / "zoo.lock")
    monkeypatch.setenv("ZOO_LOCK", str(tmp_path / "zoo.lock"))
    assert [found.item.kind for found in zoo.audit() if found.fault] == ["repository", "repository"]


def test_an_audit_finds_a_changed_byte(pinned: str) -> None:
    path = catalog.home_of("vim_nano").weights / "vim_nano.digits.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    (found,) = [found for found in zoo.audit() if found.fault]
    assert found.item.name == "vim_nano.digits" and found.fault.startswith("sha256 ")


def test_a_bill_of_materials_names_each_file_with_hash_and_licence(
    pinned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["audit", "--sbom", "cyclonedx"]) == 0
    bill = json.loads(capsys.readouterr().out)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["name"]: part for part in bill["components"]}
    assert parts["torch"]["purl"] == f"pkg:pypi/torch@{torch.__version__}"
    assert parts[pinned]["hashes"] == [{"alg": "SHA-256", "content": locks.pins()[pinned].files[0].sha256}]
    assert parts[pinned]["licenses"] == [{"license": {"name": "MIT"}}]
    assert len({part["bom-ref"] for part in bill["components"]}) == len(bill["components"])


def test_the_commands_lock_and_mirror(
    pinned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lock", pinned]) == 0 and "1 locked in zoo.lock" in capsys.readouterr().out
    assert cli.main(["mirror", "out"]) == 0 and (tmp_path / "out" / "SHA256SUMS").exists()
    assert cli.main(["mirror", "out", "--lock", "none.lock"]) == 2
    assert "expected a lock that can be read; found No such file" in capsys.readouterr().err
