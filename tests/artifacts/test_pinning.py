"""Listed weights become usable by pinning them: proved, converted, remembered; what is wrong with them is told, and nothing is kept."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPMessage
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

import zoo
from tests.artifacts.loopback import Hub
from zoo import catalog, cli
from zoo.artifacts import client, download, pinning, store
from zoo.artifacts import lockfile as locks
from zoo.errors import InputError, WeightsError

X = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
Listing = Callable[..., str]


@pytest.fixture(scope="session")
def answer() -> Tensor:
    with torch.no_grad():
        return zoo.create("starnet_nano", pretrained=True)(X)


def pickled(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def same(name: str, answer: Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(zoo.create(name)(X), answer)


def kept() -> list[Path]:
    return [*store.folder().glob("*"), *locks.pins_folder().glob("*")]


def test_pinned_weights_are_those_of_their_authors(
    hub: Hub, listing: Listing, upstream: dict[str, Tensor], answer: Tensor
) -> None:
    name, commit = listing(), hub.put("acme/upstream", {"model.safetensors": save(upstream)})
    entry = zoo.pin(name)
    assert entry.revision == commit and [one.sha256 for one in entry.published] == [
        hashlib.sha256(save(upstream)).hexdigest()
    ]
    same(name, answer)
    assert zoo.create("starnet_nano", pretrained=True).pretrained.state == "pinned"
    assert zoo.create("starnet_nano", pretrained="up").pretrained.name == name


def test_pinned_weights_need_no_network_and_no_second_pin(
    hub: Hub, listing: Listing, upstream: dict[str, Tensor], answer: Tensor
) -> None:
    name = listing()
    hub.put("acme/upstream", {"model.safetensors": save(upstream)})
    first = zoo.pin(name)
    hub.requests.clear()
    hub.put("acme/upstream", {"model.safetensors": b"moved on"})
    assert zoo.pin(name) == first
    same(name, answer)
    assert hub.requests == []


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"[up",
        b"[up]\nmodels = 3",
        b"[up.models]\nstarnet_nano = 3",
        b"",
        b"[up.models.starnet_nano]\ntop1 = 'x'",
    ],
)
def test_a_list_of_weights_that_cannot_be_read_is_a_sentence(listing: Listing, text: bytes) -> None:
    name = listing()
    (catalog.home_of("starnet_nano").weights / "starnet.toml").write_bytes(text)
    with pytest.raises(WeightsError, match=r"starnet\.toml"):
        zoo.create(name)


def test_an_unpinned_name_says_how_to_pin_it(listing: Listing) -> None:
    listing()
    with pytest.raises(WeightsError, match=r"next: `zoo pin starnet_nano\.up` fetches and proves it"):
        zoo.create("starnet_nano", pretrained=True)


def test_a_pickle_is_converted_out_of_its_envelope(
    hub: Hub, listing: Listing, upstream: dict[str, Tensor], answer: Tensor
) -> None:
    name = listing("hub:acme/upstream/deep/net.pth")
    hub.put("acme/upstream", {"deep/net.pth": pickled({"state_dict": upstream, "epoch": 3})})
    entry = zoo.pin(name)
    assert store.place(entry.files[0]).suffix == ".safetensors" and [one.name for one in entry.published] == ["net.pth"]
    same(name, answer)


class Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_refused_unrun(hub: Hub, listing: Listing, tmp_path: Path) -> None:
    name = listing("hub:acme/upstream/net.pth")
    hub.put("acme/upstream", {"net.pth": pickled({"state_dict": Touch(tmp_path / "ran")})})
    with pytest.raises(WeightsError, match="expected tensors and plain values only"):
        zoo.pin(name)
    assert not (tmp_path / "ran").exists() and kept() == []


CONFINED = """
import sys
from pathlib import Path
from zoo.artifacts import convert
convert.ROOM_BYTES, convert.CPU_S, convert.CPU_S_PER_BYTE = 2**26, 1, 0.0
path = Path(sys.argv[1])
convert.confine("starnet_nano", path)
for call in (lambda: bytearray(2**28), lambda: path.write_bytes(b"x" * 2**24)):
    try:
        call()
    except (MemoryError, OSError) as error:
        print(type(error).__name__, flush=True)
while True:
    pass
