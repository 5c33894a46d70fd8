"""The rows that ship are clean, of models and devices that are known."""

from __future__ import annotations

from zoo import catalog
from zoo.measure.latency import MIN_PROCESSES
from zoo.measure.store import shipped_devices, shipped_rows


def test_shipped_rows_are_clean_and_of_known_models_and_devices() -> None:
    rows, devices = shipped_rows(), {device.id for device in shipped_devices()}
    assert rows and len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert (row.verdict, row.device in devices, row.processes >= MIN_PROCESSES) == ("clean", True, True)
        assert catalog.entry(row.model).digest == row.digest
        assert 0 < row.min_ms <= row.p50_ms <= row.p90_ms and row.low_ms <= row.p50_ms <= row.high_ms
