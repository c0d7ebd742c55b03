import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from deployments.clock import FixedClock
from deployments.errors import AuditUnavailable, GateUnavailable, WitnessStale
from deployments.gate.binding import plan_digest
from deployments.gate.circumstances import PLAIN, Circumstances
from deployments.gate.classify import Classification, Classifier, Shadow
from deployments.gate.freezer import FROZEN
from deployments.gate.guard import EARLIER, MAX_RESULTS, NO_RECORD, NO_STORE, WITNESS_STALE, Guard
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.gate.tables import Outcome
from deployments.ports import (
    ActionOutcome,
    AuditEvent,
    BodyField,
    Denied,
    Digests,
    Frozen,
    GateProfile,
    Held,
    JsonValue,
    KeyId,
    Permit,
    Principal,
    Proposal,
    Receipt,
    Released,
    Risk,
    RollbackPlan,
    Scope,
    SessionId,
    TenantId,
    ToolCall,
    ToolResult,
    Withheld,
)
from tests.fakes_audit import InMemoryAudit
from tests.fakes_gate import InMemoryApprovals
from tests.unit.gate.guards import AGENT, DELETE, READ, Log, Stuck, call, context

BOB = Principal(TenantId("acme"), KeyId("key_bob"), "bob", frozenset({Scope.APPROVE}))
CAROL = Principal(TenantId("acme"), KeyId("key_carol"), "carol", frozenset({Scope.APPROVE}))
PLAN = RollbackPlan(("recreate it",), "it is there")


@pytest.fixture
def audit() -> InMemoryAudit:
    return InMemoryAudit()


@pytest.fixture
def approvals() -> InMemoryApprovals:
    return InMemoryApprovals()


@pytest.fixture
def guard(classifier: Classifier, approvals: InMemoryApprovals, audit: InMemoryAudit) -> Guard:
    return Guard(classifier, approvals, audit, FixedClock(), classify_timeout_s=20.0)


async def test_a_read_flows_with_canonical_arguments_and_its_record(guard: Guard, audit: InMemoryAudit) -> None:
    (verdict,) = await guard.judge(context(), [call('{ "command" : "kubectl get pods" }')])
    assert isinstance(verdict, Released)
    assert (verdict.arguments, verdict.risk) == (READ, Risk.R0)
    assert audit.names() == ["tool_call.proposed", "tool_call.classified", "tool_call.released"]
    assert verdict.receipt.index == 2
    assert audit.events[0].principal == "key_agent"


async def test_no_record_holds_an_argument_in_clear(guard: Guard, audit: InMemoryAudit) -> None:
    await guard.judge(context(), [call('{"command":"curl http://hunter2.example/"}')])
    await guard.judge(context(), [call('{"command":"hunter2 --flag"}')])
    assert audit.events
    assert "hunter2" not in repr(audit.events)


