"""The offline verifier: numbered checks of mathematics and of meaning over the files of a log.

Needs no Ray and no server; standard library plus `rfc8785`. Ten checks, each reported with the index of its first
failure:

```
 1 framing     every byte belongs to a frame with a good CRC
 2 sequence    places are dense: 0, 1, 2, ...
 3 chain       each frame links to the one before
 4 identity    the record names the place of its frame
 5 event ids   each occurs once
 6 head        the log reaches every known head, and agrees with it
 7 schema      record v1, in its RFC 8785 bytes
 8 releases    what was released was allowed to be
 9 approvals   votes, grants and permits come in order
10 epochs      every opening of the log is recorded
```

What it cannot see: records after the newest head that anybody keeps, and whether an outside party did what it reported.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rfc8785 import CanonicalizationError

from deployments.audit.canonical import canonical
from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.head import HEAD_FILE, BadHead, read_head
from deployments.audit.record import record_problem
from deployments.audit.segment import Damage, Frame, first_sequence, read_frames, segment_paths
from deployments.ports import AuditHead, JsonValue

CHECKS = (
    "framing",
    "sequence",
    "chain",
    "identity",
    "event ids",
    "head",
    "schema",
    "releases",
    "approvals",
    "epochs",
)
_VOTES = {"R2": 1, "R3": 2}
_CHANGES = frozenset({"R1", "R2", "R3"})
_ENDS = frozenset({"approval.rejected", "approval.expired", "approval.cancelled", "approval.stale"})


class Unusable(Exception):
    """There is nothing to verify: no log at the path, or a checkpoint that is not one."""


@dataclass(slots=True)
class Check:
    """Outcome of one numbered check. `first_index` is the record of the first failure, where one is known."""

    number: int
    name: str
    failures: int = 0
    first_index: int | None = None
    detail: str | None = None

    def fail(self, index: int | None, detail: str) -> None:
        """Count a failure; the first one is described."""
        self.failures += 1
        if self.failures == 1:
            self.first_index, self.detail = index, detail


@dataclass(slots=True)
class Report:
    """What was found. `ok` is the verdict."""

    path: str
    checks: tuple[Check, ...]
    records: int = 0
    segments: int = 0
    torn_tail_bytes: int = 0
    head_hash: bytes = GENESIS
    first_at_ms: int | None = None
    last_at_ms: int | None = None
    observed_releases: int = 0
    events: Counter[str] = field(default_factory=Counter[str])
    models: set[str] = field(default_factory=set[str])
    code_versions: set[str] = field(default_factory=set[str])

    @property
    def ok(self) -> bool:
        """True when every check passed."""
        return not any(check.failures for check in self.checks)

    def to_json(self) -> dict[str, JsonValue]:
        """The machine-readable summary."""
        return {
            "ok": self.ok,
            "path": self.path,
            "records": self.records,
            "segments": self.segments,
            "head": {"size": self.records, "head_hash": self.head_hash.hex()},
            "torn_tail_bytes": self.torn_tail_bytes,
            "first_at_ms": self.first_at_ms,
            "last_at_ms": self.last_at_ms,
            "events": dict(sorted(self.events.items())),
            "models": [*sorted(self.models)],
            "code_versions": [*sorted(self.code_versions)],
            "observed_releases": self.observed_releases,
            "checks": [
                {
                    "number": check.number,
                    "name": check.name,
                    "ok": check.failures == 0,
                    "failures": check.failures,
                    "first_index": check.first_index,
                    "detail": check.detail,
                }
                for check in self.checks
            ],
        }


def verify(directory: Path, checkpoint: Path | None = None) -> Report:
    """Verify the log in `directory` against its recorded head and, if given, against a head kept elsewhere.

    Reads only. A log that is being written may be verified: the head is read before the records. Raises `Unusable`.
    """
    heads, missing_head = _heads(directory, checkpoint)
    paths = segment_paths(directory)
    if not paths:
        raise Unusable(f"there is no audit log at {directory}: it has no segment files.")
    checks = tuple(Check(number, name) for number, name in enumerate(CHECKS, start=1))
    report = Report(path=str(directory), checks=checks, segments=len(paths))
    by_name = {check.name: check for check in checks}
    if missing_head is not None:
        by_name["head"].fail(None, missing_head)
    reader = _Reader(report, by_name, heads)
    for path in paths:
        if not reader.read_segment(path, last=path == paths[-1]):
            break
    reader.finish()
    return report


def _heads(directory: Path, checkpoint: Path | None) -> tuple[list[AuditHead], str | None]:
    """The heads to compare with, and what is wrong with the log's own one."""
    heads: list[AuditHead] = []
    if checkpoint is not None:
        try:
            heads.append(read_head(checkpoint))
        except (OSError, BadHead) as error:
            raise Unusable(f"the checkpoint {checkpoint} cannot be read: {error}.") from error
    if not directory.is_dir():
        raise Unusable(f"there is no audit log at {directory}: it is not a directory.")
    try:
        heads.append(read_head(directory / HEAD_FILE))
    except FileNotFoundError:
        return heads, None if heads else f"{HEAD_FILE} is missing, so the loss of the newest records could not be seen"
    except OSError as error:
        raise Unusable(f"{directory / HEAD_FILE} cannot be read: {error}.") from error
    except BadHead as error:
        return heads, f"{HEAD_FILE} cannot be read: {error}"
    return heads, None


