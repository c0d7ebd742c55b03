"""The desk and the office with two live policies against a model of them, step by step, over both stores.

Three sessions, one in each part of a rollout; its share moves at will, and the controller may be silent. A replica of
the ingress may be late: it judges by either policy, whatever the controller says. The model is the law in plain words:
what was asked of one policy leaves, and is executed, under that policy alone, and only while it judges the session.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from deployments.errors import ApprovalConflict, GateUnavailable
from deployments.gate.live import BELIEVED_S
from deployments.gate.states import OPEN
from deployments.ports import Approval, ApprovalState, IssuedPermit, Permit, PermitState, Proposal, Risk, SessionId
from deployments.slices import is_candidates
from tests.unit.gate.test_approvals import AGENT, BOB, PLAN, ROOT, proposal, seen
from tests.unit.gate.two_policies import CANDIDATE, CONFIGURED, TwoPolicies, split

_T = TypeVar("_T")
FULL = bool(os.environ.get("GATEHOUSE_FULL_RACES"))
EXAMPLES = {"sqlite": 400 if FULL else 25, "postgresql": 100 if FULL else 8}
SHARES = (0, 5, 25, 100)
CALLS = {"early": Risk.R2, "late": Risk.R1, "last": Risk.R2}
POLICIES = st.sampled_from([CONFIGURED, CANDIDATE])
RUNNER = "runner-1"
REACHED = {"released", "stale on emission", "stale on a move", "kept while nobody says", "claim refused", "executed",
           "execution refused", "swept"}  # fmt: skip


def _session(call: str, mark: int) -> SessionId:
    """A session of its own for each example: in 5 %, in 25 % and not in 5 %, or in 100 % alone."""
    low, high = {"early": (0, 5), "late": (5, 25), "last": (25, 100)}[call]
    names = (SessionId(f"{call}-{mark}-{number}") for number in range(100_000))
    return next(
        each
        for each in names
        if is_candidates(split(high), AGENT.tenant, each) and not is_candidates(split(low), AGENT.tenant, each)
    )


class Word(Enum):
    """What the controller means for something that was made under a policy."""

    LIVE = auto()
    MOVED = auto()
    UNKNOWN = auto()


@dataclass
class Request:
    """What is known of a request from outside."""

    approval: Approval
    call: str
    policy: str


class CandidateMachine(RuleBasedStateMachine):
    """One desk and one office; `share` and `down` are what the controller is."""

    url = ""
    keys = Path()
    examples = 0
    seen: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = TwoPolicies(self.url, self.keys)
        CandidateMachine.examples += 1
        self.sessions = {call: _session(call, CandidateMachine.examples) for call in CALLS}
        self.requests: list[Request] = []
        self.permits: list[tuple[str, IssuedPermit]] = []
        self.waiting: list[tuple[str, str]] = []
        self.do(self.world.open())
        # All examples share one database, and a sweep sees all of it: what the one before has left open ends here.
        for stored in self.do(self.world.stores[0].open_ones()):
            with suppress(ApprovalConflict):
                self.do(self.world.desk.expire(ROOT, stored.approval.approval_id, ""))
        self.world.audit.events.clear()

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            assert self.world.broken_rules() == {}
            assert self.world.audit.named("bypass.attempted") == []
            assert self.world.audit.named("incident.opened") == []
        finally:
            self.do(self.world.close())
            self.loop.close()

    # --- the model ---------------------------------------------------------------------------------------------------

    def word(self, call: str, policy: str) -> Word:
        if self.world.rollout.down:
            return Word.LIVE if policy == CONFIGURED else Word.UNKNOWN
        theirs = is_candidates(split(self.world.rollout.share), AGENT.tenant, self.sessions[call])
        return Word.LIVE if theirs is (policy == CANDIDATE) else Word.MOVED

    def current(self, call: str) -> Request | None:
        return next((each for each in self.requests if each.call == call and each.approval.state in OPEN), None)

    def arguments(self, call: str) -> str:
        return f'{{"command":"{self.sessions[call]}"}}'

    # --- the steps ---------------------------------------------------------------------------------------------------

    @rule(share=st.sampled_from(SHARES))
    def move(self, share: int) -> None:
        self.world.rollout.share = share

    @rule(down=st.booleans())
    def silence(self, down: bool) -> None:
        self.world.rollout.down = down
        self.world.clock.advance(round(BELIEVED_S * 1000) if down else 1000)

    @rule(call=st.sampled_from(sorted(CALLS)), policy=POLICIES)
    def emit(self, call: str, policy: str) -> None:
        """A model emits the call, judged by `policy`: a replica may be late, in either direction."""
        before, word = self.current(call), self.word(call, policy)
        made = _in(self.world.made(CALLS[call], policy, self.arguments(call)), self.sessions[call])
        self.do(self.world.audit.append(self.world.classified(made)))
        try:
            found = self.do(self.world.desk.propose(made))
        except GateUnavailable:
            assert before is not None
            assert before.approval.state is ApprovalState.APPROVED
            assert before.policy == policy
            assert word is Word.UNKNOWN
            self.seen["kept while nobody says"] += 1
            return
        self.do(self.world.audit.append([self.world.outcome(made, found)]))
        usable = before is not None and before.policy == policy and before.approval.state is ApprovalState.APPROVED
        if isinstance(found, Permit):
            assert before is not None
            assert usable
            assert word is Word.LIVE
            assert found.approval_id == before.approval.approval_id
            self.refresh(before)
            assert before.approval.state is ApprovalState.CONSUMED
            self.waiting.append((call, policy))
            self.seen["released"] += 1
            return
        if before is not None and found.approval_id == before.approval.approval_id:
            assert before.policy == policy
            assert not usable
            return
        assert found.state is ApprovalState.NEEDS_PLAN
        assert found.proposal.policy_digest == policy
        if before is not None:
            assert before.policy != policy or (usable and word is Word.MOVED)
            self.refresh(before)
            assert before.approval.state is ApprovalState.STALE
            self.seen["stale on emission"] += 1
        self.requests.append(Request(found, call, policy))

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 9), what=st.sampled_from(["on", "on", "on", "on", "cancel"]))
    def act(self, which: int, what: str) -> None:
        """Somebody takes a request further, or withdraws it."""
        found = [each for each in self.requests if each.approval.state in OPEN] or self.requests
        request = found[which % len(found)]
        approval, desk = request.approval, self.world.desk
        was, word = approval.state, self.word(request.call, request.policy)
        if what == "cancel":
            work = desk.cancel(AGENT, approval.approval_id, "")
        elif was is ApprovalState.NEEDS_PLAN:
            work = desk.plan(AGENT, approval.approval_id, "CHG-1", PLAN)
        else:
            work = desk.vote(BOB, approval.approval_id, seen(approval), True, "")
        try:
            request.approval = self.do(work)
        except ApprovalConflict:
            self.refresh(request)
            if request.approval.state is not was:
                assert (request.approval.state, word) == (ApprovalState.STALE, Word.MOVED)
                self.seen["stale on a move"] += 1
            else:
                assert was not in {ApprovalState.NEEDS_PLAN, ApprovalState.PENDING}
        else:
            assert word is not Word.MOVED
            assert was in OPEN

    @rule()
    def sweep(self) -> None:
        before = {each.approval.approval_id: each for each in self.requests if each.approval.state in OPEN}
        self.do(self.world.desk.sweep())
        for each in before.values():
            moved = self.word(each.call, each.policy) is Word.MOVED
            was = each.approval.state
            self.refresh(each)
            assert each.approval.state is (ApprovalState.STALE if moved else was)
            self.seen["swept"] += moved

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 9))
    def claim(self, which: int) -> None:
        """A runner asks for the permit of a call that has left."""
        call = self.waiting[which % len(self.waiting)][0]
        words = [self.word(call, policy) for name, policy in self.waiting if name == call]
        try:
            permit = self.do(self.world.office.claim(AGENT, "shell", self.arguments(call), RUNNER))
        except (ApprovalConflict, GateUnavailable):
            assert Word.LIVE not in words
            self.seen["claim refused"] += 1
            return
        assert self.word(call, permit.ask.policy_digest) is Word.LIVE
        self.waiting.remove((call, permit.ask.policy_digest))
        self.permits.append((call, permit))

    @precondition(lambda self: self.permits)
    @rule(which=st.integers(0, 9))
    def execute(self, which: int) -> None:
        call, permit = self.permits[which % len(self.permits)]
        word = self.word(call, permit.ask.policy_digest)
        redeem = self.world.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
        try:
            taken = self.do(redeem).state
        except ApprovalConflict:
            taken = Word.MOVED
        except GateUnavailable:
            taken = Word.UNKNOWN
        assert taken is (PermitState.REDEEMED if word is Word.LIVE else word)
        if word is not Word.LIVE:
            self.seen["execution refused"] += 1
            return
        self.permits.remove((call, permit))
        self.seen["executed"] += 1

    def refresh(self, request: Request) -> None:
        request.approval = self.do(self.world.desk.get(None, request.approval.approval_id))

    @invariant()
    def what_has_ended_stays_so_and_there_is_one_request_for_a_call(self) -> None:
        opened = Counter[str]()
        for each in self.requests:
            now = self.do(self.world.desk.get(None, each.approval.approval_id))
            assert now.state is each.approval.state
            assert now.proposal.policy_digest == each.policy
            opened[each.call] += now.state in OPEN
        assert all(count <= 1 for count in opened.values())


def _in(made: Proposal, session: SessionId) -> Proposal:
    """The proposal as one of another session, under the same ids."""
    number = int(made.gate_call_id, 16)
    found = proposal(number, made.risk, made.policy_digest, arguments=made.arguments, session=session)
    return replace(found, call_id=made.call_id)


@pytest.mark.timeout(4 * 3600 if FULL else 900)
def test_the_two_policies_are_what_the_model_says(store_url: str, tmp_path: Path) -> None:
    kind = "sqlite" if store_url.startswith("sqlite") else "postgresql"
    machine = type(
        "Machine", (CandidateMachine,), {"url": store_url, "keys": tmp_path / "keys", "seen": Counter[str]()}
    )
    tuned = settings(
        max_examples=EXAMPLES[kind], stateful_step_count=30, deadline=None, database=None, derandomize=not FULL
    )
    run_state_machine_as_test(machine, settings=tuned)
    assert machine.seen["released"], "the steps must lead somewhere"


def test_the_steps_reach_all_that_the_model_speaks_of(store_url: str, tmp_path: Path) -> None:
    """The way through everything, with the model looking on, so that nothing depends on what was drawn."""
    machine = type(
        "Machine", (CandidateMachine,), {"url": store_url, "keys": tmp_path / "keys", "seen": Counter[str]()}
    )()

    def approve(call: str, policy: str) -> None:
        machine.emit(call, policy)
        for _ in range(1 if CALLS[call] is Risk.R1 else 2):
            machine.act(-1, "on")
        machine.what_has_ended_stays_so_and_there_is_one_request_for_a_call()

    try:
        machine.move(25)
        approve("late", CANDIDATE)
        machine.emit("late", CANDIDATE)
        machine.move(5)
        machine.claim(0)  # refused: the session is another policy's
        machine.move(25)
        machine.claim(0)
        machine.move(0)
        machine.execute(0)  # refused
        machine.move(100)
        machine.execute(0)
        approve("early", CANDIDATE)
        machine.silence(True)
        machine.emit("early", CANDIDATE)
        machine.silence(False)
        machine.move(0)
        machine.emit("early", CANDIDATE)  # a late replica
        machine.emit("last", CONFIGURED)
        machine.act(-1, "on")
        machine.move(100)
        machine.act(-1, "on")
        machine.emit("last", CONFIGURED)
        machine.sweep()
        machine.what_has_ended_stays_so_and_there_is_one_request_for_a_call()
    finally:
        machine.teardown()
    assert set(REACHED) <= set(+machine.seen), machine.seen