async def test_a_dangerous_call_is_held_for_a_plan_and_a_vote(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    (verdict,) = await guard.judge(context(), [call(DELETE)])
    assert isinstance(verdict, Held)
    assert (verdict.risk, verdict.plan_required) == (Risk.R2, True)
    assert audit.names() == ["tool_call.proposed", "tool_call.classified", "tool_call.held"]
    proposal = approvals.proposals[0]
    assert "would run:  kubectl delete namespace staging" in proposal.display
    assert proposal.requester_person == "ann"


async def approve(approvals: InMemoryApprovals, *voters: Principal) -> None:
    approval = next(iter(approvals.found.values()))
    approval = await approvals.plan(BOB, approval.approval_id, "CHG-1", PLAN)
    seen = Digests(approval.proposal.action_digest, approval.proposal.display_digest)
    for voter in voters:
        await approvals.vote(voter, approval.approval_id, seen, True, "")


async def test_an_approved_call_flows_once_when_it_is_emitted_again(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    await guard.judge(context(), [call(DELETE)])
    await approve(approvals, BOB)
    (verdict,) = await guard.judge(context(), [call(DELETE)])
    assert isinstance(verdict, Released)
    record = audit.named("tool_call.released")[0].data
    assert (record["approval_id"], record["change_id"]) == ("apr_1", "CHG-1")
    (again,) = await guard.judge(context(), [call(DELETE)])
    assert isinstance(again, Held)
    assert again.approval_id != "apr_1"


@pytest.mark.parametrize(
    "changed",
    [
        {"arguments": '{"command":"kubectl delete namespace  staging"}'},
        {"arguments": '{"command":"kubectl delete namespace dev"}'},
    ],
)
async def test_an_approval_covers_no_other_call(
    guard: Guard, approvals: InMemoryApprovals, changed: dict[str, str]
) -> None:
    await guard.judge(context(), [call(DELETE)])
    await approve(approvals, BOB)
    (verdict,) = await guard.judge(context(), [replace(call(DELETE), **changed)])
    assert isinstance(verdict, Held)


@pytest.mark.parametrize(
    "change",
    [
        {"session": SessionId("s2")},
        {"principal": replace(AGENT, key_id=KeyId("key_other"))},
        {"principal": replace(AGENT, tenant=TenantId("other"))},
    ],
)
async def test_an_approval_covers_no_other_session_key_or_tenant(
    guard: Guard, approvals: InMemoryApprovals, change: dict[str, object]
) -> None:
    await guard.judge(context(), [call(DELETE)])
    await approve(approvals, BOB)
    (verdict,) = await guard.judge(replace(context(), **change), [call(DELETE)])
    assert isinstance(verdict, Held)


async def test_two_people_are_needed_for_r3(guard: Guard, approvals: InMemoryApprovals) -> None:
    delete = call('{"command":"kubectl delete namespace prod"}')
    (first,) = await guard.judge(context(), [delete])
    assert isinstance(first, Held)
    assert first.risk is Risk.R3
    await approve(approvals, BOB)
    (second,) = await guard.judge(context(), [delete])
    assert isinstance(second, Held)
    assert second.plan_required is False
    shown = approvals.found[first.approval_id].proposal
    seen = Digests(shown.action_digest, shown.display_digest)
    await approvals.vote(CAROL, first.approval_id, seen, True, "")
    (third,) = await guard.judge(context(), [delete])
    assert isinstance(third, Released)


async def test_a_tool_that_was_not_offered_is_refused(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    for profile in GateProfile:
        (verdict,) = await guard.judge(context(profile), [call(READ, name="bash")])
        assert isinstance(verdict, Denied)
    assert set(audit.names()) == {"tool_call.proposed", "tool_call.classified", "tool_call.denied"}
    assert approvals.proposals == []


async def test_an_offered_tool_that_the_policy_does_not_know_is_held(guard: Guard) -> None:
    (verdict,) = await guard.judge(context(tools=frozenset({"teleport"})), [call("{}", name="teleport")])
    assert isinstance(verdict, Held)
    assert verdict.risk is Risk.R2


async def test_a_forbidden_call_is_denied_under_every_profile(guard: Guard, approvals: InMemoryApprovals) -> None:
    metadata = call('{"command":"curl http://169.254.169.254/latest"}')
    for profile in GateProfile:
        (verdict,) = await guard.judge(context(profile), [metadata])
        assert isinstance(verdict, Denied)
        assert verdict.risk is Risk.FORBIDDEN
    assert approvals.proposals == []


async def test_after_the_first_held_call_none_is_released(guard: Guard, audit: InMemoryAudit) -> None:
    calls = [call(READ, index=0), call(DELETE, index=1), call(READ, index=2), call(DELETE, index=3)]
    verdicts = await guard.judge(context(), calls)
    assert [type(verdict) for verdict in verdicts] == [Released, Held, Withheld, Withheld]
    assert [verdict.call.index for verdict in verdicts] == [0, 1, 2, 3]
    assert isinstance(verdicts[2], Withheld)
    assert verdicts[2].reason == EARLIER
    assert audit.names()[-4:] == [
        "tool_call.released", "tool_call.held", "tool_call.withheld", "tool_call.withheld",
    ]  # fmt: skip


async def test_only_the_first_held_call_opens_a_request(guard: Guard, approvals: InMemoryApprovals) -> None:
    await guard.judge(context(), [call(DELETE, index=0), call('{"command":"rm x"}', index=1)])
    assert len(approvals.proposals) == 1


@pytest.mark.parametrize("arguments", ["{", '{"command":"ls","command":"rm x"}', '{"command":"ls\\u0000"}', "[]", ""])
async def test_arguments_without_a_canonical_form_are_withheld(
    guard: Guard, audit: InMemoryAudit, arguments: str
) -> None:
    for profile in GateProfile:
        (verdict,) = await guard.judge(context(profile), [call(arguments)])
        assert isinstance(verdict, Withheld)
    assert audit.names()[-1] == "tool_call.withheld"


async def test_a_recovered_call_is_never_below_r2(guard: Guard) -> None:
    (verdict,) = await guard.judge(context(), [call(READ, recovered=True)])
    assert isinstance(verdict, Held)
    assert verdict.risk is Risk.R2


async def test_observe_releases_and_records_the_class(guard: Guard, audit: InMemoryAudit) -> None:
    (verdict,) = await guard.judge(context(GateProfile.OBSERVE), [call(DELETE)])
    assert isinstance(verdict, Released)
    assert verdict.risk is Risk.R2
    assert audit.named("tool_call.classified")[0].data["risk"] == "R2"


async def test_coding_releases_workspace_work_under_its_standing_plan(guard: Guard, audit: InMemoryAudit) -> None:
    (verdict,) = await guard.judge(context(GateProfile.CODING), [call('{"command":"pytest -q"}')])
    assert isinstance(verdict, Released)
    record = audit.named("tool_call.released")[0].data
    assert record["standing_plan"] == record["change_id"] == "standing-workspace-1"
    assert record["rollback_digest"]


async def test_without_the_log_no_call_of_any_class_leaves(guard: Guard, audit: InMemoryAudit) -> None:
    audit.down = True
    verdicts = await guard.judge(context(), [call(READ), call(DELETE)])
    assert verdicts == [Withheld(call(READ), NO_RECORD), Withheld(call(DELETE), NO_RECORD)]


@pytest.mark.parametrize("appends", [0, 1])
async def test_a_log_that_fails_half_way_releases_nothing(
    classifier: Classifier, approvals: InMemoryApprovals, appends: int
) -> None:
    whole = Guard(classifier, approvals, InMemoryAudit(), FixedClock(), classify_timeout_s=20.0)
    await whole.judge(context(), [call(DELETE)])
    await approve(approvals, BOB)
    forgetful = Log(*[""] * appends, *[AuditUnavailable("down")] * 9)
    failing = Guard(classifier, approvals, forgetful, FixedClock(), classify_timeout_s=20.0)
    (verdict,) = await failing.judge(context(), [call(DELETE)])
    assert verdict == Withheld(call(DELETE), NO_RECORD)


async def test_a_log_that_does_not_answer_releases_nothing(classifier: Classifier) -> None:
    guard = Guard(classifier, InMemoryApprovals(), Log("silent"), FixedClock(), 0.05, classify_timeout_s=20.0)
    (verdict,) = await guard.judge(context(), [call(READ)])
    assert verdict == Withheld(call(READ), NO_RECORD)


async def test_without_the_store_only_reads_flow(guard: Guard, approvals: InMemoryApprovals) -> None:
    approvals.down = True
    verdicts = await guard.judge(context(), [call(READ), call(DELETE)])
    assert isinstance(verdicts[0], Released)
    assert verdicts[1] == Withheld(call(DELETE), NO_STORE)
    (r1,) = await guard.judge(context(), [call('{"command":"terraform plan"}')])
    assert r1 == Withheld(call('{"command":"terraform plan"}'), NO_STORE)


# --- frozen keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", list(GateProfile))
@pytest.mark.parametrize("arguments", [READ, '{"command":"git commit -m x"}', DELETE])
async def test_nothing_of_a_frozen_key_leaves(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit, profile: GateProfile, arguments: str
) -> None:
    await approvals.freeze(BOB, AGENT.key_id, "")
    (verdict,) = await guard.judge(context(profile), [call(arguments)])
    assert verdict == Withheld(call(arguments), FROZEN)
    assert approvals.proposals == [], "nobody is asked to approve it"
    assert audit.names() == ["tool_call.proposed", "tool_call.classified", "tool_call.withheld"]
    assert str(audit.events[-1].data["reason"]).startswith("principal_frozen")


async def test_a_forbidden_call_of_a_frozen_key_stays_forbidden(guard: Guard, approvals: InMemoryApprovals) -> None:
    await approvals.freeze(BOB, AGENT.key_id, "")
    (verdict,) = await guard.judge(context(), [call('{"command":"curl http://169.254.169.254/latest"}')])
    assert isinstance(verdict, Denied)


async def test_a_freeze_and_a_release_are_known_within_two_seconds(
    classifier: Classifier, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    clock = FixedClock()
    guard = Guard(classifier, approvals, audit, clock, classify_timeout_s=20.0)
    steps = ((None, 0, Released), (True, 1_999, Released), (None, 1, Withheld), (False, 1_999, Withheld))
    for freezes, later_ms, expected in (*steps, (None, 1, Released)):
        if freezes is True:
            await approvals.freeze(BOB, AGENT.key_id, "")
        elif freezes is False:
            approvals.frozen_keys.clear()
        clock.advance(later_ms)
        (verdict,) = await guard.judge(context(), [call(READ)])
        assert isinstance(verdict, expected)


async def test_an_approved_call_of_a_key_frozen_this_moment_is_withheld(
    guard: Guard, approvals: InMemoryApprovals
) -> None:
    """The replica does not know it yet; the desk does."""
    await guard.judge(context(), [call(DELETE)])
    await approve(approvals, BOB)
    await approvals.freeze(BOB, AGENT.key_id, "")
    (verdict,) = await guard.judge(context(), [call(DELETE)])
    assert verdict == Withheld(call(DELETE), FROZEN)


COVERED = '{"command":"git commit -m x"}'


async def test_without_the_store_reads_flow_and_covered_changes_only_for_ten_seconds(
    classifier: Classifier, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    clock = FixedClock()
    guard = Guard(classifier, approvals, audit, clock, classify_timeout_s=20.0)
    coding = context(GateProfile.CODING)
    (verdict,) = await guard.judge(coding, [call(COVERED)])
    assert isinstance(verdict, Released)
    assert verdict.risk is Risk.R1
    approvals.down = True
    clock.advance(9_999)
    (verdict,) = await guard.judge(coding, [call(COVERED)])
    assert isinstance(verdict, Released)
    clock.advance(1)
    for profile in (GateProfile.CODING, GateProfile.OBSERVE):
        verdicts = await guard.judge(context(profile), [call(READ), call(COVERED)])
        assert isinstance(verdicts[0], Released)
        assert verdicts[1] == Withheld(call(COVERED), NO_STORE)
    approvals.down = False
    clock.advance(1_000)
    (verdict,) = await guard.judge(coding, [call(COVERED)])
    assert isinstance(verdict, Released)


async def test_a_key_that_was_frozen_stays_so_without_the_store(
    classifier: Classifier, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    clock = FixedClock()
    guard = Guard(classifier, approvals, audit, clock, classify_timeout_s=20.0)
    await approvals.freeze(BOB, AGENT.key_id, "")
    await guard.judge(context(), [call(READ)])
    approvals.down = True
    clock.advance(3_600_000)
    (verdict,) = await guard.judge(context(), [call(READ)])
    assert verdict == Withheld(call(READ), FROZEN)


class CountingApprovals(InMemoryApprovals):
    """Counts how often it is asked who is frozen; `stuck`: it does not answer until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def frozen(self) -> Sequence[Frozen]:
        self.asked += 1
        await self.go_on.wait()
        return await super().frozen()


async def test_the_store_is_asked_once_in_two_seconds_however_many_calls_there_are(
    classifier: Classifier, audit: InMemoryAudit
) -> None:
    approvals, clock = CountingApprovals(), FixedClock()
    guard = Guard(classifier, approvals, audit, clock, classify_timeout_s=20.0)
    approvals.go_on.clear()
    judging = [asyncio.create_task(guard.judge(context(), [call(READ)])) for _ in range(20)]
    while approvals.asked == 0:
        await asyncio.sleep(0)
    approvals.go_on.set()
    for verdicts in await asyncio.gather(*judging):
        assert isinstance(verdicts[0], Released)
    assert approvals.asked == 1
    clock.advance(2_000)
    await guard.judge(context(), [call(READ)])
    assert approvals.asked == 2
    approvals.down = True
    clock.advance(2_000)
    for later_ms, asked in ((0, 3), (999, 3), (1, 4)):
        clock.advance(later_ms)
        await guard.judge(context(), [call(READ)])
        assert approvals.asked == asked


# --- what a verdict and its records carry ----------------------------------------------------------------------------


async def test_a_released_call_says_under_what_it_left(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    (read,) = await guard.judge(context(), [call(READ)])
    assert isinstance(read, Released)
    record = audit.named("tool_call.released")[0].data
    assert (read.gate_call_id, read.action_digest) == (record["gate_call_id"], record["action_digest"])
    assert (read.policy_digest, read.approval_id, read.change_id) == (record["policy_digest"], None, None)
    (covered,) = await guard.judge(context(GateProfile.CODING), [call(COVERED)])
    assert isinstance(covered, Released)
    assert covered.approval_id is None
    assert covered.change_id is not None
    assert covered.rollback_digest == audit.named("tool_call.released")[1].data["rollback_digest"]
    await guard.judge(context(), [call(DELETE)])
    await approve(approvals, BOB)
    (approved,) = await guard.judge(context(), [call(DELETE)])
    assert isinstance(approved, Released)
    assert (approved.approval_id, approved.change_id) == ("apr_1", "CHG-1")
    assert approved.rollback_digest == plan_digest(PLAN.steps, PLAN.verify)
    assert approved.action_digest == approvals.proposals[-1].action_digest
    assert len({read.gate_call_id, covered.gate_call_id, approved.gate_call_id}) == 3


async def test_agent_and_foreign_text_are_recorded_and_shown(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    await guard.judge(replace(context(), agent="codex/1.0\x1b", untrusted=True), [call(DELETE)])
    record = audit.named("tool_call.classified")[0].data
    assert (record["agent"], record["untrusted"]) == ("codex/1.0\\x1b", True)
    shown = approvals.proposals[0].display
    assert "agent:      codex/1.0\\x1b (as it names itself)\n" in shown
    assert "untrusted:  text from outside was in the conversation\n" in shown
    assert "model:      demo-20b\n" in shown
    await guard.judge(context(), [call(READ)])
    assert audit.named("tool_call.classified")[1].data["untrusted"] is None


class Beside(Classifier):
    """A classifier with a shadow bundle beside it, and something to show of an edit."""

    def classify(
        self,
        tool: str,
        arguments: str | Mapping[str, JsonValue],
        profile: GateProfile = GateProfile.OPS,
        circumstances: Circumstances = PLAIN,
    ) -> Classification:
        found = super().classify(tool, arguments, profile, circumstances)
        return replace(found, shadow=Shadow("e" * 64, Risk.R3, Outcome.HOLD), preview="-old\n+new\nrisk:       R0\x1b")


async def test_what_another_bundle_would_have_done_is_recorded_and_an_edit_is_shown_whole(
    bundle: Bundle, audit: InMemoryAudit, approvals: InMemoryApprovals
) -> None:
    guard = Guard(Beside(bundle, ShellReader(20.0)), approvals, audit, FixedClock(), classify_timeout_s=20.0)
    await guard.judge(context(), [call(DELETE)])
    record = audit.named("tool_call.classified")[0].data
    assert (record["shadow_risk"], record["shadow_outcome"]) == ("R3", "hold")
    assert record["shadow_policy_digest"] == "e" * 64
    shown = approvals.proposals[0].display
    assert "would edit: | -old\nwould edit: | +new\nwould edit: | risk:       R0\\x1b\n" in shown


async def test_the_clients_own_flag_is_evidence(guard: Guard, audit: InMemoryAudit) -> None:
    await guard.judge(context(GateProfile.CODING), [call(COVERED)])
    await guard.observe(context(), [ToolResult("call_0", "fatal: something", failed=True)])
    assert audit.named("action.reported")[0].data["outcome"] == "failed"


class BrokenClassifier(Classifier):
    """A classifier with a bug."""

    def _findings(self, *args: object) -> list[object]:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise ZeroDivisionError


async def test_an_error_of_the_classifier_raises_the_class(bundle: Bundle) -> None:
    broken = BrokenClassifier(bundle)
    guard = Guard(broken, InMemoryApprovals(), InMemoryAudit(), FixedClock(), classify_timeout_s=20.0)
    (verdict,) = await guard.judge(context(), [call(READ)])
    assert isinstance(verdict, Held)
    assert verdict.risk is Risk.R2


async def test_a_classifier_that_takes_too_long_raises_the_class(bundle: Bundle) -> None:
    stuck = Stuck(bundle)
    guard = Guard(stuck, InMemoryApprovals(), InMemoryAudit(), FixedClock(), classify_timeout_s=0.05)
    try:
        (verdict,) = await guard.judge(context(), [call(READ)])
    finally:
        stuck.go_on.set()
    assert isinstance(verdict, Held)
    assert (verdict.risk, verdict.reasons[0]) == (
        Risk.R2, "classifier.error: the classifier did not answer in time",
    )  # fmt: skip


async def test_names_from_the_model_cannot_break_the_record(guard: Guard, audit: InMemoryAudit) -> None:
    odd = "x" * 5000 + "\ud800\x00"
    (verdict,) = await guard.judge(context(tools=frozenset({odd})), [replace(call("{}"), name=odd, call_id=odd)])
    assert isinstance(verdict, Held | Withheld)
    assert audit.names()[-1] in {"tool_call.held", "tool_call.withheld"}


async def test_no_calls_no_records(guard: Guard, audit: InMemoryAudit) -> None:
    assert list(await guard.judge(context(), [])) == []
    assert audit.events == []


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "recorded"), [('{ "command" : "kubectl get pods" }', READ), ("not JSON \ud800", "not JSON \ud800")]
)
async def test_arguments_reach_the_log_as_a_digest(
    guard: Guard, audit: InMemoryAudit, arguments: str, recorded: str
) -> None:
    await guard.judge(context(), [call(arguments)])
    body = audit.named("tool_call.proposed")[0].bodies[BodyField.ARGUMENTS]
    assert body.digest == hashlib.sha256(recorded.encode("utf-8", "surrogatepass")).digest()
    assert body.data is None
    assert "arguments_commit" not in audit.events[0].data


async def test_arguments_are_kept_only_for_tenants_that_keep_them(
    classifier: Classifier, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    guard = Guard(
        classifier, approvals, audit, FixedClock(), classify_timeout_s=20.0,
        keeps_arguments=lambda tenant: tenant == "acme",
    )  # fmt: skip
    await guard.judge(context(), [call(READ)])
    stranger = replace(AGENT, tenant=TenantId("other"))
    await guard.judge(replace(context(), principal=stranger), [call(READ)])
    kept = [event.bodies[BodyField.ARGUMENTS].data for event in audit.named("tool_call.proposed")]
    assert kept == [READ.encode(), None]


# --- a witness that is stale -----------------------------------------------------------------------------------------


class UnwitnessedAudit(InMemoryAudit):
    """Takes no release of R2 and R3, as a sink whose witnesses are silent."""

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        if any(event.name == "tool_call.released" and event.data["risk"] in {"R2", "R3"} for event in events):
            raise WitnessStale("no witness")
        return await super().append(events)


class UnwitnessedApprovals(InMemoryApprovals):
    """The store behind such a sink: no permit is consumed."""

    async def propose(self, proposal: Proposal) -> Permit:
        raise WitnessStale("no witness")


async def test_without_a_witness_reads_flow_and_changes_say_why_not(classifier: Classifier) -> None:
    audit = UnwitnessedAudit()
    guard = Guard(classifier, InMemoryApprovals(), audit, FixedClock(), classify_timeout_s=20.0)
    calls = [call(READ, index=0), call(DELETE, index=1), call(READ, index=2)]
    verdicts = await guard.judge(context(GateProfile.OBSERVE), calls)
    assert isinstance(verdicts[0], Released)
    assert verdicts[1:] == [Withheld(calls[1], WITNESS_STALE), Withheld(calls[2], EARLIER)]
    assert audit.names()[-3:] == ["tool_call.released", "tool_call.withheld", "tool_call.withheld"]
    assert len(audit.named("tool_call.proposed")) == 3


async def test_a_permit_that_no_witness_covers_is_withheld_and_says_so(classifier: Classifier) -> None:
    audit = UnwitnessedAudit()
    guard = Guard(classifier, UnwitnessedApprovals(), audit, FixedClock(), classify_timeout_s=20.0)
    (verdict,) = await guard.judge(context(), [call(DELETE)])
    assert verdict == Withheld(call(DELETE), WITNESS_STALE)
    assert "witness" in str(audit.named("tool_call.withheld")[0].data["reason"])


async def test_a_store_without_its_log_says_that_the_log_is_down(
    classifier: Classifier, audit: InMemoryAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    approvals = InMemoryApprovals()

    async def no_log(_proposal: Proposal) -> Permit:
        raise AuditUnavailable("down")

    monkeypatch.setattr(approvals, "propose", no_log)
    guard = Guard(classifier, approvals, audit, FixedClock(), classify_timeout_s=20.0)
    (verdict,) = await guard.judge(context(), [call(DELETE)])
    assert verdict == Withheld(call(DELETE), NO_RECORD)


# --- what became of the calls ----------------------------------------------------------------------------------------

CODING = context(GateProfile.CODING)
TESTS = '{"command":"pytest -q"}'


def named(call_id: str, arguments: str = TESTS) -> ToolCall:
    return replace(call(arguments), call_id=call_id)


async def test_the_result_of_a_change_under_a_standing_plan_is_its_report(guard: Guard, audit: InMemoryAudit) -> None:
    await guard.judge(CODING, [named("call_aaaaaaaa")])
    released = audit.named("tool_call.released")[0].data
    output = "Exit code: 1\nOutput:\nhunter2"
    await guard.observe(CODING, [ToolResult("call_aaaaaaaa", output)])
    (event,) = audit.named("action.reported")
    assert event.data == {
        "gate_call_id": released["gate_call_id"],
        "action_digest": released["action_digest"],
        "call_id": "call_aaaaaaaa",
        "tool": "shell",
        "risk": "R1",
        "outcome": "failed",
        "source": "conversation",
        "exit_code": 1,
        "change_id": "standing-workspace-1",
        "policy_digest": released["policy_digest"],
    }
    assert event.bodies[BodyField.OUTPUT].digest == hashlib.sha256(output.encode()).digest()
    assert "hunter2" not in repr(audit.events)


async def test_a_result_that_a_client_sends_again_is_reported_once(guard: Guard, audit: InMemoryAudit) -> None:
    await guard.judge(CODING, [named("call_aaaaaaaa")])
    for output in ("fine", "other"):
        await guard.observe(CODING, [ToolResult("call_aaaaaaaa", output)])
    assert len(audit.named("action.reported")) == 1


async def test_a_report_without_the_log_is_made_again_with_the_same_content(guard: Guard, audit: InMemoryAudit) -> None:
    await guard.judge(CODING, [named("call_aaaaaaaa")])
    audit.down = True
    with pytest.raises(AuditUnavailable):
        await guard.observe(CODING, [ToolResult("call_aaaaaaaa", "fine")])
    audit.down = False
    await guard.observe(CODING, [ToolResult("call_aaaaaaaa", "fine, again")])
    (event,) = audit.named("action.reported")
    assert event.bodies[BodyField.OUTPUT].digest == hashlib.sha256(b"fine").digest()


async def test_reads_are_not_reported(guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit) -> None:
    await guard.judge(context(), [named("call_aaaaaaaa", READ)])
    await guard.observe(context(), [ToolResult("call_aaaaaaaa", "Exit code: 0\nOutput:\n")])
    assert "action.reported" not in audit.names()
    assert approvals.results == []


async def test_the_store_is_asked_about_permitted_and_unknown_calls(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    await guard.judge(context(), [named("call_heldheld", DELETE)])
    await approve(approvals, BOB)
    await guard.judge(context(), [named("call_permitted", DELETE)])
    results = [ToolResult("call_permitted", '{"exit_code":0}'), ToolResult("call_elsewhere", "x")]
    await guard.observe(context(), results)
    assert [(each.call_id, each.outcome, each.exit_code, each.refused) for each in approvals.results] == [
        ("call_permitted", ActionOutcome.SUCCEEDED, 0, None),
        ("call_elsewhere", ActionOutcome.UNKNOWN, None, None),
    ]
    assert approvals.results[0].output_digest == hashlib.sha256(b'{"exit_code":0}').digest()
    assert "action.reported" not in audit.names()


async def test_the_proposal_carries_the_id_that_clients_echo(guard: Guard, approvals: InMemoryApprovals) -> None:
    await guard.judge(context(), [named("call_heldheld", DELETE)])
    assert approvals.proposals[0].call_id == "call_heldheld"


FORBIDDEN = '{"command":"curl http://169.254.169.254/latest"}'


@pytest.mark.parametrize(
    ("arguments", "denied", "reason"),
    [
        (DELETE, False, "The call was held."),
        (FORBIDDEN, True, "The policy forbids this call."),
        ("{", False, "JSON"),
    ],
)
async def test_the_result_of_a_refused_call_is_told_with_what_is_known_of_it(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit, arguments: str, denied: bool, reason: str
) -> None:
    await guard.judge(context(), [named("call_refused1", arguments)])
    for _ in range(2):
        await guard.observe(context(), [ToolResult("call_refused1", "done anyway")])
    (told,) = approvals.results
    assert told.refused is not None
    assert (told.refused.denied, told.refused.tool) == (denied, "shell")
    assert reason in told.refused.reason
    assert told.refused.gate_call_id == audit.events[0].data["gate_call_id"]
    assert (told.refused.approval_id is not None) == (arguments == DELETE)


async def test_a_call_that_was_withheld_without_the_log_is_remembered_too(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    audit.down = True
    await guard.judge(context(), [named("call_withheld", READ)])
    audit.down = False
    await guard.observe(context(), [ToolResult("call_withheld", "done anyway")])
    assert approvals.results[0].refused is not None


async def test_an_id_that_comes_again_means_the_newer_call(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    await guard.judge(context(), [named("call_refused1", DELETE)])
    await guard.judge(context(), [named("call_refused1", READ)])
    await guard.observe(context(), [ToolResult("call_refused1", "pods")])
    assert approvals.results == []
    assert "action.reported" not in audit.names()


async def test_an_id_that_counts_is_no_evidence_of_a_bypass(guard: Guard, approvals: InMemoryApprovals) -> None:
    await guard.judge(context(), [named("call_0_0", DELETE)])
    await guard.observe(context(), [ToolResult("call_0_0", "x"), ToolResult("call_0_1", "x")])
    assert approvals.results == []


async def test_an_id_that_counts_is_believed_where_the_call_was_released(guard: Guard, audit: InMemoryAudit) -> None:
    await guard.judge(CODING, [named("call_0_0")])
    await guard.observe(CODING, [ToolResult("call_0_0", "x")])
    assert len(audit.named("action.reported")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"session": SessionId("s2")},
        {"principal": replace(AGENT, key_id=KeyId("key_other"))},
        {"principal": replace(AGENT, tenant=TenantId("other"))},
    ],
)
async def test_nobody_reports_for_another_session_key_or_tenant(
    guard: Guard, audit: InMemoryAudit, change: dict[str, object]
) -> None:
    await guard.judge(CODING, [named("call_aaaaaaaa")])
    await guard.observe(replace(CODING, **change), [ToolResult("call_aaaaaaaa", "x")])
    assert "action.reported" not in audit.names()


async def test_a_store_that_is_down_loses_no_report_that_needs_none(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    await guard.judge(CODING, [named("call_aaaaaaaa")])
    approvals.down = True
    with pytest.raises(GateUnavailable):
        await guard.observe(CODING, [ToolResult("call_unknown1", "x"), ToolResult("call_aaaaaaaa", "x")])
    assert len(audit.named("action.reported")) == 1


async def test_only_so_many_results_of_one_request_count(guard: Guard, approvals: InMemoryApprovals) -> None:
    await guard.observe(context(), [ToolResult(f"call_{number:08}", "x") for number in range(MAX_RESULTS + 50)])
    assert [each.call_id for each in approvals.results] == [
        f"call_{number:08}" for number in range(50, MAX_RESULTS + 50)
    ]


async def test_no_results_no_questions(guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit) -> None:
    await guard.observe(context(), [])
    assert approvals.results == []
    assert audit.events == []
