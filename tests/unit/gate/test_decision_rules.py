"""The guard's decisions, each alone: the classifier says what the test wrote down, so that nothing else has a say."""

import asyncio
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import cast

import pytest

from deployments.clock import FixedClock
from deployments.errors import (
    AuditInDoubt,
    AuditUnavailable,
    EngineTimeout,
    Forbidden,
    GateUnavailable,
    WitnessStale,
)
from deployments.gate.binding import plan_digest
from deployments.gate.circumstances import PLAIN, Circumstances
from deployments.gate.classify import Classification, Classifier, Shadow
from deployments.gate.freezer import FROZEN, MAX_LISTED
from deployments.gate.guard import (
    EARLIER,
    MAX_NAME,
    MAX_REASON,
    MAX_RESULTS,
    NO_RECORD,
    NO_STORE,
    WITNESS_STALE,
    Guard,
)
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.specs import StandingPlan
from deployments.gate.tables import Outcome
from deployments.ports import (
    ActionOutcome,
    Approval,
    ApprovalId,
    BodyField,
    CallResult,
    Denied,
    Frozen,
    GateContext,
    GateProfile,
    Held,
    JsonValue,
    KeyId,
    Permit,
    Proposal,
    Released,
    Risk,
    RollbackPlan,
    TenantId,
    ToolCall,
    ToolResult,
    Verdict,
    Withheld,
)
from tests.fakes_gate import InMemoryApprovals
from tests.unit.gate.guards import AGENT, Log, Stuck, context
from tests.unit.gate.tiny import tiny, write

PLAN = StandingPlan(change_id="standing-1", steps=("git reset",), verify="git status")
POLICY = "f" * 64
OUTCOMES = {Risk.R0: Outcome.RELEASE, Risk.R1: Outcome.NEEDS_PLAN, Risk.FORBIDDEN: Outcome.FORBID}


@cache
def bundle() -> Bundle:
    with tempfile.TemporaryDirectory() as directory:
        return read_policy(write(Path(directory), tiny()))


def found(risk: Risk, outcome: Outcome | None = None, arguments: str | None = "{}") -> Classification:
    """What a classifier made of a call; the outcome is that of `ops` unless it is given."""
    return Classification(
        risk=risk,
        outcome=outcome or OUTCOMES.get(risk, Outcome.HOLD),
        reasons=(f"a.rule: because of {risk.value} in 'secret words'",),
        rules=("a.rule",),
        commands=(),
        arguments=arguments,
        covered=False,
        standing=None,
        policy_digest=POLICY,
    )


R0, R1, R2, R3, NEVER = (found(risk) for risk in (Risk.R0, Risk.R1, Risk.R2, Risk.R3, Risk.FORBIDDEN))
COVERED = replace(found(Risk.R1, Outcome.RELEASE), covered=True, standing=PLAN)
OBSERVED = found(Risk.R2, Outcome.RELEASE)
UNREADABLE = found(Risk.R2, arguments=None)


class Told(Classifier):
    """Answers in turn what the test wrote down; `asked` is under which circumstances."""

    def __init__(self, *answers: Classification) -> None:
        super().__init__(bundle())
        self.answers = list(answers)
        self.asked: list[tuple[str, str, GateProfile, Circumstances]] = []

    def classify(
        self,
        tool: str,
        arguments: str | Mapping[str, JsonValue],
        profile: GateProfile = GateProfile.OPS,
        circumstances: Circumstances = PLAIN,
    ) -> Classification:
        self.asked.append((tool, str(arguments), profile, circumstances))
        return self.answers.pop(0)


class Desk(InMemoryApprovals):
    """An approval store that answers a proposal with what the test wrote down."""

    def __init__(self, *answers: Permit | Exception | str) -> None:
        super().__init__()
        self.answers = list(answers)
        self.observing: Exception | str = ""

    async def propose(self, proposal: Proposal) -> Permit | Approval:
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            return await super().propose(proposal)
        self.proposals.append(proposal)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            await asyncio.Event().wait()
            raise AssertionError
        return answer

    async def observe(self, context: GateContext, results: Sequence[CallResult]) -> None:
        if isinstance(self.observing, Exception):
            raise self.observing
        if self.observing:
            await asyncio.Event().wait()
        await super().observe(context, results)


