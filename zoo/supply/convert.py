"""The child process of `zoo pin`: `python -m zoo.supply.convert MODEL RULES DTYPE CHECKPOINT OUT`.

It alone opens a pickle that others made. Problems go to stdout as JSON, with exit code 2.
"""

from __future__ import annotations

import json
import sys

import torch

from zoo.errors import ProblemsError
from zoo.front import create
from zoo.weights.load import save_weights


def main(model: str, rules: str, dtype: str, checkpoint: str, out: str) -> int:
    try:
        save_weights(create(model, weights=checkpoint, source=rules, dtype=getattr(torch, dtype)), out)
    except ProblemsError as error:
        print(json.dumps([problem._asdict() for problem in error.problems]))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
