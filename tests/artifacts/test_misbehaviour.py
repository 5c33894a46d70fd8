"""A Hub, a disk and other processes that misbehave: the next call is right, or a sentence says why not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

import zoo
from tests.artifacts.loopback import Hub, serving
from zoo.errors import InputError, SpecError, WeightsError
from zoo.weights.header import MAX_HEADER_BYTES

ROOT = Path(__file__).parents[2]
NAME = "starnet_nano"
STAR = "hub:acme/star"
X = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.create(NAME, pretrained=True)


@pytest.fixture
def files(hub: Hub, model: Any, tmp_path: Path) -> dict[str, bytes]:
    """What a repository of the model holds."""
    zoo.push(model, "acme/star")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    hub.requests.clear()
    return hub.commits["acme/star"][-1][1]


def same(model: Any, text: str = STAR) -> None:
    with torch.no_grad():
        assert torch.equal(zoo.create(text)(X), model(X))


def fetched(hub: Hub) -> int:
    return sum("GET" in request and "model.safetensors" in request for request in hub.requests)


def test_a_busy_hub_is_asked_again(hub: Hub, files: dict[str, bytes], model: Any) -> None:
    hub.busy = 2
    same(model)


def test_a_slow_hub_is_waited_for(hub: Hub, files: dict[str, bytes], model: Any) -> None:
    hub.pause_s = 0.1
    same(model)


def test_a_body_that_ends_halfway_is_resumed(hub: Hub, files: dict[str, bytes], model: Any) -> None:
    zoo.artifacts.client.fetch(zoo.artifacts.client.parse(STAR), "zoo.json")
    hub.drops = 1
    same(model)


def test_a_truncated_answer_is_asked_for_once_more(hub: Hub, files: dict[str, bytes], model: Any) -> None:
    sent = []

    def cut(path: str, data: bytes) -> bytes:
        sent.append(path)
        return data[:-7] if sent.count("model.safetensors") == 1 and path == sent[-1] != "zoo.json" else data

    hub.fault = cut
    same(model)
    assert fetched(hub) == 2


def test_a_file_that_stays_truncated_is_a_sentence(hub: Hub, files: dict[str, bytes], model: Any) -> None:
    hub.fault = lambda path, data: data[:-7] if path.endswith(".safetensors") else data
    size = len(files["model.safetensors"])
    with pytest.raises(InputError, match=f"file should be of size {size} but has size {size - 7}"):
        zoo.create(STAR)
    hub.fault = lambda path, data: data
    same(model)


def test_the_bytes_count_and_not_the_name_that_the_hub_gives_them(
    hub: Hub, files: dict[str, bytes], model: Any
) -> None:
    hub.etag = "ab" * 32
    same(model)


@pytest.fixture
def other() -> Iterator[Hub]:
    with serving() as running:
        yield running


def test_a_token_stays_with_its_hub(
    hub: Hub, other: Hub, files: dict[str, bytes], model: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    other.commits, hub.elsewhere = hub.commits, other.url.replace("127.0.0.1", "localhost")
    caplog.set_level("DEBUG")
    same(model)
    assert any(token == "Bearer hf_test" for token in hub.tokens)
    assert fetched(other) == 1 and set(other.tokens) == {""}
    assert "hf_test" not in caplog.text + "".join(capfd.readouterr())


def test_more_bytes_than_the_manifest_has_are_not_fetched(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.fault = lambda path, data: data + b"\0" * 2**22 if path.endswith(".safetensors") else data
    with pytest.raises(
        InputError, match=r"model\.safetensors\n    expected at most 4\d\d,\d{3} bytes; found 4,6\d\d,\d{3} so far"
    ):
        zoo.create(STAR)
    assert (
        fetched(hub) == 1
        and sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) < 100_000
    )


def test_a_record_beyond_the_limit_is_not_fetched(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.put("acme/star", {"zoo.json": b" " * 5_000_000})
    with pytest.raises(InputError, match=r"zoo\.json\n    expected at most 1,000,000 bytes; found 5,000,000 so far"):
        zoo.create(STAR)
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) < 1_000_000


def test_a_hub_that_drips_is_given_up(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.pause_s = 30.0
    monkeypatch.setattr(zoo.artifacts.client, "GRACE_S", 1.0)
    monkeypatch.setattr(zoo.artifacts.client, "PACE", 10**9)
    with pytest.raises(InputError, match=r"found no end within 1 s"):
        zoo.create(STAR)


@pytest.mark.parametrize(
    "text",
    [
        "hub:a/..",
        "hub:../a",
        "hub:a/.",
        "hub:a/b--c",
        "hub:-a/b",
        "hub:a/b.git",
        "hub:a/b@../../x",
        f"hub:a/{'b' * 200}",
    ],
)
def test_a_name_that_no_repository_has_is_a_sentence(hub: Hub, text: str) -> None:
    with pytest.raises(InputError):
        zoo.create(text)


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ({"size": 10**9}, "preprocess.size"), ({"crop": 1e-9}, "preprocess.crop"), ({"std": [1e-300]}, "preprocess.std"),
        ({"mean": [1e300]}, "preprocess.mean"), ({"range": [0.0, 1e300]}, "preprocess.range"),
    ],
)  # fmt: skip
def test_a_pre_processing_that_no_memory_holds_is_refused(
    hub: Hub, files: dict[str, bytes], step: dict[str, Any], found: str
) -> None:
    known = json.loads(files["zoo.json"])["manifest"]["preprocess"]
    with pytest.raises(WeightsError, match=found):
        zoo.create(vouched(hub, files, files["model.safetensors"], preprocess={**known, **step}))


def test_a_gated_repository_says_how_to_get_in(hub: Hub, files: dict[str, bytes]) -> None:
    hub.gated.add("acme/star")
    with pytest.raises(InputError, match="found 403 .*; next: ask for access on the page of the repository"):
        zoo.create(STAR)


def test_a_stale_parent_is_a_sentence(hub: Hub, files: dict[str, bytes], model: Any) -> None:
    hub.stale = True
    with pytest.raises(InputError, match="expected a repository that takes the files; found Client error '412"):
        zoo.push(model, "acme/star")


def test_a_missing_file_and_a_wrong_revision_are_sentences(hub: Hub, files: dict[str, bytes]) -> None:
    hub.put("acme/half", {"zoo.json": files["zoo.json"]})
    with pytest.raises(InputError, match=r"model\.safetensors\n    expected a file that can be fetched; found 404"):
        zoo.create("hub:acme/half")
    with pytest.raises(InputError, match="found 404"):
        zoo.create(f"{STAR}@v9")


def vouched(hub: Hub, files: dict[str, bytes], data: bytes, **manifest: Any) -> str:
    """A repository whose record vouches for other bytes."""
    record = json.loads(files["zoo.json"])
    record["manifest"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), **manifest}
    hub.put("acme/odd", {"zoo.json": json.dumps(record).encode(), "model.safetensors": data})
    return "hub:acme/odd"


def doubled(data: bytes) -> bytes:
    """The first tensor's name twice in the header."""
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    name, entry = next((key, value) for key, value in json.loads(header).items() if key != "__metadata__")
    header = header[:-1] + f",{json.dumps(name)}:{json.dumps(entry)}}}".encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def with_nan(data: bytes) -> bytes:
    tensors = load(data)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    return save(tensors)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (doubled, "expected  each name once"),
        (with_nan, "found 1 NaN or infinite, the first at"),
        (lambda data: (200 * 2**20).to_bytes(8, "little") + data[8:], "a length of 209,715,200 bytes"),
        (lambda data: data[:-100], "as the header says"),
        (lambda data: b"../../../../etc/passwd", "not a sound safetensors file"),  # how the Hub serves a symlink
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "not a sound safetensors file"),
    ],
)
def test_weights_that_are_none_are_refused(hub: Hub, files: dict[str, bytes], change: Any, found: str) -> None:
    text = vouched(hub, files, change(files["model.safetensors"]))
    with pytest.raises(WeightsError, match=found):
        zoo.create(text)