PERMIT = Permit(ApprovalId("apr_9"), "a" * 64, "CHG-9", "d" * 64, ("bob",))


@dataclass
class Gate:
    """A guard with everything around it."""

    guard: Guard
    told: Told
    desk: Desk
    log: Log

    def judge(self, *calls: ToolCall, context: GateContext | None = None) -> list[Verdict]:
        return list(asyncio.run(self.guard.judge(context or CONTEXT, calls)))

    def observe(self, *results: ToolResult, context: GateContext | None = None) -> None:
        asyncio.run(self.guard.observe(context or CONTEXT, results))


def gate(*answers: Classification, desk: Desk | None = None, log: Log | None = None, **limits: float) -> Gate:
    told, desk, log = Told(*answers), desk or Desk(), log or Log()
    audit_s, approvals_s = limits.get("audit_timeout_s", 30.0), limits.get("approvals_timeout_s", 30.0)
    return Gate(Guard(told, desk, log, FixedClock(), audit_s, 30.0, approvals_s), told, desk, log)


KEY = replace(AGENT, scopes=frozenset())
CONTEXT = replace(context(), principal=KEY)


def call(index: int = 0, **changes: object) -> ToolCall:
    made = ToolCall(f"call_abcdefgh{index}", 0, index, "shell", '{"command":"ls"}')
    return replace(made, **changes)


def kinds(verdicts: Sequence[Verdict]) -> str:
    letters = {Released: "R", Held: "H", Denied: "D", Withheld: "W"}
    return "".join(letters[type(verdict)] for verdict in verdicts)


def reason(verdict: Verdict) -> str:
    assert isinstance(verdict, Withheld)
    return verdict.reason


# --- what leaves, and with which records -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((), ""),
        ((R0,), "R"),
        ((R0, R0), "RR"),
        ((COVERED,), "R"),
        ((OBSERVED,), "R"),
        ((R1,), "H"),
        ((R2,), "H"),
        ((R3,), "H"),
        ((NEVER,), "D"),
        ((UNREADABLE,), "W"),
        ((replace(UNREADABLE, outcome=Outcome.RELEASE),), "W"),
        ((replace(NEVER, arguments=None),), "D"),
        ((R0, R2, R0), "RHW"),
        ((R2, R0, R2), "HWW"),
        ((NEVER, R0), "DW"),
        ((UNREADABLE, R0), "WW"),
        ((R0, NEVER, R2, R0), "RDWW"),
        ((R2, NEVER), "HW"),
    ],
)
def test_what_leaves_of_a_turn(answers: tuple[Classification, ...], expected: str) -> None:
    each = gate(*answers)
    calls = [call(index) for index in range(len(answers))]
    verdicts = each.judge(*calls)
    assert kinds(verdicts) == expected
    assert [verdict.call for verdict in verdicts] == calls
    later = expected.lstrip("R")[1:]
    assert all(reason(verdict) == EARLIER for verdict in verdicts[len(expected) - len(later) :])
    assert len(each.desk.proposals) == ("H" in expected), "only the first one that is held opens a request"


@pytest.mark.parametrize(
    ("answers", "appends"),
    [
        ((R0,), [["proposed", "classified", "released"]]),
        ((R0, COVERED), [["proposed", "classified"] * 2 + ["released"] * 2]),
        ((R2,), [["proposed", "classified"], ["held"]]),
        ((R0, R2), [["proposed", "classified"] * 2, ["released", "held"]]),
        ((R2, R0), [["proposed", "classified"] * 2, ["held", "withheld"]]),
        ((NEVER,), [["proposed", "classified"], ["denied"]]),
        ((), []),
    ],
)
def test_a_proposal_is_on_record_before_anything_is_asked(
    answers: tuple[Classification, ...], appends: list[list[str]]
) -> None:
    each = gate(*answers)
    verdicts = each.judge(*(call(index) for index in range(len(answers))))
    assert each.log.appends == appends
    places = {verdict.receipt.index for verdict in verdicts if isinstance(verdict, Released | Held | Denied)}
    outcomes = [at for at, event in enumerate(each.log.events) if event.name[10:] in {"released", "held", "denied"}]
    assert places == set(outcomes)


