"""Registrations for one test."""

from __future__ import annotations

import pytest

import blocks
from zoo.testing.block_cases import Subject
from zoo.testing.isolation import own_registrations


@pytest.fixture
def registered(monkeypatch):
    """Registers classes for one test only."""

    def register(cls, kind="token_mixer", layout="BLC", abilities=()):
        monkeypatch.setattr(cls, "__init__", cls.__init__)  # the decorator wraps it in place
        blocks.block(cls.__name__.lower(), kind=kind, layout=layout, abilities=abilities)(cls)
        return Subject(cls.__name__.lower())

    with own_registrations():
        yield register
