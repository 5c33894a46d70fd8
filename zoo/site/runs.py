"""Devices and runtimes as a page says them."""

from __future__ import annotations

import re

from zoo.measure.device import Device


def label(device: Device) -> str:
    """`AMD EPYC, 2 cores`; without the signs of trade marks that makers put into names."""
    name = re.sub(r" ?\((?:R|TM|C)\)", "", device.name, flags=re.IGNORECASE)
    return f"{name}, {device.cores} core{'s' if device.cores != 1 else ''}"


def run_words(key: str) -> str:
    """`eager float32 b1 t2` -> `2 threads, float32, batch 1`; other words as they are."""
    match = re.fullmatch(r"(\S+) (\S+) b(\d+) t(\d+)", key)
    if match is None:
        return key
    engine, dtype, batch, threads = match.groups()
    words = f"{threads} thread{'s' if threads != '1' else ''}, {dtype}, batch {batch}"
    return words if engine == "eager" else f"{words}, {engine}"