@pytest.mark.parametrize("fault", [AuditUnavailable("x"), "short", "silent", EngineTimeout("x")])
@pytest.mark.parametrize(("answers", "appends"), [((R0, R0), 1), ((R2, R0), 1), ((R2, R0), 2), ((NEVER,), 2)])
def test_without_every_record_no_call_of_any_class_leaves(
    fault: Exception | str, answers: tuple[Classification, ...], appends: int
) -> None:
    each = gate(*answers, log=Log(*[""] * (appends - 1), fault), audit_timeout_s=0.05 if fault == "silent" else 30.0)
    verdicts = each.judge(*(call(index) for index in range(len(answers))))
    assert [reason(verdict) for verdict in verdicts] == [NO_RECORD] * len(answers)
    assert len(each.desk.proposals) == (appends == 2 and answers[0] is R2), "nothing is asked before it is on record"
    each.observe(ToolResult("call_abcdefgh0", "done"))
    (told,) = each.desk.results
    assert told.refused is not None
    assert told.refused.reason == NO_RECORD


def test_a_permit_under_a_log_that_fails_afterwards_releases_nothing() -> None:
    each = gate(R2, desk=Desk(PERMIT), log=Log("", AuditUnavailable("x")))
    assert [reason(verdict) for verdict in each.judge(call())] == [NO_RECORD]


def stale(*answers: Classification, desk: Desk | None = None) -> tuple[Gate, list[Verdict]]:
    """The gate behind a log that takes no second append, or the first if there is one alone, for want of a witness."""
    alone = all(answer.outcome is Outcome.RELEASE for answer in answers)
    each = gate(*answers, desk=desk, log=Log(*([] if alone else [""]), WitnessStale("x")))
    return each, each.judge(*(call(index) for index in range(len(answers))))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((R0, OBSERVED, R0), "RWW"),
        ((R0, COVERED, R0), "RRR"),
        ((OBSERVED,), "W"),
        ((replace(OBSERVED, risk=Risk.R3),), "W"),
        ((OBSERVED, R2), "WH"),
        ((R0, R2, R0), "RHW"),
        ((OBSERVED, NEVER), "WD"),
        ((NEVER, OBSERVED), "DW"),
    ],
)
def test_without_a_witness_no_change_leaves(answers: tuple[Classification, ...], expected: str) -> None:
    each, verdicts = stale(*answers)
    assert kinds(verdicts) == expected
    first = next((at for at, verdict in enumerate(verdicts) if not isinstance(verdict, Released)), None)
    if first is not None and answers[first].outcome is Outcome.RELEASE:
        assert reason(verdicts[first]) == WITNESS_STALE
    assert all(isinstance(each, Released) is (letter == "R") for each, letter in zip(verdicts, expected, strict=True))
    assert len({event.event_id for event in each.log.events}) == len(each.log.events)


def test_a_permit_without_a_witness_is_no_release() -> None:
    each, verdicts = stale(R2, R0, desk=Desk(PERMIT))
    assert [reason(verdict) for verdict in verdicts] == [WITNESS_STALE, EARLIER]
    each, verdicts = stale(R1, desk=Desk(PERMIT))
    assert kinds(verdicts) == "R"
    assert each.log.names()[-1] == "tool_call.released"


def test_a_log_that_still_refuses_releases_nothing() -> None:
    each = gate(R0, OBSERVED, log=Log(WitnessStale("x"), WitnessStale("x")))
    assert [reason(verdict) for verdict in each.judge(call(0), call(1))] == [WITNESS_STALE] * 2
    each = gate(R2, log=Log(WitnessStale("x")))
    assert [reason(verdict) for verdict in each.judge(call())] == [WITNESS_STALE]
    assert each.desk.proposals == []


# --- what decides about one call -------------------------------------------------------------------------------------


def test_a_defect_goes_before_everything_else() -> None:
    for answer in (R0, R2, NEVER):
        each = gate(answer)
        (verdict,) = each.judge(call(defect="It was written as text.", name="other"))
        assert reason(verdict) == "It was written as text."


