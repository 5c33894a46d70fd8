"""What the parts of a model cost, counted on meta where nothing of it ships: of a plugin without an index, or of a family that is being written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from blocks.registry.words import raised
from zoo import catalog
from zoo.measure.parts import Parts, parts_of
from zoo.site.known import Known

log = logging.getLogger("zoo")


def count_missing(models: Sequence[Known], progress: Callable[[int, int, str], None]) -> None:
    """Counts the parts of models with which none ship. Those that a plugin's code builds have none, nor has a plugin's that cannot be built: of it
    a warning tells."""
    missing = [known for known in models if known.parts is None and known.spec is not None]
    for done, known in enumerate(missing):
        progress(done, len(missing), known.name)
        try:
            known.parts = _counted(known.name)
        except Exception as error:  # the code of a plugin's block may do anything
            if not catalog.home_of(known.name).namespace:
                raise
            log.warning("%s: its parts cannot be counted: %s", known.name, raised(error))


def _counted(name: str) -> Parts:
    from zoo.measure.profile import profile

    return parts_of(profile(name))
