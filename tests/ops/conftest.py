"""Goldens, as in tests/blocks."""

from tests.blocks.conftest import golden, refused  # noqa: F401
