"""The walks of `docs/architecture.md` are those that calls really take."""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import zoo
from zoo.measure import bench, this_device, worker
from zoo.measure.clock import on_threads
from zoo.measure.store import Store, shipped_devices

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
MOST_FILES = 12
"""With a function that holds the value of a parameter: fewer is simpler, more is a detour."""
HOLDERS = ("value", "item", "node", "new", "old", "written", "filled", "default", "child")
"""Names of variables in which general code holds a value of a spec."""


def steps_of(heading: str) -> list[str]:
    """The file that each numbered step of a walk begins with or ends in."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    steps = next(part for part in section if part.startswith(f"{heading}\n"))
    return re.findall(r"^[0-9]+\. `([\w/]+\.py)`", steps, re.MULTILINE)


def files_entered(call: Callable[[], Any], counts: Callable[[FrameType], bool] = lambda frame: True) -> list[str]:
    """The files of ours in which a function returns during a call, in the order of the first time; of frames that count."""
    files: dict[str, None] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event == "return" and path.startswith((f"{ROOT}/zoo/", f"{ROOT}/blocks/")) and counts(frame):
            files[str(pathlib.Path(path).relative_to(ROOT))] = None

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(before)
    return list(files)


def holds_the_kernel_size(frame: FrameType) -> bool:
    """Whether a function holds 13 as the kernel size, or the table that says so; comprehensions, which go through everything, aside."""
    if frame.f_code.co_name.startswith("<"):
        return False

    def is_13(value: object) -> bool:
        return type(value) is int and value == 13

    return any(
        (is_13(value) and name in ("kernel_size", *HOLDERS))
        or (isinstance(value, dict) and is_13(value.get("kernel_size")))
        for name, value in frame.f_locals.items()
    )


def test_the_walk_of_a_parameter_names_every_file_that_holds_it() -> None:
    from zoo.catalog import published

    published.family_of.cache_clear()
    files = files_entered(lambda: zoo.create("unireplknet_a", device="meta").digest, holds_the_kernel_size)
    steps = steps_of("A parameter")
    assert sorted(files) == sorted(steps)
    assert len(steps) <= MOST_FILES


def test_every_file_of_the_walk_of_a_tensor_is_entered() -> None:
    files = files_entered(lambda: zoo.create("starnet_nano", pretrained=True))
    assert set(steps_of("A tensor of weights")) <= set(files)


def test_every_file_of_the_walk_of_a_row_is_entered(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.cli import main
    from zoo.selection.find import find

    machine = shipped_devices()[0]
    monkeypatch.setattr(bench, "_answers", worker.work)  # in this process, where it can be seen
    monkeypatch.setattr(this_device, "identify", lambda kind: machine)
    this_device.this_device.cache_clear()

    def measure_and_ask() -> None:
        assert (
            main(["bench", "starnet_nano", "--processes", "1", "--seconds", "0.01"]) == 1
        )  # one process is no measurement
        find(family="starnet")

    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    try:
        with on_threads(1):
            files = files_entered(measure_and_ask)
    finally:
        this_device.this_device.cache_clear()
    assert set(steps_of("A row of latency")) <= set(files)
    with Store() as store:
        assert [row.model for row in store.rows(shipped=False)] == ["starnet_nano"]
