"""Whose keys the voters voted with, as they are now: votes are counted on the day of the release."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from deployments.errors import GatehouseError, GateUnavailable
from deployments.ports import KeyId, Principal

_log = logging.getLogger("gatehouse.gate")

AskHolders: TypeAlias = Callable[[Sequence[KeyId]], Awaitable[Sequence[Principal]]]
"""The principals of those of the keys that are good at this moment: `ports.Ledger.holders`."""


class Holders:
    """Asks the ledger, for at most `timeout_s` seconds. Where it does not answer, nobody's vote counts."""

    def __init__(self, ask: AskHolders, timeout_s: float) -> None:
        self._ask = ask
        self._timeout_s = timeout_s

    async def of(self, key_ids: Sequence[KeyId]) -> Mapping[KeyId, Principal]:
        """The good ones of the keys with whom they belong to; `GateUnavailable` when nobody can say."""
        if not key_ids:
            return {}
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._ask(tuple(dict.fromkeys(key_ids)))
        except (GatehouseError, TimeoutError) as error:
            _log.warning("the ledger failed with %s; no vote is counted", type(error).__name__)
            raise GateUnavailable("The ledger does not say whose keys are good, so no approval can be used.") from error
        return {principal.key_id: principal for principal in found if principal.key_id in key_ids}
