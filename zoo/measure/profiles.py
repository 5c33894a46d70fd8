"""The profiles that ship with the package, of every model in both forms. `python -m zoo.measure.profiles` writes them.

Reading them imports no torch.
"""

from __future__ import annotations

import functools
import sys

import msgspec

from zoo import catalog

PROFILES = catalog.MODELS / "data" / "profiles.json"


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
    """Those of the package."""
    return msgspec.json.decode(PROFILES.read_bytes(), type=Costs)


def cost_of(name: str, form: str) -> Cost:
    """The shipped totals of one model, counted anew."""
    from zoo.measure.profile import profile

    counted = profile(name, form="deploy" if form == "deploy" else "train", details=False)
    return Cost(**{field: getattr(counted, field) for field in Cost.__struct_fields__})


def render(costs: Costs) -> bytes:
    """A model a line."""
    lines = [f'"{name}": {msgspec.json.encode(forms).decode()}' for name, forms in costs.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def main() -> int:
    found = {name: {form: cost_of(name, form) for form in ("train", "deploy")} for name in catalog.list_models()}
    PROFILES.write_bytes(render(found))
    print(f"profiles of {len(found)} models written to {PROFILES.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
