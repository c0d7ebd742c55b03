"""Sessions in memory with their durable copy in the store.

Reading: what this replica has changed and not yet written wins, then the store's row, then, where the store does not
answer in time, what is remembered here. Writing: a change acts here at once and is written behind the answer, many in
one transaction. On SQLite this process is the only writer, so what is remembered needs no reading again.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from deployments.clock import Clock
from deployments.difficulty.memory import Decided, Evidence, Session, SessionMemory
from deployments.difficulty.store import Explained, RouteRows
from deployments.errors import PartUnavailable
from deployments.ports import SessionId, TenantId
from deployments.tasks import Tasks
from router.types import StateView

_log = logging.getLogger("gatehouse.router")
_MOST_WAITING: Final = 20_000
_MOST_AT_ONCE: Final = 200
_AGAIN_S: Final = (0.05, 0.2, 1.0, 5.0)
_Key: TypeAlias = tuple[TenantId, SessionId]


@dataclass(slots=True)
class _Waiting:
    change: Decided | Evidence | None
    explained: Explained | None = None
    written: "asyncio.Future[None] | None" = field(default=None)

    @property
    def key(self) -> _Key | None:
        return None if self.change is None else (self.change.tenant, self.change.session)


@dataclass(slots=True, eq=False)
class _Look:
    """Somebody is asking the store for `key`. `overtaken`: this replica has written it meanwhile."""

    key: _Key
    overtaken: bool = False


class Sessions:
    """The sessions of one replica. `write` must run for as long as it is used."""

    def __init__(
        self, rows: RouteRows, memory: SessionMemory, clock: Clock, idle_release_ms: int, read_timeout_s: float
    ) -> None:
        self._rows = rows
        self._memory = memory
        self._clock = clock
        self._idle_release_ms = idle_release_ms
        self._read_timeout_s = read_timeout_s
        self._waiting: deque[_Waiting] = deque()
        self._unwritten: Counter[_Key] = Counter()
        self._failed = 0
        self._one_writer = asyncio.Lock()
        self._looks: list[_Look] = []
        self._late = Tasks()
        self.wake = asyncio.Event()
        """Set when there is something new to write, and nothing that could not be written."""
        self._dropped = 0

    async def view(self, tenant: TenantId, session: SessionId, keep: bool = True) -> StateView:
        """What is known of a session. Without `keep` nothing is changed by looking, which is what a dry run wants."""
        if not session:
            return StateView()
        key, now_ms = (tenant, session), self._clock.now_ms()
        local = self._memory.find(tenant, session, now_ms)
        if local is not None and not self._rows.shared:
            return local.view()
        look = _Look(key)
        self._looks.append(look)
        try:
            found = await self._read(tenant, session, now_ms)
        except (PartUnavailable, TimeoutError):
            local = self._memory.find(tenant, session, now_ms)
            return replace(StateView(), known=False) if local is None else local.view()
        finally:
            self._looks.remove(look)
        if look.overtaken:  # what was read may be older than what was written since and is remembered here
            return self._memory.view(tenant, session, now_ms)
        if self._unwritten[key]:
            found = self._replayed(key, found, now_ms)
        elif found is not None and keep:
            self._memory.put(tenant, session, found, now_ms)
        return StateView() if found is None else found.view()

    def has_failures(self, tenant: TenantId, session: SessionId) -> bool:
        """True when a clean attempt would change what is remembered of a session."""
        return self._memory.has_failures(tenant, session)

    def decided(self, turn: Decided, explained: Explained) -> None:
        """Note the arm of a turn, and why. Acts at once, is written soon."""
        turn = replace(turn, at_ms=self._clock.now_ms())
        self._memory.decided(turn, turn.at_ms)
        if len(self._waiting) >= _MOST_WAITING:
            # The store is down for long: evidence of failures is kept before the arms of turns are.
            self._dropped += 1
            if self._dropped % _MOST_WAITING == 1:
                _log.error("the router's store is behind: decisions of turns are no longer written")
            return
        self._add(_Waiting(turn if turn.session else None, explained))

    async def observe(self, evidence: Evidence) -> None:
        """Note how an attempt ended. Acts at once; returns when it is written, or raises `PartUnavailable`."""
        evidence = replace(evidence, at_ms=self._clock.now_ms())
        if not self._memory.observe(evidence, evidence.at_ms):
            return
        if len(self._waiting) >= 2 * _MOST_WAITING:
            raise PartUnavailable("The router's store is too far behind.")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add(_Waiting(evidence, None, written))
        await written

    async def write(self) -> float | None:
        """Write what waits, to be called when woken. Seconds until what could not be written is to be tried again."""
        try:
            while self._waiting:
                await self._write_some()
                self._failed = 0
        except PartUnavailable:  # it acts here meanwhile
            self._failed += 1
            return _AGAIN_S[min(self._failed, len(_AGAIN_S)) - 1]
        return None

    async def flush(self) -> None:
        """Write what waits, once, in one go: for the end. What cannot be written is lost."""
        while self._waiting:
            await self._write_some()

    async def close(self) -> None:
        """Wait for reads that were given up, and tell whoever waits for a write that it will not come any more."""
        await self._late.drain()
        for each in self._waiting:
            if each.written is not None and not each.written.done():
                each.written.set_exception(PartUnavailable("The router stopped before its memory was written."))
        self._waiting.clear()

    def _add(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if waiting.key is not None:
            self._unwritten[waiting.key] += 1
        if not self._failed:
            self.wake.set()

    async def _write_some(self) -> None:
        async with self._one_writer:
            batch = [self._waiting[position] for position in range(min(len(self._waiting), _MOST_AT_ONCE))]
            if batch:
                await self._write(batch)

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        changes = [each.change for each in batch if each.change is not None]
        explained = [each.explained for each in batch if each.explained is not None]
        after = await self._rows.apply(changes, explained, self._idle_release_ms)
        for each in batch:
            self._waiting.popleft()
            if each.key is not None:
                self._unwritten[each.key] -= 1
                if not self._unwritten[each.key]:
                    del self._unwritten[each.key]
            if each.written is not None and not each.written.done():
                each.written.set_result(None)
        for look in self._looks:
            look.overtaken = look.overtaken or look.key in after
        for (tenant, session), known in after.items():
            if not self._unwritten[tenant, session]:
                self._memory.put(tenant, session, known, self._clock.now_ms())

    def _replayed(self, key: _Key, found: Session | None, now_ms: int) -> Session | None:
        """What the store knows, with what this replica has yet to write; what was written just now acts once."""
        for each in self._waiting:
            if each.key == key and each.change is not None and each.change.at_ms > now_ms - self._idle_release_ms:
                found = found or Session(last_seen_ms=each.change.at_ms)
                found.change(each.change)
        return found

    async def _read(self, tenant: TenantId, session: SessionId, now_ms: int) -> Session | None:
        """The stored session, or `PartUnavailable`, or `TimeoutError` when the store takes too long."""
        # Not cancelled when it is late: a driver that is cancelled within a statement may lose its connection.
        reading = self._late.begin(self._rows.session(tenant, session, now_ms - self._idle_release_ms))
        reading.add_done_callback(_looked_at)
        await asyncio.wait({reading}, timeout=self._read_timeout_s)
        if not reading.done():
            raise TimeoutError
        return reading.result()


def _looked_at(reading: "asyncio.Task[Session | None]") -> None:
    if not reading.cancelled():
        reading.exception()  # by whoever asked, or by nobody any more
