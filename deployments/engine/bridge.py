"""An ASGI app behind one async generator of `ports.EngineItem`.

The app runs in this process and is driven for HTTP scopes only, without lifespan. Four things are done with care:

- **Flush at the leading edge.** A chunk that comes after a pause leaves at once; what comes within the window after it
  is merged until the window ends. The first two chunks open no window: vLLM's first one only names the role, the text
  comes with the second. So the first token never waits, and a busy replica pays for one message per window.
- **Hanging up.** When the reader goes away the app is told `http.disconnect` and finishes by itself. It is not
  cancelled: vLLM's handlers wait with `asyncio.wait`, which leaves the generation running when the waiter is cancelled.
  Cancelling comes only `abort_grace_s` later, for an app that ignored the message.
- **Counting.** For whoever wants to know, bytes leave with what the request has cost by then (`counting.py`). A request
  that has nothing to say for a while says that alone.
- **Failing.** A reply with status 5xx is held until the app has finished, because an app that raises answers in plain
  text first. Whatever the app raised, and a reply without its last part, is `EngineFailed`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeAlias

from deployments.engine.counting import TALLY, Tally
from deployments.engine.harmony import REPAIRS
from deployments.engine.settings import FlushSettings
from deployments.errors import EngineFailed, EngineTimeout
from deployments.ports import Counted, EngineItem, EngineStart, Repaired, Usage

Message: TypeAlias = MutableMapping[str, Any]
AsgiApp: TypeAlias = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]

_log = logging.getLogger("gatehouse.engine")
_HIGH_WATER_BYTES = 1 << 20  # an app that is this far ahead of a slow reader waits
_SERVER_ERROR = 500
_PROMPT_CHUNKS = 2  # of a reply, that leave without opening a window
_FIRST_COUNT = 0.1  # of the time between two counts: a request that is soon answered needs none before its bytes


class _Reply:
    """One request's mailbox between the app (writer) and the generator (reader)."""

    def __init__(self, body: bytes) -> None:
        self._request: bytes | None = body
        self._gone = asyncio.Event()
        self._drained = asyncio.Event()
        self._stirred = asyncio.Event()
        self._body = bytearray()
        self.start: EngineStart | None = None
        self.complete = False
        self.ended = asyncio.Event()
        self.net: asyncio.TimerHandle | None = None
        self.left_s: float | None = None  # when the reader went, by the loop's clock

    async def receive(self) -> Message:
        """ASGI `receive`: the body, then nothing until the reader is gone."""
        if self._request is not None:
            body, self._request = self._request, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI `send`: keeps the message for the reader, and waits when the reader is far behind."""
        if self._gone.is_set():
            return
        if message["type"] == "http.response.start":
            headers = tuple((k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in message.get("headers", ()))
            self.start = EngineStart(status=int(message["status"]), headers=headers)
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
        self._stirred.set()
        while len(self._body) > _HIGH_WATER_BYTES and not self._gone.is_set():
            self._drained.clear()
            await self._drained.wait()

    def end(self) -> None:
        """The app has returned or raised."""
        self.ended.set()
        self._stirred.set()

    def hang_up(self) -> None:
        """The reader is gone: the app learns it, and whatever it still sends is dropped."""
        self._gone.set()
        self._drained.set()
        self._body.clear()

    def has(self) -> bool:
        """True when there are bytes to take."""
        return bool(self._body)

    def take(self) -> bytes:
        """All bytes that have come since the last time."""
        taken = bytes(self._body)
        self._body.clear()
        self._drained.set()
        return taken

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready()`, or the app has ended."""
        while not ready() and not self.ended.is_set():
            self._stirred.clear()
            await self._stirred.wait()


