"""`ResponseStore`: stored responses as a Serve deployment."""

import logging
from collections.abc import Sequence

from deployments.clock import Clock, SystemClock
from deployments.errors import PartUnavailable
from deployments.ports import JsonValue, StoredResponse, TenantId
from deployments.responses.keeper import ResponseKeeper
from deployments.responses.settings import ResponsesSettings
from deployments.responses.store import ResponseRows
from deployments.store import open_store
from deployments.tasks import Opening, Rounds

_log = logging.getLogger("gatehouse.responses")


class ResponseStore:
    """Implements `ports.Responses`. Opens its tables on the first call; Serve's initial health check is one.

    Replicas share nothing but the database: any number on PostgreSQL, one on a SQLite file.
    """

    def __init__(self, store_url: str, settings: ResponsesSettings, clock: Clock | None = None) -> None:
        self._rows = ResponseRows(open_store(store_url))
        self._kept = ResponseKeeper(self._rows, clock or SystemClock(), settings)
        self._sweep_s = settings.sweep_s
        self._opening = Opening(self._open)
        self._rounds = Rounds()

    async def put(self, response: StoredResponse) -> None:
        """Create or replace; `InvalidRequest` or `QuotaExceeded` when it is too much."""
        await (await self._keeper()).put(response)

    async def get(self, tenant: TenantId, response_id: str) -> StoredResponse:
        """One response, or `NotFound`."""
        return await (await self._keeper()).get(tenant, response_id)

    async def delete(self, tenant: TenantId, response_id: str) -> None:
        """Forget a response, or `NotFound`."""
        await (await self._keeper()).delete(tenant, response_id)

    async def cancel(self, tenant: TenantId, response_id: str) -> StoredResponse:
        """Stop a background response, or `NotFound` / `InvalidRequest`."""
        return await (await self._keeper()).cancel(tenant, response_id)

    async def beat(self, tenant: TenantId, response_id: str) -> bool:
        """A sign of life; False when nobody wants the response any more."""
        return await (await self._keeper()).beat(tenant, response_id)

    async def conversation(self, tenant: TenantId, response_id: str) -> Sequence[JsonValue]:
        """Items of a response and all before it, oldest first, or `NotFound` / `InvalidRequest`."""
        return await (await self._keeper()).conversation(tenant, response_id)

    async def ready(self) -> bool:
        """True when the store answers."""
        return await (await self._keeper()).ready()

    async def check_health(self) -> None:
        """Raise when the tables could not be opened, or the sweeper died."""
        await self._keeper()
        self._rounds.check()

    async def close(self) -> None:
        """Stop sweeping and close the store."""
        await self._opening.close()
        await self._rounds.close()
        await self._rows.close()

    async def _keeper(self) -> ResponseKeeper:
        """The keeper, its tables made."""
        await self._opening.done()
        return self._kept

    async def _open(self) -> None:
        await self._rows.open()
        self._rounds.begin(self._sweep)

    async def _sweep(self) -> float:
        try:
            removed = await self._kept.sweep()
            if removed:
                _log.info("removed %d expired responses", removed)
        except PartUnavailable:
            _log.error("expired responses could not be removed; trying again in %d s", self._sweep_s)
        return self._sweep_s
