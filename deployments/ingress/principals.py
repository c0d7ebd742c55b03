"""Remembers checked keys for a moment, so that not every request asks the ledger."""

import hashlib
from collections import OrderedDict

from deployments.clock import Clock
from deployments.ports import Ledger, Principal

_MOST = 10_000


class Principals:
    """A cache of successful authentications, keyed by digest: the key itself is not kept.

    An entry lives `ttl_s` seconds, so a revoked key stops working here at most that much later. Failures are not
    cached: a fresh key works at once.
    """

    def __init__(self, ledger: Ledger, clock: Clock, ttl_s: float) -> None:
        self._ledger = ledger
        self._clock = clock
        self._ttl_s = ttl_s
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def authenticate(self, presented: str) -> Principal:
        """The principal behind a key, or `Unauthenticated`."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()
        now_s = self._clock.monotonic_s()
        known = self._known.get(digest)
        if known is not None and now_s < known[0]:
            return known[1]
        self._known.pop(digest, None)
        principal = await self._ledger.authenticate(presented)
        self._known[digest] = (now_s + self._ttl_s, principal)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return principal