def test_a_header_beyond_the_limit_is_refused_before_it_is_read(hub: Hub, files: dict[str, bytes]) -> None:
    size = MAX_HEADER_BYTES + 1
    with pytest.raises(WeightsError, match=f"expected  at most {MAX_HEADER_BYTES:,} bytes"):
        zoo.create(vouched(hub, files, size.to_bytes(8, "little") + b" " * size))


@pytest.mark.parametrize("source", ["file:../../secret.safetensors", "file:/etc/passwd", "embedded:../x.safetensors"])
def test_a_record_cannot_lead_out_of_its_repository(hub: Hub, files: dict[str, bytes], source: str) -> None:
    with pytest.raises(WeightsError):
        zoo.create(vouched(hub, files, files["model.safetensors"], source=source))


def test_a_link_out_of_the_cache_is_not_followed_and_its_target_stays(
    hub: Hub, files: dict[str, bytes], model: Any, tmp_path: Path
) -> None:
    zoo.create(STAR)
    (link,) = (tmp_path / "cache").rglob("snapshots/*/model.safetensors")
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"a file of the user")
    link.unlink()
    link.symlink_to(mine)
    same(model)
    assert mine.read_bytes() == b"a file of the user"


def test_a_pickle_beside_a_missing_safetensors_is_not_even_fetched(hub: Hub, files: dict[str, bytes]) -> None:
    hub.put("acme/evil", {"zoo.json": files["zoo.json"], "pytorch_model.bin": b"cos\nsystem\n", "model.pth": b"cos\n"})
    with pytest.raises(InputError, match=r"model\.safetensors"):
        zoo.create("hub:acme/evil")
    assert not [request for request in hub.requests if "pytorch_model" in request or ".pth" in request]


