"""The budget of the strong tier, by tenant: a threshold that holds a share, and a cap on its time.

Each replica steps a controller of its own and now and then looks at those of the others, through the store. What a
replica had learned outlives it: a new one starts at the newest threshold that it finds.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, cast

from deployments.difficulty.store import RouteRows
from deployments.ports import TenantId
from router.budget import Bucket, Cap, Controller, charge, drained, full, merge, retarget, step
from router.policy import Budget
from router.types import BudgetView

_FORGOTTEN_MS: Final = 600_000
"""A replica that has not written for so long counts no more among the others."""


@dataclass(slots=True)
class _Tenant:
    controller: Controller
    bucket: Bucket | None = None
    changed: bool = False
    met: bool = False


class Budgets:
    """The budgets of one replica. Times are milliseconds since the epoch."""

    def __init__(self, rows: RouteRows, replica: str) -> None:
        self._rows = rows
        self._replica = replica
        self._tenants: dict[TenantId, _Tenant] = {}

    def view(self, tenant: TenantId, budget: Budget | None, now_ms: int) -> BudgetView | None:
        """What the router may know of a tenant's budget; None where the policy sets none."""
        if budget is None:
            return None
        known, cap = self._known(tenant, budget), _cap(budget)
        if cap is None:
            return known.controller.view()
        known.bucket = known.bucket or full(cap, now_ms)
        return known.controller.view(drained(known.bucket, cap, now_ms))

    def decided(self, tenant: TenantId, budget: Budget | None, hit: bool) -> None:
        """Count an eligible turn; `hit`: its score was above the threshold."""
        if budget is not None:
            known = self._known(tenant, budget)
            known.controller = step(known.controller, hit)
            known.changed = True

    def spent(self, tenant: TenantId, budget: Budget | None, strong_ms: float, now_ms: int) -> None:
        """Count the strong tier's time that a turn took, also of one that was forced there."""
        cap = None if budget is None else _cap(budget)
        if budget is not None and cap is not None:
            known = self._known(tenant, budget)
            known.bucket = charge(known.bucket or full(cap, now_ms), cap, strong_ms, now_ms)
            known.changed = True

    async def meet(self, now_ms: int) -> None:
        """Write what was counted here and take in what the other replicas have; `PartUnavailable` when it fails."""
        changed = {tenant: known for tenant, known in self._tenants.items() if known.changed}
        if not changed:
            return
        found = {tenant: await self._rows.budgets(tenant) for tenant in changed}
        await self._rows.put_budgets(
            self._replica, {tenant: _pack(known.controller) for tenant, known in changed.items()}, now_ms
        )
        for tenant, known in changed.items():
            known.changed = False
            target = known.controller.target
            others = [
                (each.at_ms, controller)
                for each in found[tenant]
                if each.replica != self._replica and (controller := _unpack(each.state)) and controller.target == target
            ]
            if not known.met and others:  # where the newest of the others stands is a better start than nowhere
                known.controller = replace(known.controller, threshold=others[0][1].threshold, owed=0.0)
            known.met = True
            live = [controller for at_ms, controller in others if at_ms > now_ms - _FORGOTTEN_MS]
            if live:
                known.controller = merge(known.controller, live)

    def _known(self, tenant: TenantId, budget: Budget) -> _Tenant:
        known = self._tenants.setdefault(tenant, _Tenant(Controller(budget.target)))
        known.controller = retarget(known.controller, budget.target)
        return known


def _cap(budget: Budget) -> Cap | None:
    if budget.strong_seconds_per_hour is None:
        return None
    return Cap(budget.strong_seconds_per_hour * 1_000, budget.burst_seconds * 1_000)


def _pack(controller: Controller) -> str:
    return json.dumps(asdict(controller), sort_keys=True, separators=(",", ":"))


def _unpack(text: str) -> Controller | None:
    """The controller that another replica wrote; None for what a newer version may have written."""
    try:
        return Controller(**cast(dict[str, Any], json.loads(text)))
    except (ValueError, TypeError):
        return None