class _Reader:
    """Checks 1 to 7 and 10, record by record; hands what was decoded to the checks of meaning."""

    def __init__(self, report: Report, checks: Mapping[str, Check], heads: list[AuditHead]) -> None:
        self._report = report
        self._checks = checks
        self._heads = heads
        self._event_ids: set[str] = set()
        self._meaning = _Meaning(report, checks["releases"], checks["approvals"])
        self._epochs = 0
        self._index = 0

    def read_segment(self, path: Path, last: bool) -> bool:
        """Check a segment; False when what follows could not be placed any more."""
        if first_sequence(path) != self._index:
            self._checks["sequence"].fail(self._index, f"{path.name} should start at record {self._index}")
        data = path.read_bytes()
        for found in read_frames(data):
            match found:
                case Damage():
                    if last and found.may_be_torn and _is_cut_off(found):
                        self._report.torn_tail_bytes = len(data) - found.offset
                    else:
                        self._checks["framing"].fail(
                            self._index, f"{path.name}, byte {found.offset}: {found.reason}; nothing after it was read"
                        )
                    return False
                case Frame():
                    self._record(found)
        return True

    def finish(self) -> None:
        """Check 6 for heads beyond the end, and the summary's totals."""
        self._report.records = self._index
        for head in self._heads:
            if head.size > self._index:
                self._checks["head"].fail(
                    self._index, f"the log has {self._index} records, the head says {head.size}: the newest are missing"
                )
            elif head.size == 0 and head.head_hash != GENESIS.hex():
                self._checks["head"].fail(0, "the head of no records is not the empty one")

    def _record(self, found: Frame) -> None:
        index, report, checks = self._index, self._report, self._checks
        self._index += 1
        # 2. sequence
        if found.sequence != index:
            checks["sequence"].fail(index, f"record {index} should be here, the frame says {found.sequence}")
        # 3. chain
        if found.previous != report.head_hash:
            checks["chain"].fail(index, "the link to the record before is broken")
        report.head_hash = link(report.head_hash, leaf_hash(found.payload))
        # 6. head
        for head in self._heads:
            if head.size == index + 1 and head.head_hash != report.head_hash.hex():
                checks["head"].fail(index, f"the first {head.size} records are not the ones the head covers")
        # 7. schema
        record = _decode(found.payload)
        if isinstance(record, str):
            checks["schema"].fail(index, record)
            return
        problem = record_problem(record)
        if problem is not None:
            checks["schema"].fail(index, problem)
            return
        # 4. identity
        if record["sequence"] != index:
            checks["identity"].fail(index, f"the record says it is record {record['sequence']}")
        # 5. event ids
        event_id, name, data = str(record["event_id"]), str(record["name"]), cast("_Data", record["data"])
        if event_id in self._event_ids:
            checks["event ids"].fail(index, "the event id occurred before")
        self._event_ids.add(event_id)
        # 10. epochs
        if name == "log.opened":
            self._epochs += 1
            if (data["epoch"], data["size"]) != (self._epochs, index):
                checks["epochs"].fail(index, f"opening {self._epochs} of the log at record {index} is recorded wrongly")
        elif index == 0:
            checks["epochs"].fail(index, "the log does not begin with log.opened")
        # 8. and 9. meaning
        self._meaning.take(index, str(record["tenant"]), name, data)
        self._count(record, name, data)

    def _count(self, record: Mapping[str, object], name: str, data: "_Data") -> None:
        report = self._report
        report.events[name] += 1
        report.code_versions.add(str(record["code_version"]))
        if name in {"route.decided", "generation.finished"}:
            report.models.add(str(data["model"]))
        at_ms = cast("int", record["at_ms"])
        report.last_at_ms = at_ms
        if report.first_at_ms is None:
            report.first_at_ms = at_ms


