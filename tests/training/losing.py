"""`zoo train` in one of several processes, of which the second loses what its first word says: its third `loss`, or a `picture`."""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

from zoo.cli import main
from zoo.training.batches import LostPicture
from zoo.training.objectives import Objective

computed, calls, what = Objective.__call__, itertools.count(), sys.argv[1]


def lost(self: Objective, *args: Any) -> Any:
    loss = computed(self, *args)
    if os.environ["RANK"] == "0" or next(calls) != 2:
        return loss
    if what == "picture":
        raise LostPicture("LostPicture: dark/000.png: expected an image; found nothing")
    return loss * float("nan")


Objective.__call__ = lost  # type: ignore[method-assign]
sys.exit(main(sys.argv[2:]))