def test_a_call_that_was_not_offered_is_denied_whatever_it_is() -> None:
    for answer in (R0, R2, UNREADABLE):
        each = gate(answer)
        (verdict,) = each.judge(call(name="other"))
        assert isinstance(verdict, Denied)
        assert verdict.reasons[0] == "The request did not offer this tool."
        assert verdict.reasons[1:] == answer.reasons
        assert each.log.named("tool_call.classified")[0].data["outcome"] == "forbid"
        assert each.log.appends[0] == ["proposed", "classified"]


def test_what_a_denial_carries() -> None:
    each = gate(NEVER)
    (verdict,) = each.judge(call())
    assert isinstance(verdict, Denied)
    assert verdict.reasons == ("The policy forbids this call.", *NEVER.reasons)
    assert verdict.gate_call_id == each.log.events[0].data["gate_call_id"]


def frozen(*keys: str) -> Desk:
    desk = Desk()
    desk.frozen_keys = {KeyId(key): Frozen(KeyId(key), TenantId("acme"), "manual", "", 0) for key in keys}
    return desk


def test_of_a_frozen_key_nothing_leaves_and_nothing_is_asked() -> None:
    for answer in (R0, COVERED, OBSERVED, R1, R2, UNREADABLE):
        each = gate(answer, desk=frozen("key_agent"))
        assert reason(each.judge(call())[0]) == FROZEN
        assert each.desk.proposals == []
    assert kinds(gate(NEVER, desk=frozen("key_agent")).judge(call())) == "D"
    assert kinds(gate(R0, desk=frozen("key_other")).judge(call())) == "R"


@pytest.mark.parametrize("down", [True, False])
def test_where_nobody_says_who_is_frozen_only_reads_leave(down: bool) -> None:
    for answer, expected in ((R0, ""), (COVERED, NO_STORE), (OBSERVED, NO_STORE), (R1, NO_STORE), (R2, NO_STORE)):
        desk = Desk() if down else frozen(*(f"key_{number}" for number in range(MAX_LISTED)))
        desk.down = down
        each = gate(answer, desk=desk)
        (verdict,) = each.judge(call())
        assert (isinstance(verdict, Released) and expected == "") or reason(verdict) == expected
        assert desk.proposals == []
    each = gate(UNREADABLE, desk=frozen(*(f"key_{number}" for number in range(MAX_LISTED))))
    assert reason(each.judge(call())[0]).startswith("a.rule")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (WitnessStale("x"), WITNESS_STALE),
        (AuditUnavailable("x"), NO_RECORD),
        (AuditInDoubt("x"), NO_RECORD),
        (Forbidden("x"), FROZEN),
        (GateUnavailable("x"), NO_STORE),
        (EngineTimeout("x"), NO_STORE),
        (TimeoutError(), NO_STORE),
    ],
)
def test_a_permit_that_cannot_be_had_is_none(error: Exception, told: str) -> None:
    each = gate(R2, R0, desk=Desk(error))
    verdicts = each.judge(call(0), call(1))
    assert [reason(verdict) for verdict in verdicts] == [told, EARLIER]
    assert each.log.appends[1] == ["withheld", "withheld"]


def test_a_store_that_does_not_answer_is_none() -> None:
    each = gate(R2, desk=Desk("silent"), approvals_timeout_s=0.05)
    assert reason(each.judge(call())[0]) == NO_STORE


def test_a_classifier_that_does_not_answer_is_r2() -> None:
    stuck = Stuck(bundle())
    guard = Guard(stuck, Desk(), log := Log(), FixedClock(), 30.0, classify_timeout_s=0.05)
    try:
        (verdict,) = asyncio.run(_and_go_on(guard, stuck))
    finally:
        stuck.go_on.set()
    assert isinstance(verdict, Held)
    assert verdict.risk is Risk.R2
    assert verdict.reasons == ("classifier.error: the classifier did not answer in time",)
    assert log.named("tool_call.classified")[0].data["risk"] == "R2"


async def _and_go_on(guard: Guard, stuck: Stuck) -> Sequence[Verdict]:
    try:
        return await guard.judge(CONTEXT, [call()])
    finally:
        stuck.go_on.set()  # the loop waits for its threads


