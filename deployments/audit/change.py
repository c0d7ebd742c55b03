"""One change in the log: which records belong to it, and what they say about it. Pure.

A record belongs to a change when it names the change id, or shares an approval, a call, a permit, an incident or a
rollout with a record that does; the routing and the generation of a request belong to it when one of its calls does.
A record that names another change is shown, but leads no further.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

from rfc8785 import CanonicalizationError

from deployments.audit.canonical import canonical
from deployments.audit.record import fields_of
from deployments.ports import SYSTEM_TENANT, JsonValue

_KEYS = ("approval_id", "gate_call_id", "permit_id", "incident_id", "rollout_id")
_OF_REQUEST = frozenset({"route.decided", "generation.finished"})
_OBJECTS = ("tool_call.", "approval.", "permit.", "action.", "rollback.")
_MAX_NEEDLES = 64
_VOTES = {"R2": 1, "R3": 2}
_PLANNED = frozenset({"R1", "R2", "R3"})
_ENDS = ("rejected", "expired", "cancelled", "stale")

Record = Mapping[str, JsonValue]


class NotARecord(ValueError):
    """The bytes are not a record of the log."""


def decode(entry: bytes) -> Record:
    """The record in an entry, or `NotARecord`. Only what is needed here is checked; `audit verify` checks the rest."""
    try:
        found: object = json.loads(entry)
    except (ValueError, RecursionError) as error:
        raise NotARecord("the entry is not JSON") from error
    record = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    texts = ("name", "tenant", "principal", "event_id", "code_version")
    numbers = ("sequence", "at_ms")
    if (
        any(not isinstance(record.get(name), str) for name in texts)
        or any(type(record.get(name)) is not int for name in numbers)
        or not isinstance(record.get("data"), dict)
    ):
        raise NotARecord("the entry is not a record of Gatehouse")
    return cast("Record", record)


def check_canonical(record: Record, entry: bytes) -> None:
    """`NotARecord` unless the entry is the one RFC 8785 form of the record: then it means the same to everybody."""
    try:
        same = canonical(cast("JsonValue", record)) == entry
    except (CanonicalizationError, RecursionError):
        same = False
    if not same:
        raise NotARecord("the entry is not in RFC 8785 form")


# --- which records -----------------------------------------------------------------------------------------------


class Joins:
    """What ties records to a change, so far. Offer all records again and again until `known` stays the same."""

    def __init__(self, change_id: str, tenant: str | None = None) -> None:
        """With a tenant, only its records and those of the system belong."""
        self._change_id = change_id
        self._tenants = None if tenant is None else {tenant, SYSTEM_TENANT}
        self._keys: set[tuple[str, str]] = set()
        self._requests: set[tuple[str, str]] = set()
        self._needles: list[bytes] | None = [canonical(change_id)]

    @property
    def known(self) -> int:
        """How many ties there are."""
        return len(self._keys) + len(self._requests)

    def may_belong(self, entry: bytes) -> bool:
        """False only for an entry that certainly does not. Records are RFC 8785, so a text has one spelling there."""
        return self._needles is None or any(needle in entry for needle in self._needles)

    def take(self, record: Record) -> str | None:
        """Why the record belongs to the change, or None. Remembers what it ties to the change."""
        if self._tenants is not None and record["tenant"] not in self._tenants:
            return None
        fields = fields_of(record)
        named = fields.get("change_id")
        keys = [(name, value) for name in _KEYS if isinstance(value := fields.get(name), str)]
        joined = next((key for key in keys if key in self._keys), None)
        request = (str(record["tenant"]), str(record.get("request_id")))
        if named == self._change_id or (joined is not None and named is None):
            for key in keys:
                self._add(self._keys, key)
            if record.get("request_id") is not None and str(record["name"]).startswith(_OBJECTS):
                self._add(self._requests, request)
        if named == self._change_id:
            return "change_id"
        if joined is not None:
            return " ".join(joined)
        if record["name"] in _OF_REQUEST and request in self._requests:
            return f"request_id {request[1]}"
        return None

    def _add(self, known: set[tuple[str, str]], key: tuple[str, str]) -> None:
        if key in known:
            return
        known.add(key)
        if self._needles is not None:
            self._needles.append(canonical(key[1]))
            if len(self._needles) > _MAX_NEEDLES:
                self._needles = None  # decoding every record is cheaper now


def select(change_id: str, tenant: str | None, records: Sequence[Record]) -> list[tuple[Record, str]]:
    """Those of `records` that belong to the change, with the reason, in order."""
    joins = Joins(change_id, tenant)
    while True:
        before = joins.known
        found = [(record, why) for record in records if (why := joins.take(record)) is not None]
        if joins.known == before:
            return found


# --- what they say -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's vote, as recorded at `index`."""

    person: str
    approve: bool
    at_ms: int
    index: int


