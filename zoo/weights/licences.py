"""What licences allow, in four words, and what the name of a licence says of it."""

from __future__ import annotations

from typing import Literal

LicenceClass = Literal["permissive", "noncommercial", "research", "unknown"]
FORBIDDING = ("noncommercial", "research")
"""Classes that forbid commercial use."""
PERMISSIVE = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause")
NONCOMMERCIAL = ("NC", "Non-Commercial", "noncommercial")
RESEARCH = ("Research", "research")
"""Words in the name of a licence."""


def licence_class(licence: str) -> LicenceClass:
    """What a licence allows, by its name; `unknown` is nothing to rely on."""
    if licence in PERMISSIVE:
        return "permissive"
    if any(word in licence for word in NONCOMMERCIAL):
        return "noncommercial"
    return "research" if any(word in licence for word in RESEARCH) else "unknown"
