"""What a model asks of a machine: its work by kind, and the share of time that each kind takes on a nominal machine.

The loads of a collection's models ship beside their profiles (`python -m zoo.measure.load_counter` writes the core's); those of any other net are
counted on meta. Reading them imports no torch. `python -m zoo.measure.load`, as older releases had it, still counts, with a warning.
"""

from __future__ import annotations

import functools
import runpy
import warnings

import msgspec

from zoo import catalog
from zoo.measure.counted import Table
from zoo.measure.profiles import costs


class Load(msgspec.Struct, frozen=True, array_like=True):
    """Work by kind. FLOPs, elements and bytes are those of one input; weights, calls and views are as many for any batch.

    FLOPs of convolutions (1 x 1, larger, transposed, grouped with few channels in each group, depthwise by the size of the kernel, and
    dilated depthwise), of matrix products (by a layer's weights, by packed weights of a deploy form, of two batches, with a vector), of
    attention, scans and FFTs. Traffic: numbers that convolutions and products read and write, weights left out. Elements that are
    computed, computed by a transcendental function, pooled, normalised by statistics over the batch or over channels, copied into
    another order, and moved; in attention, those of its softmax. Bytes of weights; calls of convolutions, of products, of all
    operations; views of memory.
    """

    pointwise: int = 0
    convolution: int = 0
    transposed: int = 0
    grouped: int = 0
    depthwise: int = 0
    large_depthwise: int = 0
    dilated_depthwise: int = 0
    matmul: int = 0
    packed: int = 0
    batched: int = 0
    vector: int = 0
    attention: int = 0
    scan: int = 0
    fft: int = 0
    convolution_traffic: int = 0
    matmul_traffic: int = 0
    packed_traffic: int = 0
    elements: int = 0
    transcendental: int = 0
    pooled: int = 0
    batch_normalised: int = 0
    layer_normalised: int = 0
    copied: int = 0
    moved: int = 0
    softmax: int = 0
    weight_bytes: int = 0
    convolutions: int = 0
    products: int = 0
    operations: int = 0
    views: int = 0


KINDS = len(Load.__struct_fields__)
ONCE = ("weight_bytes", "convolutions", "products", "operations", "views")
"""What a batch of inputs has as much of as one input."""
NOMINAL = Load(
    pointwise=220_000_000, convolution=180_000_000, transposed=160_000_000, grouped=33_000_000, depthwise=170_000_000,
    large_depthwise=90_000_000, dilated_depthwise=5_000_000, matmul=115_000_000, packed=270_000_000, batched=400_000_000,
    vector=60_000_000, attention=150_000_000, scan=30_000_000, fft=6_000_000, convolution_traffic=8_000_000,
    matmul_traffic=7_500_000, packed_traffic=1_200_000, elements=5_000_000, transcendental=2_000_000, pooled=10_000_000,
    batch_normalised=940_000, layer_normalised=3_000_000, copied=400_000, moved=1_400_000, softmax=11_000_000, weight_bytes=13_000_000,
    convolutions=45, products=700, operations=290, views=370,
)  # fmt: skip
"""What a machine does of each in a millisecond, as a place to start from: between what fits an EPYC and a Xeon on one thread."""


def batched(load: Load, batch: int) -> Load:
    """The load of so many inputs at once: weights and operations stay as many as they were."""
    more = {name: batch * amount for name, amount in msgspec.structs.asdict(load).items() if name not in ONCE}
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
    found = SHIPPED.everywhere()
    for name in catalog.entries():
        if not {"train", "deploy"} <= found.get(name, {}).keys():
            found[name] = {
                form: Load(
                    pointwise=2 * cost.macs, scan=cost.scan_flops, fft=cost.fft_flops, elements=cost.elements,
                    weight_bytes=cost.weight_bytes, products=60, operations=200,
                )
                for form, cost in costs()[name].items()
            }  # fmt: skip
    return found


def decoded(data: bytes) -> Loads:
    """What another release counted, by other kinds, counts as nothing."""
    rows = msgspec.json.decode(data, type=dict[str, dict[str, list[int]]])
    return {
        name: {form: Load(*row) for form, row in forms.items() if len(row) == KINDS} for name, forms in rows.items()
    }


SHIPPED = Table("loads.json", decoded)

if __name__ == "__main__":
    counter = "zoo.measure.load_counter"
    warnings.warn(f"`python -m zoo.measure.load` is now `python -m {counter}`", DeprecationWarning, stacklevel=1)
    runpy.run_module(counter, run_name="__main__", alter_sys=True)
