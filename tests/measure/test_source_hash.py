"""Which changes of a source file make a measurement stale."""

from __future__ import annotations

import pytest

from zoo.measure.source_hash import code_of

FILE = '''"""A block."""

from blocks import block


@block("twice", kind="act")
class Twice(nn.Module):
    """y = 2 x."""

    def forward(self, x):
        return 2 * x
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""y = 2 x."""', '"""y = x + x, in the dtype of x."""'),
        ("from blocks import block", "from blocks.registry import block  # since it moved"),
        ('@block("twice", kind="act")', '@block(\n    "twice",\n    kind="act",\n    covers=("double",),\n)'),
        ("        return 2 * x", "        # the sum of both\n\n        return 2 * x"),
    ],
)
def test_comments_docstrings_imports_and_names_of_blocks_change_no_code(before: str, after: str) -> None:
    changed = FILE.replace(before, after)
    assert changed != FILE and code_of(changed) == code_of(FILE)


@pytest.mark.parametrize(
    ("before", "after"), [("2 * x", "3 * x"), ("def forward(self, x)", "def forward(self, x, ctx)")]
)
def test_code_that_computes_changes_the_code(before: str, after: str) -> None:
    assert code_of(FILE.replace(before, after)) != code_of(FILE)
