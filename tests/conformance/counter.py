"""A reverse proxy between a client and Gatehouse that counts: bytes pass as they come, one line is kept per request."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GENERATING = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions")
_HEAD_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16


@dataclass
class Seen:
    """One request. `status` 0: no answer had begun when the connection ended. Bodies are not kept."""

    method: str
    path: str
    started_s: float
    status: int = 0
    ended_s: float | None = None
    body_bytes: int = 0
    reply_bytes: int = 0
    model: str = ""
    stream: bool = False
    tools: int = 0
    retry_after: str | None = None
    should_retry: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> str:
        """The key that it was sent with."""
        return self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def generating(self) -> bool:
        return self.method == "POST" and self.path.split("?")[0] in GENERATING


class Counter:
    """The proxy, in a thread of its own. A connection carries one request, so that a cut reply stays a cut one."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._seen: list[Seen] = []
        self._served: set[asyncio.Task[None]] = set()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def mark(self) -> int:
        """Where the requests of now end; give it to `since`."""
        with self._lock:
            return len(self._seen)

    def since(self, mark: int) -> list[Seen]:
        with self._lock:
            return self._seen[mark:]

    def generating(self, mark: int) -> list[Seen]:
        """The requests since `mark` that ask a model for something."""
        return [each for each in self.since(mark) if each.generating]

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_HEAD_BYTES))
        self._port = int(server.sockets[0].getsockname()[1])
        started.set()
        self._loop.run_forever()
        server.close()
        for task in self._served:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._served, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await self._exchange(reader, writer)
        finally:
            self._served.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
        method, path, _ = line.split(" ", 2)
        body, framed = await _read_body(reader, writer, headers)
        seen = Seen(method, path, time.monotonic(), body_bytes=len(body), headers=headers)
        _describe(seen, body)
        with self._lock:
            self._seen.append(seen)
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._target, limit=_HEAD_BYTES)
            try:
                upstream_writer.write(_head(line, {**headers, "connection": "close"}) + framed)
                await upstream_writer.drain()
                await self._answer(seen, reader, upstream_reader, writer)
            finally:
                upstream_writer.close()
        finally:
            seen.ended_s = time.monotonic()

    async def _answer(
        self, seen: Seen, client: asyncio.StreamReader, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry the reply until either side hangs up."""
        gone = asyncio.create_task(client.read(1))
        carrying = asyncio.create_task(self._carry(seen, upstream, writer))
        try:
            await asyncio.wait({gone, carrying}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (gone, carrying):
                task.cancel()
            await asyncio.gather(gone, carrying, return_exceptions=True)

    async def _carry(self, seen: Seen, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, headers = _parse_head(await upstream.readuntil(b"\r\n\r\n"))
        seen.status = int(line.split(" ", 2)[1])
        seen.retry_after = headers.get("retry-after")
        seen.should_retry = headers.get("x-should-retry")
        writer.write(_head(line, {**headers, "connection": "close"}))
        await writer.drain()
        while data := await upstream.read(_PIECE_BYTES):
            seen.reply_bytes += len(data)
            writer.write(data)
            await writer.drain()


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    first, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    fields = (each.split(":", 1) for each in rest)
    return first, {name.strip().lower(): value.strip() for name, value in fields}


def _head(line: str, headers: Mapping[str, str]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{line}\r\n{fields}\r\n".encode("latin-1")


async def _read_body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: Mapping[str, str]
) -> tuple[bytes, bytes]:
    """The body, and the bytes that carry it."""
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "chunked" not in headers.get("transfer-encoding", "").lower():
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return body, body
    body, framed = bytearray(), bytearray()
    while True:
        size = await reader.readuntil(b"\r\n")
        piece = await reader.readexactly(int(size.split(b";")[0], 16) + 2)
        framed += size + piece
        body += piece[:-2]
        if len(piece) == 2:
            return bytes(body), bytes(framed)


def _describe(seen: Seen, body: bytes) -> None:
    try:
        document: Any = json.loads(body)
        seen.model = str(document.get("model", ""))
        seen.stream = document.get("stream") is True
        seen.tools = len(document.get("tools") or ())
    except (ValueError, AttributeError):
        pass
