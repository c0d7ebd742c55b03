"""A small HTTP server on loopback that answers with the bytes a test gives it, piece by piece."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any


def event(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


def usage(prompt: int, completion: int, cached: int = 0) -> bytes:
    value = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return b"data: " + json.dumps({"choices": [], "usage": value}).encode() + b"\n\n"


ROLE = event(role="assistant", content="")
DONE = b"data: [DONE]\n\n"
WHOLE = (ROLE, event(content="one"), event(content=" two"), usage(11, 2, 4), DONE)


class Script:
    """Each piece is one HTTP chunk. The server waits for `gate` before piece number `wait_before`."""

    def __init__(self, pieces: Sequence[bytes] = WHOLE, status: int = 200, cut: bool = False) -> None:
        self.pieces = pieces
        self.status = status
        self.cut = cut
        self.gate = asyncio.Event()
        self.wait_before: int | None = None
        self.reached = asyncio.Event()
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.open = 0
        self.most_open = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: list[asyncio.StreamWriter] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((head[0], headers, json.loads(body)))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        writer.write(
            f"HTTP/1.1 {self.status} X\r\n".encode()
            + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for number, piece in enumerate(self.pieces):
            if number == self.wait_before:
                self.reached.set()
                await self.gate.wait()
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)
        self.open -= 1
        if self.cut:
            writer.transport.abort()
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncGenerator[str]:
    """The address of a server that follows `script`."""
    server = await asyncio.start_server(script.answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        script.gate.set()
        server.close()
        for writer in script.writers:
            writer.transport.abort()
        await asyncio.gather(*script.tasks)
        for writer in script.writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
