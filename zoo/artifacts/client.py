"""The real client of the Hub, asked only for what is not here: references, files at a commit, and why one cannot be had."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, TypeVar
from urllib.parse import urlsplit

from zoo.errors import InputError, Problem

REFERENCE = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
ADDRESS = re.compile(r"(?P<scheme>\w+://)(?:[^\s/?#]*@)?(?P<place>[^\s?#'\"`]*)(?P<query>[?#][^\s'\"`]*)?")
MOST_BYTES = 2**40
"""The most bytes of any file."""
PACE = 20_000
"""Bytes in a second, the least of a download."""
GRACE_S = 120.0
"""Beyond that: for connections, redirects, and a Hub that is busy."""
T = TypeVar("T")
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
    match = REFERENCE.fullmatch(text)
    if match is None:
        raise InputError("create", Problem("", "hub:org/repo or hub:org/repo@revision", f"`{text}`"))
    return Reference(match["repo"], match["revision"] or "main")


def fetch(reference: Reference, name: str, anew: bool = False, max_bytes: int = MOST_BYTES) -> Path:
    """A file of a repository on this machine: from the cache without a request where a commit is asked for.

    Raises InputError: for what is not there, for more than `max_bytes` (before the first of them where the Hub tells how many there
    are), and for a Hub that sends so slowly that these bytes would not be here in time."""
    hub = client()
    if not anew:
        try:
            cached = hub.try_to_load_from_cache(reference.repo, name, revision=reference.revision)
        except Exception as error:  # names that the client does not take
            raise InputError(str(reference), Problem(name, "a repository of the Hub", told(error))) from None
        if isinstance(cached, str) and (COMMIT.fullmatch(reference.revision) or offline()):
            return Path(cached)
    if offline():
        found, next_step = (
            "no such file in the cache, and no network is wanted",
            "unset ZOO_OFFLINE and HF_HUB_OFFLINE, once",
        )
        raise InputError(str(reference), Problem(name, "a file of the cache", found, next=next_step))
    if not reachable():
        found = f"no answer from {bare(hub.constants.ENDPOINT)} within {PATIENCE:g} s"
        raise InputError(
            str(reference), Problem(name, "a Hub that can be reached", found, next="check the network, or HF_ENDPOINT")
        )
    stopped = threading.Event()
    try:
        return within(seconds_for(max_bytes), lambda: _downloaded(reference, name, anew, max_bytes, stopped))
    except InputError:
        raise
    except Exception as error:  # the client raises what its HTTP library does, which is another from version to version
        problem = Problem(name, "a file that can be fetched", told(error), next=_advice(error))
        raise InputError(str(reference), problem) from None
    finally:
        stopped.set()


def seconds_for(max_bytes: int) -> float:
    """How long a download of so many bytes may take: one that is slower than `PACE` is not worth waiting for."""
    return GRACE_S + max_bytes / PACE


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises, in a thread of its own; TimeoutError where that takes longer, and the thread is left behind.

    A limit of silence alone is none: one byte each nine seconds keeps every reader waiting."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():
            raise
        raise TimeoutError(f"no end within {seconds:,.0f} s") from None


def _downloaded(reference: Reference, name: str, anew: bool, max_bytes: int, stopped: threading.Event) -> Path:
    """Once more where the first answer was cut off or came too late; the client itself resumes and waits for a busy Hub."""
    counting = _counting(reference, name, max_bytes, stopped)
    download = functools.partial(
        client().hf_hub_download, reference.repo, name, revision=reference.revision, tqdm_class=counting
    )
    try:
        return Path(download(force_download=anew))
    except InputError:
        _forget_parts(reference.repo, max_bytes)
        raise
    except Exception as error:
        if 400 <= _status(error) < 500 or getattr(error, "errno", None) or stopped.is_set():
            raise
    return Path(download(force_download=anew))


def _counting(reference: Reference, name: str, max_bytes: int, stopped: threading.Event) -> type[Any]:
    """The client's bar of progress, which hears first how many bytes there are to be, and then of each piece: the one place to say no."""

    class Counting(client().utils.tqdm):  # type: ignore[misc]
        def __init__(self, *values: Any, total: int | None = None, initial: int = 0, **named: Any):
            self.taken = initial
            self.refuse(total or 0)
            super().__init__(*values, total=total, initial=initial, **named)

        def update(self, n: float | None = 1) -> Any:
            self.taken += int(n or 0)
            self.refuse(self.taken)
            return super().update(n)

        def refuse(self, count: int) -> None:
            if count > max_bytes or stopped.is_set():
                found = "a call that has ended" if stopped.is_set() else f"{count:,} so far"
                raise InputError(str(reference), Problem(name, f"at most {max_bytes:,} bytes", found))

    return Counting


def _forget_parts(repo: str, max_bytes: int) -> None:
    """Deletes what was fetched of files that turned out too large."""
    blobs = Path(client().constants.HF_HUB_CACHE, f"models--{repo.replace('/', '--')}", "blobs")
    for path in blobs.glob("*.incomplete"):
        with contextlib.suppress(OSError):
            if path.stat().st_size > max_bytes:
                path.unlink()


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
    try:
        parts = urlsplit(address or client().constants.ENDPOINT)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), PATIENCE).close()
    except (OSError, ValueError):  # ValueError: no address, such as `http://host:x`
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
    return bare(next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__))


def bare(text: str) -> str:
    """A text whose addresses name neither user and password nor the query, in which a key may stand."""
    return ADDRESS.sub(lambda found: found["scheme"] + found["place"] + ("?..." if found["query"] else ""), text)
