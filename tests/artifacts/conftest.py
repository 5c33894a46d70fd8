"""A loopback Hub, and the real client pointed at it, with a cache of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import msgspec
import pytest
from torch import Tensor

import zoo
from tests.artifacts.loopback import Hub, serving
from zoo import catalog
from zoo.artifacts import inventory
from zoo.catalog import index, manifests
from zoo.catalog.collection import CORE
from zoo.weights.convert import KeyRules


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "stamps"))
    for name in (
        "ZOO_OFFLINE",
        "HF_HUB_OFFLINE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    with serving() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield running


@pytest.fixture
def listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Lists weights of starnet_nano that the Hub, or whatever `source` says, should have; returns their name."""
    home = CORE._replace(folder=tmp_path / "models")
    shutil.copytree(CORE.folder, home.folder)
    for place in (index, inventory):
        monkeypatch.setattr(place, "collections", lambda: {"": home})
    entries = catalog.entries()

    def listed(source: str = "hub:acme/upstream/model.safetensors", rules: str = "official", **fields: Any) -> str:
        values = {
            "source": source,
            "key_rules": rules,
            "licence": "MIT",
            "licence_class": "permissive",
            "origin": "a test",
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in {**values, **fields}.items()]
        manifests._published.cache_clear()
        (home.weights / "starnet.toml").write_text("\n".join(["[up.models.starnet_nano]", *lines]))
        entry = msgspec.structs.replace(entries["starnet_nano"], tags=[], listed=["up"])
        for place in (catalog, index):
            monkeypatch.setattr(place, "entries", lambda: {**entries, "starnet_nano": entry})
        return "starnet_nano.up"

    yield listed
    manifests._published.cache_clear()


@pytest.fixture(scope="session")
def upstream() -> dict[str, Tensor]:
    """The weights of starnet_nano in the names of its authors."""
    spec = zoo.spec("starnet_nano")
    rules = KeyRules.from_data(spec.keys["official"], "keys")
    tensors = rules.to_source(zoo.create("starnet_nano", pretrained=True).state_dict())
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
