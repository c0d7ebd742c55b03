"""What the records of a log must mean: the verifier's checks of releases, approvals, plans, reports and policies.

A state machine over decoded records, in log order; ids belong to a tenant. No I/O. Each rule that is broken is one
failure of its check, with the index of the record that breaks it:

```
 8 releases    what was released was proposed, classified, and allowed to be
 9 approvals   votes, grants and permits come in order, of enough persons, for one action; each is executed once
17 plans       R1 and above: change id and rollback plan were recorded before, and are those that were released
18 reports     each consumed permit has a report, or an alert that there is none
19 policies    calls were classified under a policy that was announced before
20 bodies      each encrypted body that a record names is there, or was deleted on the record
```

Times are the producers' clocks: they decide nothing but deadlines, and those with slack.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from deployments.audit.permit_rules import Origin, SignedPermits
from deployments.ports import JsonValue

VOTES: Mapping[str, int] = {"R2": 1, "R3": 2}
CHANGES = frozenset({"R1", "R2", "R3"})
_RANK: Mapping[str, int] = {"R0": 0, "R1": 1, "R2": 2, "R3": 3}
ENDS = frozenset({"approval.rejected", "approval.expired", "approval.cancelled", "approval.stale"})
_FOLLOWS: Mapping[str, frozenset[str]] = {
    "release": frozenset({"released"}),
    "needs_plan": frozenset({"held", "released"}),
    "hold": frozenset({"held", "released"}),
    "forbid": frozenset({"denied"}),
}
"""What may become of a call by how it was classified; any may be withheld."""
CLOCK_SLACK_MS = 60_000
"""How far the clocks of two producers may be apart before a step counts as late."""
DAY_MS = 86_400_000

Data = Mapping[str, JsonValue]
_Key = tuple[str, str]


@dataclass(slots=True)
class Check:
    """Outcome of one numbered check. `first_index` is the record of the first failure, where one is known.

    `skipped` says why the check could not be made; then it says nothing, neither way.
    """

    number: int
    name: str
    failures: int = 0
    first_index: int | None = None
    detail: str | None = None
    skipped: str | None = None

    def fail(self, index: int | None, detail: str) -> None:
        """Count a failure; the first one is described."""
        self.failures += 1
        if self.failures == 1:
            self.first_index, self.detail = index, detail


@dataclass(slots=True)
class Noticed:
    """What a reader should know although no rule is broken. Counts."""

    observed_releases: int = 0
    bypass_attempts: Counter[str] = field(default_factory=Counter[str])
    calls_without_outcome: int = 0
    incidents_open: int = 0
    reports_due: int = 0
    permits_before_reports: int = 0
    policies_announced_late: int = 0
    policies_unannounced: int = 0

    def to_json(self) -> dict[str, JsonValue]:
        """For the summary."""
        return {
            "bypass_attempts": dict(sorted(self.bypass_attempts.items())),
            "calls_without_outcome": self.calls_without_outcome,
            "incidents_open": self.incidents_open,
            "reports_due": self.reports_due,
            "permits_before_reports": self.permits_before_reports,
            "policies_announced_late": self.policies_announced_late,
            "policies_unannounced": self.policies_unannounced,
        }


@dataclass(slots=True)
class _Call:
    """A tool call by its `gate_call_id`."""

    risk: str | None = None
    outcome: str | None = None
    digest: str | None = None
    policy: str | None = None
    profile: str | None = None
    change: str | None = None
    step: str | None = None
    released: bool = False
    approval: _Key | None = None
    requested: _Key | None = None
    reported: str | None = None


@dataclass(slots=True)
class _Approval:
    """An approval by its id."""

    digest: str
    fingerprint: str | None
    call: str | None
    risk: str
    requester: str | None
    policy: str | None
    votes_required: int
    expires_ms: int | None
    plan: tuple[str, str] | None = None
    voters: set[str] = field(default_factory=set[str])
    against: bool = False
    granted: bool = False
    consumed: bool = False
    released: bool = False
    reported: str | None = None
    taken_back: str | None = None
    ended: str | None = None


@dataclass(frozen=True, slots=True)
class _Due:
    """A consumed permit that nobody has reported yet."""

    index: int
    at_ms: int


@dataclass(slots=True)
class _Unannounced:
    """Calls that were classified under a policy before it was announced: the first of them, and the earliest time."""

    index: int
    at_ms: int
    count: int = 0


class Meaning:
    """Takes every record of a log in order, then `finish`."""

    def __init__(self, checks: Mapping[str, Check], noticed: Noticed, grace_s: int = 900) -> None:
        """`grace_s`: how old a consumed permit may be, against the newest record, before its report is missed."""
        self._releases, self._approvals_check = checks["releases"], checks["approvals"]
        self._plans, self._reports, self._policies = checks["plans"], checks["reports"], checks["policies"]
        self._noticed = noticed
        self._grace_ms = grace_s * 1_000
        self._calls: dict[_Key, _Call] = {}
        self._approvals: dict[_Key, _Approval] = {}
        self._permits = SignedPermits()
        self._due: dict[_Key, _Due] = {}
        self._incidents: set[_Key] = set()
        self._announced: dict[str, set[str]] = {"policy_digest": set(), "config_digest": set()}
        self._unannounced: dict[str, _Unannounced] = {}
        self._newest_ms = 0
        self._reporting = False

    def take(self, index: int, record: Mapping[str, object], data: Data) -> None:
        """Advance by one record of v1. `data` are its fields (`record.fields_of`)."""
        at_ms, name, tenant = cast("int", record["at_ms"]), str(record["name"]), str(record["tenant"])
        self._newest_ms = max(self._newest_ms, at_ms)
        # Records of version 1 that lack the envelope's newer fields are older than the law that permits are reported.
        self._reporting = self._reporting or "change_id" in record
        subject = name.partition(".")[0]
        match subject:
            case "tool_call":
                self._call(index, tenant, name, data, at_ms)
            case "permit" if name != "permit.consumed":
                self._signed(index, tenant, name, data)
            case "approval" | "permit":
                self._approval(index, tenant, name, data, at_ms)
            case "action" | "rollback":
                self._report(index, tenant, name, data)
            case "incident":
                self._incident(tenant, name, data)
            case "policy" | "config":
                self._announce(index, name, data, at_ms)
            case "bypass":
                self._noticed.bypass_attempts[str(data["kind"])] += 1
            case _:
                pass

    def finish(self) -> None:
        """What is known only at the end: missing reports, and policies that were never announced."""
        self._noticed.incidents_open = len(self._incidents)
        # 18d. Old enough to have been reported.
        for due in self._due.values():
            if self._newest_ms - due.at_ms >= self._grace_ms:
                self._reports.fail(due.index, "a permit was consumed, and neither a report nor an alert follows")
            else:
                self._noticed.reports_due += 1
        # 19c. In a log that announces policies, every one that decided was announced.
        for found in self._unannounced.values():
            if self._announced["policy_digest"]:
                self._fail_policy(found, "a call was classified under a policy that was never announced")
            else:
                self._noticed.policies_unannounced += found.count

    # --- 8: calls ----------------------------------------------------------------------------------------------------

    def _call(self, index: int, tenant: str, name: str, data: Data, at_ms: int) -> None:
        key = (tenant, str(data["gate_call_id"]))
        if name == "tool_call.classified":
            self._classified(index, data, at_ms)
        problem = self._call_step(name, key, data)
        if problem is not None:
            self._releases.fail(index, problem)
        if name == "tool_call.released" and data["profile"] != "observe":
            problem = self._planned_release(tenant, data)
            if problem is not None:
                self._plans.fail(index, problem)

    def _call_step(self, name: str, key: _Key, data: Data) -> str | None:
        """Check 8. Why a step of a call was wrong, or None."""
        call = self._calls.get(key)
        # 8a. A call is proposed, once, then classified, then gets its outcome.
        if name == "tool_call.proposed":
            self._calls[key] = _Call()
            return None if call is None else "a call was proposed twice under one gate_call_id"
        step = name.removeprefix("tool_call.")
        if call is None:
            return f"a call was {step} that was never proposed"
        if step == "classified":
            again, call.step = call.step, call.step or step
            call.risk, call.outcome, call.digest = str(data["risk"]), str(data["outcome"]), _text(data, "action_digest")
            call.policy, call.profile = _text(data, "policy_digest"), _text(data, "profile")
            self._noticed.calls_without_outcome += again is None
            return "a call was classified twice" if again else _known_outcome(call.outcome)
        problem = self._as_classified(step, call, data)
        if problem is not None:
            return problem
        before, call.step = call.step, step
        if before == "classified":
            self._noticed.calls_without_outcome -= 1
        # 8c. A call has one outcome. One that was held may be released, where the gate itself waited for the approval.
        if before != "classified" and (before, step) != ("held", "released"):
            return f"a call was {step} twice" if before == step else f"a call was {step} after it was {before}"
        if step == "released":
            return self._release(call, key, data)
        return self._held(key, data) if step == "held" else None

    @staticmethod
    def _as_classified(step: str, call: _Call, data: Data) -> str | None:
        """8b. The outcome is of the class, the action and the policy that were classified, and follows from them."""
        if call.step is None:
            return f"a call was {step} that was never classified"
        risk, digest, policy = data.get("risk"), data.get("action_digest"), data.get("policy_digest")
        if risk is not None and risk != call.risk:
            return f"a call classified {call.risk} was {step} as {risk}"
        if digest is not None and call.digest is not None and digest != call.digest:
            return f"a call was {step} with another action than was classified"
        if policy is not None and policy != call.policy:
            return f"a call was {step} under another policy than it was classified"
        if call.profile is not None and data.get("profile") not in (None, call.profile):
            return f"a call was {step} under another profile than it was classified"
        if step != "withheld" and step not in _FOLLOWS.get(str(call.outcome), ()):
            return f"a call was {step} whose classification was '{call.outcome}'"
        return None

    def _held(self, key: _Key, data: Data) -> str | None:
        # 8d. What is held waits for an approval that was requested, of this very action.
        approval = self._approvals.get((key[0], str(data["approval_id"])))
        if approval is None:
            return "a call was held for an approval that was never requested"
        if not _same_action(approval, data):
            return "a call was held for an approval of another action"
        asked = data.get("votes_required")
        return None if asked in (None, approval.votes_required) else "a call was held for another number of votes"

    def _release(self, call: _Call, key: _Key, data: Data) -> str | None:
        """Why a release was wrong, or None."""
        risk = str(data["risk"])
        call.released, call.change = True, _text(data, "change_id")
        if isinstance(data.get("approval_id"), str):
            call.approval = (key[0], str(data["approval_id"]))
        # 8e. Nothing releases what is forbidden. The observe profile records and holds nothing else; such releases are
        #     counted, not judged.
        if risk not in {"R0", *CHANGES}:
            return f"a call of class {risk} was released"
        if data["profile"] == "observe":
            self._noticed.observed_releases += 1
            return None
        # 8f. A change has a change id and a rollback plan.
        if risk in CHANGES and not (data.get("change_id") and data.get("rollback_digest")):
            return f"{risk} was released without change_id and rollback_digest"
        # 8g. R2 and R3, and whatever else was not classified to be released, have a granted approval of the same
        #     action, consumed for this release alone.
        needed = risk in VOTES or call.outcome != "release" or call.approval is not None
        return self._approved(data, risk, call.approval) if needed else None

    def _approved(self, data: Data, risk: str, key: _Key | None) -> str | None:
        approval = None if key is None else self._approvals.get(key)
        if approval is None or not approval.granted:
            return f"{risk} was released without a granted approval"
        if not approval.consumed:
            return f"{risk} was released without consuming its permit"
        if not _same_action(approval, data):
            return f"{risk} was released for another action than was approved"
        # A call that was guessed at is classified higher than its clean repetition, never lower.
        if _RANK.get(approval.risk, 0) < _RANK[risk]:
            return f"{risk} was released by an approval of {approval.risk}"
        if approval.released:
            return "one approval released two calls"
        approval.released = True
        if len(approval.voters) < VOTES.get(risk, 0):
            return f"{risk} was released with {len(approval.voters)} distinct voters"
        return None

    # --- 9: approvals ------------------------------------------------------------------------------------------------

    def _approval(self, index: int, tenant: str, name: str, data: Data, at_ms: int) -> None:
        key = (tenant, str(data["approval_id"]))
        if name == "approval.requested":
            problem = self._requested(key, data)
        else:
            problem = self._approval_step(index, name, key, data, at_ms)
        if problem is not None:
            self._approvals_check.fail(index, problem)

    def _requested(self, key: _Key, data: Data) -> str | None:
        if key in self._approvals:
            return "an approval was requested twice under one id"
        risk, call_id, expires_ms = str(data["risk"]), _text(data, "gate_call_id"), data.get("expires_ms")
        self._approvals[key] = _Approval(
            digest=str(data["action_digest"]),
            fingerprint=_text(data, "fingerprint"),
            call=call_id,
            risk=risk,
            requester=_text(data, "requester_person"),
            policy=_text(data, "policy_digest"),
            votes_required=cast("int", data["votes_required"]),
            expires_ms=expires_ms if isinstance(expires_ms, int) else None,
        )
        # 9a. It asks for what its class needs, on behalf of a call that was classified so.
        if cast("int", data["votes_required"]) < VOTES.get(risk, 0):
            return f"an approval of {risk} asks for {data['votes_required']} votes"
        if call_id is None:
            return None
        call = self._calls.get((key[0], call_id))
        if call is None or call.step is None:
            return "an approval was requested for a call that was never classified"
        call.requested = key
        if call.risk != risk or (call.digest is not None and call.digest != data["action_digest"]):
            return "an approval was requested for another class or action than was classified"
        if data.get("policy_digest") not in (None, call.policy):
            return "an approval was requested under another policy than its call was classified"
        return None

    def _approval_step(self, index: int, name: str, key: _Key, data: Data, at_ms: int) -> str | None:
        """Check 9. Why a transition was wrong, or None."""
        approval = self._approvals.get(key)
        # 9b. Every step belongs to a request, names its action, and comes before its end.
        if approval is None:
            return f"{name} for an approval that was never requested"
        if data["action_digest"] != approval.digest:
            return f"{name} names another action than was requested"
        call, fingerprint, risk = data.get("gate_call_id"), data.get("fingerprint"), data.get("risk")
        if fingerprint is not None and approval.fingerprint is not None and fingerprint != approval.fingerprint:
            return f"{name} names another fingerprint than was requested"
        if call is not None and approval.call is not None and call != approval.call:
            return f"{name} names another call than was requested"
        if risk is not None and risk != approval.risk:
            return f"{name} names another class than was requested"
        if data.get("votes_required") not in (None, approval.votes_required):
            return f"{name} names another number of votes than was requested"
        if approval.policy is not None and data.get("policy_digest") not in (None, approval.policy):
            return f"{name} names another policy than was requested"
        if approval.ended is not None:
            return f"{name} after {approval.ended}"
        if name in ENDS:
            approval.ended = name
            if name == "approval.rejected" and not approval.against:
                return f"{name} without a vote against it"
            return f"{name} after the permit was consumed" if approval.consumed else None
        if approval.expires_ms is not None and at_ms > approval.expires_ms + CLOCK_SLACK_MS:
            return f"{name} after the request had expired"
        return self._step(index, name, key, approval, data, at_ms)

    def _step(self, index: int, name: str, key: _Key, approval: _Approval, data: Data, at_ms: int) -> str | None:
        match name:
            case "approval.planned":
                self._planned(index, approval, data)
            # 9c. Persons are counted, not votes (a vote may be recorded again after a failed attempt); nobody votes on
            #     a call of their own.
            case "approval.voted":
                return self._voted(index, approval, data)
            # 9d. A grant follows enough votes of distinct persons, and no vote against.
            case "approval.granted":
                approval.granted = True
                problem = _of_plan(approval, data)
                if problem is not None:
                    self._plans.fail(index, f"{approval.risk} was granted {problem}")
                return self._enough(name, approval, data)
            # 9f. Where votes count no more, the grant is none until others are given.
            case "approval.reopened":
                if not approval.granted or approval.consumed:
                    return f"{name} without a grant to take back"
                approval.granted = False
                approval.voters &= set(map(str, cast("list[JsonValue]", data["voters"])))
            # 9e. A permit follows a grant and is consumed once.
            case "permit.consumed":
                return self._consumed(index, name, key, approval, data, at_ms)
            case _:
                pass
        return None

    def _voted(self, index: int, approval: _Approval, data: Data) -> str | None:
        voter = str(data["voter"])
        if data["approve"] is not True:
            approval.against = True
        else:
            if approval.plan is None:
                self._plans.fail(index, "a vote was given before the rollback plan was recorded")
            approval.voters.add(voter)
        if voter == approval.requester:
            return f"{approval.risk} was voted on by its own requester"
        return _counted("approval.voted", approval, data)

    @staticmethod
    def _enough(name: str, approval: _Approval, data: Data) -> str | None:
        if approval.against:
            return f"{name} after a vote against it"
        if len(approval.voters) < VOTES.get(approval.risk, 0):
            return f"{approval.risk} was granted with {len(approval.voters)} distinct voters"
        problem, named = _counted(name, approval, data), data.get("voters")
        if problem is not None:
            return problem
        if isinstance(named, list) and not approval.voters.issuperset(map(str, named)):
            return f"{name} names a voter whose vote is not recorded"
        return None

    def _consumed(self, index: int, name: str, key: _Key, approval: _Approval, data: Data, at_ms: int) -> str | None:
        problem = _of_plan(approval, data)
        if problem is not None:
            self._plans.fail(index, f"a permit was consumed {problem}")
        if approval.consumed:
            return "a permit was consumed twice"
        approval.consumed = True
        # 18a. From here on a report is due.
        if self._reporting:
            self._due[key] = _Due(index, at_ms)
        else:
            self._noticed.permits_before_reports += 1
        if not approval.granted:
            return f"{name} without a granted approval"
        return self._enough(name, approval, data)

    def _signed(self, index: int, tenant: str, name: str, data: Data) -> None:
        """9f. A runner's permit is for one call that was released, and is redeemed once."""
        call = self._calls.get((tenant, str(data.get("gate_call_id"))))
        approval = self._approvals.get((tenant, str(data.get("approval_id"))))
        origin = Origin(
            released=call is not None and call.released,
            digest=(call and call.digest) or (approval and approval.digest),
            consumed=None if approval is None else approval.consumed,
            risk=None if approval is None else approval.risk,
            plan=None if approval is None else approval.plan,
        )
        problem = self._permits.take(tenant, name, data, origin)
        if problem is not None:
            self._approvals_check.fail(index, problem)

    # --- 17: plans ---------------------------------------------------------------------------------------------------

    def _planned(self, index: int, approval: _Approval, data: Data) -> None:
        # 17a. A plan has a change id. Another one may follow an attempt that failed after its record; what was granted
        #      before is not granted for it.
        plan = str(data["change_id"]), str(data["rollback_digest"])
        if not plan[0]:
            self._plans.fail(index, "a plan was recorded without a change id")
        approval.granted = approval.granted and plan == approval.plan
        approval.plan = plan

    def _planned_release(self, tenant: str, data: Data) -> str | None:
        """17b. Why a release was not of a plan recorded before, or None."""
        risk = str(data["risk"])
        if risk not in CHANGES:
            return None
        standing = data.get("standing_plan")
        if standing is not None:
            # The plan is in the policy, which check 19 holds it to. It covers R1 alone.
            if risk != "R1":
                return f"{risk} was released under a standing plan"
            return (
                None if standing == data.get("change_id") else "a release names another change than its standing plan"
            )
        approval = self._approvals.get((tenant, str(data.get("approval_id"))))
        problem = _of_plan(approval, data) if approval is not None else "without a plan recorded before"
        return None if problem is None else f"{risk} was released {problem}"

    # --- 18: reports -------------------------------------------------------------------------------------------------

    def _report(self, index: int, tenant: str, name: str, data: Data) -> None:
        problem = self._report_problem(tenant, name, data)
        if problem is not None:
            self._reports.fail(index, problem)

    def _report_problem(self, tenant: str, name: str, data: Data) -> str | None:
        # 18b. It says one of three things.
        action, outcome = name == "action.reported", str(data["outcome"])
        if outcome not in ("succeeded", "failed", "unknown" if action else "not_needed"):
            return f"{name} has an outcome that there is not"
        # 18e. What a runner reports, it has redeemed; a step of a way back is reported by itself.
        problem, alone = self._permits.reported(tenant, data) if action else (None, False)
        if problem is not None or alone:
            return problem
        # 18c. It is about a call that was released, or a permit that was consumed.
        call_id = _text(data, "gate_call_id")
        call = None if call_id is None else self._calls.get((tenant, call_id))
        if call_id is not None and call is None:
            return f"{name} for a call that was never proposed"
        key = self._reported(tenant, data, call)
        approval = None if key is None else self._approvals.get(key)
        if key is not None and (approval is None or not approval.consumed):
            return f"{name} for a permit that was never consumed"
        if key is not None and call is not None and call.approval not in (None, key):
            return f"{name} for a call that another permit released"
        if key is None and call is not None and not call.released:
            return f"{name} for a call that was never released"
        if action and key is not None:
            self._due.pop(key, None)
        problem = _of_action(call, approval, data)
        return f"{name} {problem}" if problem is not None else _said_before(name, outcome, call, approval)

    @staticmethod
    def _reported(tenant: str, data: Data, call: _Call | None) -> _Key | None:
        """The approval that a report is about: the one it names, or the one of its call."""
        approval_id = _text(data, "approval_id")
        if approval_id is not None:
            return tenant, approval_id
        if call is None:
            return None
        # A call that was held names the approval which released its repetition.
        return call.approval or (None if call.released else call.requested)

    def _incident(self, tenant: str, name: str, data: Data) -> None:
        key = (tenant, str(data["incident_id"]))
        if name == "incident.closed":
            self._incidents.discard(key)
        elif name == "incident.opened":
            self._incidents.add(key)
            if data["kind"] == "action_unreported":
                self._due.pop((tenant, str(data.get("approval_id"))), None)

    # --- 19: policies ------------------------------------------------------------------------------------------------

    def _announce(self, index: int, name: str, data: Data, at_ms: int) -> None:
        # 19a. A change names what was before it, and that was announced too.
        kind = "policy_digest" if name == "policy.changed" else "config_digest"
        previous, known = _text(data, "previous_digest"), self._announced[kind]
        if previous is not None and known and previous not in known:
            self._policies.fail(index, f"{name} follows one that was never announced")
        for field_name, digests in self._announced.items():
            digest = _text(data, field_name)
            if digest is not None:
                digests.add(digest)
        # 19d. An announcement that had to wait for the log may come behind the first calls; its time says so.
        found = self._unannounced.pop(str(data.get("policy_digest")), None)
        if found is not None and at_ms > found.at_ms + CLOCK_SLACK_MS:
            self._fail_policy(found, "a call was classified under a policy that was announced only afterwards")
        elif found is not None:
            self._noticed.policies_announced_late += found.count

    def _classified(self, index: int, data: Data, at_ms: int) -> None:
        # 19b. The policy that classified the call was announced before.
        digest = str(data["policy_digest"])
        if digest in self._announced["policy_digest"]:
            return
        if not self._reporting:  # older than the law that policies are announced
            self._noticed.policies_unannounced += 1
            return
        found = self._unannounced.setdefault(digest, _Unannounced(index, at_ms))
        found.count += 1
        found.at_ms = min(found.at_ms, at_ms)

    def _fail_policy(self, found: _Unannounced, problem: str) -> None:
        self._policies.fail(found.index, problem)
        self._policies.failures += found.count - 1


