"""Language models whose weights alone are in a lower precision: where that is what a precision means. Imports no torch."""

from __future__ import annotations

FORMS = ("bfloat16", "int8")
"""Of weights; activations and products stay in float32, so that no instruction is needed for them."""


def narrows(runtime: str, kind: str, precision: str) -> bool:
    """Whether a net of this kind of signature keeps only its weights in the precision: a language model in torch as it is."""
    return runtime == "torch" and kind == "language" and precision in FORMS
