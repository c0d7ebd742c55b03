"""Grants for the next requests of busy keys, held by the ingress: they begin without a call to the ledger.

A key that asks often is leased a few grants in advance, of the sizes that it asks for, while it is far from all of its
limits; near one each request asks for itself. What is set aside is set aside by the ledger, so no budget can be passed
by leasing. A grant that is used is reported within a moment and settled like any other; one that is not is given back
by the ledger after `LEASE_S`, which is longer than it is used here: the two clocks are never compared.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final

from deployments.clock import Clock
from deployments.errors import GatehouseError
from deployments.ingress.admitting import Admitting
from deployments.ports import LEASE_S, Grant, KeyId, Ledger, ModelId, Principal, RequestId
from deployments.tasks import Tasks

_log = logging.getLogger("gatehouse.ingress")
_USED_S: Final = LEASE_S - 2.0  # the ledger's answer may have been under way for so long
_REPORT_S: Final = 0.05
_MOST_POOLS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Size:
    """What a grant of a lease holds: powers of two, so that requests of about the same size share a pool."""

    prompt: int
    answer: int

    @classmethod
    def of(cls, tokens: int, prompt_tokens: int) -> "Size":
        """The smallest one that `tokens`, of which `prompt_tokens` are the prompt's, fit into."""
        prompt = min(max(0, prompt_tokens), tokens)
        return cls(_rounded(prompt), _rounded(tokens - prompt))


@dataclass(slots=True)
class _Pool:
    """Grants of one key, model and size, each with the moment until which it is good; `asked_s`: the last requests."""

    grants: deque[tuple[float, Grant]] = field(default_factory=deque[tuple[float, Grant]])
    asked_s: deque[float] = field(default_factory=deque[float])
    filling: bool = False


class Leases:
    """The leases of one ingress replica. `most` grants for one kind of request; 0: every request asks the ledger."""

    def __init__(self, ledger: Ledger, admitting: Admitting, clock: Clock, most: int) -> None:
        self._ledger = ledger
        self._admitting = admitting
        self._clock = clock
        self._most = most
        self._pools: dict[tuple[KeyId, ModelId, Size], _Pool] = {}
        self._opened: list[Grant] = []
        self._tasks = Tasks()
        self._reporting: asyncio.Task[None] | None = None
        self.from_leases = 0
        """Requests that began without a call to the ledger."""

    async def admit(
        self, principal: Principal, request_id: RequestId, model: ModelId, tokens: int, prompt_tokens: int
    ) -> Grant:
        """A grant for a request: one that is at hand, or the ledger's answer, which may be its refusal."""
        if not self._most:
            return await self._admitting.admit(principal, request_id, model, tokens, prompt_tokens)
        now_s = self._clock.monotonic_s()
        key = (principal.key_id, model, Size.of(tokens, prompt_tokens))
        pool = self._pool(key)
        pool.asked_s.append(now_s)
        grant = self._take(pool, now_s)
        wanted = self._wanted(pool, now_s)
        if wanted and 2 * len(pool.grants) <= wanted and not pool.filling:  # a call for several, not one for each
            pool.filling = True
            self._tasks.begin(self._fill(pool, principal, model, key[2], wanted - len(pool.grants)))
        if grant is None:
            return await self._admitting.admit(principal, request_id, model, tokens, prompt_tokens)
        grant = replace(grant, request_id=request_id)
        self.from_leases += 1
        self._opened.append(grant)
        if self._reporting is None or self._reporting.done():
            self._reporting = self._tasks.begin(self._report())
        return grant

    async def close(self) -> None:
        """Report what was opened, and give back the rest."""
        unused = [grant for pool in self._pools.values() for _, grant in pool.grants]
        self._pools.clear()
        self._most = 0
        await self._tasks.drain()
        if unused:
            await self._quietly(self._ledger.returned(unused))

    def _pool(self, key: tuple[KeyId, ModelId, Size]) -> _Pool:
        pool = self._pools.pop(key, None) or _Pool()
        self._pools[key] = pool  # the one that was asked last is the last
        if len(self._pools) > _MOST_POOLS:
            del self._pools[next(iter(self._pools))]  # what it holds comes back by itself
        return pool

    def _take(self, pool: _Pool, now_s: float) -> Grant | None:
        while pool.grants:
            until_s, grant = pool.grants.popleft()
            if now_s < until_s:
                return grant
        return None

    def _wanted(self, pool: _Pool, now_s: float) -> int:
        """Half of what was asked for during the life of a lease, so that few come back unused; none for a first one."""
        while pool.asked_s and pool.asked_s[0] <= now_s - _USED_S:
            pool.asked_s.popleft()
        return min(self._most, len(pool.asked_s) // 2)

    async def _fill(self, pool: _Pool, principal: Principal, model: ModelId, size: Size, count: int) -> None:
        until_s = self._clock.monotonic_s() + _USED_S  # before the ledger begins to count
        try:
            tokens = size.prompt + size.answer
            for grant in await self._ledger.lease(principal, model, tokens, size.prompt, count):
                pool.grants.append((until_s, grant))
        except GatehouseError as error:
            _log.info("no lease: %s", error.code)
        finally:
            pool.filling = False

    async def _report(self) -> None:
        """Say which grants are in use, all of a moment together."""
        while self._opened:
            await asyncio.sleep(_REPORT_S)
            opened, self._opened = self._opened, []
            await self._quietly(self._ledger.opened(opened))

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except GatehouseError as error:
            # Settling a grant says that it was opened, too.
            _log.warning("the ledger did not hear of leases: %s", error.code)


def _rounded(tokens: int) -> int:
    return 0 if tokens <= 0 else 1 << (tokens - 1).bit_length()
