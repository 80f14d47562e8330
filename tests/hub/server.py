"""A model hub on loopback that takes uploads: repositories are created, files arrive in commits and
are kept in memory."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import yaml


class Hub(NamedTuple):
    """What arrived."""

    address: str
    repositories: dict[str, dict[str, Any]]
    """Name of a repository: what it was created with."""
    files: dict[str, bytes]
    """Files of all commits, by path."""
    commits: list[dict[str, Any]]
    """Header of each commit: ``summary``, ``description``."""
    refuse: list[int]
    """Put a status here and the hub answers with it."""


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self._answer(404, {"error": "not found"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if hub.refuse:
                return self._answer(hub.refuse[0], {"error": "refused by the test"})
            if self.headers.get("Authorization") != "Bearer hf_test":
                return self._answer(401, {"error": "no token"})
            kind = self.path.split("?")[0].rsplit("/", 2)
            if self.path == "/api/repos/create":
                return self._answer(200, {"url": _created(hub, json.loads(body))})
            if self.path == "/api/validate-yaml":
                return self._answer(200, _checked(json.loads(body)["content"]))
            if "preupload" in kind:
                wanted = json.loads(body)["files"]
                modes = [_mode(f["path"]) for f in wanted]
                return self._answer(200, {"files": modes})
            if "commit" in kind:
                _commit(hub, body)
                where = f"{hub.address}/{'/'.join(self.path.split('/')[3:5])}/commit/1"
                return self._answer(200, {"commitUrl": where, "commitOid": "1" * 40})
            return self._answer(404, {"error": f"unknown address {self.path}"})

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", {}, {}, [], [])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _created(hub: Hub, asked: dict[str, Any]) -> str:
    name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
    hub.repositories[name] = asked
    return f"{hub.address}/{name}"


def _mode(path: str) -> dict[str, Any]:
    """Every file travels in the commit: nothing is stored as a large file."""
    return {"path": path, "uploadMode": "regular", "shouldIgnore": False}


def _checked(card: str) -> dict[str, list]:
    """As the hub does with the header of a model card: it must be YAML, and ``base_model`` the name
    of a repository."""
    header = yaml.safe_load(card.split("---\n")[1])
    named = header.get("base_model", "a/b")
    errors = [] if named.count("/") == 1 and ":" not in named else [{"message": "base_model"}]
    return {"errors": errors, "warnings": []}


def _commit(hub: Hub, body: bytes) -> None:
    for line in map(json.loads, body.splitlines()):
        if line["key"] == "header":
            hub.commits.append(line["value"])
        elif line["key"] == "file":
            hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