def doubling(levels: int) -> dict[str, Any]:
    """Parts that stand for 50 times the next."""
    return {f"p{i}": [f"@p{i + 1}"] * 50 for i in range(levels)} | {f"p{levels}": "mlp"}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"stages": [{"layers": [["mlp"]] * 50}] * 5000}, "at most 1,000,000 bytes"),
        ({"dims": [2**40] * 4}, "expected int from 1 to 1,000,000; found 1099511627776"),
        ({"define": doubling(8), "stages": [{"layers": [["@p0"]]}]}, "at most 400,000 values; found more"),
    ],
)
def test_a_spec_bomb_is_refused(hub: Hub, files: dict[str, bytes], changes: dict[str, Any], found: str) -> None:
    record = json.loads(files["zoo.json"])
    record["spec"]["spec"] |= changes
    hub.put("acme/bomb", {**files, "zoo.json": json.dumps(record).encode()})
    with pytest.raises((InputError, SpecError, WeightsError), match=found):
        zoo.create("hub:acme/bomb")


@pytest.fixture
def environment(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> dict[str, str]:
    """The environment of a process that fetches from the loopback Hub."""
    here = {
        "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "shared"), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "ZOO_DATA": str(tmp_path / "data"), "ZOO_CACHE": str(tmp_path / "stamps"),
    }  # fmt: skip
    return {**os.environ, **here}


def fetching(environment: dict[str, str], *more: str) -> subprocess.Popen[str]:
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's `&` has it ignored
    code = f"{heard}; import runpy; runpy.run_module('tests.artifacts.fetch', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, STAR, *more]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    return (process.communicate(timeout=120)[0]).strip()


@pytest.fixture
def right(files: dict[str, bytes]) -> str:
    return hashlib.sha256(files["model.safetensors"]).hexdigest()


def test_eight_processes_make_one_download(hub: Hub, environment: dict[str, str], right: str) -> None:
    hub.pause_s = 0.05
    processes = [fetching(environment) for _ in range(8)]
    assert {said(process) for process in processes} == {right}
    assert fetched(hub) == 1


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_in_a_download_the_next_call_is_right(
    hub: Hub, environment: dict[str, str], right: str, tmp_path: Path, blow: signal.Signals
) -> None:
    hub.hold = threading.Event()
    process = fetching(environment)
    deadline = time.monotonic() + 120
    while not (fetched(hub) and list((tmp_path / "shared").rglob("*.incomplete"))):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(blow)
    process.communicate(timeout=60)
    hub.hold.set()  # no sooner, so that the download cannot end before the process does
    assert not list((tmp_path / "shared").rglob("snapshots/*/model.safetensors"))
    hub.hold = None
    assert said(fetching(environment)) == right


def test_a_full_disk_is_a_sentence_and_breaks_nothing(environment: dict[str, str], right: str) -> None:
    first = fetching(environment, "100000")
    assert "InputError" in (text := said(first)) and "File too large" in text and "set HF_HUB_CACHE" in text
    assert said(fetching(environment)) == right


def test_a_cache_that_cannot_be_made_is_a_sentence(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "Not a directory" in said(fetching(environment | {"HF_HUB_CACHE": str(tmp_path / "file" / "below")}))


def test_a_cache_that_cannot_be_written_serves_what_it_has(hub: Hub, environment: dict[str, str], right: str) -> None:
    commit = hub.commits["acme/star"][-1][0]
    assert "Read-only file system" in said(fetching(environment, "read-only"))
    assert said(fetching(environment)) == right
    command = [sys.executable, "-m", "tests.artifacts.fetch", f"{STAR}@{commit}", "read-only"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == right
