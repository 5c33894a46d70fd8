"""A model pushed to the Hub, or into a folder that looks the same: weights, `zoo.json`, and a card."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts.client import client, offline, reachable, told
from zoo.errors import InputError, Problem
from zoo.publish.save import write_folder
from zoo.specs.model import Spec
from zoo.system.folders import at_home
from zoo.weights.licences import LicenceClass
from zoo.weights.wrappers import unwrapped

if TYPE_CHECKING:
    from torch import nn


def push(
    model: nn.Module,
    repo: str | os.PathLike[str],
    *,
    private: bool = False,
    message: str = "",
    licence: str = "",
    licence_class: LicenceClass = "unknown",
) -> str:
    """Uploads a model as a repository: weights, `zoo.json` with spec, manifest, profile and latency rows, and a card.

    repo: `org/repo` of the Hub, or a folder: a path that begins with `./`, `../`, `/` or `~`. Returns what `zoo.create` takes,
    `hub:org/repo@commit` or the folder. Files that are there already are not sent again. Raises InputError when the Hub refuses or
    cannot be reached, and for a model without a spec.
    """
    net: Any = unwrapped(model)
    if not isinstance(getattr(net, "spec", None), Spec):
        raise InputError("push", Problem("model", "a model that was made from a spec", type(model).__name__))
    if _is_folder(repo):
        write_folder(net, at_home(repo), licence=licence, licence_class=licence_class)
        return os.fspath(repo)
    hub = client()
    if offline() or not reachable():
        raise InputError("push", Problem("", "a Hub that can be reached", f"no answer from {hub.constants.ENDPOINT}"))
    with tempfile.TemporaryDirectory() as folder:
        write_folder(net, Path(folder), tag="hub", where=f"hub:{repo}", licence=licence, licence_class=licence_class)
        try:
            api = hub.HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message=message or f"{net.spec.name} by blockzoo"
            )
        except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
            raise InputError("push", Problem(str(repo), "a repository that takes the files", told(error))) from None
    return f"hub:{repo}@{done.oid}"


def _is_folder(repo: str | os.PathLike[str]) -> bool:
    return not isinstance(repo, str) or repo.startswith((".", "~", "/", os.sep)) or Path(repo).is_absolute()
