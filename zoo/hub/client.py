"""The real client of the Hub, asked only for what is not here: references, files at a commit, and why one cannot be had."""

from __future__ import annotations

import functools
import os
import re
import socket
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import urlsplit

from zoo.errors import InputError, Problem

REFERENCE = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 0.8
"""Seconds that the Hub's address has to answer before we say that it cannot be reached; the client itself waits for twenty."""


class Reference(NamedTuple):
    """`hub:org/repo@revision`."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"hub:{self.repo}@{self.revision}"


def is_hub(model: Any) -> TypeGuard[str]:
    return isinstance(model, str) and model.startswith("hub:")


def parse(text: str) -> Reference:
    """Raises InputError for what is no reference."""
    found = REFERENCE.fullmatch(text)
    if found is None:
        raise InputError("create", Problem("", "hub:org/repo or hub:org/repo@revision", f"`{text}`"))
    return Reference(found["repo"], found["revision"] or "main")


def fetch(reference: Reference, name: str, anew: bool = False) -> Path:
    """A file of a repository on this machine: from the cache without a request where a commit is asked for. Raises InputError."""
    hub = client()
    if not anew:
        cached = hub.try_to_load_from_cache(reference.repo, name, revision=reference.revision)
        if isinstance(cached, str) and (COMMIT.fullmatch(reference.revision) or offline()):
            return Path(cached)
    if offline():
        found, next_step = (
            "no such file in the cache, and no network is wanted",
            "unset ZOO_OFFLINE and HF_HUB_OFFLINE, once",
        )
        raise InputError(str(reference), Problem(name, "a file of the cache", found, next=next_step))
    if not reachable():
        found = f"no answer from {hub.constants.ENDPOINT} within {PATIENCE:g} s"
        raise InputError(
            str(reference), Problem(name, "a Hub that can be reached", found, next="check the network, or HF_ENDPOINT")
        )
    try:
        return _downloaded(reference, name, anew)
    except Exception as error:  # the client raises what its HTTP library does, which is another from version to version
        problem = Problem(name, "a file that can be fetched", told(error), next=_advice(error))
        raise InputError(str(reference), problem) from None


def _downloaded(reference: Reference, name: str, anew: bool) -> Path:
    """Once more where the first answer was cut off or came too late; the client itself resumes and waits for a busy Hub."""
    download = functools.partial(client().hf_hub_download, reference.repo, name, revision=reference.revision)
    try:
        return Path(download(force_download=anew))
    except Exception as error:
        if 400 <= _status(error) < 500 or getattr(error, "errno", None):
            raise
    return Path(download(force_download=anew))


def _status(error: Exception) -> int:
    """The Hub's answer as a number, 0 where there was none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _advice(error: Exception) -> str:
    if _status(error) in (401, 403):
        return "ask for access on the page of the repository, then `hf auth login`"
    if getattr(error, "errno", None):
        return "free some space there, or set HF_HUB_CACHE to a folder of yours"
    return ""


def client() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the client asks at import
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors

    return huggingface_hub


def offline() -> bool:
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE")
    )


def reachable(address: str = "") -> bool:
    """Whether the Hub, or another address, takes a connection in time. Behind a proxy that is for the caller to find out."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")):
        return True
    parts = urlsplit(address or client().constants.ENDPOINT)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), PATIENCE).close()
    except OSError:
        return False
    return True


def commit_of(path: Path) -> str:
    """The commit in whose snapshot a cached file stands, however deep."""
    return next(
        (parent.name for parent in path.parents if parent.parent.name == "snapshots" and COMMIT.fullmatch(parent.name)),
        "",
    )


def told(error: Exception) -> str:
    """What the client says, without its addresses and advice."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
