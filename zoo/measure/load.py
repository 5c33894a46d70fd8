"""What a model asks of a machine: its work by kind, and the share of time that each kind takes on a nominal machine.

The loads of a collection's models ship beside their profiles (`python -m zoo.measure.load` writes the core's); those of any other net are
counted on meta. Reading them imports no torch.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from zoo import catalog
from zoo.catalog.collection import CORE, Collection, collections, read_data
from zoo.catalog.published import specs_in
from zoo.measure.profiles import catalogued, costs
from zoo.system.folders import write_whole

if TYPE_CHECKING:
    from torch import nn

LOADS = "loads.json"


class Load(msgspec.Struct, frozen=True, array_like=True):
    """FLOPs of matrix products, of convolutions (1 x 1, dense, grouped), attention, scans and FFTs; elements that are computed,
    normalised and moved; bytes of weights; operations, and views of memory."""

    matmul: int = 0
    pointwise: int = 0
    convolution: int = 0
    grouped: int = 0
    attention: int = 0
    scan: int = 0
    fft: int = 0
    elements: int = 0
    normalised: int = 0
    moved: int = 0
    weight_bytes: int = 0
    operations: int = 0
    views: int = 0


KINDS = len(Load.__struct_fields__)
NOMINAL = Load(
    matmul=160_000_000, pointwise=200_000_000, convolution=150_000_000, grouped=20_000_000, attention=200_000_000, scan=12_000_000,
    fft=20_000_000, elements=3_500_000, normalised=700_000, moved=600_000, weight_bytes=6_000_000, operations=220, views=280,
)  # fmt: skip
"""What a machine does of each in a millisecond: rounded from a fit to a Xeon on one thread. Only a place to start from."""


def batched(load: Load, batch: int) -> Load:
    """The load of so many inputs at once: weights and operations stay as many as they were."""
    once = ("weight_bytes", "operations", "views")
    more = {name: batch * amount for name, amount in msgspec.structs.asdict(load).items() if name not in once}
    return msgspec.structs.replace(load, **more)


def nominal_ms(load: Load) -> list[float]:
    """Milliseconds of each kind of work on the nominal machine."""
    return [
        amount / rate
        for amount, rate in zip(msgspec.structs.astuple(load), msgspec.structs.astuple(NOMINAL), strict=True)
    ]


Loads = dict[str, dict[str, Load]]
"""The loads by model and form."""


@functools.cache
def loads() -> Loads:
    """Those of all collections. Of a model that ships none, what its cost says: MACs as dense work, elements and weights."""
    found: Loads = {}
    for collection in collections().values():
        shipped: Loads = read_data(collection, collection.data / LOADS, _decoded, {})
        found |= {collection.full(name): forms for name, forms in shipped.items()}
    for name in catalog.entries():
        if not {"train", "deploy"} <= found.get(name, {}).keys():
            found[name] = {
                form: Load(
                    pointwise=2 * cost.macs, scan=cost.scan_flops, fft=cost.fft_flops, elements=cost.elements,
                    weight_bytes=cost.weight_bytes, operations=200,
                )
                for form, cost in costs()[name].items()
            }  # fmt: skip
    return found


def _decoded(data: bytes) -> Loads:
    return msgspec.json.decode(data, type=Loads)


def load_of(net: nn.Module, batch: int = 1) -> Load:
    """Counted in one pass on meta of a net on meta, in the form in which it is."""
    import torch
    from torch.utils.flop_counter import flop_registry

    from zoo.build.inputs import meta_inputs
    from zoo.measure.op_counter import Composites, Work

    aten = torch.ops.aten

    class Kinds(Work):
        """Work, with convolutions told apart, and views counted."""

        views = pointwise = grouped = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = super().__torch_dispatch__(func, types, args, kwargs)
            packet = func._overloadpacket
            if func.is_view or packet in (aten._unsafe_view, aten.as_strided_):
                self.views += 1
            elif packet is aten.convolution:
                flops = int(flop_registry[packet](*args, **(kwargs or {}), out_val=result))
                if args[8] > 1:
                    self.grouped += flops
                elif all(side == 1 for side in args[1].shape[2:]):
                    self.pointwise += flops
            return result

    work = Kinds()
    work.open.append("")
    with torch.no_grad(), work, Composites(work):
        net.eval()(*meta_inputs(net.spec, batch))  # type: ignore[arg-type]
    flops = work.paths[""]
    normalised = sum(row[1] for op, row in work.ops.items() if "norm" in op)
    return Load(
        matmul=flops["matmul"],
        pointwise=work.pointwise,
        convolution=flops["convolution"] - work.pointwise - work.grouped,
        grouped=work.grouped,
        attention=flops["attention"],
        scan=flops["scan"],
        fft=flops["fft"],
        elements=work.elements["elementwise"] - normalised,
        normalised=normalised,
        moved=work.elements["moved"],
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values()),
        operations=sum(row[0] for row in work.ops.values()),
        views=work.views,
    )


def render(found: Loads) -> bytes:
    """A model a line."""
    lines = [f'"{name}": {msgspec.json.encode(forms).decode()}' for name, forms in found.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def rendered(collection: Collection, file: str = "") -> bytes:
    """The bytes that the loads of a collection should hold: every model that a spec describes is counted, or those of one `file` alone."""
    from zoo.build.builder import build
    from zoo.build.deploy import deploy

    path = collection.data / LOADS
    fresh = {
        spec.name: {"train": load_of(build(spec)), "deploy": load_of(deploy(build(spec)))}
        for _, spec in specs_in(collection, file or "*.toml")
    }
    others = _decoded(path.read_bytes()) if file and path.is_file() else {}
    return render(catalogued(collection, others, fresh))


def write(collection: Collection, file: str = "") -> None:
    """Writes the loads of a collection, those of one `file` anew."""
    write_whole(collection.data / LOADS, rendered(collection, file))


def main() -> int:
    write(CORE)
    print(f"loads of {len(_decoded((CORE.data / LOADS).read_bytes()))} models written to {LOADS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
