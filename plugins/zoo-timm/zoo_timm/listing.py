"""`python -m zoo_timm.listing` writes `models/index.json`: every architecture of the installed timm, with what it costs."""

from __future__ import annotations

import pathlib
import sys

import msgspec
import torch

from zoo._timm import import_timm
from zoo.catalog import Entry
from zoo.errors import ProblemsError
from zoo.measure.op_counter import EXACT, Work, modules_open

INDEX = pathlib.Path(__file__).with_name("models") / "index.json"


def entry_of(name: str) -> Entry:
    """One architecture, built and run on meta."""
    from zoo_timm.factory import create

    timm = import_timm()
    config = timm.models.get_pretrained_cfg(name)
    with torch.device("meta"):
        model = create(name).eval()
        channels, *size = config.input_size if config is not None else (3, 224, 224)
        work = Work()
        with torch.no_grad(), work, modules_open(work, {model: ""}):
            model(torch.empty(1, channels, *size))
    tags = sorted(
        full.partition(".")[2]
        for full in timm.list_models(f"{name}.*", pretrained=True)
        if full.partition(".")[0] == name
    )
    return Entry(
        name,
        timm.models._registry._model_to_module[name],
        "",
        "image-classification",
        digest_of(name),
        sum(parameter.numel() for parameter in model.parameters()),
        sum(work.paths[""][kind] for kind in EXACT) // 2,
        size,
        code="https://github.com/huggingface/pytorch-image-models",
        licence="Apache-2.0",
        listed=[tag for tag in tags if tag],
    )


def digest_of(name: str) -> str:
    """As `zoo.catalog.external.External` makes it, which reads it from here."""
    from zoo.catalog.external import digest_of as made

    return made(f"timm/{name}", {})


def main() -> int:
    names = import_timm().list_models()
    found = []
    for number, name in enumerate(names, 1):
        try:
            found.append(entry_of(name))
        except (RuntimeError, TypeError, ValueError, NotImplementedError, ProblemsError) as error:
            print(f"{name}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
        if number % 100 == 0:
            print(f"{number} of {len(names)}", file=sys.stderr, flush=True)
    lines = [msgspec.json.encode(entry).decode() for entry in found]
    INDEX.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"{len(found)} of {len(names)} architectures written to {INDEX.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