class AsgiBridge:
    """Drives `app`. One instance per replica; it owns every task it starts."""

    def __init__(
        self, app: AsgiApp, flush: FlushSettings, abort_grace_s: float = 5.0, count_every_s: float = 1.0
    ) -> None:
        """`count_every_s`: after how long a counted request that is silent says what it has cost, if that has grown."""
        self._app = app
        self._count_every_s = count_every_s
        self._flush = flush
        self._abort_grace_s = abort_grace_s
        self._live: dict[asyncio.Task[None], _Reply] = {}
        self.aborted: Callable[[float], None] | None = None
        """Is told of each reply that nobody waits for any more, when the app has ended it: how many seconds it took."""

    @property
    def active(self) -> int:
        """Requests whose app task has not ended."""
        return len(self._live)

    async def call(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        deadline_s: float,
        counted: bool = False,
    ) -> AsyncGenerator[EngineItem, None]:
        """The reply: `EngineStart`, then bytes, with `Repaired` ahead of the bytes it concerns.

        Chunk borders mean nothing. With `counted` bytes are in `Counted` as soon as the app counts. Raises
        `EngineFailed` when the app raised or did not finish its reply, and `EngineTimeout` when that took longer than
        `deadline_s` seconds. Closing the generator hangs up.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + deadline_s
        reply = _Reply(body)
        notes: list[str] = []
        count = _Count(self._count_every_s) if counted else None
        task = self._begin(_scope(method, path, headers), reply, notes, count)
        told, flushed, flushed_s = 0, 0, float("-inf")
        try:
            async for item in self._counts(reply, lambda: reply.start is not None, ends_s, count):
                yield item
            if reply.start is None or reply.start.status >= _SERVER_ERROR:
                await self._wait(reply, lambda: False, ends_s)
                self._check(task, reply)
            if reply.start is None:
                raise EngineFailed("The model's server sent no reply.")
            yield reply.start
            while True:
                async for item in self._counts(reply, reply.has, ends_s, count):
                    yield item
                due_s = min(flushed_s + self._flush.window_s(self.active), ends_s)
                if not reply.ended.is_set() and loop.time() < due_s:
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(due_s):
                            await reply.ended.wait()
                if len(notes) > told:
                    repaired, told = Repaired(tuple(notes[told:])), len(notes)
                    yield repaired
                if reply.has():
                    flushed += 1
                    if flushed >= _PROMPT_CHUNKS:
                        flushed_s = loop.time()
                    data = reply.take()
                    yield data if count is None else count.with_data(data)
                elif reply.ended.is_set():
                    break
            self._check(task, reply)
        finally:
            reply.hang_up()
            if count is not None:
                count.tally.clear()
            if not task.done():
                reply.left_s = loop.time()
                reply.net = loop.call_later(self._abort_grace_s, task.cancel)

    async def aclose(self) -> None:
        """Hang up on every request, and wait up to `abort_grace_s` for their tasks before cancelling them."""
        live = dict(self._live)
        for reply in live.values():
            reply.hang_up()
        if live:
            _, stubborn = await asyncio.wait(live, timeout=self._abort_grace_s)
            for task in stubborn:
                task.cancel()
            if stubborn:
                await asyncio.wait(stubborn, timeout=self._abort_grace_s)

    def _begin(self, scope: Message, reply: _Reply, notes: list[str], count: "_Count | None") -> asyncio.Task[None]:
        async def run() -> None:
            await self._app(scope, reply.receive, reply.send)

        context = copy_context()  # tasks that the app starts for this request inherit it, and the notes with it
        context.run(REPAIRS.set, notes)
        context.run(TALLY.set, None if count is None else count.tally)
        task = asyncio.create_task(run(), context=context)
        self._live[task] = reply
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        reply = self._live.pop(task)
        if reply.net is not None:
            reply.net.cancel()
        if reply.left_s is not None and self.aborted is not None:
            self.aborted(asyncio.get_running_loop().time() - reply.left_s)
        error = None if task.cancelled() else task.exception()  # also keeps asyncio from logging its text
        if error is not None:
            _log.error("the engine's app raised %s", _where(error))
        reply.end()

    async def _counts(
        self, reply: _Reply, ready: Callable[[], bool], ends_s: float, count: "_Count | None"
    ) -> AsyncGenerator[Counted, None]:
        """Wait like `_wait`, and say meanwhile what the request costs."""
        if count is None or ready():
            await self._wait(reply, ready, ends_s)
            return
        loop = asyncio.get_running_loop()
        while not ready() and not reply.ended.is_set() and loop.time() < ends_s:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(loop.time() + count.pause_s, ends_s)):
                    await reply.until(ready)
            if not ready() and not reply.ended.is_set() and (grown := count.grown()) is not None:
                yield grown
        await self._wait(reply, ready, ends_s)

    @staticmethod
    async def _wait(reply: _Reply, ready: Callable[[], bool], ends_s: float) -> None:
        try:
            async with asyncio.timeout_at(ends_s):
                await reply.until(ready)
        except TimeoutError:
            pass
        else:
            if asyncio.get_running_loop().time() < ends_s:  # a reader that never has to wait is late, too
                return
        raise EngineTimeout("The model did not finish in time.")

    @staticmethod
    def _check(task: asyncio.Task[None], reply: _Reply) -> None:
        """Raise unless the app ended well. The cause stays out of it: its text may hold a prompt."""
        if task.cancelled() or task.exception() is not None:
            raise EngineFailed("The model's server failed.") from None
        if not reply.complete:
            raise EngineFailed("The model's server did not finish its reply.")


class _Count:
    """What one request has cost, and what was said of it."""

    def __init__(self, every_s: float) -> None:
        self.tally = Tally()
        self.pause_s = every_s * _FIRST_COUNT
        self._every_s = every_s
        self._said: Usage | None = None

    def with_data(self, data: bytes) -> EngineItem:
        """Bytes that leave now, with the count if there is one."""
        self.pause_s = self._every_s
        self._said = self.tally.read()
        return data if self._said is None else Counted(data, self._said)

    def grown(self) -> Counted | None:
        """The count alone, if it is another one than was said last."""
        usage = self.tally.read()
        if usage is None or usage == self._said:
            return None
        self.pause_s, self._said = self._every_s, usage
        return Counted(b"", usage)


def _scope(method: str, path: str, headers: Mapping[str, str]) -> Message:
    return {
        "type": "http",
        # 2.3: from 2.4 on Starlette expects `send` to fail after a disconnect instead of listening for it
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("gatehouse", 0),
        "server": ("gatehouse", 0),
        "state": {},
    }


def _where(error: BaseException) -> str:
    """Type and place of an error, without its text, which may quote the request."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return type(error).__name__ + place
