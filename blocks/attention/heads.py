"""How the width of a mixer is cut into heads."""

from __future__ import annotations

HEAD_DIM = 32
"""The width of a head where the spec says nothing of heads."""


def split_heads(dim: int, num_heads: int | None, head_dim: int | None) -> tuple[int, int]:
    """(num_heads, head_dim): both as given, or the one that is missing such that num_heads * head_dim = dim.

    Raises ValueError, with the nearest number that does, when the given one does not divide dim.
    """
    if num_heads and head_dim:
        return num_heads, head_dim
    if num_heads:
        check_divides("num_heads", num_heads, "dim", dim)
        return num_heads, dim // num_heads
    head_dim = head_dim or HEAD_DIM
    check_divides("head_dim", head_dim, "dim", dim)
    return dim // head_dim, head_dim


def check_divides(name: str, divisor: int, what: str, total: int) -> None:
    """Raises ValueError, naming both numbers and the nearest divisor, unless `divisor` divides `total` and leaves something."""
    if total < 1:
        raise ValueError(f"{what} is {total}, which leaves no channels; it should be {divisor} at least")
    if total % divisor:
        divisors = [number for number in range(1, total + 1) if total % number == 0]
        near = min(divisors, key=lambda number: abs(number - divisor))
        raise ValueError(f"{name} {divisor} does not divide {what} {total}; the nearest that does is {near}")