# --- what two records have to agree on ---------------------------------------------------------------------------


def _text(data: Data, name: str) -> str | None:
    value = data.get(name)
    return value if isinstance(value, str) else None


def _same_action(approval: _Approval, data: Data) -> bool:
    """True for the approved call itself, or for one that is equal but for its random id."""
    fingerprint = data.get("fingerprint")
    if fingerprint is not None and approval.fingerprint is not None:
        return fingerprint == approval.fingerprint
    return data["action_digest"] == approval.digest


def _known_outcome(outcome: str) -> str | None:
    return None if outcome in _FOLLOWS else f"a call was classified to an outcome that there is not: '{outcome[:32]}'"


def _counted(name: str, approval: _Approval, data: Data) -> str | None:
    votes = data.get("votes")
    if isinstance(votes, int) and votes > len(approval.voters):
        return f"{name} counts {votes} votes, and {len(approval.voters)} are recorded"
    return None


def _of_action(call: _Call | None, approval: _Approval | None, data: Data) -> str | None:
    """How a report departs from the call and the approval that it is about, or None."""
    same = (
        ("action_digest", "action", {call and call.digest, approval and approval.digest}),
        ("risk", "class", {call and call.risk, approval and approval.risk}),
        ("policy_digest", "policy", {call and call.policy, approval and approval.policy}),
        ("change_id", "change", {call and call.change, approval and approval.plan and approval.plan[0]}),
        ("rollback_digest", "rollback plan", {approval and approval.plan and approval.plan[1]}),
    )
    for field_name, words, known in same:
        value = data.get(field_name)
        if value is not None and known - {None} and value not in known:
            return f"names another {words}"
    return None


