"""What licences allow, in four words, and what the name of a licence says of it."""

from __future__ import annotations

import re
from typing import Literal

LicenceClass = Literal["permissive", "noncommercial", "research", "unknown"]
FORBIDDING = ("noncommercial", "research")
"""Classes that forbid commercial use."""
PERMISSIVE = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause")
NONCOMMERCIAL = re.compile(r"(?<![a-z])nc(?![a-z])|non[- _]?commercial", re.IGNORECASE)
RESEARCH = re.compile(r"research", re.IGNORECASE)
"""What the name of a licence holds as a word: CC-BY-NC-4.0, and not ENCORE."""


def licence_class(licence: str) -> LicenceClass:
    """What a licence allows, by its name; `unknown` is nothing to rely on."""
    if licence in PERMISSIVE:
        return "permissive"
    if NONCOMMERCIAL.search(licence):
        return "noncommercial"
    return "research" if RESEARCH.search(licence) else "unknown"
