"""A Hub on this machine: it speaks the protocol to the real client, and misbehaves when a test asks it to.

Endpoints as the client of version 2.4 uses them without Xet: creating repositories, uploading (regular files inline, large ones by
LFS), commits with a parent, listing, and files at a revision with ranges.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Files = dict[str, bytes]
Fault = Callable[[str, bytes], bytes]
"""(path, true bytes) -> the bytes that are sent instead."""


class Hub:
    """Repositories as lists of commits, and what was asked of it.

    Misbehaviour: `fault` sends other bytes; `busy` answers 503 so many times; `stale` refuses commits; `gated` repositories want a yes of
    their owner; `etag` is told for every file; files are fetched from the host `elsewhere`; `drops` so many bodies end halfway; each
    quarter of a body waits `pause_s`, and the first of weights until `hold` is set."""

    def __init__(self) -> None:
        self.commits: dict[str, list[tuple[str, Files]]] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.tokens: list[str] = []
        self.fault: Fault = lambda path, data: data
        self.busy = 0
        self.stale = False
        self.gated: set[str] = set()
        self.etag: str | None = None
        self.elsewhere = ""
        self.drops = 0
        self.pause_s = 0.0
        self.hold: threading.Event | None = None
        self.lock = threading.Lock()
        self.url = ""

    def put(self, repo: str, files: Files) -> str:
        """A commit with these files beside those that are there; returns its name."""
        with self.lock:
            before = self.commits.setdefault(repo, [])
            kept = {**(before[-1][1] if before else {}), **files}
            name = hashlib.sha1(repr((repo, len(before), sorted(kept.items()))).encode()).hexdigest()
            before.append((name, kept))
        return name

    def at(self, repo: str, revision: str) -> tuple[str, Files] | None:
        found = self.commits.get(repo, [])
        if revision == "main" and found:
            return found[-1]
        return next((commit for commit in found if commit[0] == revision), None)


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        return None

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.tokens.append(self.headers.get("Authorization") or "")
        if self.hub.busy:
            self.hub.busy -= 1
            return self._send(503, b"busy")
        for pattern, method in ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                return getattr(self, method)(body, **found.groupdict())
        self._send(404, b"{}")

    def _send(self, code: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        length = headers.pop("Content_Length", str(len(data)))
        for name, value in {"Content-Length": length, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self._body(data)

    def _body(self, data: bytes) -> None:
        if self.hub.drops and len(data) > 1000:
            self.hub.drops -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        hold = self.hub.hold if self.path.endswith(".safetensors") else None
        step = len(data) // 4 + 1 if hold or self.hub.pause_s else len(data)
        for start in range(0, len(data), step or 1):
            self.wfile.write(data[start : start + step])
            self.wfile.flush()
            if hold is not None:
                hold.wait(120)
            time.sleep(self.hub.pause_s)

    def _json(self, value: Any, code: int = 200) -> None:
        self._send(code, json.dumps(value).encode(), Content_Type="application/json")

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        there = repo in self.hub.commits
        if not there:
            self.hub.put(repo, {".gitattributes": b""})
        self._json({"url": f"{self.hub.url}/{repo}", "name": repo}, 409 if there else 200)

    def whoami(self, body: bytes) -> None:
        self._json({"name": "tester", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def nothing(self, body: bytes) -> None:
        self._json({})

    def info(self, body: bytes, repo: str, revision: str | None = None) -> None:
        found = self.hub.at(repo, revision or "main")
        if found is None:
            return self._missing(repo)
        files = [{"rfilename": name} for name in found[1]]
        self._json({"id": repo, "modelId": repo, "sha": found[0], "siblings": files, "private": False, "tags": []})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        files = json.loads(body)["files"]
        modes = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular", "shouldIgnore": False, "oid": None}
            for file in files
        ]  # fmt: skip
        self._json({"files": modes})

    def batch(self, body: bytes, repo: str) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}
            objects.append(
                {**one, "authenticated": True, **({} if one["oid"] in self.hub.lfs else {"actions": upload})}
            )
        self._json({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        self.hub.lfs[oid] = body
        self._send(200)

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        if self.hub.stale:
            return self._json({"error": "a commit has happened since"}, 412)
        files: Files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif entry["key"] == "header" and value.get("parentCommit"):
                now = self.hub.at(repo, "main")
                if now and now[0] != value["parentCommit"]:
                    return self._json({"error": "stale parent"}, 412)
        name = self.hub.put(repo, files)
        self._json(
            {"success": True, "commitOid": name, "commitUrl": f"{self.hub.url}/{repo}/commit/{name}", "hookOutput": ""}
        )

    def file(self, body: bytes, repo: str, revision: str, path: str) -> None:
        found = self.hub.at(repo, revision)
        if found is None:
            return self._missing(repo)
        if repo in self.hub.gated:
            return self._send(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="ask the owner")
        if path not in found[1]:
            return self._send(404, b"{}", X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
        true = found[1][path]
        data = self.hub.fault(path, true) if self.command == "GET" else true
        etag = self.hub.etag or hashlib.sha256(true).hexdigest()
        headers = {"X_Repo_Commit": found[0], "ETag": f'"{etag}"', "Accept_Ranges": "bytes"}
        if path.endswith(".safetensors") or self.hub.elsewhere:  # the sizes of what is fetched elsewhere
            headers |= {"X_Linked_Etag": f'"{etag}"', "X_Linked_Size": str(len(true))}
        if self.hub.elsewhere:
            return self._send(302, b"", Location=f"{self.hub.elsewhere}/{repo}/resolve/{revision}/{path}", **headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and self.command == "GET":
            start, end = int(asked[1]), int(asked[2] or len(data) - 1)
            part = data[start : end + 1]
            return self._send(206, part, Content_Range=f"bytes {start}-{end}/{len(data)}", **headers)
        self._send(200, data, **headers)

    def _missing(self, repo: str) -> None:
        self._send(404, b"{}", X_Error_Code="RevisionNotFound" if repo in self.hub.commits else "RepoNotFound")


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = [
    (r"/api/repos/create", "create"), (r"/api/whoami-v2", "whoami"), (r"/api/validate-yaml", "nothing"), (r"/api/agent-harnesses", "nothing"),
    (rf"/api/models/{REPO}/preupload/(?P<revision>[\w.-]+)", "preupload"),
    (rf"/api/models/{REPO}/commit/(?P<revision>[\w.-]+)", "commit"),
    (rf"/api/models/{REPO}/revision/(?P<revision>[\w.-]+)", "info"),
    (rf"/api/models/{REPO}", "info"),
    (rf"/{REPO}\.git/info/lfs/objects/batch", "batch"), (r"/lfs/(?P<oid>\w+)", "store"),
    (rf"/{REPO}/resolve/(?P<revision>[\w.-]+)/(?P<path>.+)", "file"),
]  # fmt: skip
