"""Builders of events and logs for the tests of the audit sink."""

from collections.abc import Sequence
from pathlib import Path

from deployments.audit.entries import Entry
from deployments.audit.files import SYSTEM_DISK, Disk
from deployments.audit.recover import recover
from deployments.audit.seals import seal_path
from deployments.audit.segment import Frame, frame, read_frames, segment_paths
from deployments.audit.settings import AuditSettings
from deployments.audit.stored import StoredLog
from deployments.audit.writer import LogWriter
from deployments.clock import FixedClock
from deployments.ports import AuditEvent, JsonValue, RequestId, SessionId, TenantId

D1, D2, D3 = "1" * 64, "2" * 64, "3" * 64
SMALL = AuditSettings(segment_bytes=1_024, lock_timeout_s=0.0, head_interval_ms=0)


def event(name: str, event_id: str, at_ms: int = 1, tenant: str = "acme", **data: JsonValue) -> AuditEvent:
    return AuditEvent(
        event_id=event_id,
        name=name,
        at_ms=at_ms,
        tenant=TenantId(tenant),
        principal="key_1",
        request_id=RequestId("req_1"),
        session=SessionId("s_1"),
        data=data,
    )


def routed(number: int) -> AuditEvent:
    return event(
        "route.decided",
        f"route:{number}",
        route_id=f"rt_{number}",
        model="demo-20b",
        tier="20b",
        effort="medium",
        reason="default",
        policy_digest=D1,
    )


def open_log(directory: Path, settings: AuditSettings = SMALL, disk: Disk = SYSTEM_DISK) -> LogWriter:
    return LogWriter(directory, settings, "test", FixedClock(), disk=disk)


def write_log(directory: Path, events: Sequence[AuditEvent], settings: AuditSettings = SMALL) -> None:
    """A closed log whose recorded head covers everything; one batch per event, so that segments roll."""
    writer = open_log(directory, settings)
    for item in events:
        [outcome] = writer.commit([[item]])
        assert isinstance(outcome, list), outcome
    writer.record_head()
    writer.close()


def entries_of(directory: Path, disk: Disk = SYSTEM_DISK) -> list[Entry]:
    """The records of a closed log, as recovery finds them."""
    found = recover(directory, disk)
    return list(StoredLog(found.stretches, disk).read(0, found.size))


def frames_of(path: Path) -> list[Frame]:
    """The whole frames of a segment file."""
    return [found for found in read_frames(path.read_bytes()) if isinstance(found, Frame)]


def raw_frames(directory: Path) -> list[bytes]:
    """The bytes of each frame of the log, in order."""
    return [
        frame(found.sequence, found.previous, found.payload)
        for path in segment_paths(directory)
        for found in frames_of(path)
    ]


def replace_frames(directory: Path, frames: Sequence[bytes]) -> None:
    """Make the log consist of these frames, in one segment."""
    first, *others = segment_paths(directory)
    for path in others:
        path.unlink()
        seal_path(path).unlink(missing_ok=True)
    first.write_bytes(b"".join(frames))


class Flow:
    """The events of one gated call, step by step; every step may be left out or changed by a test."""

    def __init__(self, risk: str = "R2", call: str = "call_1", approval: str = "apr_1", digest: str = D1) -> None:
        self.risk, self.call, self.approval, self.digest = risk, call, approval, digest

    def proposed(self) -> AuditEvent:
        return event("tool_call.proposed", f"{self.call}:proposed", gate_call_id=self.call, tool="shell")

    def classified(self) -> AuditEvent:
        return self._call("classified", outcome="hold", policy_digest=D3)

    def denied(self) -> AuditEvent:
        return self._call("denied")

    def held(self) -> AuditEvent:
        return self._call("held", action_digest=self.digest, approval_id=self.approval)

    def released(self, **changes: JsonValue) -> AuditEvent:
        data: dict[str, JsonValue] = {
            "action_digest": self.digest,
            "profile": "ops",
            "approval_id": self.approval,
            "change_id": "CHG-1",
            "rollback_digest": D2,
            **changes,
        }
        risk = data.pop("risk", self.risk)
        return event(
            "tool_call.released", f"{self.call}:released", gate_call_id=self.call, tool="shell", risk=risk, **data
        )

    def requested(self, **changes: JsonValue) -> AuditEvent:
        return self.step("approval.requested", risk=self.risk, votes_required=1, requester_person="rita", **changes)

    def voted(self, voter: str, approve: bool = True) -> AuditEvent:
        return self.step("approval.voted", f":{voter}", voter=voter, approve=approve)

    def granted(self) -> AuditEvent:
        return self.step("approval.granted")

    def consumed(self) -> AuditEvent:
        return self.step("permit.consumed")

    def step(self, name: str, suffix: str = "", **data: JsonValue) -> AuditEvent:
        return event(
            name,
            f"{self.approval}:{name}{suffix}",
            **{"approval_id": self.approval, "action_digest": self.digest, **data},
        )

    def _call(self, step: str, **data: JsonValue) -> AuditEvent:
        return event(
            f"tool_call.{step}",
            f"{self.call}:{step}",
            gate_call_id=self.call,
            tool="shell",
            risk=self.risk,
            **data,
        )

    def whole(self, voters: Sequence[str] = ("alice",)) -> list[AuditEvent]:
        """Proposed, held, approved by `voters`, consumed, released."""
        return [
            self.proposed(),
            self.classified(),
            self.requested(),
            self.held(),
            *(self.voted(voter) for voter in voters),
            self.granted(),
            self.consumed(),
            self.released(),
        ]
