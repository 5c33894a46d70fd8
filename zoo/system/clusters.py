"""Ray, where it is installed: a cluster of machines, or processes of this one."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from blocks.registry.words import raised
from zoo.errors import InputError, Problem


@contextlib.contextmanager
def cluster(subject: str) -> Iterator[Any]:
    """Ray, connected to the cluster of this process or of RAY_ADDRESS, or to one that is started on this machine, where nobody else can
    reach it, and ended after. Raises InputError where Ray is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells nobody unless it is told to
    try:
        import ray
    except ImportError:
        step = 'pip install "blockzoo[ray]"'
        raise InputError(subject, Problem("--on", "ray", "no such package", next=step)) from None
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    is_ours = not ray.is_initialized()
    if is_ours:
        alone: dict[str, Any] = {"address": "local", "_node_ip_address": "127.0.0.1", "include_dashboard": False}
        options = {} if os.environ.get("RAY_ADDRESS") else alone
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(subject, Problem("--on", "a cluster that can be reached", raised(error))) from None
    try:
        yield ray
    finally:
        if is_ours:
            ray.shutdown()


def nodes(ray: Any) -> dict[str, dict[str, Any]]:
    """The nodes that compute, by their ids: each with its address and its number of `cpus`."""
    found = (node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
    return {
        node["NodeID"]: {"address": node["NodeManagerAddress"], "cpus": int(node["Resources"]["CPU"])} for node in found
    }


def told(error: BaseException) -> str:
    """What a worker raised, without the traceback that Ray puts around it."""
    cause = getattr(error, "cause", None) or error.__cause__
    return told(cause) if isinstance(cause, BaseException) else raised(error)
