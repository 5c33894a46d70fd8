"""The generated index of models says what their files say."""

from __future__ import annotations

import msgspec
import pytest

from zoo.authoring import core_index
from zoo.catalog.collection import CORE
from zoo.catalog.index import Entry

STALE = "stale: run `python -m zoo.catalog`"


def test_every_field_that_needs_no_building_is_what_the_files_say() -> None:
    index = msgspec.json.decode(CORE.index_file.read_bytes(), type=list[Entry])
    described = [entry for entry, _ in core_index.described()]
    assert [msgspec.structs.replace(entry, params=0, macs=0) for entry in index] == described, STALE


@pytest.mark.slow  # builds every model on meta
def test_the_whole_index_is_what_the_files_and_models_say() -> None:
    assert CORE.index_file.read_bytes() == core_index.render(), STALE