_Data = dict[str, JsonValue]


def _is_cut_off(damage: Damage) -> bool:
    return damage.reason.endswith("is cut off")


def _decode(payload: bytes) -> dict[str, object] | str:
    """The record in canonical bytes, or why they are not."""
    try:
        found: object = json.loads(payload)
    except (ValueError, RecursionError):
        return "the record is not JSON"
    if not isinstance(found, dict):
        return "the record is not a JSON object"
    record = cast("dict[str, object]", found)
    # `json.dumps` writes what RFC 8785 writes, except for some floats and keys outside ASCII, at a fifth of the cost.
    if not _has_odd_float(record):
        try:
            if json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode() == payload:
                return record
        except ValueError:
            return "the record is not canonical (RFC 8785)"
    try:
        same = canonical(cast("JsonValue", record)) == payload
    except CanonicalizationError:
        same = False
    return record if same else "the record is not canonical (RFC 8785)"


def _has_odd_float(record: Mapping[str, object]) -> bool:
    """True when a float is spelled differently by Python and RFC 8785: whole, tiny, huge or not finite."""
    data = record.get("data")
    values = [*record.values(), *(cast("dict[str, object]", data).values() if isinstance(data, dict) else ())]
    return any(isinstance(value, float) and (not 1e-4 <= abs(value) < 1e15 or value.is_integer()) for value in values)


@dataclass(slots=True)
class _Call:
    """A tool call by its `gate_call_id`."""

    risk: str | None = None
    denied: bool = False
    released: bool = False


@dataclass(slots=True)
class _Approval:
    """An approval by its id."""

    digest: str
    fingerprint: str | None
    risk: str
    requester: str | None
    voters: set[str] = field(default_factory=set[str])
    granted: bool = False
    consumed: bool = False
    released: bool = False
    ended: str | None = None