"""


def test_the_process_that_opens_a_pickle_has_bounds_of_memory_disk_and_time(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"x" * 1000)
    command = [sys.executable, "-c", CONFINED, str(tmp_path / "net.pth")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["MemoryError", "OSError"] and done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_weights_of_another_shape_are_named_and_not_kept(
    hub: Hub, listing: Listing, upstream: dict[str, Tensor]
) -> None:
    name = listing()
    hub.put("acme/upstream", {"model.safetensors": save({**upstream, "head.bias": torch.zeros(11)})})
    with pytest.raises(WeightsError, match=r"expected shape \(10,\); found \(11,\) from source tensor `head\.bias`"):
        zoo.pin(name)
    assert kept() == []


def test_weights_with_a_nan_are_refused(hub: Hub, listing: Listing, upstream: dict[str, Tensor]) -> None:
    name = listing()
    bad = {**upstream, "head.bias": torch.full((10,), float("nan"))}
    hub.put("acme/upstream", {"model.safetensors": save(bad)})
    with pytest.raises(WeightsError, match="10 NaN or infinite"):
        zoo.pin(name)


def test_bytes_that_are_not_those_of_the_hub_are_fetched_once_more(
    hub: Hub, listing: Listing, upstream: dict[str, Tensor]
) -> None:
    name = listing()
    hub.put("acme/upstream", {"model.safetensors": save(upstream)})
    hub.fault = lambda path, data: data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(WeightsError, match="the bytes are not those of the manifest"):
        zoo.pin(name)
    assert len([request for request in hub.requests if request.startswith("GET") and "resolve" in request]) == 2


def test_a_published_prefix_is_held_against_the_bytes(hub: Hub, listing: Listing, upstream: dict[str, Tensor]) -> None:
    data = save(upstream)
    hub.put("acme/upstream", {"model.safetensors": data})
    zoo.pin(listing(sha256_prefix=hashlib.sha256(data).hexdigest()[:8]))
    for path in kept():
        path.unlink()
    with pytest.raises(WeightsError, match=r"expected  sha256 00000000 \(a published prefix\)"):
        zoo.pin(listing(sha256_prefix="00000000"))


def test_weights_that_we_pinned_are_fetched_by_create(
    hub: Hub, listing: Listing, upstream: dict[str, Tensor], answer: Tensor
) -> None:
    data = save(upstream)
    commit = hub.put("acme/upstream", {"model.safetensors": data})
    hub.put("acme/upstream", {"model.safetensors": b"moved on"})
    same(listing(revision=commit, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)), answer)


def test_a_pickle_that_we_pinned_wants_a_pin_of_the_user(hub: Hub, listing: Listing) -> None:
    name = listing("hub:acme/upstream/net.pth", revision="0" * 40, sha256="0" * 64, size_bytes=1)
    with pytest.raises(WeightsError, match="a pickle is never opened here") as error:
        zoo.create(name)
    assert "`zoo pin starnet_nano.up` converts it in a process of its own" in str(error.value) and hub.requests == []


def test_a_licence_that_forbids_commercial_use_is_said_before_the_download(
    hub: Hub, listing: Listing, caplog: pytest.LogCaptureFixture
) -> None:
    name = listing(licence="CC-BY-NC-4.0", licence_class="noncommercial")
    with pytest.raises(InputError, match="404"):
        zoo.pin(name)
    assert caplog.messages == ["starnet_nano.up: its licence, CC-BY-NC-4.0, forbids commercial use"]


def test_a_plain_download_follows_its_address_and_says_what_fails(
    hub: Hub, tmp_path: Path, upstream: dict[str, Tensor]
) -> None:
    hub.put("acme/upstream", {"net.pth": b"bytes"})
    url = f"{hub.url}/acme/upstream/resolve/main/net.pth"
    assert download.download(url, tmp_path / "net.pth").read_bytes() == b"bytes"
    with pytest.raises(InputError, match="expected a file that can be fetched; found 5 bytes, more than 4 bytes"):
        download.download(url, tmp_path / "other", max_bytes=4)
    with pytest.raises(InputError, match="Not Found"):
        download.download(f"{url}.none", tmp_path / "other")
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == ["net.pth"]


def test_a_download_never_leaves_https() -> None:
    asked = urllib.request.Request("https://example.org/net.pth")
    with pytest.raises(urllib.error.URLError, match="a redirect to http, which does not protect the bytes"):
        download._NoDowngrade().redirect_request(
            asked, io.BytesIO(), 302, "", HTTPMessage(), "http://example.org/net.pth"
        )


def test_a_host_that_does_not_answer_is_said(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/net.pth"
    with pytest.raises(InputError, match="expected a host that can be reached; found no answer within 0.8 s"):
        download.download(url, tmp_path / "net.pth")


class Host:
    """Answers one request, piece by piece, with a pause before each."""

    def __init__(self, *pieces: bytes, pause_s: float = 0.0):
        self.pieces, self.pause_s = pieces, pause_s

    def __enter__(self) -> str:
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/net.pth"

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self.listener.accept()
                threading.Thread(target=self.answer, args=(line,), daemon=True).start()

    def answer(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError), line:
            for piece in self.pieces:
                time.sleep(self.pause_s)
                line.sendall(piece)

    def __exit__(self, *_: object) -> None:
        self.listener.close()


HEADER = b"HTTP/1.0 200 OK\r\n\r\n"


@pytest.mark.parametrize("pieces", [[HEADER, *[b"x"] * 99], [b"HTTP/1.0 200 OK\r\n", *[b"X: y\r\n"] * 99], [b"H"] * 99])
def test_a_host_that_drips_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]) -> None:
    monkeypatch.setattr(client, "GRACE_S", 0.5)
    start = time.perf_counter()
    with (
        Host(*pieces, pause_s=0.1) as url,
        pytest.raises(InputError, match="expected a file that can be fetched; found no end within"),
    ):
        download.download(url, tmp_path / "net.pth", 100)
    assert time.perf_counter() - start < 3 and not list(tmp_path.iterdir())


def test_a_body_without_end_ends_at_the_limit(tmp_path: Path) -> None:
    with Host(HEADER, *[b"x" * 2**16] * 500) as url, pytest.raises(InputError, match="more than 1,000 bytes"):
        download.download(url, tmp_path / "net.pth", 1000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    ["http://user:secret@127.0.0.1:9/net.pth", "http://127.0.0.1:secret@x/net.pth", "http://[secret/n?secret=secret"],
)
def test_no_secret_of_an_address_is_in_a_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError) as caught:
        download.download(url, tmp_path / "net.pth")
    assert "secret@" not in str(caught.value) and "=secret" not in str(caught.value)


def test_listed_weights_are_fetched_up_to_what_such_a_model_can_have(
    hub: Hub, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinning, "ROOM_BYTES", 1000)
    name, most = listing(), 1000 + 32 * catalog.entry("starnet_nano").params
    hub.put("acme/upstream", {"model.safetensors": b"\0" * (most + 1)})
    with pytest.raises(
        InputError, match=f"model.safetensors\n    expected at most {most:,} bytes; found {most + 1:,} so far"
    ):
        zoo.pin(name)
    assert kept() == []


def test_an_https_source_is_pinned(
    hub: Hub, listing: Listing, upstream: dict[str, Tensor], answer: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("acme/upstream", {"net.pth": pickled(upstream)})
    address = f"{hub.url}/acme/upstream/resolve/main/net.pth"
    monkeypatch.setattr(pinning, "download", lambda url, target, size: download.download(address, target, size))
    name = listing("https://example.org/net.pth")
    assert zoo.pin(name).revision == ""
    same(name, answer)


@pytest.fixture
def sharded(upstream: dict[str, Tensor]) -> dict[str, bytes]:
    """The weights in two files and their index, in a folder of the repository."""
    names = sorted(upstream)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    index = {"weight_map": {name: part for part, held in parts.items() for name in held}}
    files = {part: save({name: upstream[name] for name in held}) for part, held in parts.items()}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    return {f"deep/{name}": data for name, data in files.items()}


def test_weights_in_several_files_are_pinned_as_one(
    hub: Hub, listing: Listing, sharded: dict[str, bytes], answer: Tensor
) -> None:
    name = listing("hub:acme/upstream/deep/model.safetensors.index.json")
    hub.put("acme/upstream", sharded)
    entry = zoo.pin(name)
    published = {f"deep/{one.name}": one.sha256 for one in entry.published}
    assert published == {path: hashlib.sha256(data).hexdigest() for path, data in sharded.items()}
    assert len(entry.files) == 1
    same(name, answer)


def test_a_part_that_was_tampered_with_is_refused_by_its_own_name(
    hub: Hub, listing: Listing, sharded: dict[str, bytes]
) -> None:
    name = listing("hub:acme/upstream/deep/model.safetensors.index.json")
    hub.put("acme/upstream", sharded)
    hub.fault = lambda path, data: data[:-1] + b"!" if path.endswith("b.safetensors") else data
    with pytest.raises(WeightsError, match=r"where     hub:acme/upstream/deep/b\.safetensors"):
        zoo.pin(name)
    assert kept() == []


def test_the_command_pins_one_and_all_with_a_report(
    hub: Hub, listing: Listing, upstream: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    name = listing()
    monkeypatch.setattr(pinning.catalog, "entries", lambda only={"starnet_nano": catalog.entry("starnet_nano")}: only)
    report = tmp_path / "report.json"
    assert cli.main(["pin", "--all", "--report", str(report)]) == 1
    assert "404" in json.loads(report.read_text())[0]["problem"]
    hub.put("acme/upstream", {"model.safetensors": save(upstream)})
    assert cli.main(["pin", name]) == 0
    assert "starnet_nano.up: pinned at" in capsys.readouterr().out
    assert cli.main(["pin", "--all", "--report", str(report)]) == 0
    assert json.loads(report.read_text())[0]["pin"]["name"] == name
    assert cli.main(["pin"]) == 2 and "expected a name, or --all; found neither" in capsys.readouterr().err


def test_shipped_weights_are_not_pinned() -> None:
    with pytest.raises(InputError, match="expected weights that are listed, not shipped"):
        zoo.pin("caformer_nano.digits")
