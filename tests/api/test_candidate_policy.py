"""A policy bundle for a slice of the sessions, over HTTP: who gets it, what it holds, and what a rollback leaves.

Gate, desk, office and controller are the real ones, over SQLite; the engine is a fake that calls what it is told to.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from deployments.clock import FixedClock
from deployments.errors import GatehouseError
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.bundle import bundle_path
from deployments.gate.canary import Canary
from deployments.gate.candidate import check_revision, revision_of_bundle
from deployments.gate.classify import Classifier
from deployments.gate.guard import Guard
from deployments.gate.judges import Judges
from deployments.gate.live import LivePolicies, LivePolicy
from deployments.gate.office import PermitOffice
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.settings import CandidateSettings, GateSettings
from deployments.gate.shell.reader import ShellReader
from deployments.gate.store import ApprovalStore
from deployments.ingress.session import session_of
from deployments.ports import EngineCall, EngineItem, KeyId, Principal, Scope
from deployments.rollout.controller import Controller
from deployments.rollout.store import RolloutStore
from deployments.rollout.works import Deployed, RevisionWorks
from deployments.rollouts import POLICY_TARGET, Family, Kind, file_sum
from deployments.slices import PLACES, place
from deployments.store import open_store, sqlite_url
from serve_app.api.factory import create_api
from tests.fakes import BASE, ScriptedEngine, json_reply
from tests.fakes_revisions import Revised

KEY, APPROVER, ROLLOUT, CHANGE = "gh-ann", "gh-bob", "ro-1", "CHG-7"
OWN = """version: 1
name: next
extends: default
targets:
  namespace:
    - {match: [night-run], env: nonprod}
    - {match: [staging], env: prod, sensitivity: sensitive}
"""
READ, DELETE = "kubectl -n staging get pods", "kubectl delete namespace dev"
TOOLS = [{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}]
FAST = {"min_s": 0, "window_s": 0, "design_effect": 1}
SHARE = 0.25


class CallingEngine(ScriptedEngine):
    """Calls the tool `shell` with the last message's words."""

    def __init__(self) -> None:
        super().__init__([])
        self.numbers = itertools.count(1)

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        self.calls.append(call)
        command = json.loads(call.body)["messages"][-1]["content"]
        said = {"name": "shell", "arguments": json.dumps({"command": command})}
        calls = [{"id": f"call_{next(self.numbers):012d}", "type": "function", "function": said}]
        for item in cast(list[EngineItem], json_reply(None, calls, "tool_calls")):
            await asyncio.sleep(0)
            yield item


@dataclass(frozen=True)
class Two:
    """The bundles and the candidate's file, which all tests share: to read them takes seconds."""

    file: Path
    configured: Bundle
    candidate: Bundle
    reader: ShellReader


