"""`zoo predict --on ray`: the file that this process alone would write, though a node dies in the middle."""

from __future__ import annotations

import pathlib
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from zoo.cli import main
from zoo.data import digits
from zoo.predicting import progress
from zoo.predicting.run import predict_images

NAME = "starnet_nano"


@pytest.fixture
def scans(tmp_path: pathlib.Path) -> pathlib.Path:
    images, _ = digits.held_out()
    (tmp_path / "scans").mkdir()
    for i in range(400):
        Image.fromarray(images[i % len(images)]).save(tmp_path / "scans" / f"{i:03d}.png")
    (tmp_path / "scans" / "bad.png").write_bytes(b"no picture")
    return tmp_path / "scans"


@pytest.fixture
def two_nodes() -> Iterator[tuple[object, object]]:
    """A head that computes nothing, and two nodes of one CPU."""
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    head = {"num_cpus": 0, "object_store_memory": 10**8, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, connect=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=10**8) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes[1]
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow  # starts a cluster of processes
def test_a_node_that_dies_in_the_middle_takes_no_row_with_it(
    scans: pathlib.Path, tmp_path: pathlib.Path, two_nodes: tuple[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    cluster, victim = two_nodes
    seen: list[int] = []
    dead: list[int] = []

    def kill_one() -> None:
        while len(seen) < 60:
            time.sleep(0.02)
        dead.append(seen[-1])
        cluster.remove_node(victim, allow_graceful=False)  # type: ignore[attr-defined]

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    out = tmp_path / "ray.jsonl"
    done = predict_images(NAME, scans, out, on="ray", batch=4, progress=lambda now: seen.append(now.done))
    killer.join(10)
    assert dead[0] < 350 and done == (401, 1)
    predict_images(NAME, scans, tmp_path / "local.jsonl", batch=4)
    assert out.read_bytes() == (tmp_path / "local.jsonl").read_bytes()


@pytest.mark.slow
def test_the_command_starts_a_cluster_of_its_own(
    scans: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    assert main(["predict", NAME, str(scans), "--on", "ray", "--out", str(tmp_path / "out.csv")]) == 1
    assert "401 rows, 1 without an answer" in capsys.readouterr().out


def test_ray_that_is_not_installed_is_told_with_its_command(
    scans: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["predict", NAME, str(scans), "--on", "ray", "--out", str(tmp_path / "out.csv")]) == 2
    assert 'found no such package; next: pip install "blockzoo[ray]"' in capsys.readouterr().err
