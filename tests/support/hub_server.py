"""A web server on this machine that also speaks the part of the Hugging Face hub's protocol that downloads need."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

LARGE = (".safetensors", ".bin")
"""Files that the hub stores by their SHA-256; of others it publishes git's digest."""


ODD_HEADERS = [
    {"Content-Length": "-5"},
    {"Content-Length": "many"},
    {"Content-Length": "9999999"},
    {"Content-Encoding": "gzip"},
    {"Content-Range": "bytes 5-1/2"},
    {"Transfer-Encoding": "chunked"},
    {"ETag": "\x00"},
]
"""Headers that contradict the content or themselves."""


@dataclass
class Hub:
    """A server: what it holds, how it misbehaves, what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """Content by path."""
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of a model by `ORG/NAME@REVISION`."""
    refuse: dict[str, int] = field(default_factory=dict)
    """Status to answer with, by path."""
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which each of the next answers to GET breaks off."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers to send instead of the right ones, or besides them; "" leaves one out."""
    instead: dict[str, bytes] = field(default_factory=dict)
    """Content to serve under a path that the hub describes otherwise."""
    redirect: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def commit(self, name: str) -> str:
        content = sorted((key, value.hex()) for key, value in self.models[name].items())
        return hashlib.sha1(repr((name, content)).encode()).hexdigest()

    def at_commit(self, repository: str, commit: str) -> dict[str, bytes] | None:
        names = [name for name in self.models if name.startswith(f"{repository}@")]
        return next((self.models[name] for name in names if self.commit(name) == commit), None)


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.handle_request(with_body=False)

        def do_GET(self) -> None:
            self.handle_request(with_body=True)

        def handle_request(self, *, with_body: bool) -> None:
            path = urlsplit(self.path).path
            parts = path.strip("/").split("/")
            hub.asked.append((path, dict(self.headers)))
            if path in hub.refuse:
                self.answer(hub.refuse[path], {})
            elif parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
                self.describe("/".join(parts[2:4]), parts[5])
            elif parts[2:3] == ["resolve"]:
                self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), path, with_body=with_body)
            elif path in hub.files:
                self.give(hub.files[path], {}, with_body=with_body)
            else:
                self.answer(404, {})

        def describe(self, repository: str, revision: str) -> None:
            if not any(name.startswith(f"{repository}@") for name in hub.models):
                return self.answer(401, {"X-Error-Code": "RepoNotFound"})
            name = f"{repository}@{revision}"
            if name not in hub.models:
                return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            siblings = [about(file, content) for file, content in hub.models[name].items()]
            content = json.dumps({"id": repository, "sha": hub.commit(name), "siblings": siblings}).encode()
            return self.give(content, {"Content-Type": "application/json"}, with_body=True)

        def resolve(self, repository: str, commit: str, file: str, path: str, *, with_body: bool) -> None:
            files = hub.at_commit(repository, commit)
            if files is None or file not in files:
                return self.answer(404, {"X-Error-Code": "EntryNotFound"})
            described = about(file, files[file])
            etag = described["lfs"]["sha256"] if "lfs" in described else described["blobId"]
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "X-Linked-Size": str(len(files[file]))}
            if path in hub.redirect:
                return self.answer(302, {**headers, "X-Linked-Etag": f'"{etag}"', "Location": hub.redirect[path]})
            return self.give(hub.instead.get(path, files[file]), headers, with_body=with_body)

        def give(self, content: bytes, headers: dict[str, str], *, with_body: bool) -> None:
            start = 0
            if with_body and self.headers.get("Range"):
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    return self.answer(416, {})
                headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            body = content[start:]
            sent = body[: hub.cut_after.pop(0)] if with_body and hub.cut_after else body
            self.answer(206 if start else 200, {"Content-Length": str(len(body)), **headers, **hub.headers}, end=False)
            if with_body:
                self.wfile.write(sent)
            if len(sent) < len(body):
                self.close_connection = True
            return None

        def answer(self, status: int, headers: dict[str, str], *, end: bool = True) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": "0", **headers} if end else headers).items():
                if value:
                    self.send_header(name, value)
                elif name == "Content-Length":
                    self.close_connection = True  # which ends the content then
            self.end_headers()

    return Handler


def about(file: str, content: bytes) -> dict[str, Any]:
    described: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": git_blob(content)}
    if file.endswith(LARGE):
        described["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return described


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def environment(address: str) -> Iterator[None]:
    """Make a server the hub while the block runs."""
    with patch.dict(os.environ, {"HF_ENDPOINT": address, "no_proxy": "127.0.0.1"}):
        os.environ.pop("HF_TOKEN", None)
        yield
