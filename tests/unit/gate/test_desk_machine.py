"""The desk against a model of it, step by step, over both stores: the ten invariants of an approval.

The model is the specification in plain words: which votes are in, whose keys are good, what the time is. The desk must
release exactly when the model says that it may, and never otherwise; what the log has must satisfy the log's verifier.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from deployments.errors import ApprovalConflict, AuditUnavailable, Forbidden, GatehouseError, GateUnavailable
from deployments.gate.states import OPEN
from deployments.ports import (
    Approval,
    ApprovalId,
    ApprovalState,
    Digests,
    KeyId,
    Permit,
    Principal,
    Risk,
    Scope,
)
from tests.unit.gate.desks import TTL_S, World
from tests.unit.gate.test_approvals import AGENT, PLAN, ROOT, person, seen

_T = TypeVar("_T")
POLICIES = ("a" * 64, "b" * 64)
ROLE = frozenset({"sre"})
CALLS = {"one": Risk.R1, "two": Risk.R2, "three": Risk.R3}
NEEDED = {Risk.R1: 0, Risk.R2: 1, Risk.R3: 2}
HUMANS = {"key_bob": "bob", "key_bob_too": "bob", "key_carol": "carol", "key_dan": "dan", "key_ann": "ann"}
"""The keys that vote, by the human who holds each; `ann` asks for the calls."""
SPELLED = {"key_bob_too": " BOB", "key_ann": "\uff21nn"}
VOTERS = {
    key: replace(person(SPELLED.get(key, human), Scope.APPROVE, key=key), roles=ROLE) for key, human in HUMANS.items()
}
calls, keys = st.sampled_from(sorted(CALLS)), st.sampled_from(sorted(VOTERS))


WEATHER = ("time", "keys", "freeze", "log", "ledger", "policy", "late", *("fair",) * 5)
ANYTHING = ("emit", "plan", "approve", "reject", "stale", "cancel", "expire")
FULL = bool(os.environ.get("GATEHOUSE_FULL_RACES"))
EXAMPLES = 1_000 if FULL else 60
USUAL = {"approval.requested", "approval.planned", "approval.voted", "approval.granted", "tool_call.released"}
REACHED = {
    "approval.requested", "approval.planned", "approval.voted", "approval.granted", "approval.reopened",
    "approval.rejected", "approval.expired", "approval.cancelled", "approval.stale", "permit.consumed",
    "tool_call.released", "principal.frozen",
}  # fmt: skip


@dataclass
class Request:
    """What is known of a request from outside. `votes` are the approving ones that were accepted, by key."""

    approval: Approval
    call: str
    policy: str
    votes: list[str] = field(default_factory=list[str])
    released: int = 0

    @property
    def risk(self) -> Risk:
        return CALLS[self.call]


class DeskMachine(RuleBasedStateMachine):
    """Two desks over one database, one for each policy; the policy in force says which of them is asked."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World(self.url, {Risk.R2: ("sre",), Risk.R3: ("sre", "dba")})
        self.world.ledger.keys = {KeyId(key): each for key, each in VOTERS.items()} | {
            AGENT.key_id: AGENT, ROOT.key_id: ROOT,
        }  # fmt: skip
        self.requests: dict[ApprovalId, Request] = {}
        self.frozen: set[str] = set()
        self.policy = POLICIES[0]
        self.desks = {self.policy: self.world.desk, POLICIES[1]: self.world.another(POLICIES[1])}
        self.desk = self.desks[self.policy]
        # Every example has calls of its own, so that all of them share one database.
        DeskMachine.examples += 1
        self.mark = DeskMachine.examples
        self.attempts = 0
        self.do(self.world.open())
        for each in self.do(self.desk.frozen()):
            self.do(self.desk.unfreeze(ROOT, each.key_id, "CHG-0", ""))
        self.world.audit.events.clear()

    examples = 0
    seen: Counter[str]

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            self.seen.update(self.world.audit.names())
            assert self.world.broken_rules() == {}
        finally:
            self.do(self.world.close())
            self.loop.close()

    # --- the model ---------------------------------------------------------------------------------------------------

    def arguments(self, call: str) -> str:
        return f'{{"command":"{call} {self.mark}"}}'

    def current(self, call: str) -> Request | None:
        """The open request for a call; the store has at most one."""
        found = [each for each in self.requests.values() if each.call == call and each.approval.state in OPEN]
        assert len(found) <= 1
        return found[0] if found else None

    def is_over(self, request: Request) -> bool:
        return self.world.clock.now_ms() >= request.approval.expires_ms

    def counts(self, key: str) -> bool:
        """Invariant 8, in the model's own words."""
        holder = self.world.ledger.keys.get(KeyId(key))
        return (
            holder is not None
            and Scope.APPROVE in holder.scopes
            and bool(holder.roles & {"sre", "dba"})
            and key not in self.frozen
        )

    def refresh(self, request: Request) -> None:
        request.approval = self.do(self.desk.get(None, request.approval.approval_id))

    # --- what happens ------------------------------------------------------------------------------------------------

    @rule(call=calls, first=keys, second=keys)
    def go_on(self, call: str, first: str, second: str) -> None:
        """The next step of a call on its way to a release, as people take it."""
        request = self.current(call)
        if request is None or request.approval.state is ApprovalState.APPROVED:
            self.emit(call, late=False)
        elif request.approval.state is ApprovalState.NEEDS_PLAN:
            self.plan(request)
        else:
            for key in (first, second)[: NEEDED[request.risk]]:
                self.vote(request, key, approve=True, stale=False)

    @rule(call=calls, first=keys, second=keys)
    def and_on(self, call: str, first: str, second: str) -> None:
        """Twice as often as anything else."""
        self.go_on(call, first, second)

    @precondition(lambda self: any(each.votes for each in self.requests.values()))
    @rule(which=st.integers(0, 11), change=st.sampled_from(["gone", "scope", "role", "frozen"]))
    def lapse(self, which: int, change: str) -> None:
        """Something becomes of a voter's key after the vote, and the call is emitted once more."""
        voted = [each for each in self.requests.values() if each.votes]
        request = voted[which % len(voted)]
        if change == "frozen":
            self.freezing(request.votes[0])
        else:
            self.keys_change(request.votes[0], change)
        self.emit(request.call, late=False)

    @precondition(lambda self: any(each.approval.state is ApprovalState.APPROVED for each in self.requests.values()))
    @rule(which=st.integers(0, 11))
    def outdate(self, which: int) -> None:
        """The policy changes after the approval, and a late replica emits the call under the old one."""
        found = [each for each in self.requests.values() if each.approval.state is ApprovalState.APPROVED]
        request = found[which % len(found)]
        self.policy = POLICIES[1 - POLICIES.index(request.policy)]
        self.desk = self.desks[self.policy]
        self.emit(request.call, late=True)

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 11), key=keys, what=st.sampled_from(ANYTHING))
    def anything(self, which: int, key: str, what: str) -> None:
        """Any move on any request, whether or not it makes sense."""
        request = self.pick(which)
        match what:
            case "emit":
                self.emit(request.call, late=False)
            case "plan":
                self.plan(request)
            case "cancel":
                self.cancel(request)
            case "expire":
                self.expire(request)
            case _:
                self.vote(request, key, approve=what != "reject", stale=what == "stale")

    def emit(self, call: str, late: bool) -> None:
        """A model emits a call; a `late` replica has the other policy."""
        policy = POLICIES[1 - POLICIES.index(self.policy)] if late else self.policy
        before = self.current(call)
        down, ledger_down = self.world.audit.down, self.world.ledger.down
        released: Permit | Approval | GatehouseError
        if down:
            released = self.try_propose(call, policy)
        else:
            try:
                released = self.do(self.world.emit(CALLS[call], policy, self.desk, arguments=self.arguments(call)))
            except GatehouseError as error:
                released = error
        if AGENT.key_id in self.frozen:
            assert isinstance(released, Forbidden)
            return
        usable = (
            before is not None
            and before.approval.state is ApprovalState.APPROVED
            and not self.is_over(before)
            and before.policy == policy == self.policy
        )
        match released:
            case Permit():
                assert before is not None
                # 1, 2, 5, 6, 8, 10
                assert usable
                assert not down
                assert not (ledger_down and before.votes)
                assert released.approval_id == before.approval.approval_id
                humans = {HUMANS[key] for key in before.votes if self.counts(key)}
                assert len(humans) >= NEEDED[before.risk]
                assert "ann" not in humans
                assert before.approval.plan == PLAN
                assert released.change_id == "CHG-1"
                before.released += 1
                assert before.released == 1
                self.refresh(before)
                assert before.approval.state is ApprovalState.CONSUMED
            case Approval():
                known = self.requests.get(released.approval_id)
                if known is None:
                    assert released.state is ApprovalState.NEEDS_PLAN
                    assert before is None or self.is_over(before) or not (before.policy == policy == self.policy)
                    if before is not None:
                        self.refresh(before)
                        assert before.approval.state not in OPEN
                    self.requests[released.approval_id] = Request(released, call, policy)
                    return
                assert known is before
                known.approval = released
                if usable:  # no useless hold: some vote has lapsed
                    lapsed = [key for key in known.votes if not self.counts(key)]
                    assert lapsed
                    assert not ledger_down
                    known.votes = [key for key in known.votes if key not in lapsed]
                    assert released.state is ApprovalState.PENDING
                    assert [vote.key_id for vote in released.votes] == known.votes
            case AuditUnavailable():
                assert down
            case GateUnavailable():
                assert ledger_down
                assert usable
                assert before is not None
                assert before.votes
            case _:
                raise released

    def try_propose(self, call: str, policy: str) -> Permit | Approval | GatehouseError:
        """Without the log the ingress does not get so far; the desk must hold by itself all the same."""
        made = self.world.made(CALLS[call], policy, self.arguments(call))
        try:
            return self.do(self.desk.propose(made))
        except GatehouseError as error:
            return error

    def plan(self, request: Request) -> None:
        self.move(request, self.desk.plan(AGENT, request.approval.approval_id, "CHG-1", PLAN))

    def vote(self, request: Request, key: str, approve: bool, stale: bool) -> None:
        digests = seen(request.approval)
        if stale:
            digests = Digests(digests.action, "0" * 64)
        before, humans = request.approval, {HUMANS[each] for each in request.votes}
        voter = self.world.ledger.keys.get(KeyId(key))
        if voter is None or Scope.APPROVE not in voter.scopes:
            return  # the edge refuses it
        work = self.desk.vote(voter, request.approval.approval_id, digests, approve, "")
        if not self.move(request, work):
            return
        assert not stale  # what was seen is what is signed
        assert key not in self.frozen
        assert HUMANS[key] != "ann"
        assert HUMANS[key] not in humans
        assert before.state is ApprovalState.PENDING or not approve
        assert bool(voter.roles & {"sre", "dba"}) or not approve
        if approve:
            request.votes.append(key)
            enough = len(humans) + 1 >= NEEDED[request.risk]
            assert request.approval.state is (ApprovalState.APPROVED if enough else ApprovalState.PENDING)
        else:
            assert request.approval.state is ApprovalState.REJECTED  # 3

    def cancel(self, request: Request) -> None:
        if self.move(request, self.desk.cancel(AGENT, request.approval.approval_id, "")):
            assert request.approval.state is ApprovalState.CANCELLED

    def expire(self, request: Request) -> None:
        if self.move(request, self.desk.expire(VOTERS["key_dan"], request.approval.approval_id, "")):
            assert request.approval.state is ApprovalState.EXPIRED

    def pick(self, which: int) -> Request:
        """Mostly one that is open."""
        found = [each for each in self.requests.values() if each.approval.state in OPEN] or list(self.requests.values())
        return found[which % len(found)]

    def move(self, request: Request, work: Coroutine[Any, Any, Approval]) -> bool:
        """True when it was done; a refusal must leave the request as it was, or ended for a reason."""
        before, over = request.approval, self.is_over(request)
        try:
            request.approval = self.do(work)
        except AuditUnavailable:
            assert self.world.audit.down
        except Forbidden:
            pass
        except ApprovalConflict:
            self.refresh(request)
            if request.approval.state is not before.state:
                assert (request.approval.state, over) == (ApprovalState.EXPIRED, True) or (
                    request.approval.state is ApprovalState.STALE and request.policy != self.policy
                )
        else:
            assert not self.world.audit.down or request.approval == before
            assert not over or before.state not in OPEN
            return True
        self.refresh(request)
        return False

    @rule(data=st.data(), what=st.sampled_from(WEATHER))
    def weather(self, data: st.DataObject, what: str) -> None:
        """What happens around the desk; `fair`: all is well again."""
        match what:
            case "time":
                self.world.clock.advance(data.draw(st.sampled_from([1, TTL_S // 3, TTL_S])) * 1000)
            case "keys":
                self.keys_change(data.draw(keys), data.draw(st.sampled_from(["gone", "scope", "role", "back"])))
            case "freeze":
                self.freezing(data.draw(st.sampled_from([*sorted(VOTERS), AGENT.key_id])))
            case "log":
                self.world.audit.down = True
            case "ledger":
                self.world.ledger.down = True
            case "late":  # a replica of the ingress that has the other policy proposes a call
                self.emit(data.draw(calls), late=True)
            case "policy":
                self.policy = data.draw(st.sampled_from(POLICIES))
                self.desk = self.desks[self.policy]
            case _:
                self.world.audit.down = self.world.ledger.down = False
                self.world.ledger.keys |= {KeyId(key): each for key, each in VOTERS.items()}
                for key in sorted(self.frozen):
                    self.do(self.desk.unfreeze(ROOT, KeyId(key), "CHG-2", ""))
                self.frozen.clear()

    def keys_change(self, key: str, change: str) -> None:
        known: Principal = VOTERS[key]
        changed = {
            "scope": replace(known, scopes=frozenset({Scope.INFERENCE})),
            "role": replace(known, roles=frozenset({"intern"})),
            "back": known,
        }
        self.world.ledger.keys.pop(KeyId(key), None)
        if change in changed:
            self.world.ledger.keys[KeyId(key)] = changed[change]

    def freezing(self, key: str) -> None:
        holder = VOTERS.get(key, AGENT)
        self.attempts += 1
        self.do(self.desk.bypass(holder, "permit_invalid", {}, f"e{self.mark}.{self.attempts}"))
        self.frozen.add(key)

    # --- what must hold at any time ----------------------------------------------------------------------------------

    @invariant()
    def terminal_states_stay_and_nothing_is_edited(self) -> None:
        """4, 7, 9. What is stored is what was proposed, and its state is on record."""
        for known in self.requests.values():
            now = self.do(self.desk.get(None, known.approval.approval_id))
            if known.approval.state not in OPEN:
                assert now.state is known.approval.state
            assert now.proposal.arguments == self.arguments(known.call)
            assert now.proposal.action_digest == known.approval.proposal.action_digest
            told = [
                event.data["state"]
                for event in self.world.audit.events
                if event.data.get("approval_id") == now.approval_id and "state" in event.data
            ]
            # An end by time is seen at once, and recorded by whoever meets it.
            assert now.state.value in told or (now.state is ApprovalState.EXPIRED and self.is_over(known))


@pytest.mark.timeout(4 * 3600 if FULL else 300)
def test_the_desk_is_what_its_model_says(store_url: str) -> None:
    machine = type("Machine", (DeskMachine,), {"url": store_url, "seen": Counter[str]()})
    tuned = settings(max_examples=EXAMPLES, stateful_step_count=50, deadline=None, database=None, derandomize=not FULL)
    run_state_machine_as_test(machine, settings=tuned)
    # What a process has imported before gives Hypothesis its constants, so few steps lead to a rare state or do not.
    missed = (REACHED if FULL else USUAL) - machine.seen.keys()
    assert not missed, "the steps must lead through the states"


def test_the_steps_of_the_machine_reach_every_state(store_url: str) -> None:
    """The way through all of them, with the model looking on, so that no state depends on what was drawn."""
    machine = type("Machine", (DeskMachine,), {"url": store_url, "seen": Counter[str]()})()

    def step(move: Callable[[], object]) -> None:
        move()
        machine.terminal_states_stay_and_nothing_is_edited()

    def open_one(call: str) -> Request:
        step(lambda: machine.emit(call, late=False))
        request = machine.current(call)
        assert request is not None
        step(lambda: machine.plan(request))
        assert request.approval.state is (ApprovalState.PENDING if NEEDED[request.risk] else ApprovalState.APPROVED)
        return request

    try:
        reopened = open_one("three")
        for key in ("key_carol", "key_dan"):
            step(lambda key=key: machine.vote(reopened, key, approve=True, stale=False))
        assert reopened.approval.state is ApprovalState.APPROVED
        step(lambda: machine.lapse(0, "gone"))
        assert reopened.votes == ["key_dan"]
        machine.keys_change("key_carol", "back")
        step(lambda: machine.vote(reopened, "key_carol", approve=True, stale=False))
        step(lambda: machine.emit("three", late=False))
        assert reopened.approval.state is ApprovalState.CONSUMED

        rejected, cancelled = open_one("two"), open_one("one")
        step(lambda: machine.vote(rejected, "key_bob", approve=False, stale=False))
        step(lambda: machine.cancel(cancelled))
        expired = open_one("two")
        machine.world.clock.advance(TTL_S * 1000)
        step(lambda: machine.expire(expired))
        outdated = open_one("two")
        step(lambda: machine.vote(outdated, "key_bob", approve=True, stale=False))
        step(lambda: machine.outdate(0))
        assert outdated.approval.state is ApprovalState.STALE
        step(lambda: machine.freezing(AGENT.key_id))
    finally:
        machine.teardown()
    assert REACHED - machine.seen.keys() == set()
