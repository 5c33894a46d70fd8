"""Measuring every node of a cluster: each is a device of its own, and the store here takes the rows of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from zoo.errors import InputError, Problem
from zoo.measure.device import Device
from zoo.measure.latency import Latency
from zoo.measure.store import Store
from zoo.system.clusters import cluster, nodes, told


class Measured(NamedTuple):
    """What one node has to tell."""

    device: Device
    rows: list[Latency]


def on_every_node(measure: Callable[[], Measured], store: Store) -> list[Latency]:
    """The rows of all nodes, entered here as they come; a node is alone with its measurement, as far as Ray has the say.

    Rows are known by their content, so that a node which shares this store adds nothing twice. Raises InputError for nodes that fail,
    behind the rows of all others.
    """
    rows: list[Latency] = []
    problems: list[Problem] = []
    with cluster("bench") as ray:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = ray.remote(max_retries=0)(_called)
        running: dict[Any, str] = {}
        for node, facts in nodes(ray).items():
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            running[task.options(num_cpus=facts["cpus"], scheduling_strategy=here).remote(measure)] = facts["address"]
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            address = running.pop(done)
            try:
                measured = ray.get(done)
            except ray.exceptions.RayError as error:
                problems.append(Problem(address, "a node that measures", told(error)))
                continue
            store.add_device(measured.device)
            store.add(measured.rows)
            rows += measured.rows
    if problems:
        raise InputError("bench", problems)
    return rows


def _called(measure: Callable[[], Measured]) -> Measured:
    return measure()
