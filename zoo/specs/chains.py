"""Entries that build on one another: variants that extend a sibling, key rules with a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST_STEPS = 8
"""Entries that one may stand on, one on the other."""


def chain_of(name: str, entries: Mapping[str, Any], link: str) -> list[str]:
    """`name`, the entry that its `link` names, and so on; longer than MOST_STEPS where that leads in a circle."""
    chain = [name]
    while len(chain) <= MOST_STEPS:
        entry = entries.get(chain[-1])
        following = entry.get(link) if isinstance(entry, Mapping) else None
        if not isinstance(following, str):
            break
        chain.append(following)
    return chain


def fault_of(chain: Sequence[str]) -> str:
    """What is wrong with a chain that is too long, in words."""
    again = next((i for i, name in enumerate(chain) if name in chain[:i]), None)
    if again is None:
        return f"more than {MOST_STEPS} steps: {' -> '.join(chain)}"
    return f"a circle: {' -> '.join(chain[: again + 1])}"
