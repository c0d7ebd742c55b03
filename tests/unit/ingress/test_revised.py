"""Two revisions of a model in the journey: who answers, what is said and recorded of it, and what is counted."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest

from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout, GatehouseError, PartUnavailable
from deployments.ingress.journey import Ask, Head
from deployments.ports import Approval, ApprovalId, ApprovalState, Dialect, RequestId, Scope
from deployments.rollouts import Count, Kind, Metric, Slice
from serve_app.api.factory import create_api
from tests.api.answering import KNOWN_ROUTE, Explaining
from tests.api.test_approvals_api import proposal
from tests.fakes import (
    BASE,
    CANDIDATE,
    JSON_START,
    KEY,
    STRONG,
    Script,
    ScriptedEngine,
    World,
    chunk,
    json_reply,
    sse,
    stream_reply,
)
from tests.fakes_rollouts import InMemoryRollouts

SPLIT = Slice("ro-1", Kind.ENGINE, BASE, CANDIDATE, "r1", 100, ttft_ms=1_000, e2e_ms=5_000)
OLD, NEW = json_reply("of the old one"), json_reply("of the new one")


class Split(InMemoryRollouts):
    """Says how traffic is split, as the test says."""

    split = SPLIT
    down = False

    async def slices(self) -> list[Slice]:
        if self.down:
            raise PartUnavailable("The rollout controller is not available.")
        return [self.split]


@dataclass
class House:
    world: World
    rollouts: Split

    async def hears(self, **changes: Any) -> None:
        self.rollouts.split = replace(self.rollouts.split, **changes)
        revisions = self.world.surface().revisions
        assert revisions is not None
        await revisions.look()

    async def ask(self, session: str = "s1", model: str = "auto") -> tuple[dict[str, str], str]:
        """Headers and text; raises what the journey raises."""
        headers = {"x-session-id": session}
        body = {"model": model, "messages": [{"role": "user", "content": "go"}]}
        ask = Ask(Dialect.CHAT, RequestId(f"req_{session}"), KEY, headers, body)
        journey = self.world.surface().journey
        head, said = {}, b""
        try:
            async for item in journey.answer(ask):
                if isinstance(item, Head):
                    head = dict(item.headers)
                else:
                    said += item
        finally:
            await journey.drain()
        return head, said.decode()

    async def counted(self) -> dict[tuple[bool, Metric], tuple[int, int]]:
        """(bad, trials) by side and metric, of what was handed over since the start."""
        await self.hears()
        found: dict[tuple[bool, Metric], tuple[int, int]] = {}
        for each in self.rollouts.told:
            bad, trials = found.get((each.candidate, each.metric), (0, 0))
            found[each.candidate, each.metric] = (bad + each.bad, trials + each.trials)
        return found

    def recorded(self, name: str) -> list[dict[str, Any]]:
        return [dict(each.data) for each in self.world.audit.events if each.name == name]


def house(old: Script = OLD, new: Script = NEW, **more: Any) -> House:
    world = World(ScriptedEngine(old), second=ScriptedEngine(new), **more)
    world.rollouts = Split(world.clock)
    return House(world, world.rollouts)


async def test_a_session_is_answered_by_its_revision_and_everything_says_so() -> None:
    here = house()
    headers, text = await here.ask()
    assert (headers["x-gatehouse-revision"], "of the old one" in text) == ("r1", True)  # nothing was heard yet
    await here.hears()
    headers, text = await here.ask()
    assert (headers["x-gatehouse-revision"], "of the new one" in text) == (CANDIDATE, True)
    assert [each["revision"] for each in here.recorded("route.decided")] == ["r1", CANDIDATE]
    assert [dict(each.revisions) for each in here.world.difficulty.asks] == [{BASE: "r1"}, {BASE: CANDIDATE}]
    await here.hears(share=0)
    assert (await here.ask())[0]["x-gatehouse-revision"] == "r1"


async def test_a_model_with_one_revision_is_left_as_it_is() -> None:
    here = house()
    await here.hears()
    headers, text = await here.ask(model=STRONG)
    assert (headers["x-gatehouse-revision"], "strong" in text) == ("r1", True)
    assert here.world.strong.calls[-1].revision == ""
    assert await here.counted() == {}


async def test_a_session_stays_with_its_revision_while_the_share_grows() -> None:
    here = house()
    names = [f"s{number}" for number in range(60)]
    before = set[str]()
    for share in (5, 25, 60, 100):
        await here.hears(share=share)
        mine = {name for name in names if (await here.ask(name))[0]["x-gatehouse-revision"] == CANDIDATE}
        assert before <= mine
        before = mine
    assert before == {*names}


async def test_traffic_goes_on_when_the_controller_falls_silent() -> None:
    here = house()
    await here.hears()
    here.rollouts.down = True
    await here.hears()
    assert (await here.ask())[0]["x-gatehouse-revision"] == CANDIDATE  # what it said last
    here.world.clock.advance(61_000)
    assert (await here.ask())[0]["x-gatehouse-revision"] == "r1"


async def test_answers_are_counted_of_the_revision_that_gave_them() -> None:
    here = house()
    await here.hears(share=50)
    given = [(await here.ask(f"s{number}"))[0]["x-gatehouse-revision"] for number in range(30)]
    news = given.count(CANDIDATE)
    assert 0 < news < 30
    found = await here.counted()
    for metric in (Metric.ERROR, Metric.TTFT, Metric.E2E):
        assert found[True, metric] == (0, news)
        assert found[False, metric] == (0, 30 - news)


@pytest.mark.parametrize(
    ("script", "errors"),
    [
        ([EngineFailed("dead")], (1, 1)),
        ([JSON_START, EngineFailed("dead")], (1, 1)),
        ([EngineTimeout("late")], (1, 1)),
        ([EngineOverloaded("full")], None),
    ],
    ids=["dead", "dead-after-its-start", "late", "busy"],
)
async def test_what_the_engine_failed_is_an_error_of_its_revision(script: Script, errors: tuple[int, int]) -> None:
    here = house(new=script)
    await here.hears()
    with pytest.raises(GatehouseError):
        await here.ask()
    assert (await here.counted()).get((True, Metric.ERROR)) == errors


async def test_a_hang_up_says_nothing_of_the_revision() -> None:
    here = house(new=stream_reply(*[sse(chunk(content="a"))] * 3))
    await here.hears()
    journey = here.world.surface().journey
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "go"}]}
    answer = journey.answer(Ask(Dialect.CHAT, RequestId("req_1"), KEY, {}, body))
    await anext(answer)
    await answer.aclose()
    await journey.drain()
    assert (True, Metric.ERROR) not in await here.counted()


async def test_a_shadow_is_asked_the_same_and_nobody_is_told_what_it_says() -> None:
    here = house(new=[EngineFailed("dead")])
    await here.hears(share=0)
    await here.ask()
    assert here.world.second is not None
    assert here.world.second.calls == []  # nothing is compared yet
    assert await here.counted() == {}
    await here.hears(shadow=True)
    headers, text = await here.ask()
    assert (headers["x-gatehouse-revision"], "of the old one" in text) == ("r1", True)
    [shadow] = here.world.second.calls
    answered = here.world.engine.calls[-1]
    assert (shadow.body, shadow.revision, shadow.patient) == (answered.body, CANDIDATE, True)
    assert shadow.request_id != answered.request_id
    found = await here.counted()
    assert found[True, Metric.ERROR] == (1, 1)
    assert found[False, Metric.ERROR] == (0, 1)
    assert len(here.recorded("generation.finished")) == 2  # of the answers alone
    assert len(here.world.ledger.settled) == 2


async def test_an_answer_counts_once_whatever_is_said_of_it_and_of_the_revision_that_is_named() -> None:
    here = house(difficulty=Revised())
    await here.hears()
    told = {"route_id": KNOWN_ROUTE, "source": "user"}
    async with client(here) as http:
        for verdict, event in (
            ("underpowered", "e0"),
            *(("wrong", f"e{number}") for number in range(1, 6)),
            ("ok", "e9"),
        ):
            reply = await http.post("/v1/feedback", json={**told, "verdict": verdict, "event_id": event})
            assert reply.status_code == 200, reply.text
    assert await here.counted() == {(True, Metric.FEEDBACK): (1, 1)}


class Revised(Explaining):
    """Its decisions are of the candidate."""

    async def explain(self, *args: Any) -> Any:
        found = await super().explain(*args)
        return replace(found, decision=replace(found.decision, model=BASE, revision=CANDIDATE))


def client(here: House) -> httpx2.AsyncClient:
    here.world.ledger.add_key("all", *Scope)
    transport = httpx2.ASGITransport(create_api(here.world.surface()))
    return httpx2.AsyncClient(transport=transport, base_url="http://x", headers={"authorization": "Bearer all"})


async def test_a_call_that_humans_let_go_as_it_was_is_a_false_hold() -> None:
    here = house()
    await here.hears(since_ms=1_000)
    revisions = here.world.surface().revisions
    assert revisions is not None
    held = Approval(ApprovalId("apr_1"), ApprovalState.APPROVED, replace(proposal(), model=BASE), 1, (), None, None,
                    1_000, 9_000)  # fmt: skip
    for each in (
        held,
        held,
        replace(held, approval_id=ApprovalId("apr_2"), state=ApprovalState.REJECTED),
        replace(held, approval_id=ApprovalId("apr_3"), state=ApprovalState.PENDING),
        replace(held, approval_id=ApprovalId("apr_4"), created_ms=999),  # held before this stage
        replace(held, approval_id=ApprovalId("apr_5"), proposal=replace(held.proposal, model=STRONG)),
    ):
        revisions.decided(each)
    assert await here.counted() == {(True, Metric.FALSE_HOLD): (1, 2)}


async def test_both_revisions_are_shown_to_an_administrator_and_neither_the_rollout_s_name_on_metrics() -> None:
    here = house()
    async with client(here) as http:
        shown = (await http.get("/v1/admin/engines")).json()["data"]
        assert len(shown) == 3  # both of one model, one of the other
        artefact = {"kind": "policy", "target": "acme-secret", "settings": {"a": 1}}
        revision = (await http.post("/v1/admin/artefacts", json=artefact)).json()["revision"]
        plan = {"rollout_id": "ro-acme", "kind": "policy", "target": "acme-secret", "revision": revision,
                "previous_revision": "r0", "change_id": "CHG-acme"}  # fmt: skip
        assert (await http.post("/v1/admin/rollouts", json=plan)).status_code == 201
        text = (await http.get("/metrics")).text
    assert 'gatehouse_rollout_share_ratio{kind="policy",model=""} 0.0' in text
    assert 'gatehouse_rollout_stage_age_seconds{kind="policy",model="",state="registered"}' in text
    assert "gatehouse_rollout_up 1.0" in text
    assert "acme" not in text


async def test_figures_of_the_last_requests_are_handed_over_once() -> None:
    here = house()
    await here.hears()
    await asyncio.gather(*(here.ask(f"s{number}") for number in range(5)))
    await here.counted()
    told = list[Count](here.rollouts.told)
    await here.hears()
    assert here.rollouts.told == told