def test_the_classifier_is_told_all_that_may_raise_a_class() -> None:
    each = gate(R0, R0)
    context = replace(
        CONTEXT, agent="codex", untrusted=True, schemas={"shell": "5" * 64},
        principal=replace(KEY, gate_profile=GateProfile.CODING), offered_tools=frozenset({"shell", "b"}),
    )  # fmt: skip
    each.judge(call(0, recovered=True, arguments="{ }"), call(1, name="b"), context=context)
    assert each.told.asked == [
        ("shell", "{ }", GateProfile.CODING, Circumstances(True, True, "acme", "codex", "5" * 64)),
        ("b", '{"command":"ls"}', GateProfile.CODING, Circumstances(False, True, "acme", "codex", None)),
    ]


# --- what verdicts and records carry ---------------------------------------------------------------------------------


def test_what_a_release_carries() -> None:
    each = gate(replace(R0, arguments='{"a":1}'), COVERED, R2, desk=Desk(PERMIT))
    read, covered, permitted = (cast(Released, verdict) for verdict in each.judge(call(0), call(1), call(2)))
    assert (read.arguments, read.approval_id, read.change_id, read.rollback_digest) == ('{"a":1}', None, None, None)
    assert (covered.approval_id, covered.change_id) == (None, "standing-1")
    assert covered.rollback_digest == plan_digest(PLAN.steps, PLAN.verify)
    assert (permitted.approval_id, permitted.change_id, permitted.rollback_digest) == ("apr_9", "CHG-9", "d" * 64)
    records = [event.data for event in each.log.named("tool_call.released")]
    assert [record["risk"] for record in records] == ["R0", "R1", "R2"]
    assert [record.get("standing_plan") for record in records] == [None, "standing-1", None]
    assert [record.get("approval_id") for record in records] == [None, None, "apr_9"]
    assert records[2]["fingerprint"] == each.desk.proposals[0].fingerprint
    digests = [verdict.action_digest for verdict in (read, covered, permitted)]
    assert digests == [record["action_digest"] for record in records]
    assert len(set(digests)) == 3
    assert len({verdict.gate_call_id for verdict in (read, covered, permitted)}) == 3
    assert {len(verdict.gate_call_id) for verdict in (read, covered, permitted)} == {32}


def test_what_a_held_call_carries() -> None:
    each = gate(R3)
    (held,) = each.judge(call())
    assert isinstance(held, Held)
    (record,) = [event.data for event in each.log.named("tool_call.held")]
    assert (held.plan_required, record["plan_required"], record["votes_required"]) == (True, True, 2)
    assert (held.approval_id, held.expires_ms) == (record["approval_id"], record["expires_ms"])
    proposal = each.desk.proposals[0]
    assert (proposal.action_digest, proposal.fingerprint) == (record["action_digest"], record["fingerprint"])
    assert "requester:  ann (key_agent)\n" in proposal.display
    approval = next(iter(each.desk.found.values()))
    each.desk.found[approval.approval_id] = replace(approval, plan=RollbackPlan(("a",), "b"), change_id="CHG-1")
    each.told.answers = [R3]
    (held,) = each.judge(call())
    assert isinstance(held, Held)
    assert held.plan_required is False
    assert each.log.named("tool_call.held")[1].data["plan_required"] is False


def test_a_requester_without_a_person_is_shown_by_key() -> None:
    each = gate(R2)
    each.judge(call(), context=replace(CONTEXT, principal=replace(KEY, person=None)))
    assert "requester:  key_agent\n" in each.desk.proposals[0].display


