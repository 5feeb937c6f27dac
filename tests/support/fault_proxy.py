"""A proxy in front of an object store that delays requests, and answers some of them with an error of the store."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")


STALL = -1
_STALLED = b"stalled"
_FOREVER_S = 3600.0


@dataclass
class Fault:
    """What is answered instead of the store's answer."""

    path: str
    """Regular expression for method and path of the request, such as `PUT .*/a.txt`."""
    status: int
    body: str = ""
    times: int = 1_000_000
    """How many requests are answered so; status 0: the connection is reset; STALL: there is no answer at all."""


@dataclass
class FaultProxy:
    """Its settings may be changed while it runs."""

    endpoint: str
    latency_s: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """`METHOD path` of every request."""

    def answer(self, head: bytes) -> bytes | None:
        """The answer to a request; None: it is the store's; empty: a reset; STALLED: there will be none."""
        match = _REQUEST.match(head)
        if match is None:
            return None
        method, path = match[1].decode(), match[2].decode()
        self.requests.append(f"{method} {path}")
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.path, f"{method} {path}"):
                fault.times -= 1
                if fault.status == STALL:
                    return _STALLED
                if fault.status == 0:
                    return b""
                body = b"" if method == "HEAD" else fault.body.encode()
                head_lines = (f"HTTP/1.1 {fault.status} Fault", f"Content-Length: {len(body)}", "Connection: close")
                return "\r\n".join([*head_lines, "", ""]).encode() + body
        return None


@contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """Run a proxy for a store's endpoint in a thread."""
    loop = asyncio.new_event_loop()
    place = urlsplit(target)
    started, ended = threading.Event(), asyncio.Event()
    proxy = FaultProxy("")

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sink: asyncio.StreamWriter | None = None
        try:
            upstream, sink = await asyncio.open_connection(place.hostname, place.port)
            back = asyncio.create_task(_copy(upstream, writer))
            while data := await reader.read(1 << 20):
                if _REQUEST.match(data):
                    await asyncio.sleep(proxy.latency_s)
                    answer = proxy.answer(data)
                    if answer == _STALLED:
                        back.cancel()
                        sink.close()  # a store with one thread would wait for this request
                        await asyncio.sleep(_FOREVER_S)
                    if answer is not None:
                        writer.write(answer)
                        await writer.drain()
                        break
                sink.write(data)
                await sink.drain()
            back.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            if sink is not None:
                sink.close()

    async def serve() -> None:
        server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=1 << 20)
        proxy.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        async with server:
            await ended.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 20):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()  # but not if it is cancelled
