"""What a replica of the ingress knows of frozen keys: asked for at most every two seconds, and believed for ten."""

import asyncio
import logging
from enum import Enum, auto

from deployments.clock import Clock
from deployments.errors import GatehouseError
from deployments.gate.freezer import MAX_LISTED
from deployments.ports import Approvals, KeyId

_log = logging.getLogger("gatehouse.gate")

FRESH_S = 2.0
"""A freeze reaches every replica in this time."""
BELIEVED_S = 10.0
"""How long the last answer stands in for a store that does not answer."""
_AGAIN_S = 1.0
_TIMEOUT_S = 1.0


class Standing(Enum):
    """Whether calls of a key may leave; UNKNOWN: nobody has said so lately, or there are too many to list."""

    FREE = auto()
    FROZEN = auto()
    UNKNOWN = auto()


class FrozenView:
    """The frozen keys as of the last answer. A key that was frozen then stays so until an answer says otherwise."""

    def __init__(self, approvals: Approvals, clock: Clock) -> None:
        self._approvals = approvals
        self._clock = clock
        self._turn = asyncio.Lock()
        self._keys: frozenset[KeyId] = frozenset()
        self._whole = True
        self._known_s: float | None = None
        self._tried_s: float | None = None

    async def of(self, key_id: KeyId) -> Standing:
        """Where a key stands. Never raises."""
        if not _within(self._known_s, self._clock.monotonic_s(), FRESH_S):
            await self._refresh()
        if key_id in self._keys:
            return Standing.FROZEN
        believed = self._whole and _within(self._known_s, self._clock.monotonic_s(), BELIEVED_S)
        return Standing.FREE if believed else Standing.UNKNOWN

    async def _refresh(self) -> None:
        async with self._turn:  # whoever waited here has the answer of the one before
            now_s = self._clock.monotonic_s()
            if _within(self._known_s, now_s, FRESH_S) or _within(self._tried_s, now_s, _AGAIN_S):
                return
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    found = await self._approvals.frozen()
            except (GatehouseError, TimeoutError) as error:
                _log.warning("nobody says which keys are frozen: %s", type(error).__name__)
                self._tried_s = self._clock.monotonic_s()
                return
            self._keys = frozenset(each.key_id for each in found)
            self._whole = len(found) < MAX_LISTED  # of a list that was cut, nobody knows who is missing
            self._known_s, self._tried_s = now_s, None


def _within(since_s: float | None, now_s: float, span_s: float) -> bool:
    return since_s is not None and now_s - since_s < span_s