class _Meaning:
    """Checks 8 and 9: a state machine over calls and approvals. Ids belong to a tenant."""

    def __init__(self, report: Report, releases: Check, approvals: Check) -> None:
        self._report = report
        self._releases = releases
        self._approvals_check = approvals
        self._calls: dict[tuple[str, str], _Call] = {}
        self._approvals: dict[tuple[str, str], _Approval] = {}

    def take(self, index: int, tenant: str, name: str, data: _Data) -> None:
        """Advance by one record."""
        if name.startswith("tool_call."):
            problem = self._call(name, (tenant, str(data["gate_call_id"])), data, tenant)
            if problem is not None:
                self._releases.fail(index, problem)
        elif name.startswith(("approval.", "permit.")):
            problem = self._approval(name, (tenant, str(data["approval_id"])), data)
            if problem is not None:
                self._approvals_check.fail(index, problem)

    def _call(self, name: str, key: tuple[str, str], data: _Data, tenant: str) -> str | None:
        if name == "tool_call.proposed":
            if key in self._calls:
                return "a call was proposed twice under one gate_call_id"
            self._calls[key] = _Call()
            return None
        call = self._calls.get(key)
        match name:
            case "tool_call.classified":
                if call is not None:
                    call.risk = str(data["risk"])
            case "tool_call.denied":
                if call is not None:
                    call.denied = True
            case "tool_call.released":
                return self._release(call, data, tenant)
            case _:
                pass
        return None

    def _release(self, call: _Call | None, data: _Data, tenant: str) -> str | None:
        """Check 8. Why a release was wrong, or None."""
        risk, observed = str(data["risk"]), data["profile"] == "observe"
        # 8a. It was proposed, once, and is released once.
        if call is None:
            return "a call was released that was never proposed"
        if call.released:
            return "a call was released twice"
        call.released = True
        # 8b. It was not denied, and not released under a lower class than it was given.
        if call.denied:
            return "a call was released after it was denied"
        if call.risk is not None and call.risk != risk:
            return f"a call classified {call.risk} was released as {risk}"
        # 8c. The observe profile records and holds nothing; such releases are counted, not judged.
        if observed:
            self._report.observed_releases += 1
            return None
        if risk not in {"R0", *_CHANGES}:
            return f"a call of class {risk} was released"
        # 8d. A change has a change id and a rollback plan.
        if risk in _CHANGES and not (data.get("change_id") and data.get("rollback_digest")):
            return f"{risk} was released without change_id and rollback_digest"
        # 8e. R2 and R3 have a granted approval of the same action, consumed for this release alone.
        return self._approved(data, risk, tenant) if risk in _VOTES else None

    def _approved(self, data: _Data, risk: str, tenant: str) -> str | None:
        approval = self._approvals.get((tenant, str(data.get("approval_id"))))
        if approval is None or not approval.granted:
            return f"{risk} was released without a granted approval"
        if not approval.consumed:
            return f"{risk} was released without consuming its permit"
        same_call = approval.fingerprint is not None and data.get("fingerprint") == approval.fingerprint
        if data["action_digest"] != approval.digest and not same_call:
            return f"{risk} was released for another action than was approved"
        if approval.released:
            return "one approval released two calls"
        approval.released = True
        if len(approval.voters) < _VOTES[risk]:
            return f"{risk} was released with {len(approval.voters)} distinct voters"
        return None

    def _approval(self, name: str, key: tuple[str, str], data: _Data) -> str | None:
        """Check 9. Why a transition was wrong, or None."""
        if name == "approval.requested":
            if key in self._approvals:
                return "an approval was requested twice under one id"
            fingerprint, requester = data.get("fingerprint"), data.get("requester_person")
            self._approvals[key] = _Approval(
                digest=str(data["action_digest"]),
                fingerprint=fingerprint if isinstance(fingerprint, str) else None,
                risk=str(data["risk"]),
                requester=requester if isinstance(requester, str) else None,
            )
            return None
        approval = self._approvals.get(key)
        # 9a. Every step belongs to a request, names its digest, and comes before its end.
        if approval is None:
            return f"{name} for an approval that was never requested"
        if data["action_digest"] != approval.digest:
            return f"{name} names another action than was requested"
        if approval.ended is not None:
            return f"{name} after {approval.ended}"
        return self._step(name, approval, data)

    def _step(self, name: str, approval: _Approval, data: _Data) -> str | None:
        match name:
            # 9b. Persons are counted, not votes (a vote may be recorded again after a failed attempt); nobody votes for
            #     an R3 call of their own.
            case "approval.voted":
                if data["approve"] is not True:
                    return None
                voter = str(data["voter"])
                if approval.risk == "R3" and voter == approval.requester:
                    return "R3 was approved by its own requester"
                approval.voters.add(voter)
            # 9c. A grant follows enough votes of distinct persons.
            case "approval.granted":
                approval.granted = True
                if len(approval.voters) < _VOTES.get(approval.risk, 0):
                    return f"{approval.risk} was granted with {len(approval.voters)} distinct voters"
            # 9d. A permit follows a grant and is consumed once.
            case "permit.issued" | "permit.consumed":
                if approval.risk in _VOTES and not approval.granted:
                    return f"{name} without a granted approval"
                if name == "permit.consumed":
                    if approval.consumed:
                        return "a permit was consumed twice"
                    approval.consumed = True
            case _:
                if name in _ENDS:
                    approval.ended = name
        return None
