"""A net deployed in int8: compiled in float32, quantised in its folder, and opened as the runtime opens any other."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.artifacts import compiled
from zoo.runtimes.about import about
from zoo.runtimes.answers import Comparison
from zoo.runtimes.choosing import Wish
from zoo.runtimes.compiling import SIGNATURE
from zoo.runtimes.deployed import Deployed
from zoo.runtimes.evidence import Evidence
from zoo.runtimes.identity import key_of
from zoo.runtimes.net import first_state
from zoo.runtimes.protocol import Runtime, Session
from zoo.runtimes.quantising import CALIBRATION, quantise
from zoo.runtimes.signature import Signature, signature_from, signature_json
from zoo.system.strict_json import parse_json


def quantised_in(
    runtime: Runtime, net: nn.Module, signature: Signature, threads: int, evidence: Evidence, wish: Wish
) -> Deployed:
    """The net in int8, calibrated on the first inputs of the evidence; of the folder of compiled nets where it was made before.

    Raises InputError for a net that the library cannot quantise."""
    known, key = about(net), _key(key_of(net, runtime, signature, "int8", threads), evidence, wish)

    def make(folder: Path) -> Session:
        plain = runtime.compile(net, signature, "float32", threads, folder)
        (folder / SIGNATURE).write_bytes(signature_json(plain.signature))
        comparison = Comparison(plain, evidence, wish.has_classes)

        def loss() -> float:
            with (
                contextlib.closing(runtime.open(folder, plain.signature, "int8", threads)) as session,
                torch.inference_mode(),
            ):
                return comparison.loss(session, wish.max_loss).high

        quantise(
            runtime.name,
            folder,
            plain.signature.input_names,
            lambda: _batches(plain.signature, evidence),
            loss,
            wish.max_loss,
        )
        plain.close()
        return runtime.open(folder, plain.signature, "int8", threads)

    def open(folder: Path) -> Session:
        return runtime.open(
            folder, signature_from(parse_json((folder / SIGNATURE).read_bytes()), str(folder)), "int8", threads
        )

    session = compiled.obtain(key, f"{known.name} in {runtime.name}, int8", make, open)
    return Deployed(session, runtime, "int8", threads, known, compiled.folder() / key)


def _key(key: str, evidence: Evidence, wish: Wish) -> str:
    """The key of the net, and of what it is calibrated and tried on."""
    digest = hashlib.sha256(f"{key} {evidence.size} {evidence.what} {wish.max_loss}".encode())
    for x in evidence.part(0, min(evidence.size, CALIBRATION)):
        digest.update(x.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _batches(signature: Signature, evidence: Evidence) -> Iterator[tuple[Tensor, ...]]:
    """Flat inputs of the example's sizes."""
    state = first_state(signature.state, signature.samples)
    for inputs, _ in evidence.batches(signature.samples):
        yield (*inputs, *state)
