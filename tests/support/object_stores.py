"""Real object stores on loopback for tests: moto's S3 server and a server of Google Cloud Storage's JSON API."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIDMARKEDKEY0001",
    "AWS_SECRET_ACCESS_KEY": "marked-secret-of-aws",
    "AWS_SESSION_TOKEN": "marked-token-of-aws",
}
"""Credentials that nothing may write anywhere."""


@dataclass(frozen=True)
class ObjectStore:
    """One store and a bucket in it."""

    scheme: str
    endpoint: str
    bucket: str
    environment: Mapping[str, str]

    def url(self, *names: str) -> str:
        """URL of something in the bucket."""
        return "/".join([f"{self.scheme}://{self.bucket}", *names])

    def put(self, source: Path, url: str) -> None:
        """Upload a file or a folder."""
        system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if file.is_file():
                content = file.read_bytes()
                target = path if source.is_file() else f"{path}/{file.relative_to(source).as_posix()}"
                # The emulator drops a carriage return at the end of what is sent in one request.
                in_two = self.scheme == "gs" and content.endswith(b"\r")
                system.pipe_file(target, content, **({"chunksize": len(content)} if in_two else {}))

    def put_empty(self, key: str) -> None:
        """Make an object without content whose name may end in a slash, as the consoles of stores do for a folder."""
        system, _ = fsspec.core.url_to_fs(self.url())
        if self.scheme == "s3":
            system.call_s3("put_object", Bucket=self.bucket, Key=key, Body=b"")
        else:
            system.pipe_file(f"{self.bucket}/{key}", b"")

    def names(self, *folder: str) -> list[str]:
        """Names of the objects below a folder, relative to it."""
        system, path = fsspec.core.url_to_fs(self.url(*folder), use_listings_cache=False)
        return sorted(name[len(path) :].lstrip("/") for name in system.find(path))

    def read(self, *names: str) -> bytes:
        """Content of one object."""
        system, path = fsspec.core.url_to_fs(self.url(*names), use_listings_cache=False)
        return bytes(system.cat_file(path))

    def remove(self, *names: str) -> None:
        """Remove one object."""
        system, path = fsspec.core.url_to_fs(self.url(*names), use_listings_cache=False)
        system.rm_file(path)


@contextmanager
def s3_store() -> Iterator[ObjectStore]:
    """Start moto's server and make a bucket."""
    port = _free_port()
    with _server([sys.executable, "-m", "moto.server", "-p", str(port)], port):
        endpoint = f"http://127.0.0.1:{port}"
        environment = {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1", **SECRETS}
        with variables(environment):
            request = urllib.request.Request(f"{endpoint}/voices", method="PUT")
            urllib.request.urlopen(request, timeout=30).close()
            yield ObjectStore("s3", endpoint, "voices", environment)


@contextmanager
def gcs_store() -> Iterator[ObjectStore]:
    """Start the emulator of Google Cloud Storage, in memory, and make a bucket."""
    port = _free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port),
               "--in-memory", "--default-bucket", "voices"]  # fmt: skip
    with _server(command, port):
        endpoint = f"http://127.0.0.1:{port}"
        environment = {"STORAGE_EMULATOR_HOST": endpoint, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
        with variables(environment):
            yield ObjectStore("gs", endpoint, "voices", environment)


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _server(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError(f"{command[2]} does not answer on port {port}")
        yield
    finally:
        process.kill()
        process.wait()