def test_what_is_recorded_of_a_proposal() -> None:
    long = "x" * (MAX_NAME - 2) + "\x1b"
    shadow = Shadow("e" * 64, Risk.R3, Outcome.HOLD)
    each = gate(replace(R2, shadow=shadow, reasons=("a.b: said 'hunter2' here", "y" * (MAX_REASON + 9))), UNREADABLE)
    context = replace(CONTEXT, agent=long, untrusted=True)
    each.judge(call(0, call_id=long), call(1), context=context)
    proposed, second = (event.data for event in each.log.named("tool_call.proposed"))
    classified, unread = (event.data for event in each.log.named("tool_call.classified"))
    assert proposed["call_id"] == classified["agent"] == "x" * (MAX_NAME - 2) + "\\x"
    assert (proposed["choice"], proposed["index"], second["index"]) == (0, 0, 1)
    assert (proposed["model"], proposed["route_id"]) == ("demo-20b", "rt_1")
    assert classified["reasons"] == ["a.b: said", "y" * MAX_REASON]
    assert (classified["untrusted"], classified["rule_set"], classified["outcome"]) == (True, "tiny", "hold")
    assert (classified["shadow_risk"], classified["shadow_outcome"]) == ("R3", "hold")
    assert isinstance(classified["action_digest"], str)
    assert unread["action_digest"] is None
    assert "shadow_risk" not in unread
    bodies = [event.bodies[BodyField.ARGUMENTS] for event in each.log.named("tool_call.proposed")]
    assert bodies[0].digest == hashlib.sha256(b"{}").digest(), "the canonical text"
    assert all(event.bodies == {} for event in each.log.events if event.name != "tool_call.proposed")
    assert bodies[1].digest == hashlib.sha256(b'{"command":"ls"}').digest(), "what there is of it"
    each = gate(R0)
    each.judge(call())
    plain = each.log.named("tool_call.classified")[0].data
    assert (plain["untrusted"], plain["agent"]) == (None, None)


def test_names_and_reasons_are_cut_and_escaped_in_every_record() -> None:
    name = "n" * (MAX_NAME - 1) + "\u202e"
    each = gate(replace(UNREADABLE, reasons=("r" * (MAX_REASON - 1) + "\x1b",)))
    each.judge(call(name=name), context=replace(CONTEXT, offered_tools=frozenset({name})))
    assert [event.data["tool"] for event in each.log.events] == ["n" * (MAX_NAME - 1) + "\\"] * 3
    assert each.log.events[-1].data["reason"] == "r" * (MAX_REASON - 1) + "\\"


# --- what became of it -----------------------------------------------------------------------------------------------


def test_only_changes_that_needed_no_permit_are_reported_by_the_guard() -> None:
    each = gate(R0, COVERED, OBSERVED, R2, desk=Desk(PERMIT))
    each.judge(*(call(index) for index in range(4)))
    each.observe(*(ToolResult(f"call_abcdefgh{index}", "Exit code: 3\n") for index in range(4)))
    reports = each.log.named("action.reported")
    assert [(event.data["risk"], event.data["change_id"]) for event in reports] == [("R1", "standing-1"), ("R2", None)]
    assert [(event.data["outcome"], event.data["exit_code"]) for event in reports] == [("failed", 3)] * 2
    released = [event.data for event in each.log.named("tool_call.released")]
    assert [event.data["gate_call_id"] for event in reports] == [each["gate_call_id"] for each in released[1:3]]
    assert [event.data["action_digest"] for event in reports] == [each["action_digest"] for each in released[1:3]]
    (told,) = each.desk.results
    assert (told.call_id, told.refused, told.exit_code) == ("call_abcdefgh3", None, 3)
    each.observe(*(ToolResult(f"call_abcdefgh{index}", "again") for index in range(4)))
    assert len(each.log.named("action.reported")) == 2
    assert len(each.desk.results) == 1


@pytest.mark.parametrize(
    ("answer", "denied", "approval", "told"),
    [
        (R2, False, "apr_1", "The call was held."),
        (NEVER, True, None, "The policy forbids this call."),
        (UNREADABLE, False, None, "a.rule"),
    ],
)
def test_what_is_remembered_of_a_refusal(answer: Classification, denied: bool, approval: str | None, told: str) -> None:
    each = gate(answer)
    each.judge(call())
    each.observe(ToolResult("call_abcdefgh0", "done"))
    refused = each.desk.results[0].refused
    assert refused is not None
    assert (refused.denied, refused.approval_id, refused.risk) == (denied, approval, answer.risk)
    assert refused.reason.startswith(told)
    assert refused.gate_call_id == each.log.events[0].data["gate_call_id"]
    assert (refused.action_digest is None) == (answer is UNREADABLE)
    each.observe(ToolResult("call_abcdefgh0", "again"))
    assert len(each.desk.results) == 1