@dataclass(slots=True)
class Action:
    """Something that a model wanted done: one approval with all its calls, or one call that needed none.

    Times are milliseconds since the epoch by the producers' clocks. `ended` is how the approval ended without a grant.
    """

    approval_id: str | None
    gate_call_ids: list[str] = field(default_factory=list[str])
    tool: str | None = None
    model: str | None = None
    risk: str | None = None
    tenant: str | None = None
    requester: str | None = None
    requester_key: str | None = None
    asked_ms: int | None = None
    action_digest: str | None = None
    display_digest: str | None = None
    policy_digest: str | None = None
    plan_digest: str | None = None
    planned_ms: int | None = None
    standing_plan: str | None = None
    votes_required: int = 0
    votes: list[Vote] = field(default_factory=list[Vote])
    granted_ms: int | None = None
    ended: str | None = None
    ended_ms: int | None = None
    denied_ms: int | None = None
    consumed_ms: int | None = None
    released_ms: int | None = None
    profile: str | None = None
    outcome: str | None = None
    exit_code: int | None = None
    reported_ms: int | None = None
    reported_by: str | None = None
    report_source: str | None = None
    rollback: str | None = None
    rollback_ms: int | None = None
    rollback_by: str | None = None
    unreported_alert: int | None = None

    @property
    def left(self) -> bool:
        """True when the call was let out, so that it may have been executed."""
        return self.consumed_ms is not None or self.released_ms is not None

    def approvers(self) -> list[str]:
        """Distinct persons who voted for it, first vote first."""
        return list(dict.fromkeys(vote.person for vote in self.votes if vote.approve))

    def status(self) -> str:
        """Where it stands, in words."""
        if self.left:
            reported = {"succeeded": "executed, reported as succeeded", "failed": "executed, reported as failed"}
            return reported.get(self.outcome or "", "released, outcome " + (self.outcome or "not reported"))
        if self.ended is not None:
            return f"{self.ended}, not executed"
        if self.denied_ms is not None:
            return "denied, not executed"
        if self.granted_ms is not None:
            return "approved, not executed"
        return "waiting" if self.approval_id is not None else "not released"


@dataclass(slots=True)
class Incident:
    """An incident, by its id."""

    incident_id: str
    kind: str | None = None
    severity: str | None = None
    title: str | None = None
    opened_ms: int | None = None
    closed_ms: int | None = None
    outcome: str | None = None


@dataclass(slots=True)
class Registration:
    """An artefact that was registered under the change."""

    kind: str | None
    model: str | None
    revision: str | None
    files: int | None
    size: int | None
    signed: bool
    at_ms: int
    by: str


@dataclass(slots=True)
class Rollout:
    """A rollout, by its id; `state` is the last event's name, `reason` and `figures` are what led to it.

    `evaluation`: how the cases that both revisions were asked before any traffic were answered, or why none were.
    """

    rollout_id: str
    kind: str | None = None
    model: str | None = None
    revision: str | None = None
    previous_revision: str | None = None
    state: str = ""
    state_ms: int | None = None
    reason: str | None = None
    figures: list[str] = field(default_factory=list[str])
    evaluation: str | None = None
    rules: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Point:
    """Something a reader must look at: a sentence, and the record it is about, if it is about one."""

    text: str
    index: int | None = None


@dataclass(slots=True)
class Change:
    """What the records of a change say, taken together. `rollback` is a report about the change as a whole."""

    change_id: str
    tenants: list[str] = field(default_factory=list[str])
    first_ms: int | None = None
    last_ms: int | None = None
    title: str | None = None
    outcome: str | None = None
    rollback_status: str | None = None
    closed_ms: int | None = None
    closed_by: str | None = None
    rollback: str | None = None
    rollback_ms: int | None = None
    rollback_by: str | None = None
    actions: list[Action] = field(default_factory=list[Action])
    incidents: list[Incident] = field(default_factory=list[Incident])
    registrations: list[Registration] = field(default_factory=list[Registration])
    rollouts: list[Rollout] = field(default_factory=list[Rollout])
    policies: list[str] = field(default_factory=list[str])
    code_versions: list[str] = field(default_factory=list[str])
    points: list[Point] = field(default_factory=list[Point])

    def risk(self) -> str | None:
        """The highest class among its actions."""
        return max((action.risk for action in self.actions if action.risk is not None), default=None)

    def to_json(self) -> dict[str, JsonValue]:
        """The change as JSON; each action also says its `status`."""
        found = cast("dict[str, JsonValue]", asdict(self))
        found["actions"] = [
            {**cast("dict[str, JsonValue]", asdict(action)), "status": action.status()} for action in self.actions
        ]
        return {**found, "risk": self.risk()}


