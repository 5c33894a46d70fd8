"""What a compiled net was made of, as one hash: structure, tensors, code, runtime, machine."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import blocks
import zoo
from zoo.measure.device import instructions
from zoo.runtimes.protocol import Runtime
from zoo.runtimes.signature import Signature, signature_json

ROOMS = ("build", "exporting", "runtimes")
"""The rooms of the zoo where a net becomes a file."""


def key_of(net: nn.Module, runtime: Runtime, signature: Signature, precision: str, threads: int) -> str:
    """sha256 of all that a folder of compiled files follows from."""
    facts = {
        "net": net_hash(net),
        "code": code_hash(),
        "torch": str(torch.__version__),
        "runtime": [runtime.name, runtime.version()],
        "signature": signature_json(signature).decode(),
        "precision": precision,
        "threads": threads,
        "machine": [platform.system(), platform.machine(), sorted(instructions())],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def net_hash(net: nn.Module) -> str:
    """sha256 of the modules of a net, of the source files of their classes, and of its tensors."""
    digest = hashlib.sha256(f"{getattr(net, 'digest', '')} {net!r}".encode())
    for file in sorted({_file_of(type(module)) for module in net.modules()} - {""}):
        digest.update(_bytes_of(file))
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _file_of(kind: type) -> str:
    """ "" for a class of torch, and for one that is in no file."""
    if kind.__module__.partition(".")[0] == "torch":
        return ""
    return str(getattr(sys.modules.get(kind.__module__), "__file__", None) or "")


@functools.lru_cache(maxsize=4096)
def _bytes_of(file: str) -> bytes:
    try:
        return hashlib.sha256(Path(file).read_bytes()).digest()
    except OSError:
        return b""


@functools.cache
def code_hash() -> str:
    """The hash of the zoo's version, and of the source files through which a net becomes a file."""
    digest = hashlib.sha256(zoo.__version__.encode())
    packages: Any = [Path(zoo.__path__[0], room) for room in ROOMS] + [Path(blocks.__path__[0])]
    for path in sorted(file for package in packages for file in package.rglob("*.py")):
        digest.update(path.name.encode() + _bytes_of(str(path)))
    return digest.hexdigest()


def key_of_folder(record: bytes, runtime: Runtime, threads: int) -> str:
    """That of a saved folder, by its record, which holds the hash of every file, made again for this version and number of threads."""
    facts = [
        hashlib.sha256(record).hexdigest(),
        runtime.name,
        runtime.version(),
        threads,
        platform.machine(),
        sorted(instructions()),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
