"""Which of the known devices this machine is: measured once for each start of its system, and remembered in the store."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from zoo.measure.device import Device, cores, identify, recognise, same_machine
from zoo.measure.store import Store


@functools.cache
def this_device(kind: Literal["cpu", "cuda"] = "cpu") -> Device:
    """This machine as the store knows it; a new one is entered there.

    It is measured at the first call after a start of the system and remembered until the next: meanwhile it becomes no other,
    and on a busy day might look like one. Where that was such a day, and a faster machine is known that is like this one, it is
    measured again by each process until it turns out to be that one.
    """
    start = _start_of_system() if kind == "cpu" else ""
    with Store() as store:
        devices = {device.id: device for device in store.devices()}
        device = devices.get(store.recall(start)) or recognise(identify(kind), devices.values())
        if faster := [other for other in devices.values() if _is_faster(other, device)]:
            match = recognise(identify(kind), faster)
            device = match if match in faster else device
        store.add_device(device)
        store.remember(start, device.id)
    return device


def _is_faster(other: Device, device: Device) -> bool:
    """Whether all but its speed says that it is the same machine."""
    pace = other.fingerprint.gemm_gflops / device.fingerprint.gemm_gflops
    return other.facts == device.facts and pace > 1 and not same_machine(other, device)


def _start_of_system() -> str:
    """A word for this start of this system, with what is known of it without measuring; "" where the system has none."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return f"{start} {cores()}"
