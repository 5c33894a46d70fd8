"""What the name of a licence says."""

from __future__ import annotations

import pytest

from zoo.weights.licences import licence_class


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0", "permissive"),
        ("BSD-2-Clause", "permissive"),
        ("CC-BY-NC-SA-4.0", "noncommercial"),
        ("NVIDIA Source Code License-NC, weights CC-BY-NC-SA-4.0: no commercial use", "noncommercial"),
        ("Some Research License 2.0", "research"),
        ("mobileone-license", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_class_follows_from_the_name(licence: str, expected: str) -> None:
    assert licence_class(licence) == expected