class House:
    """An API over the real gate, with two live policies."""

    def __init__(self, folder: Path, two: Two) -> None:
        self.clock = FixedClock()
        self.file, self.configured, self.candidate, reader = two.file, two.configured, two.candidate, two.reader
        self.revision = revision_of_bundle(self.file)
        named = CandidateSettings(bundle=str(self.file), revision=self.revision)
        self.settings = GateSettings(candidate=named, approval_ttl_s=3600)
        configured = self.configured
        judges = Judges(
            Classifier(configured, reader), "configured", {self.revision: Classifier(self.candidate, reader)}
        )
        self.gates = ApprovalStore(open_store(sqlite_url(folder / "gate.db")))
        self.rollouts = RolloutStore(open_store(sqlite_url(folder / "rollout.db")))
        self.world = Revised(
            CallingEngine(),
            clock=self.clock,
            classifier=judges,
            several={(Family.POLICY, POLICY_TARGET): ("configured", self.revision)},
        )
        audit = self.world.audit
        works = RevisionWorks(
            {},
            {Kind.POLICY: lambda _: check_revision(named)},
            (),
            30.0,
            (
                Deployed(POLICY_TARGET, "configured", str(bundle_path("default")), family=Family.POLICY),
                Deployed(POLICY_TARGET, self.revision, str(self.file), family=Family.POLICY),
            ),
        )
        self.controller = Controller(self.rollouts, audit, works, self.clock)
        policies = LivePolicies(
            LivePolicy.of(configured, "configured"),
            LivePolicy.of(self.candidate, self.revision),
            self.controller.slices,
            self.clock,
        )
        desk = ApprovalDesk(
            self.gates, audit, self.clock, self.settings, holders=self.holders, policies=policies
        )  # fmt: skip
        self.desk = desk
        self.office = PermitOffice(
            desk, self.gates.engine, audit, self.clock, self.settings, folder / "keys", policies=policies
        )
        gate = Guard(judges, desk, audit, self.clock, 20.0, 60.0, 60.0)
        self.world.gate = gate  # type: ignore[assignment]
        self.world.approvals, self.world.permits = desk, self.office  # type: ignore[assignment]
        self.world.rollouts = self.controller
        self.ann = self.world.ledger.add_key(KEY, Scope.INFERENCE, Scope.ADMIN, person="ann")
        self.world.ledger.add_key(APPROVER, Scope.APPROVE, person="bob")
        canary = Canary(gate, desk, self.clock, 60.0, 60.0, policies=("", self.revision))
        surface = replace(self.world.surface(), canary=canary)
        self.http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(create_api(surface)), base_url="http://gatehouse",
            headers={"authorization": f"Bearer {KEY}"},
        )  # fmt: skip

    async def holders(self, key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        return await self.world.ledger.holders(key_ids)

    async def open(self) -> "House":
        await self.gates.open()
        await self.rollouts.open()
        await self.office.open()
        return self

    async def close(self) -> None:
        await self.http.aclose()
        await self.gates.close()
        await self.rollouts.close()

    async def begin(self) -> None:
        """Register and start as an operator does; the first slice has its sessions when this returns."""
        data = self.file.read_bytes()
        artefact = {
            "kind": "policy", "target": POLICY_TARGET, "path": str(self.file),
            "files": [{"path": self.file.name, "size": len(data), "sha256": file_sum("", data).sha256}],
        }  # fmt: skip
        registered = await self.http.post("/v1/admin/artefacts", json=artefact)
        assert registered.json()["revision"] == self.revision, registered.text
        plan = {
            "rollout_id": ROLLOUT, "kind": "policy", "target": POLICY_TARGET, "revision": self.revision,
            "previous_revision": "configured", "change_id": CHANGE, "shares": [25, 100], "rules": FAST,
        }  # fmt: skip
        started = await self.http.post("/v1/admin/rollouts", json=plan)
        assert started.status_code == 201, started.text
        for _ in range(3):
            await self.controller.tick()
        await self.look()
        steps = (await self.http.get(f"/v1/admin/rollouts/{ROLLOUT}/history")).json()["data"]
        assert [each["state"] for each in steps] == ["registered", "warming", "smoke", "slice"]

    async def back(self) -> None:
        """Roll back by hand; the ingress hears of it at its next look."""
        reply = await self.http.post(f"/v1/admin/rollouts/{ROLLOUT}/rollback", json={"change_id": CHANGE})
        assert reply.json()["state"] == "rolled_back", reply.text

    async def look(self) -> None:
        revisions = self.world.surface().revisions
        assert revisions is not None
        await revisions.look()

    def sessions(self, of_candidate: bool, count: int = 2) -> list[str]:
        """Names of so many sessions that are in the slice, or are not."""
        names = (f"s{number}" for number in range(10_000))
        return list(itertools.islice((name for name in names if (self._place(name) < SHARE) is of_candidate), count))

    def _place(self, name: str) -> float:
        session = session_of(self.ann, {"x-session-id": name}, {}, {})
        return place(ROLLOUT, self.ann.tenant, session) / PLACES

    async def ask(self, session: str, command: str) -> bool:
        """Whether the call that a model makes leaves."""
        body = {"model": BASE, "messages": [{"role": "user", "content": command}], "tools": TOOLS}
        reply = await self.http.post("/v1/chat/completions", json=body, headers={"x-session-id": session})
        assert reply.status_code == 200, reply.text
        await self.world.surface().journey.drain()
        return bool(reply.json()["choices"][0]["message"].get("tool_calls"))

    async def waiting(self, session: str) -> Mapping[str, Any]:
        """The request that a session's dangerous call has opened, planned and ready for a vote."""
        before = {each["id"] for each in await self.requests()}
        assert not await self.ask(session, DELETE)
        (fresh,) = [each for each in await self.requests() if each["id"] not in before]
        plan = {"change_id": CHANGE, "steps": ["kubectl create namespace dev"], "verify": "kubectl get namespace"}
        planned = await self.http.post(f"/v1/approvals/{fresh['id']}/plan", json=plan)
        assert planned.status_code == 200, planned.text
        return planned.json()

    async def requests(self) -> list[Mapping[str, Any]]:
        return (await self.http.get("/v1/approvals")).json()["data"]

    async def vote(self, shown: Mapping[str, Any]) -> httpx2.Response:
        digests = {name: shown[name] for name in ("action_digest", "display_digest")}
        return await self.http.post(
            f"/v1/approvals/{shown['id']}/votes",
            json={"decision": "approve", **digests},
            headers={"authorization": f"Bearer {APPROVER}"},
        )

    def no_alarm(self) -> None:
        names = set(self.world.audit.names())
        assert not names & {"bypass.attempted", "incident.opened", "principal.frozen"}, names


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    file = tmp_path_factory.mktemp("policies") / "next.yaml"
    file.write_text(OWN)
    return Two(file, read_policy(bundle_path("default")), read_policy(file), ShellReader(timeout_s=20.0))


@pytest.fixture
async def house(tmp_path: Path, two: Two) -> AsyncIterator[House]:
    house = await House(tmp_path, two).open()
    yield house
    await house.close()


async def test_a_slice_of_the_sessions_is_judged_by_the_candidate_and_stays_with_it(house: House) -> None:
    theirs, mine = house.sessions(True), house.sessions(False)
    for session in (*theirs, *mine):
        assert await house.ask(session, READ), "before the rollout everybody is the configured policy's"
    await house.begin()
    house.world.audit.events.clear()
    for _ in range(2):
        assert [await house.ask(session, READ) for session in (*theirs, *mine)] == [False, False, True, True]
    judged = {(event.session, event.data["policy_digest"]) for event in house.world.audit.named("tool_call.classified")}
    assert len(judged) == 4, "one policy for each session"
    digests = [str(digest) for _, digest in judged]
    assert sorted(map(digests.count, set(digests))) == [2, 2]
    assert set(digests) == {house.configured.policy_digest, house.candidate.policy_digest}
    await house.back()
    await house.look()
    for session in (*theirs, *mine):
        assert await house.ask(session, READ)


async def test_what_the_candidate_held_is_stale_after_its_rollback_and_what_the_other_held_is_not(
    house: House,
) -> None:
    await house.begin()
    (session,), (other,) = house.sessions(True, 1), house.sessions(False, 1)
    theirs, mine = await house.waiting(session), await house.waiting(other)
    late = await house.waiting(house.sessions(True, 2)[1])
    assert (await house.vote(late)).json()["state"] == "APPROVED"
    await house.back()
    refused = await house.vote(theirs)
    assert refused.status_code == 400
    assert "no longer judged by the policy" in refused.json()["error"]["message"]
    assert (await house.vote(mine)).json()["state"] == "APPROVED"
    # This replica of the ingress has not heard of the rollback: the desk has.
    assert not await house.ask(house.sessions(True, 2)[1], DELETE)
    assert await house.ask(other, DELETE)
    await house.look()
    assert not await house.ask(session, DELETE), "it waits again, under the policy that judges it now"
    states = {each["id"]: each["state"] for each in await house.requests()}
    assert (states[theirs["id"]], states[late["id"]], states[mine["id"]]) == ("STALE", "STALE", "CONSUMED")
    assert len(house.world.audit.named("approval.stale")) == 2
    await house.desk.sweep()
    assert len(house.world.audit.named("approval.stale")) == 3, "what the late replica has opened meanwhile"
    house.no_alarm()


async def test_an_approval_of_the_candidate_lets_the_call_of_its_session_leave_once(house: House) -> None:
    await house.begin()
    (session,) = house.sessions(True, 1)
    assert (await house.vote(await house.waiting(session))).json()["state"] == "APPROVED"
    assert await house.ask(session, DELETE)
    assert not await house.ask(session, DELETE)
    (consumed,) = house.world.audit.named("permit.consumed")
    assert consumed.data["policy_digest"] == house.candidate.policy_digest


async def test_a_runner_s_calls_are_judged_by_the_policy_of_their_session(house: House) -> None:
    await house.begin()
    names = [f"r{number}" for number in range(200)]
    theirs = next(each for each in names if place(ROLLOUT, house.ann.tenant, each) < SHARE * PLACES)
    mine = next(each for each in names if place(ROLLOUT, house.ann.tenant, each) >= SHARE * PLACES)
    found: dict[str, Any] = {}
    for session in (theirs, mine):
        body = {"tool": "run", "arguments": {"command": READ}, "audience": "runner-1", "session": session}
        found[session] = (await house.http.post("/v1/gate/calls", json=body)).json()
    assert (found[theirs]["status"], found[mine]["status"]) == ("held", "permitted")
    permit = found[mine]["permit"]
    digest = {"action_digest": permit["action_digest"], "audience": "runner-1"}
    await house.back()
    taken = await house.http.post(f"/v1/permits/{permit['id']}/redeem", json=digest)
    assert taken.json()["state"] == "REDEEMED", "a read that was released may be executed"
    house.no_alarm()


async def test_the_dry_run_says_which_policy_has_judged(house: House) -> None:
    await house.begin()
    (session,), (other,) = ([str(_id(house, name)) for name in house.sessions(side, 1)] for side in (True, False))
    body = {"tool": "shell", "arguments": {"command": READ}}
    for asked, revision, name, outcome in (
        ({}, "configured", "default", "release"),
        ({"session": other}, "configured", "default", "release"),
        ({"session": session}, house.revision, "next", "needs_plan"),
        ({"policy": house.revision}, house.revision, "next", "needs_plan"),
        ({"policy": "configured"}, "configured", "default", "release"),
    ):
        found = (await house.http.post("/v1/gate/classify", json={**body, **asked})).json()
        assert (found["policy_revision"], found["policy"], found["outcome"]) == (revision, name, outcome), asked
        assert found["explanation"]["policy_digest"] == found["policy_digest"]
    refused = await house.http.post("/v1/gate/classify", json={**body, "policy": "f" * 64})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "policy")


