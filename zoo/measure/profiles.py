"""The profiles that ship with a collection, of every model in both forms. `python -m zoo.measure.profiles` writes the core's.

Reading them imports no torch.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import msgspec

from zoo import catalog
from zoo.measure.counted import Counted, Table

if TYPE_CHECKING:
    from zoo.measure.profile import Profile
    from zoo.specs.model import Spec


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
    by_name = PROFILES.table.everywhere()
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


def _both_forms(spec: Spec) -> dict[str, Cost]:
    return {form: cost_of(spec, form) for form in ("train", "deploy")}


PROFILES = Counted(Table("profiles.json", _decoded), _both_forms)

if __name__ == "__main__":
    sys.exit(PROFILES.main())
