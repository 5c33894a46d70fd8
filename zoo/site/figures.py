"""A figure on a page: its value, how people read it, and the record that it comes from. Imports no torch.

A record is named `KIND:SUBJECT:FIELD`, by which a reader of the page's source, or a test, finds it again:

    cost:NAME:FORM:FIELD      profiles.json of the model's collection
    row:ID:FIELD              the row of `latency.jsonl`, or of --store, whose content has a hash that begins so
    block:ID:FIELD            the row of `blocks.jsonl`, or of --store, likewise
    printed:NAME:accuracy     published.toml
    weights:NAME.TAG:METRIC   the manifest of weights that ship, or their line in weights/<family>.toml
    count:NAME:PLACE:FIELD    `zoo profile NAME --by stage`, `--by block`; counted when the site was built
    task:BLOCK:TASK           tasks.json
    total:WHAT                how many pages or models this site has
"""

from __future__ import annotations

import html
from typing import NamedTuple

from zoo.display.console import count, size
from zoo.measure.block_latency import BlockLatency
from zoo.measure.latency import Latency
from zoo.measure.profiles import costs


class Shown(NamedTuple):
    """One figure. In a template it stands as `<span data-record=… data-value=…>text</span>`, without a value where the text is all of it."""

    value: float
    text: str
    record: str

    def __html__(self) -> str:
        exact = "" if self.text == str(self.value) else f' data-value="{self.value}"'
        return f'<span data-record="{html.escape(self.record)}"{exact}>{html.escape(self.text)}</span>'

    def __str__(self) -> str:
        return self.text


def cost(name: str, form: str, field: str) -> Shown:
    """A total of the profile of a model: `params`, `macs`, `weight_bytes`, ..."""
    value = getattr(costs()[name][form], field)
    return Shown(value, size(value) if field.endswith("_bytes") else count(value), f"cost:{name}:{form}:{field}")


def memory(name: str, form: str) -> Shown:
    """Weights, and the activations that are held at one time."""
    found = costs()[name][form]
    value = found.weight_bytes + found.peak_activation_bytes
    return Shown(value, size(value), f"cost:{name}:{form}:weight_bytes+peak_activation_bytes")


def row_record(row: Latency | BlockLatency) -> str:
    """Twelve digits tell a row from all others that a site has."""
    return f"{'row' if isinstance(row, Latency) else 'block'}:{row.id[:12]}"


def timed(row: Latency, field: str = "p50_ms") -> Shown:
    value = getattr(row, field)
    return Shown(value, size(value) if field == "peak_bytes" else milliseconds(value), f"{row_record(row)}:{field}")


def milliseconds(value: float) -> str:
    """Three digits, and no powers of ten."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
