"""Files over plain https and http: whole, bounded, without credentials, or not at all."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any

from zoo.errors import InputError, Problem
from zoo.folders import replacing
from zoo.hub.client import PATIENCE as ANSWER_S
from zoo.hub.client import reachable

PATIENCE = 10.0
"""Seconds without a byte."""
PIECE = 2**20


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects to any host, since nothing secret is sent, but never from https to http."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"a redirect to {newurl.partition(':')[0]}, which does not protect the bytes")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, target: Path, max_bytes: int | None = None) -> Path:
    """Writes what is at `url` to `target`, which appears only when all bytes are there. Raises InputError, within a second where
    nothing answers."""
    if not reachable(url):
        found = f"no answer within {ANSWER_S:g} s"
        raise InputError(url, Problem("", "a host that can be reached", found, next="check the network"))
    opener = urllib.request.build_opener(_NoDowngrade)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as draft, opener.open(url, timeout=PATIENCE) as answer, draft.open("wb") as file:
            promised = answer.headers.get("Content-Length")
            _copy(answer, file, max_bytes)
            if promised is not None and file.tell() != int(promised):
                raise HTTPException(f"{file.tell():,} of {int(promised):,} bytes")
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        found = str(getattr(error, "reason", "") or error)
        raise InputError(url, Problem("", "a file that can be fetched", found)) from None
    return target


def _copy(answer: IO[bytes], file: IO[bytes], max_bytes: int | None) -> None:
    if max_bytes is None:
        shutil.copyfileobj(answer, file, PIECE)
        return
    while piece := answer.read(PIECE):
        file.write(piece)
        if file.tell() > max_bytes:
            raise HTTPException(f"more than {max_bytes:,} bytes")
