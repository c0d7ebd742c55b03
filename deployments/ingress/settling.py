"""What requests used, handed to the ledger until it has it: also when it, or its database, is away for a while.

Grants whose answer never came are given back in the same way.

A settlement that the ledger did not take waits here and is tried again, and the ledger takes each grant once, so a
retry whose first attempt was written after all charges nothing. What waits is in this process only: when it is killed,
the ledger charges what was set aside, as an estimate (ADR 24).
"""

import asyncio
import logging
from collections import deque
from contextvars import Context
from dataclasses import dataclass
from typing import Final

from deployments.clock import Clock
from deployments.errors import GatehouseError, PartUnavailable
from deployments.ports import Grant, Ledger, Served, Usage

_log = logging.getLogger("gatehouse.ingress")
_AT_ONCE: Final = 64  # the ledger writes what comes together in one transaction
_FIRST_S: Final = 0.1
_LONGEST_S: Final = 2.0
_KEPT_S: Final = 3600.0  # by then the ledger has charged an estimate
_MOST: Final = 100_000


@dataclass(frozen=True, slots=True)
class _Owed:
    """A settlement that the ledger has not taken yet, and until when it is tried, by the monotonic clock.

    `usage` None: the grant is given back, nobody has ever held it.
    """

    grant: Grant
    usage: Usage | None
    served: Served | None
    until_s: float


class Settler:
    """Settles for one ingress replica. At most `most` settlements wait; then the oldest is left to its estimate."""

    def __init__(self, ledger: Ledger, clock: Clock, most: int = _MOST) -> None:
        self._ledger = ledger
        self._clock = clock
        self._most = most
        self._owed: deque[_Owed] = deque()
        self._working: asyncio.Task[None] | None = None
        self.left = 0
        """Settlements that were given up: what was set aside for them is charged."""

    @property
    def waiting(self) -> int:
        """Settlements that the ledger has not taken yet."""
        return len(self._owed)

    async def settle(self, grant: Grant, usage: Usage, served: Served | None = None) -> None:
        """Say what a grant was used for. Returns after one attempt; a failed one is tried again. Never raises."""
        owed = _Owed(grant, usage, served, self._clock.monotonic_s() + _KEPT_S)
        if not await self._try(owed):
            self._keep(owed)

    def take_back(self, grant: Grant) -> None:
        """Give back a grant that the ledger may have given though it never said so; returns at once."""
        self._keep(_Owed(grant, None, None, self._clock.monotonic_s() + _KEPT_S))

    async def drain(self) -> None:
        """Return when nothing waits any more; a caller that sets a limit loses what `waiting` says."""
        try:
            while self._working is not None and not self._working.done():
                await asyncio.wait({self._working})
        finally:
            if self._owed:
                _log.critical("%d requests are charged what was set aside for them", len(self._owed))

    def _keep(self, owed: _Owed) -> None:
        if len(self._owed) >= self._most:
            self._leave(self._owed.popleft())
        self._owed.append(owed)
        if self._working is None or self._working.done():
            _log.warning("the ledger takes no settlements: they wait")
            self._working = asyncio.create_task(self._work(), context=Context())  # of no request

    async def _work(self) -> None:
        """Try what waits, the oldest first: one while the ledger takes nothing, many while it does."""
        pause_s, many = _FIRST_S, 1
        while self._owed:
            await asyncio.sleep(pause_s)
            # In the queue until they are taken: whoever asks what waits is told of them, too.
            batch = [self._owed[i] for i in range(min(many, len(self._owed)))]
            taken = await asyncio.gather(*(self._try(owed) for owed in batch))
            for owed, done in zip(batch, taken, strict=True):
                self._move(owed, done)
            if any(taken):
                pause_s, many = 0.0, _AT_ONCE
            else:
                pause_s, many = min(_LONGEST_S, max(_FIRST_S, 2 * pause_s)), 1
        _log.info("the ledger has taken all settlements that waited")

    def _move(self, owed: _Owed, done: bool) -> None:
        """Forget what was taken; the rest goes to the end, so that one that is never taken keeps none from it."""
        try:
            self._owed.remove(owed)
        except ValueError:  # the queue was full meanwhile
            return
        if done:
            return
        if self._clock.monotonic_s() < owed.until_s:
            self._owed.append(owed)
        else:
            self._leave(owed)

    async def _try(self, owed: _Owed) -> bool:
        """False when the ledger may take it another time."""
        try:
            if owed.usage is None:
                await self._ledger.returned([owed.grant])
            else:
                await self._ledger.settle(owed.grant, owed.usage, owed.served)
        except PartUnavailable:
            return False
        except GatehouseError as error:  # it was heard and refused: asking again says the same
            self._leave(owed, error.code)
        return True

    def _leave(self, owed: _Owed, why: str = "ledger_unavailable") -> None:
        self.left += 1
        _log.critical("the usage of grant %s is lost, its reservation is charged: %s", owed.grant.grant_id, why)
