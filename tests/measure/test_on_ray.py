"""`zoo bench --on ray`: each node of a cluster measures, and the store of the caller has the rows of all."""

from __future__ import annotations

import json
import pathlib

import pytest

from zoo.cli import main
from zoo.measure.store import Store
from zoo.system.clusters import told


@pytest.mark.slow  # starts a cluster of processes
def test_rows_of_every_node_are_in_the_store_of_the_caller(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "caller"))
    head = {"num_cpus": 0, "object_store_memory": 10**8, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, connect=True, head_node_args=head)
    try:
        for name in ("one", "two"):
            cluster.add_node(num_cpus=1, object_store_memory=10**8, env_vars={"ZOO_DATA": str(tmp_path / name)})
        cluster.wait_for_nodes()
        main(["bench", "starnet_nano", "--processes", "1", "--seconds", "0.02", "--on", "ray", "--json"])
    finally:
        ray.shutdown()
        cluster.shutdown()
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["starnet_nano"] * 2 and rows[0]["p50_ms"] != rows[1]["p50_ms"]
    with Store() as store:
        held = store.rows(shipped=False)
        assert {row.p50_ms for row in held} == {row["p50_ms"] for row in rows}
        assert {row.device for row in held} <= {device.id for device in store.devices()}
    for name in ("one", "two"):
        with Store(tmp_path / name / "measurements.sqlite") as store:
            assert len(store.rows(shipped=False)) == 1


def test_what_a_worker_raised_is_told_without_what_stands_around_it() -> None:
    outer = RuntimeError("a traceback of many lines")
    outer.__cause__ = KeyError("the model")
    assert told(outer) == "KeyError: 'the model'"
