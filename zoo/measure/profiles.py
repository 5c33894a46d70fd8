"""The profiles that ship with a collection, of every model in both forms. `python -m zoo.measure.profiles` writes the core's.

Reading them imports no torch.
"""

from __future__ import annotations

import functools
import sys

import msgspec

from zoo import catalog
from zoo.collection import CORE, Collection, collections

PROFILES = "profiles.json"


class Cost(msgspec.Struct, frozen=True, omit_defaults=True):
    """The totals of a profile: see zoo.measure.profile."""

    macs: int
    params: int
    active_params: int
    weight_bytes: int
    activation_bytes: int
    peak_activation_bytes: int
    elements: int
    intensity: float
    scan_flops: int = 0
    fft_flops: int = 0
    complete: bool = True


Costs = dict[str, dict[str, Cost]]
"""By model and form."""


@functools.cache
def costs() -> Costs:
    """Those of all collections. Where a model ships none, its entry in the catalogue says what it knows, and no more."""
    found: Costs = {}
    for collection in collections().values():
        path = collection.data / PROFILES
        if path.is_file():
            shipped = msgspec.json.decode(path.read_bytes(), type=Costs)
            found |= {collection.full(name): forms for name, forms in shipped.items()}
    for name, entry in catalog.entries().items():
        if name not in found:
            known = Cost(entry.macs, entry.params, entry.params, 4 * entry.params, 0, 0, 0, 0.0, complete=False)
            found[name] = {"train": known, "deploy": known}
    return found


def cost_of(name: str, form: str) -> Cost:
    """The shipped totals of one model, counted anew."""
    from zoo.measure.profile import profile

    counted = profile(name, form="deploy" if form == "deploy" else "train", details=False)
    return Cost(**{field: getattr(counted, field) for field in Cost.__struct_fields__})


def render(costs: Costs) -> bytes:
    """A model a line."""
    lines = [f'"{name}": {msgspec.json.encode(forms).decode()}' for name, forms in costs.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def write(collection: Collection) -> int:
    """Counts every model of a collection that a spec describes, and writes the file; returns how many those are."""
    names = [name for name, entry in catalog.entries().items() if entry.file and catalog.home_of(name) == collection]
    found = {collection.short(name): {form: cost_of(name, form) for form in ("train", "deploy")} for name in names}
    collection.data.mkdir(exist_ok=True)
    (collection.data / PROFILES).write_bytes(render(found))
    return len(found)


def main() -> int:
    print(f"profiles of {write(CORE)} models written to {PROFILES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
