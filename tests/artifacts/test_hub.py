"""Models go to the Hub and come back the same, and nothing else gets in."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.artifacts.loopback import Hub
from zoo import cli
from zoo.artifacts.client import parse
from zoo.artifacts.repository import repository
from zoo.errors import InputError, SpecError, WeightsError

NAME = "starnet_nano"
X = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Any:
    return zoo.create(NAME, pretrained=True)


@pytest.fixture
def pushed(hub: Hub, model: Any) -> str:
    return zoo.push(model, "acme/star")


def same(text: str, model: Any, **changes: Any) -> None:
    with torch.no_grad():
        assert torch.equal(zoo.create(text, **changes)(X), model(X))


def test_a_pushed_model_comes_back_bit_equal(pushed: str, model: Any) -> None:
    same(pushed, model)
    same("hub:acme/star", model)


def test_a_repository_holds_weights_spec_profile_and_card(hub: Hub, pushed: str, model: Any) -> None:
    files = hub.commits["acme/star"][-1][1]
    assert {"model.safetensors", "zoo.json", "README.md"} <= set(files)
    record = json.loads(files["zoo.json"])
    assert record["manifest"]["digest"] == model.digest and record["profile"]["macs"] == zoo.profile(NAME).macs
    card = files["README.md"].decode()
    assert "license: apache-2.0" in card and 'zoo.create("hub:acme/star")' in card
    assert "metrics: [{type: accuracy, name: top1, value: 99.44}]" in card


def test_pre_processing_and_labels_travel(pushed: str, model: Any) -> None:
    back = zoo.create(pushed)
    assert zoo.transform(back).preprocess == zoo.transform(model).preprocess
    assert zoo.labels(back) == zoo.labels(model)


def test_a_commit_that_is_cached_costs_no_request(hub: Hub, pushed: str, model: Any) -> None:
    zoo.create(pushed)
    hub.requests.clear()
    same(pushed, model)
    assert hub.requests == []


def test_a_model_of_the_hub_is_changed_like_any_other(pushed: str) -> None:
    assert zoo.create(pushed, num_classes=3)(X).shape == (2, 3)
    assert len(zoo.create(pushed, features_only=True)(X)) > 1


def test_pushing_again_sends_no_weights_that_are_there(hub: Hub, pushed: str, model: Any) -> None:
    hub.requests.clear()
    zoo.push(model, "acme/star")
    assert not [request for request in hub.requests if request.startswith("PUT")]


def test_bytes_that_differ_once_are_set_aside_and_fetched_anew(
    hub: Hub, pushed: str, model: Any, tmp_path: Path
) -> None:
    sent = []

    def tamper(path: str, data: bytes) -> bytes:
        if path.endswith(".safetensors") and not sent:
            sent.append(path)
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    hub.fault = tamper
    same(pushed, model)
    assert len(list((tmp_path / "cache").rglob("*.quarantine-*"))) == 1


def test_bytes_that_differ_again_are_refused_with_both_hashes(hub: Hub, pushed: str) -> None:
    hub.fault = lambda path, data: data[:-1] + bytes([data[-1] ^ 1]) if path.endswith(".safetensors") else data
    with pytest.raises(WeightsError, match="the bytes are not those of the manifest; nothing was loaded") as error:
        zoo.create(pushed)
    expected = json.loads(hub.commits["acme/star"][-1][1]["zoo.json"])["manifest"]["sha256"]
    assert f"expected  sha256 {expected}" in str(error.value) and "found     sha256" in str(error.value)


def test_offline_means_the_cache_and_no_request(
    hub: Hub, pushed: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.create("hub:acme/star")
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    hub.requests.clear()
    same("hub:acme/star", model)
    assert hub.requests == []
    with pytest.raises(InputError, match="no network is wanted; next: unset ZOO_OFFLINE"):
        zoo.create("hub:acme/other")


def test_a_hub_that_cannot_be_reached_is_said_in_a_second(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    start = time.monotonic()
    with pytest.raises(InputError, match=f"no answer from http://127.0.0.1:{port}"):
        zoo.create("hub:acme/star")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(("text", "found"), [("hub:acme/none", "404"), ("hub:acme/star@0123456789", "404")])
def test_a_missing_repository_or_file_is_a_sentence(hub: Hub, pushed: str, text: str, found: str) -> None:
    with pytest.raises(InputError, match=found):
        zoo.create(text)


def altered(hub: Hub, **changes: Any) -> str:
    """A repository whose zoo.json differs from that of acme/star."""
    files = hub.commits["acme/star"][-1][1]
    record = json.loads(files["zoo.json"])
    for key, value in changes.items():
        record[key] = record[key] | value if isinstance(value, dict) else value
    hub.put("acme/odd", files | {"zoo.json": json.dumps(record).encode()})
    return "hub:acme/odd"


def test_a_manifest_may_name_no_other_file(hub: Hub, pushed: str) -> None:
    with pytest.raises(WeightsError, match=r"expected `file:model\.safetensors` with its sha256"):
        zoo.create(altered(hub, manifest={"source": "file:/etc/passwd"}))


def test_a_spec_that_is_not_the_weights_own_is_refused(hub: Hub, pushed: str) -> None:
    with pytest.raises(WeightsError, match="that of the spec beside it"):
        zoo.create(altered(hub, manifest={"digest": "0" * 64}))


def test_a_block_of_a_package_that_is_not_here_names_the_package_as_claimed(hub: Hub, pushed: str) -> None:
    files = hub.commits["acme/star"][-1][1]
    record = json.loads(files["zoo.json"])
    assert set(record["distributions"]) == {"blockzoo"}
    text = json.dumps(record["spec"]).replace("core/linear_head@1", "nobody/head@1")
    claimed = {"blockzoo": "0.1.0", "nobody-blocks": "2.1", "evil; rm -rf ~": "1"}
    changed = record | {"spec": json.loads(text), "distributions": claimed}
    hub.put("acme/odd", files | {"zoo.json": json.dumps(changed).encode()})
    with pytest.raises(SpecError) as caught:
        zoo.create("hub:acme/odd")
    told = str(caught.value)
    assert "`nobody/` blocks come from a plugin package that is not installed" in told
    assert "expected the packages that the repository claims to need; found `nobody-blocks 2.1` not installed" in told
    assert "next: pip install --no-deps nobody-blocks, if you trust it" in told and "rm -rf" not in told


@pytest.mark.parametrize("record", [b"no json", b"[]", b'{"schema": "zoo.json/9"}', b"{}", b"[" * 100_000])
def test_a_record_that_is_none_is_refused(hub: Hub, record: bytes) -> None:
    hub.put("acme/bad", {"zoo.json": record, "model.safetensors": b""})
    with pytest.raises(WeightsError):
        zoo.create("hub:acme/bad")


def test_a_reference_is_read_and_a_bad_one_is_a_sentence() -> None:
    assert parse("hub:acme/star@v1.0") == ("acme/star", "v1.0") and parse("hub:acme/star").revision == "main"
    with pytest.raises(InputError, match="hub:org/repo or hub:org/repo@revision; found `hub:star`"):
        parse("hub:star")


def test_a_model_without_a_spec_is_not_pushed(hub: Hub) -> None:
    with pytest.raises(InputError, match="a model that was made from a spec; found Linear"):
        zoo.push(torch.nn.Linear(1, 1), "acme/linear")


def test_importing_and_listing_open_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def barred(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "create_connection", barred)
    monkeypatch.setattr(socket.socket, "connect", barred)
    zoo.list_models(pretrained=True)
    zoo.create(NAME, pretrained=True)


def test_a_repository_is_pinned_to_the_commit_that_was_seen(hub: Hub, pushed: str) -> None:
    found = repository("hub:acme/star")
    assert found.manifest.revision == pushed.partition("@")[2]


def test_the_commands_push_and_pull(hub: Hub, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["push", f"{NAME}.digits", "acme/nano", "--json"]) == 0
    where = json.loads(capsys.readouterr().out)["reference"]
    assert cli.main(["pull", where, str(tmp_path / "out")]) == 0
    back = zoo.create(NAME, weights=tmp_path / "out" / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(back(X), model(X))
    assert cli.main(["pull", where, str(tmp_path / "out")]) == 2
    assert "a folder without these files" in capsys.readouterr().err