def summarize(change_id: str, records: Sequence[Record]) -> Change:
    """What the records of a change say, in log order."""
    reader = _Reader(change_id, records)
    for record in records:
        reader.take(record)
    return reader.finish()


def _text(fields: Mapping[str, JsonValue], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None


def _texts(fields: Mapping[str, JsonValue], name: str) -> list[str]:
    value = fields.get(name)
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _count(fields: Mapping[str, JsonValue], name: str) -> int | None:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class _Reader:
    """Folds records into a `Change`."""

    def __init__(self, change_id: str, records: Sequence[Record]) -> None:
        self._change = Change(change_id)
        self._actions: dict[str, Action] = {}
        self._incidents: dict[str, Incident] = {}
        self._rollouts: dict[str, Rollout] = {}
        self._points: list[Point] = []
        # A call is proposed and classified before the approval that it needs is asked for.
        self._approval_of: dict[str, str] = {}
        for record in records:
            fields = fields_of(record)
            call, approval = _text(fields, "gate_call_id"), _text(fields, "approval_id")
            if call is not None and approval is not None:
                self._approval_of.setdefault(call, approval)

    def take(self, record: Record) -> None:
        """Advance by one record."""
        change, fields, name = self._change, fields_of(record), str(record["name"])
        at_ms, index = cast("int", record["at_ms"]), cast("int", record["sequence"])
        if change.first_ms is None:
            change.first_ms = at_ms
        change.last_ms = at_ms
        self._list(change.tenants, str(record["tenant"]))
        self._list(change.code_versions, str(record["code_version"]))
        named = _text(fields, "change_id")
        if named is not None and named != change.change_id:
            self._points.append(Point(f"{name} names another change: {named}", index))
        subject, _, step = name.partition(".")
        match subject:
            case "tool_call" | "approval" | "permit" | "action" | "rollback":
                action = self._action(fields)
                if action is not None:
                    self._advance(action, subject, step, record, fields)
                elif subject == "rollback":
                    change.rollback, change.rollback_ms = _text(fields, "outcome"), at_ms
                    change.rollback_by = _text(fields, "reporter") or str(record["principal"])
            case "bypass":
                reason = _text(fields, "reason")
                detail = "" if reason is None else f": {reason}"
                self._points.append(Point(f"an attempt to bypass the gate: {_text(fields, 'kind')}{detail}", index))
            case "incident":
                self._incident(step, at_ms, index, fields)
            case "rollout" if step == "registered":
                change.registrations.append(_registration(at_ms, str(record["principal"]), fields))
            case "rollout":
                self._rollout(step, at_ms, fields)
            case "change" if named == change.change_id:
                change.title = _text(fields, "title") or change.title
                change.outcome, change.closed_ms = _text(fields, "outcome"), at_ms
                change.rollback_status = _text(fields, "rollback_status")
                change.closed_by = _text(fields, "reporter") or str(record["principal"])
            case _:
                pass

    def finish(self) -> Change:
        """The change, with its open points."""
        change = self._change
        change.actions = list(self._actions.values())
        change.incidents = list(self._incidents.values())
        change.rollouts = list(self._rollouts.values())
        for action in change.actions:
            self._judge(action)
        for incident in change.incidents:
            if incident.closed_ms is None:
                self._points.append(Point(f"incident {incident.incident_id} is not closed"))
        for rollout in change.rollouts:
            if rollout.state in {"started", "promoted", "held"}:
                self._points.append(Point(f"rollout {rollout.rollout_id} has not ended: it is {rollout.state}"))
        if change.rollback == "failed":
            self._points.append(Point("the rollback of the change failed"))
        if change.closed_ms is None:
            self._points.append(Point("the change is not closed"))
        elif change.outcome == "rolled_back" and change.rollback_status is None and not self._rolled_back():
            self._points.append(Point("the change was closed as rolled back, but no rollback was reported"))
        tenants = [tenant for tenant in change.tenants if tenant != SYSTEM_TENANT]
        if len(tenants) > 1:
            self._points.append(Point("records of several tenants name this change id: it may be several changes"))
        change.points = self._points
        return change

    def _rolled_back(self) -> bool:
        reports = [self._change.rollback, *(action.rollback for action in self._actions.values())]
        return any(report is not None for report in reports)

    @staticmethod
    def _list(known: list[str], value: str | None) -> None:
        if value is not None and value not in known:
            known.append(value)

    def _action(self, fields: Mapping[str, JsonValue]) -> Action | None:
        call = _text(fields, "gate_call_id")
        approval = _text(fields, "approval_id") or (None if call is None else self._approval_of.get(call))
        key = approval or call
        if key is None:
            return None
        action = self._actions.setdefault(key, Action(approval_id=approval))
        self._list(action.gate_call_ids, call)
        return action

    def _advance(
        self, action: Action, subject: str, step: str, record: Record, fields: Mapping[str, JsonValue]
    ) -> None:
        at_ms, index = cast("int", record["at_ms"]), cast("int", record["sequence"])
        action.tenant = action.tenant or str(record["tenant"])
        action.tool = _text(fields, "tool") or action.tool
        action.model = _text(fields, "model") or action.model
        action.risk = max(filter(None, (action.risk, _text(fields, "risk"))), default=None)
        action.standing_plan = _text(fields, "standing_plan") or action.standing_plan
        if subject in {"tool_call", "approval"}:
            action.policy_digest = _text(fields, "policy_digest") or action.policy_digest
            self._list(self._change.policies, _text(fields, "policy_digest"))
        match subject, step:
            case "tool_call", "proposed":
                action.asked_ms = at_ms if action.asked_ms is None else action.asked_ms
                action.requester_key = action.requester_key or str(record["principal"])
            case "tool_call", "denied":
                action.denied_ms = at_ms
            case "tool_call", "released":
                action.released_ms, action.profile = at_ms, _text(fields, "profile")
                action.plan_digest = action.plan_digest or _text(fields, "rollback_digest")
                action.action_digest = action.action_digest or _text(fields, "action_digest")
                action.display_digest = action.display_digest or _text(fields, "display_digest")
            case "approval", "requested":
                action.action_digest = _text(fields, "action_digest")
                action.display_digest = _text(fields, "display_digest")
                action.votes_required = _count(fields, "votes_required") or 0
                action.requester = _text(fields, "requester_person")
                action.requester_key = _text(fields, "requester_key") or action.requester_key
                action.asked_ms = at_ms if action.asked_ms is None else action.asked_ms
            case "approval", "planned":
                action.plan_digest, action.planned_ms = _text(fields, "rollback_digest"), at_ms
                action.display_digest = _text(fields, "display_digest") or action.display_digest
            case "approval", "voted":
                vote = Vote(str(fields.get("voter")), fields.get("approve") is True, at_ms, index)
                action.votes.append(vote)
            case "approval", "granted":
                action.granted_ms = at_ms
            case "approval", "reopened":
                left = cast("list[JsonValue]", fields["voters"])
                action.granted_ms = None
                action.votes = [vote for vote in action.votes if not vote.approve or vote.person in left]
            case "approval", end if end in _ENDS:
                action.ended, action.ended_ms = end, at_ms
            case "permit", "consumed":
                action.consumed_ms = at_ms
            case "action", "reported":
                self._report(action, record, fields)
            case "rollback", "reported":
                action.rollback, action.rollback_ms = _text(fields, "outcome"), at_ms
                action.rollback_by = _text(fields, "reporter") or str(record["principal"])
            case _:
                pass

    def _report(self, action: Action, record: Record, fields: Mapping[str, JsonValue]) -> None:
        outcome = _text(fields, "outcome")
        if action.outcome not in (None, "unknown", outcome):
            self._points.append(
                Point(
                    f"two reports contradict each other: {action.outcome}, {outcome}", cast("int", record["sequence"])
                )
            )
        if outcome == "unknown" and action.outcome is not None:
            return  # it does not take back what is known
        action.outcome, action.exit_code = outcome, _count(fields, "exit_code")
        action.reported_ms, action.report_source = cast("int", record["at_ms"]), _text(fields, "source")
        action.reported_by = _text(fields, "reporter") or str(record["principal"])

    def _incident(self, step: str, at_ms: int, index: int, fields: Mapping[str, JsonValue]) -> None:
        incident_id = str(fields.get("incident_id"))
        incident = self._incidents.setdefault(incident_id, Incident(incident_id))
        incident.kind = _text(fields, "kind") or incident.kind
        incident.severity = _text(fields, "severity") or incident.severity
        incident.title = _text(fields, "title") or incident.title
        incident.outcome = _text(fields, "outcome") or incident.outcome
        if step == "opened":
            incident.opened_ms, incident.closed_ms = at_ms, None
        elif step == "closed":
            incident.closed_ms = at_ms
        if step == "opened" and incident.kind == "action_unreported":
            action = self._action(fields)
            if action is not None:
                action.unreported_alert = index

    def _rollout(self, step: str, at_ms: int, fields: Mapping[str, JsonValue]) -> None:
        rollout_id = str(fields.get("rollout_id"))
        rollout = self._rollouts.setdefault(rollout_id, Rollout(rollout_id))
        rollout.kind = _text(fields, "kind") or rollout.kind
        rollout.model = _text(fields, "model") or rollout.model
        rollout.revision = _text(fields, "revision") or rollout.revision
        rollout.previous_revision = _text(fields, "previous_revision") or rollout.previous_revision
        rollout.state, rollout.state_ms = step, at_ms
        rollout.reason = _text(fields, "reason")
        rollout.figures = _texts(fields, "figures")
        rollout.evaluation = _evaluation(fields) or rollout.evaluation
        rollout.rules = _texts(fields, "rules") or rollout.rules

    def _judge(self, action: Action) -> None:
        """What is open or wrong about one action."""
        name = f"call {', '.join(action.gate_call_ids)}" if action.approval_id is None else action.approval_id
        say = [*_broken_rules(action), *_unfinished(action, self._change.rollback is not None)]
        self._points += [Point(f"{name}: {text}") for text in say]


def _registration(at_ms: int, by: str, fields: Mapping[str, JsonValue]) -> Registration:
    return Registration(
        _text(fields, "kind"), _text(fields, "model"), _text(fields, "revision"), _count(fields, "artefact_files"),
        _count(fields, "artefact_bytes"), fields.get("signed") is True, at_ms, by,
    )  # fmt: skip


def _evaluation(fields: Mapping[str, JsonValue]) -> str | None:
    """What the record of a step says of the evaluation; None where it says nothing."""
    if fields.get("cases") is None:
        return _text(fields, "evaluation")
    passed, before, cases = (fields.get(name) for name in ("candidate_passed", "baseline_passed", "cases"))
    return (
        f"{passed} of {cases} cases, {before} before; p {fields.get('p_value')}, goes back at {fields.get('p_needed')}"
    )


def _broken_rules(action: Action) -> list[str]:
    """Rules that the gate must have kept. `audit verify` judges them over the whole log, this is for the reader."""
    found: list[str] = []
    approvers, risk = action.approvers(), action.risk or ""
    if action.left and action.profile != "observe":
        if risk in _VOTES and action.granted_ms is None:
            found.append(f"{risk} was released without a granted approval")
        if len(approvers) < _VOTES.get(risk, 0):
            found.append(f"{risk} was released with {len(approvers)} approving persons of {_VOTES[risk]}")
        if risk in _PLANNED and action.plan_digest is None:
            found.append(f"{risk} was released without a rollback plan")
    if risk == "R3" and action.requester is not None and action.requester in approvers:
        found.append("R3 was approved by its own requester")
    if action.ended is not None and action.left:
        found.append(f"it was released although its approval was {action.ended}")
    if action.denied_ms is not None and action.left and action.approval_id is None:
        found.append("it was released although it was denied")
    return found


def _unfinished(action: Action, rolled_back: bool) -> list[str]:
    if not action.left:
        if action.outcome is not None:
            return [f"it was reported as {action.outcome}, although it was never released"]
        if action.ended is not None:
            return [f"the approval was {action.ended}; nothing was executed"]
        return ["it still waits for its plan, votes or release"] if action.approval_id is not None else []
    found: list[str] = []
    if action.profile == "observe":
        found.append("it was released under the profile observe, which holds nothing back")
    if action.outcome is None and (action.risk in _PLANNED or action.approval_id is not None):
        alert = action.unreported_alert
        raised = "" if alert is None else f"; an alert was raised (record {alert})"
        found.append(f"no outcome was reported{raised}")
    if action.outcome == "unknown":
        found.append("its outcome is reported as unknown")
    if action.outcome == "failed" and action.rollback is None and not rolled_back:
        found.append("it failed, and no rollback was reported")
    if action.rollback == "failed":
        found.append("its rollback failed")
    return found