def _said_before(name: str, outcome: str, call: _Call | None, approval: _Approval | None) -> str | None:
    """A report that is not the first may only follow an unknown outcome, or a rollback that failed."""
    subject = approval or call
    if name == "action.reported":
        before = subject.reported if subject else None
        if subject is not None:
            subject.reported = outcome
        return None if before in (None, "unknown") else f"{name} again, after '{before}'"
    if approval is None:
        return None
    before, approval.taken_back = approval.taken_back, outcome
    return None if before in (None, "failed") else f"{name} again, after '{before}'"


def _of_plan(approval: _Approval, data: Data) -> str | None:
    """How a step departs from the approval's plan, or None."""
    if approval.plan is None:
        return "without a plan recorded before"
    change_id, rollback = data.get("change_id"), data.get("rollback_digest")
    if change_id is not None and change_id != approval.plan[0]:
        return "under another change id than was planned"
    if rollback is not None and rollback != approval.plan[1]:
        return "with another rollback plan than was recorded"
    return None


# --- 20: bodies --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Missing:
    """A body whose blob is not there. It may have been deleted on the record, further on."""

    index: int
    tenant: str
    at_ms: int
    key_id: str


class Bodies:
    """Check 20: each body's blob is there with its digest, or a later record says that it was deleted."""

    def __init__(self, check: Check, look_up: Callable[[str], bool | None]) -> None:
        """`look_up` answers for a blob's SHA-256 in hex: there and sound, there and damaged (False), or None."""
        self._check = check
        self._look_up = look_up
        self._missing: list[_Missing] = []
        self._shredded: set[tuple[str, str]] = set()
        self._pruned_ms: dict[str, int] = {}
        self._present: Counter[tuple[str, str]] = Counter()
        self.shredded = 0
        self.pruned = 0

    @property
    def present(self) -> int:
        """Bodies that are there, and whose key nobody destroyed on the record."""
        return sum(count for key, count in self._present.items() if key not in self._shredded)

    def take(self, index: int, record: Mapping[str, object], data: Data) -> None:
        """Advance by one record."""
        tenant, name, at_ms = str(record["tenant"]), record["name"], cast("int", record["at_ms"])
        if name == "tenant.shredded":
            self._shredded.update((tenant, str(key_id)) for key_id in cast("Sequence[object]", data["key_ids"]))
        elif name == "bodies.pruned":
            days = data.get("days")
            until_ms = at_ms - (days * DAY_MS if isinstance(days, int) else 0)
            self._pruned_ms[tenant] = max(until_ms, self._pruned_ms.get(tenant, 0))
        for field_name, value in data.items():
            if isinstance(value, dict) and field_name.endswith("_body"):
                self._body(index, tenant, at_ms, field_name, value)

    def _body(self, index: int, tenant: str, at_ms: int, name: str, body: Mapping[str, JsonValue]) -> None:
        match self._look_up(str(body["blob"])):
            case True:
                self._present[tenant, str(body["key_id"])] += 1
            case False:
                self._check.fail(index, f"the blob of {name} does not have its digest")
            case None:
                self._missing.append(_Missing(index, tenant, at_ms, str(body["key_id"])))

    def finish(self) -> None:
        """Missing bodies, now that every deletion on the record is known. A body without its key is shredded too."""
        self.shredded = self._present.total() - self.present
        for missing in self._missing:
            if (missing.tenant, missing.key_id) in self._shredded:
                self.shredded += 1
            elif missing.at_ms <= self._pruned_ms.get(missing.tenant, -1):
                self.pruned += 1
            else:
                self._check.fail(missing.index, "a body is missing, and no record says that it was deleted")
