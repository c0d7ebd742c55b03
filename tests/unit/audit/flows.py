"""A log with one change in it, start to end, and much that does not belong to it."""

from collections.abc import Sequence
from dataclasses import replace

from deployments.audit.record import encode, validate
from deployments.ports import AuditEvent, JsonValue, RequestId
from tests.unit.audit.logs import D1, D2, D3, event, routed

CHANGE = "CHG-123"
FIRST_MS = 1_767_225_600_000
FINGERPRINT = "4" * 64


def entries_of(events: Sequence[AuditEvent]) -> list[bytes]:
    """The records of valid events, from place 0 on; one second between them."""
    for each in events:
        validate(each)
    return [encode(replace(each, at_ms=FIRST_MS + 1_000 * place), place, "1.2.3") for place, each in enumerate(events)]


def of_request(found: AuditEvent, request: str) -> AuditEvent:
    return replace(found, request_id=RequestId(request))


def call(step: str, gate_call: str, request: str = "req_1", risk: str = "R2", **data: JsonValue) -> AuditEvent:
    fields: dict[str, JsonValue] = {"tool": "shell", **({} if step == "proposed" else {"risk": risk}), **data}
    found = event(f"tool_call.{step}", f"{gate_call}:{step}", gate_call_id=gate_call, **fields)
    return of_request(found, request)


def approval(step: str, approval_id: str = "apr_1", suffix: str = "", **data: JsonValue) -> AuditEvent:
    found = event(
        f"approval.{step}",
        f"{approval_id}:{step}{suffix}",
        **{"approval_id": approval_id, "action_digest": D1, "fingerprint": FINGERPRINT, **data},
    )
    return of_request(found, f"req-of-{approval_id}")


def consumed(approval_id: str = "apr_1", change: str = CHANGE) -> AuditEvent:
    fields: dict[str, JsonValue] = {"change_id": change, "rollback_digest": D2, "voters": ["alice"]}
    return replace(approval("granted", approval_id, ":permit", **fields), name="permit.consumed")


def asked(
    change: str = CHANGE, approval_id: str = "apr_1", gate_call: str = "gc_1", risk: str = "R2"
) -> list[AuditEvent]:
    """A call that is proposed, held, and planned under a change."""
    return [
        of_request(routed_in(f"{gate_call}-1"), f"req-{gate_call}-1"),
        call("proposed", gate_call, f"req-{gate_call}-1", model="demo-20b"),
        call("classified", gate_call, f"req-{gate_call}-1", risk, outcome="hold", policy_digest=D3),
        approval(
            "requested",
            approval_id,
            risk=risk,
            votes_required={"R2": 1, "R3": 2}.get(risk, 0),
            requester_person="rita",
            requester_key="key_1",
            display_digest=D2,
            gate_call_id=gate_call,
        ),
        call("held", gate_call, f"req-{gate_call}-1", risk, action_digest=D1, approval_id=approval_id),
        finished(f"{gate_call}-1", f"req-{gate_call}-1"),
        approval("planned", approval_id, change_id=change, rollback_digest=D2),
    ]


def released(
    change: str = CHANGE, approval_id: str = "apr_1", gate_call: str = "gc_2", risk: str = "R2"
) -> list[AuditEvent]:
    """The same call again, approved by alice and let out."""
    return [
        approval("voted", approval_id, ":alice", voter="alice", approve=True),
        approval("granted", approval_id, voters=["alice"]),
        call("proposed", gate_call, f"req-{gate_call}", model="demo-20b"),
        call("classified", gate_call, f"req-{gate_call}", risk, outcome="hold", policy_digest=D3),
        consumed(approval_id, change),
        call(
            "released",
            gate_call,
            f"req-{gate_call}",
            risk,
            action_digest=D1,
            profile="ops",
            approval_id=approval_id,
            change_id=change,
            rollback_digest=D2,
            fingerprint=FINGERPRINT,
        ),
        finished(gate_call, f"req-{gate_call}"),
    ]


def routed_in(name: str) -> AuditEvent:
    found = routed(0)
    found = replace(found, event_id=f"route:{name}", data={**found.data, "route_id": f"rt-{name}"})
    return of_request(found, f"req-of-{name}")


def finished(name: str, request: str) -> AuditEvent:
    return of_request(
        event("generation.finished", f"gen:{name}", route_id=f"rt-{name}", model="demo-20b", outcome="tool_calls"),
        request,
    )


def reported(outcome: str = "succeeded", gate_call: str = "gc_2", **data: JsonValue) -> AuditEvent:
    return event(
        "action.reported",
        f"{gate_call}:reported:{outcome}",
        gate_call_id=gate_call,
        outcome=outcome,
        source="api",
        reporter="bob",
        **data,
    )


def rolled_back(outcome: str = "not_needed", **data: JsonValue) -> AuditEvent:
    return event(
        "rollback.reported",
        f"rollback:{outcome}",
        change_id=CHANGE,
        outcome=outcome,
        source="api",
        reporter="bob",
        **data,
    )


def closed(outcome: str = "succeeded", **data: JsonValue) -> AuditEvent:
    return event("change.closed", "change:closed", tenant="system", change_id=CHANGE, outcome=outcome, **data)


def change_events() -> list[AuditEvent]:
    """One change that went well, among others."""
    return [
        event("log.opened", "log.opened:1", tenant="system", epoch=1, size=0, head_hash="0" * 64),
        *(routed_in(f"before-{number}") for number in range(40)),
        *asked(),
        *asked("CHG-9", "apr_9", "gc_9"),
        *released(),
        reported(exit_code=0),
        *released("CHG-9", "apr_9", "gc_90"),
        rolled_back(approval_id="apr_1"),
        closed(rollback_status="not_needed", title="Restart the cache"),
        *(routed_in(f"after-{number}") for number in range(260)),
    ]


def change_entries() -> list[bytes]:
    """The records of `change_events`."""
    return entries_of(change_events())
