"""The profiles that ship with a collection, of every model in both forms. `python -m zoo.measure.profiles` writes the core's.

Reading them imports no torch.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, TypeVar

import msgspec

from zoo import catalog
from zoo.catalog.collection import CORE, Collection, collections, read_data
from zoo.catalog.published import specs_in
from zoo.system.folders import write_whole

if TYPE_CHECKING:
    from zoo.measure.profile import Profile
    from zoo.specs.model import Spec

PROFILES = "profiles.json"
T = TypeVar("T")


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
"""The profiles by model and form."""


@functools.cache
def costs() -> Costs:
    """Those of all collections. Where a model ships none, its entry in the catalogue says what it knows, and no more."""
    by_name: Costs = {}
    for collection in collections().values():
        shipped: Costs = read_data(collection, collection.data / PROFILES, _decoded, {})
        by_name |= {collection.full(name): forms for name, forms in shipped.items()}
    for name, entry in catalog.entries().items():
        if not {"train", "deploy"} <= by_name.get(name, {}).keys():
            cost = Cost(entry.macs, entry.params, entry.params, 4 * entry.params, 0, 0, 0, 0.0, complete=False)
            by_name[name] = {"train": cost, "deploy": cost}
    return by_name


def _decoded(data: bytes) -> Costs:
    return msgspec.json.decode(data, type=Costs)


def cost_of(model: str | Spec, form: str) -> Cost:
    """The shipped totals of one model, counted anew."""
    from zoo.measure.profile import profile

    return totals(profile(model, form="deploy" if form == "deploy" else "train", details=False))


def totals(counted: Profile) -> Cost:
    """What is shipped of a profile."""
    return Cost(**{field: getattr(counted, field) for field in Cost.__struct_fields__})


def render(costs: Costs) -> bytes:
    """A model a line."""
    lines = [f'"{name}": {msgspec.json.encode(forms).decode()}' for name, forms in costs.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def rendered(collection: Collection, file: str = "") -> bytes:
    """The bytes that the profiles of a collection should hold: every model that a spec describes is counted, or those of one `file` alone."""
    path = collection.data / PROFILES
    fresh = {
        spec.name: {form: cost_of(spec, form) for form in ("train", "deploy")}
        for _, spec in specs_in(collection, file or "*.toml")
    }
    others = _decoded(path.read_bytes()) if file and path.is_file() else {}
    return render(catalogued(collection, others, fresh))


def catalogued(collection: Collection, others: dict[str, T], fresh: dict[str, T]) -> dict[str, T]:
    """What is known of the `others` that the catalogue names, and what is `fresh`, in the order of the catalogue."""
    order = {collection.short(name): place for place, name in enumerate(catalog.entries())}
    present = {name: forms for name, forms in others.items() if name in order} | fresh
    return {name: present[name] for name in sorted(present, key=lambda name: order.get(name, len(order)))}


def write(collection: Collection, file: str = "") -> None:
    """Writes the profiles of a collection, those of one `file` anew."""
    write_whole(collection.data / PROFILES, rendered(collection, file))


def main() -> int:
    write(CORE)
    print(f"profiles of {len(_decoded((CORE.data / PROFILES).read_bytes()))} models written to {PROFILES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