def _id(house: House, name: str) -> str:
    return session_of(house.ann, {"x-session-id": name}, {}, {})


async def test_the_canary_is_held_by_both_with_or_without_a_rollout(house: House) -> None:
    for _ in range(2):
        house.clock.advance(61_000)
        house.world.audit.events.clear()
        reply = await house.http.get("/healthz/approvals")
        assert reply.status_code == 200, reply.text
        held = {str(event.data["policy_digest"]) for event in house.world.audit.named("tool_call.held")}
        assert held == {house.configured.policy_digest, house.candidate.policy_digest}
        assert {each.name for each in house.world.audit.events} >= {"approval.cancelled"}
        if not await house.controller.rollouts():
            await house.begin()


async def test_while_the_controller_is_silent_nothing_of_the_candidate_leaves(house: House) -> None:
    await house.begin()
    (session,) = house.sessions(True, 1)
    waiting = await house.waiting(session)
    assert (await house.vote(waiting)).json()["state"] == "APPROVED"
    good = house.rollouts.in_force

    async def silent() -> Any:
        raise GatehouseError("The store of rollouts does not answer.")

    house.rollouts.in_force = silent
    house.clock.advance(11_000)
    assert not await house.ask(session, DELETE)
    house.rollouts.in_force = good
    house.clock.advance(1_000)
    assert await house.ask(session, DELETE), "the approval was not lost"
    house.no_alarm()
