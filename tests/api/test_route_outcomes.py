"""What became of a turn, over HTTP with the real router: both decisions of a cascade, metrics, keepalives, the cap."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from deployments.difficulty.deployment import DifficultyRouter
from deployments.difficulty.reading import read_chat
from deployments.difficulty.settings import DifficultySettings
from deployments.errors import EngineFailed
from deployments.ingress.informed import InformedDifficulty
from deployments.ingress.settings import IngressSettings, LoadSettings
from deployments.ingress.surface import Surface
from deployments.ports import Dialect, Mode, RouteFacts, Scope, Tier
from deployments.store import sqlite_url
from router.policy import ROUTING_V1
from serve_app.api.factory import create_api
from serve_app.api.route_metrics import RouteCounters, make_route_meter
from tests.api.test_generate import AUTH
from tests.cascading import ASKED, RIGHT, WRONG, settled, streamed
from tests.fakes import BASE, KEY, STRONG, GatedEngine, ScriptedEngine, Silence, World, json_reply
from tests.fakes_difficulty import DECISION

TIERS = {Tier.BASE: (BASE, "r1"), Tier.STRONG: (STRONG, "r1")}
CAPPED = {**ROUTING_V1, "budget": {"target": 0.2, "strong_seconds_per_hour": 60, "burst_seconds": 1}}
DELETE = {"model": "auto", "messages": [{"role": "user", "content": "Delete the production database"}]}


class Routed(World):
    """A world over the real router, put together as the deployment does it."""

    def _make(self) -> Surface:
        surface = super()._make()
        journey = surface.journey
        meter = make_route_meter(surface.meter)
        meter.watch(journey._tier_states.view)
        asked = InformedDifficulty(self.difficulty, journey._tier_states.view, meter, self.clock)
        journey._difficulty = journey._cascade._difficulty = journey._closing._difficulty = asked
        journey._closing._route_meter = meter
        readers = dict.fromkeys(Dialect, read_chat)
        journey._readers = journey._cascade._readers = readers
        self.ledger.add_key(KEY, *Scope)
        return replace(surface, difficulty=asked, readers=readers)


@asynccontextmanager
async def running(
    path: Path, base: ScriptedEngine, strong: ScriptedEngine | None = None, **fields: object
) -> AsyncIterator[tuple[Routed, httpx2.AsyncClient]]:
    policy = cast(Mapping[str, object], fields.pop("policy", ROUTING_V1))
    store = sqlite_url(path / "router.db")
    router = DifficultyRouter(DifficultySettings(read_timeout_s=5), policy, TIERS, store)
    await router.check_health()
    here = Routed(base, strong=strong or ScriptedEngine(json_reply(RIGHT)), difficulty=router, **fields)  # type: ignore[arg-type]
    transport = httpx2.ASGITransport(create_api(here.surface()), raise_app_exceptions=False)
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers=AUTH) as http:
            yield here, http
    finally:
        await settled(here)
        await router.close()


async def metrics(http: httpx2.AsyncClient) -> dict[str, float]:
    reply = await http.get("/metrics")
    lines = [line for line in reply.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_who_asks_why_sees_both_decisions_and_the_check_between(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEngine(json_reply(WRONG))) as (here, http):
        reply = await http.post("/v1/chat/completions", json=ASKED)
        assert reply.headers["x-gatehouse-cascade"] == "escalated"
        await settled(here)
        found = (await http.get(f"/v1/route/{reply.headers['x-gatehouse-route-id']}")).json()
        assert (found["model"], found["tier"]) == (BASE, "20b")
        told = found["cascade"]
        assert (told["outcome"], told["reason"], told["verdict"], told["error"]) == ("escalated", None, "fail", None)
        assert "arithmetic:false_equation" in told["findings"]
        second = told["second"]
        assert (second["id"], second["model"], second["tier"], second["reason"]) == (
            found["id"], STRONG, "120b", "cascade_escalated",
        )  # fmt: skip
        assert second["effort"] == reply.headers["x-gatehouse-effort"]
        assert "7 * 8" not in json.dumps(found)
        counted = await metrics(http)
        assert counted['gatehouse_cascade_total{why="",word="escalated"}'] == 1
        assert counted['gatehouse_cascade_second_total{outcome="unknown"}'] == 1


async def test_a_turn_without_a_second_attempt_has_no_cascade_to_tell(tmp_path: Path) -> None:
    async with running(tmp_path, ScriptedEngine(json_reply(RIGHT))) as (here, http):
        reply = await http.post("/v1/chat/completions", json=ASKED)
        await settled(here)
        found = (await http.get(f"/v1/route/{reply.headers['x-gatehouse-route-id']}")).json()
        assert found["cascade"] is None


async def test_metrics_tell_decisions_feedback_and_how_the_tiers_are(tmp_path: Path) -> None:
    load = LoadSettings(failures=2, down_s=600)
    settings = IngressSettings(record_delay_s=0, load=load)
    broken = ScriptedEngine([EngineFailed("broken")])
    async with running(tmp_path, ScriptedEngine(json_reply("hi")), broken, settings=settings) as (here, http):
        plain = await http.post(
            "/v1/chat/completions", json={**DELETE, "messages": [{"role": "user", "content": "hi"}]}
        )
        for _ in range(3):
            assert (await http.post("/v1/chat/completions", json=DELETE)).status_code == 503
        assert len(broken.calls) == 3  # that it counts as down keeps nobody from it who needs it,
        assert len(here.engine.calls) == 1  # and nobody smaller answers
        dry = await http.post("/v1/route", json=DELETE)
        assert (dry.json()["hold"], dry.json()["tier"]) == (None, "120b")
        await settled(here)
        await here.difficulty.flush()  # type: ignore[attr-defined]
        said = {
            "route_id": plain.headers["x-gatehouse-route-id"],
            "verdict": "wrong",
            "source": "user",
            "event_id": "e1",
        }
        assert (await http.post("/v1/feedback", json=said)).status_code == 200
        counted = await metrics(http)
    assert counted['gatehouse_route_decisions_total{mode="bypass",reason="risk_needs_reasoning",tier="120b"}'] == 3
    assert counted["gatehouse_route_seconds_count"] == 4  # the dry run is no turn
    assert counted['gatehouse_feedback_total{source="user",verdict="wrong"}'] == 1
    assert counted['gatehouse_route_refused{part="policy"}'] == 0
    assert counted['gatehouse_tier_up{tier="120b"}'] == 0
    assert counted['gatehouse_tier_up{tier="20b"}'] == 1
    assert counted['gatehouse_tier_in_flight{tier="20b"}'] == 0


async def test_a_hang_up_on_the_larger_tier_uses_up_its_time(tmp_path: Path) -> None:
    strong = ScriptedEngine([*json_reply("x")[:1], Silence()])
    async with running(tmp_path, ScriptedEngine(json_reply("hi")), strong, policy=CAPPED) as (here, http):
        asking = asyncio.create_task(http.post("/v1/chat/completions", json=DELETE))
        while not strong.open:
            await asyncio.sleep(0)
        here.clock.advance(1_001)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await settled(here)
        budgets = cast(Any, here.difficulty)._budgets
        (known,) = budgets._tenants.values()
        assert known.bucket.left_ms < 0
        counted = await metrics(http)
        assert counted['gatehouse_tier_in_flight{tier="120b"}'] == 0


async def test_a_stream_that_is_held_back_is_kept_alive_on_the_wire(tmp_path: Path) -> None:
    settings = IngressSettings(first_byte_s=0.01, keepalive_s=0.01, record_delay_s=0)
    engine = GatedEngine(streamed(WRONG))
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message.get("body", b"").startswith(b": keep-alive"):
            engine.go.set()  # not before the client has had a sign of life

    body = json.dumps({**ASKED, "stream": True, "route": {"cascade": True, "buffer": True}}).encode()
    requests = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async with running(tmp_path, engine, ScriptedEngine(streamed(RIGHT)), settings=settings) as (here, _):
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "query_string": b"", "root_path": "",
            "headers": [(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"application/json")],
            "client": ("test", 1), "server": ("test", 80),
        }  # fmt: skip
        async with asyncio.timeout(60):
            await create_api(here.surface())(scope, receive, send)
        start, *pieces = sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        said = b"".join(piece["body"] for piece in pieces)
        assert (start["status"], headers["x-gatehouse-cascade"]) == (200, "pending")
        assert said.startswith(b": keep-alive")
        assert RIGHT.encode() in said
        assert WRONG.encode() not in said
        assert said.endswith(b"data: [DONE]\n\n")
        await settled(here)
        found = await here.surface().difficulty.explain(
            here.ledger.keys[KEY].tenant, cast(Any, headers["x-gatehouse-route-id"])
        )
        assert found.cascade is not None
        assert found.cascade.word == "escalated"


def test_counters_say_what_the_learned_part_does_without_names_of_features() -> None:
    registry = CollectorRegistry()
    counters = RouteCounters(registry)
    watching = RouteFacts("chat", shadow=Tier.STRONG, hit=True, target=0.2)
    counters.decided(replace(DECISION, eligible=True, mode=Mode.SHADOW, facts=watching), 0.004)
    counters.decided(replace(DECISION, mode=Mode.SHADOW, facts=RouteFacts("chat", abstained="no_sure_gain")), 0.004)
    counters.decided(replace(DECISION, hand_over=True, facts=RouteFacts("chat", refused=("snapshot",))), 0.004)
    counters.failed("part_unavailable", 5.0)
    text = generate_latest(registry).decode()
    for line in (
        'gatehouse_route_shadow_total{agrees="false",task="chat"} 1.0',
        'gatehouse_route_eligible_total{hit="true",tier="20b"} 1.0',
        "gatehouse_route_target_total 0.2",
        'gatehouse_route_abstained_total{why="no_sure_gain"} 1.0',
        "gatehouse_route_hand_over_total 1.0",
        'gatehouse_route_refused{part="snapshot"} 1.0',
        'gatehouse_route_refused{part="policy"} 0.0',
        'gatehouse_route_failed_total{code="part_unavailable"} 1.0',
        'gatehouse_route_seconds_bucket{le="0.005"} 3.0',
    ):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize("name", ["tenant", "key", "session", "route_id", "model"])
def test_no_label_grows_with_the_traffic(name: str) -> None:
    registry = CollectorRegistry()
    RouteCounters(registry)
    labels = {label for each in registry._collector_to_names for label in getattr(each, "_labelnames", ())}
    assert labels
    assert name not in labels
