"""Files over plain https and http: whole, bounded in bytes and time, without credentials, or not at all."""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from zoo.artifacts.client import MOST_BYTES, bare, reachable, seconds_for
from zoo.artifacts.client import PATIENCE as ANSWER_S
from zoo.errors import InputError, Problem
from zoo.system.folders import replacing

PATIENCE = 10.0
"""Seconds without a byte."""
PIECE = 2**20


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects to any host, since nothing secret is sent, but never from https to http."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"a redirect to {newurl.partition(':')[0]}, which does not protect the bytes")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Lines:
    """The connections of one download, which all end when its time does: a limit of silence alone is none, for one byte each nine
    seconds keeps a reader waiting for ever, in a greeting, a header or a body."""

    def __init__(self) -> None:
        self.open: list[socket.socket] = []
        self.late = False

    def connect(self, *values: Any, **named: Any) -> socket.socket:
        line = socket.create_connection(*values, **named)
        self.open.append(line.dup())  # TLS takes the first one over
        return line

    def cut(self) -> None:
        self.late = True
        for line in self.open:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self.cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            for line in self.open:
                line.close()


def _opener(lines: _Lines) -> urllib.request.OpenerDirector:
    def connection(kind: type[http.client.HTTPConnection], *values: Any, **named: Any) -> http.client.HTTPConnection:
        link = kind(*values, **named)
        link._create_connection = lines.connect  # type: ignore[attr-defined]
        return link

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: Any) -> Any:
            return self.do_open(functools.partial(connection, http.client.HTTPConnection), req)  # type: ignore[arg-type]

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: Any) -> Any:
            return self.do_open(functools.partial(connection, http.client.HTTPSConnection), req)  # type: ignore[arg-type]

    return urllib.request.build_opener(_NoDowngrade, Http, Https)


def download(url: str, target: Path, max_bytes: int = MOST_BYTES) -> Path:
    """Writes what is at `url` to `target`, which appears only when all bytes are there. Raises InputError: within a second where
    nothing answers, and for more than `max_bytes`, before the first of them where the host tells how many there are."""
    shown = bare(url)
    if "@" in _netloc(url):
        raise InputError(shown, Problem("", "an address without user and password", "one that has them"))
    if not reachable(url):
        found = f"no answer within {ANSWER_S:g} s"
        raise InputError(shown, Problem("", "a host that can be reached", found, next="check the network"))
    lines, seconds = _Lines(), seconds_for(max_bytes)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(target) as draft, draft.open("wb") as file, lines.within(seconds), _opener(lines).open(url, timeout=PATIENCE) as answer,
        ):  # fmt: skip
            _copy(answer, file, max_bytes)
            if lines.late:  # a body that was cut off looks like one that ended
                raise TimeoutError
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        found = f"no end within {seconds:,.0f} s" if lines.late else bare(str(getattr(error, "reason", "") or error))
        raise InputError(shown, Problem("", "a file that can be fetched", found)) from None
    return target


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _copy(answer: HTTPResponse, file: IO[bytes], max_bytes: int) -> None:
    length = answer.headers.get("Content-Length")
    promised = None if length is None else int(length)
    if promised is not None and promised > max_bytes:
        raise HTTPException(f"{promised:,} bytes, more than {max_bytes:,} bytes")
    while piece := answer.read1(PIECE):
        file.write(piece)
        if file.tell() > max_bytes:
            raise HTTPException(f"more than {max_bytes:,} bytes")
    if promised is not None and file.tell() != promised:
        raise HTTPException(f"{file.tell():,} of {promised:,} bytes")
