"""Slices of prompts, the router's snapshot and the policy: who gets them, who says so, what is counted, the way back.

The controller is the real one, over SQLite; engines are fakes that do as they are instructed.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.clock import FixedClock
from deployments.difficulty.deployment import DifficultyRouter
from deployments.difficulty.settings import DifficultySettings
from deployments.ingress.prompting import Prompt
from deployments.ingress.session import session_of
from deployments.ingress.settings import CascadeSettings, IngressSettings
from deployments.ports import Scope, Tier
from deployments.rollout.controller import Controller
from deployments.rollout.settings import SmokePrompt
from deployments.rollout.store import RolloutStore
from deployments.rollout.works import Deployed, RevisionWorks
from deployments.rollouts import POLICY_TARGET, ROUTER_TARGET, Family, Kind, file_sum, revision_of_files
from deployments.slices import PLACES, place
from deployments.store import open_store, sqlite_url
from router.policy import ROUTING_V1
from router.snapshot import parse
from serve_app.api.factory import create_api
from serve_app.app import load_prompt, load_snapshot
from tests.fakes import BASE, STRONG, json_reply
from tests.fakes_revisions import AskedGate, Revised, SayingEngine
from tests.unit.router.learned import KNOWN, two_heads_bytes

KEY, ROLLOUT, CHANGE = "gh-all", "ro-1", "CHG-7"
OLD, NEW = "Answer in JSON.", "Answer in prose."
SMOKE = (SmokePrompt(name="speaks", prompt="Hello", expects="[a-z]"),)
JSON_ONLY = {"type": "json_object"}
FAST = {"min_s": 0, "window_s": 0, "design_effect": 1}


def says(body: Mapping[str, Any]) -> str:
    """An answer as the instructions want it."""
    said = json.dumps(body["messages"])
    return "Well, the answer is four." if NEW in said else '{"answer": 4}'


@dataclass
class House:
    """An API over fakes whose rollouts are driven by the real controller, tick by tick."""

    folder: Path
    kind: Kind
    target: str
    data: bytes
    difficulty: DifficultyRouter
    clock: FixedClock = field(default_factory=FixedClock)

    def __post_init__(self) -> None:
        family = Family(self.kind.value)
        file = self.folder / "new.txt"
        file.write_bytes(self.data)
        self.file = file
        self.revision = revision_of_files(self.kind, self.target, [file_sum(file.name, self.data)])
        self.engine, self.gate = SayingEngine(says), AskedGate()
        deployed = (
            Deployed(BASE, "r1"),
            Deployed(self.target, "v1", family=family),
            Deployed(self.target, self.revision, str(file), family=family),
        )
        loaders = {Kind.PROMPT: load_prompt, Kind.ROUTER: load_snapshot, Kind.POLICY: lambda _: None}
        works = RevisionWorks({(BASE, "r1"): self.engine}, loaders, SMOKE, 30.0, deployed)
        self.store = RolloutStore(open_store(sqlite_url(self.folder / "rollout.db")))
        self.world = Revised(
            self.engine,
            clock=self.clock,
            gate=self.gate,
            difficulty=self.difficulty,  # type: ignore[arg-type]
            settings=IngressSettings(record_delay_s=0, cascade=CascadeSettings(verify_all=True)),
            prompts={BASE: (Prompt("v1", OLD), Prompt(self.revision, NEW))} if family is Family.PROMPT else {},
            several={(family, self.target): ("v1", self.revision)},
        )
        self.controller = Controller(self.store, self.world.audit, works, self.clock)
        self.world.rollouts = self.controller
        self.principal = self.world.ledger.add_key(KEY, *Scope)
        transport = httpx2.ASGITransport(create_api(self.world.surface()))
        self.http = httpx2.AsyncClient(
            transport=transport, base_url="http://x", headers={"authorization": f"Bearer {KEY}"}
        )

    async def begin(self, **rules: object) -> None:
        """Register and start as an operator does, and drive it until it has its first sessions."""
        size, digest = len(self.data), file_sum("", self.data).sha256
        artefact = {
            "kind": self.kind.value, "target": self.target, "path": str(self.file),
            "files": [{"path": self.file.name, "size": size, "sha256": digest}],
        }  # fmt: skip
        registered = await self.http.post("/v1/admin/artefacts", json=artefact)
        assert registered.json() == {"object": "artefact", "revision": self.revision}, registered.text
        plan = {
            "rollout_id": ROLLOUT, "kind": self.kind.value, "target": self.target, "revision": self.revision,
            "previous_revision": "v1", "change_id": CHANGE, "shares": [25, 100], "rules": {**FAST, **rules},
        }  # fmt: skip
        started = await self.http.post("/v1/admin/rollouts", json=plan)
        assert started.status_code == 201, started.text
        for _ in range(3):
            await self.tick()
        assert (await self.state())["state"] == "slice"

    async def tick(self) -> None:
        await self.look()
        await self.controller.tick()
        await self.look()

    async def look(self) -> None:
        revisions = self.world.surface().revisions
        assert revisions is not None
        await revisions.look()

    async def state(self) -> dict[str, Any]:
        return (await self.http.get(f"/v1/admin/rollouts/{ROLLOUT}")).json()

    def sessions(self, of_candidate: bool, count: int) -> list[str]:
        """Names of so many sessions that are in the slice of 25 %, or are not."""
        names = (f"s{number}" for number in range(100_000))
        return [name for name in names if (self.place_of(name) < 0.25) is of_candidate][:count]

    def place_of(self, name: str) -> float:
        session = session_of(self.principal, {"x-session-id": name}, {}, {})
        return place(ROLLOUT, self.principal.tenant, session) / PLACES

    async def ask(self, session: str, path: str = "/v1/chat/completions", **body: object) -> httpx2.Response:
        given = {"model": BASE, "messages": [{"role": "user", "content": KNOWN}], **body}
        reply = await self.http.post(path, json=given, headers={"x-session-id": session})
        assert reply.status_code == 200, reply.text
        await self.world.surface().journey.drain()
        await self.difficulty.flush()
        return reply

    def recorded(self) -> list[Mapping[str, object]]:
        return [each.data for each in self.world.audit.events if each.name == "route.decided"]


@dataclass
class Houses:
    folder: Path
    made: list[House] = field(default_factory=list[House])

    async def make(self, kind: Kind, target: str, data: bytes) -> House:
        learned: dict[str, object] = {}
        if kind is Kind.ROUTER:
            (self.folder / "old.snapshot").write_bytes(two_heads_bytes())
            (self.folder / "new.txt").write_bytes(data)
            revision = revision_of_files(kind, target, [file_sum("new.txt", data)])
            learned = {
                "snapshot": str(self.folder / "old.snapshot"), "revision": "v1", "mode": "apply",
                "candidate": {"snapshot": str(self.folder / "new.txt"), "revision": revision},
            }  # fmt: skip
        settings = DifficultySettings.model_validate({"read_timeout_s": 5, "learned": learned})
        tiers = {Tier.BASE: (BASE, "r1"), Tier.STRONG: (STRONG, "r1")}
        clock = FixedClock()
        url = sqlite_url(self.folder / "router.db")
        router = DifficultyRouter(settings, ROUTING_V1, tiers, url, clock=clock)
        await router.check_health()
        house = House(self.folder, kind, target, data, router, clock)
        await house.store.open()
        self.made.append(house)
        return house


@pytest.fixture
async def houses(tmp_path: Path) -> AsyncIterator[Houses]:
    found = Houses(tmp_path)
    yield found
    for house in found.made:
        await house.http.aclose()
        await house.store.close()
        await house.difficulty.close()


async def test_sessions_of_the_slice_get_the_candidate_s_prompt_and_the_others_do_not(houses: Houses) -> None:
    here = await houses.make(Kind.PROMPT, BASE, NEW.encode())
    await here.begin()
    smoked = here.engine.body["messages"]
    assert [each["content"] for each in smoked] == [NEW, "Hello"]  # with its own instructions, before anybody else
    for mine, text, revision in ((True, NEW, here.revision), (False, OLD, "v1")):
        for name in here.sessions(mine, 3) * 2:  # and in the session's next turn, too
            headers = (await here.ask(name)).headers
            assert here.engine.body["messages"][0] == {"role": "system", "content": text}
            assert (headers["x-gatehouse-prompt-revision"], headers["x-gatehouse-revision"]) == (revision, "r1")
            assert here.recorded()[-1]["prompt_revision"] == revision
            assert "router_revision" not in here.recorded()[-1]
    [name] = here.sessions(True, 1)
    streamed = await here.ask(name, stream=True)
    assert streamed.headers["x-gatehouse-prompt-revision"] == here.revision
    for path, body in (("/v1/messages", {"max_tokens": 99}), ("/v1/responses", {"input": "Hi", "messages": None})):
        given = {key: value for key, value in {"model": "auto", **body}.items() if value is not None}
        given |= {} if "input" in given else {"messages": [{"role": "user", "content": "Hi"}]}
        reply = await here.http.post(path, json=given, headers={"x-session-id": name})
        assert (reply.status_code, reply.headers["x-gatehouse-prompt-revision"]) == (200, here.revision), reply.text
        assert here.engine.body["messages"][0]["content"] == NEW
    metrics = (await here.http.get("/metrics")).text
    assert f'gatehouse_rollout_share_ratio{{kind="prompt",model="{BASE}"}} 0.25' in metrics
    other = await here.ask(name, model=STRONG)
    assert "x-gatehouse-prompt-revision" not in other.headers  # that model has none


async def test_sessions_of_the_slice_are_routed_by_the_candidate_s_snapshot(houses: Houses) -> None:
    data = two_heads_bytes(weak_bias=-3.0)
    here = await houses.make(Kind.ROUTER, ROUTER_TARGET, data)
    await here.begin()
    snapshots = {here.revision: parse(data).digest, "v1": parse(two_heads_bytes()).digest}
    for mine, revision in ((True, here.revision), (False, "v1")):
        for name in here.sessions(mine, 3) * 2:
            headers = (await here.ask(name)).headers
            assert headers["x-gatehouse-router-revision"] == revision
            assert here.recorded()[-1]["router_revision"] == revision
            shown = (await here.http.get(f"/v1/route/{headers['x-gatehouse-route-id']}")).json()
            assert (shown["snapshot"], shown["router_revision"]) == (snapshots[revision], revision)
            question = {"model": "auto", "messages": [{"role": "user", "content": KNOWN}]}
            tried = (await here.http.post("/v1/route", json=question, headers={"x-session-id": name})).json()
            assert (tried["snapshot"], tried["router_revision"]) == (snapshots[revision], revision)
            assert (tried["prompt_revision"], tried["policy_revision"]) == (None, None)
    await here.ask(here.sessions(True, 1)[0], model=BASE)
    assert here.recorded()[-1]["router_revision"] == here.revision


async def test_the_gate_is_told_which_policy_judges_the_session(houses: Houses) -> None:
    here = await houses.make(Kind.POLICY, POLICY_TARGET, b"rules: []")
    call = {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}]
    here.world.engine = here.engine
    await here.begin()
    here.engine.scripts = [json_reply(None, [call], "tool_calls")]
    here.engine.says = lambda _: "x"
    calling = CallingEngine(here.engine)
    here.engine.call = calling.call  # type: ignore[method-assign]
    for mine, revision in ((True, here.revision), (False, "v1")):
        for name in here.sessions(mine, 2):
            reply = await here.ask(name, tools=tools)
            assert here.gate.policies[-1] == revision
            assert reply.headers["x-gatehouse-policy-revision"] == revision
            assert here.recorded()[-1]["policy_revision"] == revision


class CallingEngine:
    """Plays the script of another engine, whatever it is asked."""

    def __init__(self, of: SayingEngine) -> None:
        self._of = of

    async def call(self, call: object) -> AsyncIterator[object]:
        del call
        for item in self._of.scripts[0]:
            await asyncio.sleep(0)
            yield item


async def test_a_prompt_whose_answers_fail_their_checks_goes_back_by_itself(houses: Houses) -> None:
    here = await houses.make(Kind.PROMPT, BASE, NEW.encode())
    await here.begin(bounds=[{"metric": "verifier", "slack": 0.03, "tolerance": 0.5, "min_count": 5}])
    mine, others = here.sessions(True, 60), here.sessions(False, 60)
    for number, (one, other) in enumerate(zip(mine, others, strict=True)):
        for name in (one, other):
            await here.ask(name, response_format=JSON_ONLY)
        if number % 5 == 4:
            await here.tick()
            if (await here.state())["state"] == "rolled_back":
                break
    found = await here.state()
    assert (found["state"], found["share_percent"]) == ("rolled_back", 0)
    steps = (await here.http.get(f"/v1/admin/rollouts/{ROLLOUT}/history")).json()["data"]
    assert steps[-1]["reason"].startswith("worse: verifier ")
    assert steps[-1]["evidence"]["metrics"]["verifier"]["baseline"][0] == 0
    for name in mine[:3]:
        reply = await here.ask(name)
        assert reply.headers["x-gatehouse-prompt-revision"] == "v1"
        assert here.engine.body["messages"][0]["content"] == OLD


@pytest.mark.parametrize("kind", [Kind.PROMPT, Kind.ROUTER, Kind.POLICY], ids=["prompt", "router", "policy"])
async def test_what_people_say_is_bad_goes_back_by_itself(kind: Kind, houses: Houses) -> None:
    target, data = {
        Kind.PROMPT: (str(BASE), NEW.encode()),
        Kind.ROUTER: (ROUTER_TARGET, two_heads_bytes(weak_bias=-3.0)),
        Kind.POLICY: (POLICY_TARGET, b"rules: []"),
    }[kind]
    here = await houses.make(kind, target, data)
    await here.begin(bounds=[{"metric": "feedback", "slack": 0.05, "tolerance": 0.5, "min_count": 5}])
    mine, others = here.sessions(True, 60), here.sessions(False, 60)
    for number, (one, other) in enumerate(zip(mine, others, strict=True)):
        for name, verdict in ((one, "wrong"), (other, "ok")):
            route = (await here.ask(name)).headers["x-gatehouse-route-id"]
            told = {"route_id": route, "verdict": verdict, "source": "user", "event_id": f"e-{name}"}
            for _ in range(2):  # the same word again is no second one
                assert (await here.http.post("/v1/feedback", json=told)).status_code == 200
        if number % 5 == 4:
            await here.tick()
            if (await here.state())["state"] == "rolled_back":
                break
    steps = (await here.http.get(f"/v1/admin/rollouts/{ROLLOUT}/history")).json()["data"]
    assert steps[-1]["state"] == "rolled_back"
    figures = steps[-1]["evidence"]["metrics"]["feedback"]
    bad, trials = figures["candidate"]
    assert bad == trials >= 5
    assert figures["baseline"][0] == 0


async def test_a_prompt_that_is_not_what_the_configuration_has_is_refused_at_the_start(houses: Houses) -> None:
    here = await houses.make(Kind.PROMPT, BASE, NEW.encode())
    copy = here.folder / "copy.txt"
    copy.write_bytes(b"Another text.")
    other = {
        "kind": "prompt", "target": BASE, "path": str(copy),
        "files": [{"path": "copy.txt", "size": 13, "sha256": file_sum("", b"Another text.").sha256}],
    }  # fmt: skip
    revision = (await here.http.post("/v1/admin/artefacts", json=other)).json()["revision"]
    plan = {
        "rollout_id": ROLLOUT, "kind": "prompt", "target": BASE, "revision": revision, "previous_revision": "v1",
        "change_id": CHANGE,
    }  # fmt: skip
    refused = await here.http.post("/v1/admin/rollouts", json=plan)
    assert refused.status_code == 400
    assert "set `candidate_prompt` of the model" in refused.text
    assert (await here.http.get(f"/v1/admin/rollouts/{ROLLOUT}")).status_code == 404
