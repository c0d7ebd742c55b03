"""`Ledger`: keys and grants as a Serve deployment."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deployments.clients import AuditClient
from deployments.clock import Clock, SystemClock
from deployments.errors import AuditUnavailable
from deployments.ports import (
    Budget,
    BudgetState,
    Grant,
    KeyId,
    KeyRecord,
    KeySpec,
    ModelId,
    NewKey,
    Principal,
    RequestId,
    Served,
    TenantId,
    TenantView,
    Usage,
)
from deployments.store import open_store
from deployments.tasks import Opening, Rounds
from deployments.tenancy.bootstrap import bootstrap
from deployments.tenancy.ledger import KeyLedger
from deployments.tenancy.pepper import load_or_create_pepper
from deployments.tenancy.settings import TenancySettings
from deployments.tenancy.store import TenancyStore, UsageTotal
from deployments.usage import Bucket, Dimension, Place, UsagePage, UsageQuery, UsageReport

_log = logging.getLogger(__name__)
_AUDIT_RETRY_S = 0.5


class Ledger:
    """Implements `ports.Ledger`. Opens its store on the first call; Serve's initial health check is one.

    `audit` is the sink's handle, `operator` the person whose key is written to `<state_dir>/operator.key`, `strong` the
    model of the strong tier, whose price says what routing saves.
    """

    def __init__(
        self,
        audit: Any,
        state_dir: str,
        store_url: str,
        operator: str,
        settings: TenancySettings,
        tenant: str = "default",
        strong: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._state_dir = Path(state_dir)
        self._operator = operator
        self._tenant = TenantId(tenant)
        pepper = load_or_create_pepper(self._state_dir / "pepper")
        self._store = TenancyStore(open_store(store_url))
        self._keys = KeyLedger(
            self._store,
            pepper,
            clock or SystemClock(),
            AuditClient(audit, settings.audit_timeout_s),
            settings,
            strong=None if strong is None else ModelId(strong),
        )
        self._opening = Opening(self._open)
        self._bootstrapped = False
        self._rounds = Rounds()

    async def authenticate(self, presented: str) -> Principal:
        """The principal behind a key, or `Unauthenticated`."""
        return await (await self._ledger()).authenticate(presented)

    async def admit(
        self,
        principal: Principal,
        request_id: RequestId,
        model: ModelId,
        tokens: int,
        prompt_tokens: int = 0,
        grant_id: str | None = None,
    ) -> Grant:
        """Set tokens aside for one generation, or `QuotaExceeded` / `BudgetExceeded`."""
        return await (await self._ledger()).admit(principal, request_id, model, tokens, prompt_tokens, grant_id)

    async def lease(
        self, principal: Principal, model: ModelId, tokens: int, prompt_tokens: int, count: int
    ) -> Sequence[Grant]:
        """Grants for requests that are still to come."""
        return await (await self._ledger()).lease(principal, model, tokens, prompt_tokens, count)

    async def opened(self, grants: Sequence[Grant]) -> None:
        """Grants of leases are in use now."""
        await (await self._ledger()).opened(grants)

    async def returned(self, grants: Sequence[Grant]) -> None:
        """Grants that nobody will use."""
        await (await self._ledger()).returned(grants)

    async def settle(self, grant: Grant, usage: Usage, served: Served | None = None) -> None:
        """Replace the reservation by what was used. Idempotent per grant."""
        await (await self._ledger()).settle(grant, usage, served)

    async def create_key(self, spec: KeySpec, actor: str = "system") -> NewKey:
        """Create a key."""
        return await (await self._ledger()).create_key(spec, actor)

    async def list_keys(self, tenant: TenantId | None) -> Sequence[KeyRecord]:
        """All keys of a tenant, or of everybody."""
        return await (await self._ledger()).list_keys(tenant)

    async def holders(self, key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        """The principals of those of the keys that are good at this moment."""
        return await (await self._ledger()).holders(key_ids)

    async def tenants(self) -> Sequence[TenantView]:
        """Every tenant that the settings name or that ever had a key."""
        return await (await self._ledger()).tenants()

    async def revoke_key(self, key_id: KeyId, actor: str = "system") -> KeyRecord:
        """Revoke a key; `NotFound` for an unknown id."""
        return await (await self._ledger()).revoke_key(key_id, actor)

    async def rotate_key(self, key_id: KeyId, grace_s: int, actor: str = "system") -> NewKey:
        """Give a key a new text; the old one is good for `grace_s` seconds more."""
        return await (await self._ledger()).rotate_key(key_id, grace_s, actor)

    async def expire_key(self, key_id: KeyId, in_s: int | None, actor: str = "system") -> KeyRecord:
        """Let a key end `in_s` seconds from now, or never."""
        return await (await self._ledger()).expire_key(key_id, in_s, actor)

    async def usage(self, tenant: TenantId | None) -> Sequence[UsageTotal]:
        """Totals per key and model."""
        return await (await self._ledger()).usage(tenant)

    async def put_budget(self, budget: Budget, actor: str = "system") -> BudgetState:
        """Set a budget, in place of the one with its id."""
        return await (await self._ledger()).put_budget(budget, actor)

    async def remove_budget(self, budget_id: str, actor: str = "system") -> None:
        """End a budget; `NotFound` for an unknown id."""
        await (await self._ledger()).remove_budget(budget_id, actor)

    async def budgets(self, tenant: TenantId | None) -> Sequence[BudgetState]:
        """Where the budgets of a tenant, or of everybody, stand."""
        return await (await self._ledger()).budgets(tenant)

    async def usage_report(
        self, query: UsageQuery, by: tuple[Dimension, ...] = (), bucket: Bucket | None = None
    ) -> UsageReport:
        """Totals of what was used, and what routing saved."""
        return await (await self._ledger()).usage_report(query, by, bucket)

    async def usage_rows(
        self, query: UsageQuery, after: Place | None = None, complete_ms: int | None = None, limit: int = 500
    ) -> UsagePage:
        """Rows of what was used, after a place."""
        return await (await self._ledger()).usage_rows(query, after, complete_ms, limit)

    async def ready(self) -> bool:
        """True when the store answers and the operator key exists."""
        ledger = await self._ledger()
        return self._bootstrapped and await ledger.ready()

    async def check_health(self) -> None:
        """Raise when the store could not be opened or the operator key could not be made."""
        await self._ledger()
        self._rounds.check()

    async def close(self) -> None:
        """Stop waiting for the sink and close the store."""
        await self._opening.close()
        await self._rounds.close()
        await self._keys.drain()
        await self._store.close()

    async def _ledger(self) -> KeyLedger:
        """The ledger, opened."""
        await self._opening.done()
        return self._keys

    async def _open(self) -> None:
        await self._keys.open()
        self._rounds.begin(self._bootstrap)

    async def _bootstrap(self) -> float | None:
        """Wait for the sink, which starts at the same time: no key without its record."""
        try:
            if not await bootstrap(self._keys, self._state_dir, self._operator, self._tenant):
                _log.info("no inference key exists yet: create one with `gatehouse keys create`")
        except AuditUnavailable:
            _log.info("waiting for the audit sink before the operator key is made")
            return _AUDIT_RETRY_S
        self._bootstrapped = True
        return None
