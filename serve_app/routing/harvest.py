"""Reading what the running system keeps: decisions and verdicts from the router's store, ends of turns from the log."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from deployments.audit.read import read_records
from deployments.audit.record import fields_of
from deployments.difficulty.store import RouteRows
from deployments.ports import RouteId, TenantId
from deployments.store import open_store
from router.snapshot import Snapshot
from router.types import Tier
from serve_app.routing.traffic import Counts, Finished, TrafficRow, row_of

_PAGE: Final = 500
_FINISHED: Final = "generation.finished"
_TIERS: Final = {tier.value: tier for tier in Tier}  # a record names one only where a cascade was asked for


async def harvest(
    store_url: str,
    snapshots: Mapping[str, Snapshot],
    finished: Mapping[str, Finished],
    tenant: TenantId | None,
    counts: Counts,
) -> list[TrafficRow]:
    """The rows of one tenant, or of all for None. `snapshots` are by digest; `PartUnavailable` when the store fails."""
    rows = RouteRows(open_store(store_url))
    found: list[TrafficRow] = []
    after: tuple[TenantId, RouteId] | None = None
    ends = dict(finished)
    try:
        while page := await rows.history(after, _PAGE, tenant):
            after = (page[-1].tenant, page[-1].route_id)
            for told in page:
                if told.cascade is not None and told.cascade.sent is not None:
                    # A verdict is about the answer that was sent.
                    known = ends.get(told.route_id, Finished({}))
                    ends[told.route_id] = replace(known, sent=told.cascade.sent.tier)
            made = (row_of(told, snapshots, ends, counts) for told in page)
            found += [row for row in made if row is not None]
    finally:
        await rows.close()
    return found


def finished_turns(log: Path) -> dict[str, Finished]:
    """How turns ended, by route id: `NoLog` or `OSError` when there is no log to read.

    What is read is not verified: see `gatehouse audit verify`.
    """
    checked: dict[str, dict[Tier | None, str]] = {}
    sent: dict[str, Tier | None] = {}
    for record in read_records(log):
        if record.get("name") != _FINISHED:
            continue
        fields = fields_of(record)
        route_id, tier = str(fields.get("route_id")), _TIERS.get(str(fields.get("tier")))
        verdict = fields.get("verdict")
        if isinstance(verdict, str):
            checked.setdefault(route_id, {})[tier] = verdict
        if fields.get("outcome") == "completed":
            sent[route_id] = tier
    return {each: Finished(checked.get(each, {}), sent.get(each)) for each in sorted({*checked, *sent})}
