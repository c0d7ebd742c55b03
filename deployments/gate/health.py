"""How the approval queue stands, for `/healthz/approvals` and for people."""

from deployments.gate.aftermath_store import AftermathStore
from deployments.gate.freezer import Freezer
from deployments.gate.notices import Outbox
from deployments.gate.settings import GateSettings
from deployments.gate.store import ApprovalStore
from deployments.ports import QueueHealth

LATE_RECORD_S = 60
"""A record that the log has not taken after so long is a problem of its own."""


async def queue_health(
    approvals: ApprovalStore,
    rows: AftermathStore,
    freezer: Freezer,
    outbox: Outbox,
    settings: GateSettings,
    now_ms: int,
) -> QueueHealth:
    """The queue over all tenants at `now_ms`; `GateUnavailable` when the store does not answer."""
    queue = await approvals.queue(now_ms)
    unreported = await rows.count_unreported(now_ms - settings.report_timeout_s * 1000)
    backlog = await rows.backlog()
    notices = await outbox.state()
    notices_oldest_s = _age_s(notices.oldest_ms, now_ms)
    record_s = _age_s(backlog.oldest_ms, now_ms)
    problems: list[str] = []
    if record_s is not None and record_s > LATE_RECORD_S:
        problems.append(f"{backlog.waiting} records wait for the audit log, the oldest for {record_s:.0f} s")
    if backlog.refused:
        problems.append(f"the audit log refused {backlog.refused} records")
    if notices_oldest_s is not None and notices_oldest_s > settings.notices.late_s:
        problems.append(f"{notices.waiting} messages wait for their receivers, the oldest for {notices_oldest_s:.0f} s")
    if notices.failed:
        problems.append(f"{notices.failed} messages were taken by no receiver")
    return QueueHealth(
        waiting=queue.waiting,
        oldest_s=_age_s(queue.oldest_ms, now_ms),
        approved_unused=queue.approved,
        unreported=unreported,
        frozen=await freezer.count(),
        notices_waiting=notices.waiting,
        notices_oldest_s=notices_oldest_s,
        notices_failed=notices.failed,
        problems=tuple(problems),
    )


def _age_s(since_ms: int | None, now_ms: int) -> float | None:
    return None if since_ms is None else max(0, now_ms - since_ms) / 1000
