"""The first moments of an engine's reply, while a status can still be chosen."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

from deployments.errors import EngineFailed, GatehouseError
from deployments.ingress.dialects.upstream import upstream_error
from deployments.ingress.tiers import Call
from deployments.ports import Counted, EngineItem, EngineStart, ReplyItem, Usage

_ERROR_BYTES = 64 * 1024
_BAD = 400


class Opening:
    """An engine's reply after its start. Iterate it for the rest; close it to abort the generation."""

    def __init__(self, items: AsyncGenerator[EngineItem, None], call: Call | None = None) -> None:
        """`call` is told how the reply begins and ends."""
        self._items = items
        self._call = call
        self._begun: asyncio.Task[None] | None = None
        self._next: asyncio.Task[ReplyItem | None] | None = None
        self.counted: Usage | None = None
        """What the engine has counted by the last of the bytes that came; None: it has counted nothing yet."""

    async def start(self, patience_s: float | None) -> None:
        """Wait for the status, then the first byte, up to `patience_s` for each; None waits for the status alone.

        Raises what an error status means for the client, and whatever the engine raises until then: this is why they
        are waited for. A reply that has not begun by then (a tier that starts its first replica) goes on being
        waited for by whoever iterates, and an error status is raised there.
        """
        self._begun = begun = asyncio.create_task(self._begin())
        try:
            done, _ = await asyncio.wait({begun}, timeout=patience_s)
        except BaseException:
            begun.cancel()
            await asyncio.gather(begun, return_exceptions=True)
            raise
        self._next = asyncio.create_task(self._pull(begun))
        if not done:
            return
        begun.result()
        if patience_s is not None:
            done, _ = await asyncio.wait({self._next}, timeout=patience_s)
            if done and (error := self._next.exception()) is not None:
                raise error

    @property
    def waiting(self) -> bool:
        """True when the first item is here, so that taking it does not wait."""
        return self._next is not None and self._next.done()

    def __aiter__(self) -> AsyncIterator[ReplyItem]:
        return self

    async def __anext__(self) -> ReplyItem:
        task, self._next = self._next, None
        if task is None:  # the rule; only the first item is waited for in a task of its own
            return await self._take()
        try:
            item = await task
        finally:
            task.cancel()
        if item is None:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """End the reply; the engine stops generating."""
        # Each by itself: a task that is cancelled before its first turn passes nothing on to the one it would await.
        waiting = [task for task in (self._begun, self._next) if task is not None]
        self._begun = self._next = None
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if self._call is not None:
            self._call.left()
        await self._items.aclose()

    async def _begin(self) -> None:
        try:
            await self._started()
        except GatehouseError as error:
            if self._call is not None:
                self._call.failed(error)
            raise

    async def _started(self) -> None:
        try:
            first = await self._item()
        except StopAsyncIteration:
            raise EngineFailed("The model did not answer.") from None
        if not isinstance(first, EngineStart):
            raise EngineFailed("The model's answer has no start.")
        if first.status >= _BAD:
            raise upstream_error(first.status, await self._body())

    async def _item(self) -> ReplyItem:
        """What comes next, its count noted and taken off."""
        while True:
            item = await anext(self._items)
            if not isinstance(item, Counted):
                return item
            self.counted = item.usage
            if item.data:
                return item.data

    async def _take(self) -> ReplyItem:
        """The next item, or `StopAsyncIteration` at the end."""
        call = self._call
        if call is None:
            return await self._item()
        try:
            item = await self._item()
        except StopAsyncIteration:
            call.completed()
            raise
        except GatehouseError as error:
            call.failed(error)
            raise
        if not call.heard and isinstance(item, bytes):
            call.spoke()
        return item

    async def _pull(self, begun: asyncio.Task[None] | None = None) -> ReplyItem | None:
        if begun is not None:
            await begun
        try:
            return await self._take()
        except StopAsyncIteration:
            return None

    async def _body(self) -> bytes:
        body = bytearray()
        with suppress(StopAsyncIteration):
            while True:
                item = await self._item()
                if isinstance(item, bytes):
                    body += item[: _ERROR_BYTES - len(body)]
        return bytes(body)
