"""From a manifest's source to a verified path, and from a user's own checkpoint to its contents."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import Problem, listed
from zoo.weights.errors import TensorsError, refuse_file
from zoo.weights.header import as_weights_error
from zoo.weights.load import read_tensors
from zoo.weights.manifest import Manifest
from zoo.weights.opening import expanded, opened
from zoo.weights.pickles import check_pickle, refuse_pickle
from zoo.weights.shards import INDEX, is_index, places
from zoo.weights.verify import verify

PICKLES = (".pth", ".pyth", ".pt", ".bin", ".tar", ".ckpt", ".torchparams")


def path_of(manifest: Manifest, folder: str | Path) -> Path:
    """The local path of the weights, their bytes verified. Raises WeightsError.

    `folder` is that of the manifest; embedded files and relative `file:` paths are counted from it."""
    path = _place(manifest, folder)
    verify(path, manifest)
    return path


def read_published(manifest: Manifest, folder: str | Path) -> dict[str, Tensor]:
    """The tensors of these weights, of the promised bytes; none are promised where the manifest stands in the file itself.
    Raises WeightsError."""
    return read_tensors(_place(manifest, folder), manifest.name, None if manifest.state == "saved" else manifest)


def _place(manifest: Manifest, folder: str | Path) -> Path:
    kind, _, rest = manifest.source.partition(":")
    if kind == "embedded":
        path = Path(folder, rest)
        if not path.resolve().is_relative_to(Path(folder).resolve()):  # a link that leads out of the package
            raise refuse_file(
                f"{manifest.name}: the file lies outside the package; nothing was loaded",
                manifest.source,
                expected=f"a file below {folder}",
                found=f"a link to {path.resolve()}",
                next="install the package again",
            )
    elif kind == "file":
        path = Path(folder, expanded(rest))
    else:
        raise refuse_file(
            f"{manifest.name}: these weights are not on this machine; nothing was loaded",
            manifest.source,
            next=f"`zoo pin {manifest.name}` fetches and proves them",
        )
    return path


def open_checkpoint(weights: str | os.PathLike[str] | Mapping[str, Any], subject: str = "weights") -> dict[str, Any]:
    """The contents of a checkpoint that the user names: a mapping, a .safetensors file, the index of several, or a file of torch.save.

    Of a folder, as `save_pretrained` writes it, the only safetensors file, or the only index of several.
    A pickle is opened only here, and with `weights_only=True`: tensors and plain values, no code. What stands around
    the tensors (`state_dict`, `module.`) is left in place; `KeyRules.open` takes it off. Raises WeightsError."""
    if isinstance(weights, Mapping):
        return dict(weights)
    path = expanded(weights)
    path = _inside(path, subject) if path.is_dir() else path
    if path.suffix == ".safetensors":
        return dict(read_tensors(path, subject))
    if is_index(path.name):
        return dict(_read_shards(path, subject))
    if path.suffix in PICKLES:
        return _open_pickle(path, subject)
    with opened(path, subject):  # a name that is no file's is told as such
        ways = f".safetensors, {INDEX}, or {', '.join(PICKLES)} written by torch.save"
    headline = f"{subject}: not a checkpoint; nothing was loaded"
    raise refuse_file(headline, str(path), ways, f"`{path.suffix or path.name}`")


def _inside(folder: Path, subject: str) -> Path:
    """The one checkpoint of a folder. Raises WeightsError for none, and for more than one."""
    names = sorted(path.name for path in folder.iterdir())
    candidates = [name for name in names if is_index(name)] or [name for name in names if name.endswith(".safetensors")]
    if len(candidates) != 1:
        headline = (
            f"{subject}: the folder holds {'no' if not candidates else 'more than one'} checkpoint; nothing was loaded"
        )
        expected = f"one .safetensors file, or one {INDEX}"
        raise refuse_file(headline, str(folder), expected, listed(candidates) or "none", "name the file itself")
    return folder / candidates[0]


def _read_shards(path: Path, subject: str) -> dict[str, Tensor]:
    """All tensors. Raises WeightsError for files that are missing or hold others than the index says."""
    with opened(path, subject) as file:
        where = places(file, subject, str(path))
    merged: dict[str, Tensor] = {}
    problems: list[Problem] = []
    for name in sorted(set(where.values())):
        if not path.with_name(name).is_file():
            problems.append(Problem(name, "a file beside the index", "no such file"))
            continue
        tensors = read_tensors(path.with_name(name), subject)
        promised = {key for key, file in where.items() if file == name}
        problems += [Problem(key, f"a tensor in {name}", "none") for key in sorted(promised - set(tensors))]
        problems += [
            Problem(key, "a tensor that the index names", f"one more in {name}")
            for key in sorted(set(tensors) - promised)
        ]
        merged |= tensors
    if problems:
        raise TensorsError(subject, problems)
    return merged


def _open_pickle(path: Path, subject: str) -> dict[str, Any]:
    with opened(path, subject) as file:
        check_pickle(file, subject, str(path))
        file.seek(0)
        try:
            data = torch.load(file, weights_only=True, map_location="cpu")
        except pickle.UnpicklingError:  # of what our own reader takes torch may yet refuse some
            raise refuse_pickle(subject, str(path)) from None
        except OSError:
            raise
        except (
            Exception
        ) as error:  # torch.load raises whatever the bytes provoke: RuntimeError, EOFError, KeyError, ...
            raise as_weights_error(error, subject, str(path)) from None
    if not isinstance(data, Mapping):
        headline = f"{subject}: not a checkpoint; nothing was loaded"
        found = f"a value of type {type(data).__name__}"
        raise refuse_file(headline, str(path), "a mapping of names to tensors", found)
    return dict(data)