@pytest.mark.parametrize(("call_id", "asked"), [("call_elsewhere", True), ("call_1", False)])
def test_ids_that_count_say_nothing_of_calls_that_were_not_released(call_id: str, asked: bool) -> None:
    each = gate(R2)
    each.observe(ToolResult(call_id, "done"))
    assert [told.refused for told in each.desk.results] == ([None] if asked else [])
    each.desk.results.clear()
    each.judge(call(call_id=call_id))
    each.observe(ToolResult(call_id, "done"))
    assert [told.refused is not None for told in each.desk.results] == ([True] if asked else [])


def test_ids_that_count_are_believed_of_calls_that_were_released() -> None:
    each = gate(COVERED, R2, desk=Desk(PERMIT))
    each.judge(call(0, call_id="call_0"), call(1, call_id="call_1"))
    each.observe(ToolResult("call_0", "done"), ToolResult("call_1", "done"))
    assert len(each.log.named("action.reported")) == 1
    assert [told.call_id for told in each.desk.results] == ["call_1"]


def test_the_last_result_of_an_id_counts_and_only_so_many_do() -> None:
    each = gate(COVERED)
    each.judge(call())
    each.observe(ToolResult("call_abcdefgh0", "Exit code: 1\n"), ToolResult("call_abcdefgh0", "Exit code: 2\n"))
    assert [event.data["exit_code"] for event in each.log.named("action.reported")] == [2]
    each.observe(*(ToolResult(f"call_{number:08}", "x") for number in range(MAX_RESULTS + 1)))
    assert [told.call_id for told in each.desk.results] == [f"call_{number:08}" for number in range(1, MAX_RESULTS + 1)]


@pytest.mark.parametrize("fault", [AuditUnavailable("x"), "silent"])
def test_a_report_that_the_log_did_not_take_is_made_again_as_it_was(fault: Exception | str) -> None:
    each = gate(COVERED, audit_timeout_s=0.05 if fault == "silent" else 30.0)
    each.judge(call())
    each.log.faults = [fault]
    with pytest.raises(AuditUnavailable):
        each.observe(ToolResult("call_abcdefgh0", "Exit code: 1\n"))
    each.observe(ToolResult("call_abcdefgh0", "Exit code: 2\n"))
    (report,) = each.log.named("action.reported")
    assert report.data["exit_code"] == 1
    each.observe(ToolResult("call_abcdefgh0", "Exit code: 2\n"))
    assert len(each.log.named("action.reported")) == 1


@pytest.mark.parametrize("fault", [GateUnavailable("x"), "silent"])
def test_what_the_store_did_not_take_is_told_again(fault: Exception | str) -> None:
    each = gate(COVERED, R2, approvals_timeout_s=0.05 if fault == "silent" else 30.0)
    each.judge(call(0), call(1))
    each.log.faults = ["slow"]
    each.desk.observing = fault
    results = [ToolResult(f"call_abcdefgh{index}", "done") for index in range(2)]
    with pytest.raises(GateUnavailable):
        each.observe(*results)
    assert len(each.log.named("action.reported")) == 1, "the log has what it was told beside it"
    each.desk.observing = ""
    each.observe(*results)
    assert len(each.log.named("action.reported")) == 1
    assert [told.call_id for told in each.desk.results] == ["call_abcdefgh1"]


def test_without_results_nobody_is_asked() -> None:
    each = gate(desk=(desk := Desk()))
    desk.observing = GateUnavailable("x")
    each.log.faults.append(AuditUnavailable("x"))
    each.observe()
    each.observe(ToolResult("call_1", "x"))


def test_a_result_says_what_its_text_or_its_flag_says() -> None:
    each = gate(COVERED, COVERED, R0)
    each.judge(call(0), call(1))
    each.observe(ToolResult("call_abcdefgh0", "\ud800", True), ToolResult("call_abcdefgh1", "fine"))
    first, second = each.log.named("action.reported")
    assert (first.data["outcome"], second.data["outcome"]) == (ActionOutcome.FAILED, ActionOutcome.UNKNOWN)
    assert first.bodies[BodyField.OUTPUT].digest == hashlib.sha256(b"\xed\xa0\x80").digest()
