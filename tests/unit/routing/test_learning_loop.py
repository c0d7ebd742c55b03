"""The whole loop on a tenant whose hard work is known: explore, judge, export, learn, gate, release, roll back.

The router, its store, the HTTP edge of feedback and the command line are the real ones; only who judges is made up.
Hard are questions under conditions ("if ... unless ..."), which 20b gets wrong and 120b right; length says nothing.
"""

import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import pytest
import yaml
from fastapi import FastAPI
from typer.testing import CliRunner, Result

from deployments.clock import FixedClock
from deployments.difficulty.deployment import DifficultyRouter
from deployments.difficulty.settings import DifficultySettings, LearnedSettings
from deployments.ports import (
    KeyId,
    Mode,
    ModelId,
    Principal,
    RequestId,
    Risk,
    RouteAsk,
    RouteDecision,
    Scope,
    SessionId,
    TenantId,
    Tier,
)
from deployments.store import sqlite_url
from router.policy import ROUTING_V1
from serve_app.api.auth import Authorizer
from serve_app.api.feedback import create_feedback_router
from serve_app.cli.router import app
from serve_app.routing.coldstart import cold_start_bytes
from serve_app.routing.traffic import read_traffic
from tests.unit.router.asks import ask

RUNNER = CliRunner()
ACME, OTHER = TenantId("acme"), TenantId("other")
TIERS = {Tier.BASE: ("demo-20b", "r1"), Tier.STRONG: ("demo-120b", "r7")}
POLICY: Mapping[str, object] = {
    **ROUTING_V1,
    "tenants": {
        "acme": {"learning": {"exploration": 0.1}, "budget": {"target": 0.3}},
        "other": {"learning": {"exploration": 0.1}, "budget": {"target": 0.3}},
    },
}
VERIFIER = Principal(ACME, KeyId("ci"), None, frozenset({Scope.INFERENCE}), roles=frozenset({"verifier"}))
TOPICS = ("the ledger", "the harbour", "an orbit", "the contract", "a voltage", "the engine", "a river", "the poem")
CONDITIONS = ("if", "unless", "when", "after", "because", "although")
AT_ONCE = 100

Judge = Callable[[bool, Tier, np.random.Generator], bool]


class Keys:
    async def authenticate(self, presented: str) -> Principal:
        return VERIFIER


def truthful(hard: bool, tier: Tier, draw: np.random.Generator) -> bool:
    """20b fails at what is hard; both are right nineteen times of twenty at the rest."""
    return bool(draw.random() < (0.1 if hard and tier is Tier.BASE else 0.95))


def question(draw: np.random.Generator) -> tuple[str, bool]:
    hard = bool(draw.random() < 0.3)
    topics = draw.choice(TOPICS, int(draw.integers(3, 8)), replace=False).tolist()
    words = draw.choice(CONDITIONS, 4, replace=False).tolist() if hard else ["and"] * 4
    joined = " ".join(f"{topic} {words[place % 4]}" for place, topic in enumerate(topics))
    return f"Tell me about {joined} something else, number {int(draw.integers(1_000_000))}", hard


@dataclass
class World:
    """One router over one store, and a server of feedback in front of it."""

    router: DifficultyRouter
    http: httpx2.AsyncClient
    clock: FixedClock

    async def live(self, turns: int, judge: Judge, seed: int, tenant: TenantId = ACME) -> Sequence[RouteDecision]:
        """So many turns, each judged through the API."""
        self.clock.advance(60)
        draw = np.random.default_rng(seed)
        asked = [question(draw) for _ in range(turns)]
        given: list[RouteDecision] = []
        for start in range(0, turns, AT_ONCE):
            part = asked[start : start + AT_ONCE]
            # One after the other: the draws of a run belong to the same turns each time.
            decisions = [
                await self.route(text, f"s{seed}-{start + place}", tenant) for place, (text, _) in enumerate(part)
            ]
            await self.router.flush()
            if tenant == ACME:
                await asyncio.gather(
                    *(
                        self.say(decision, judge(hard, decision.tier, draw))
                        for decision, (_, hard) in zip(decisions, part, strict=True)
                    )
                )
            given += decisions
        return given

    async def route(
        self, text: str, session: str = "", tenant: TenantId = ACME, risk: Risk | None = None, dry_run: bool = False
    ) -> RouteDecision:
        request = ask(text, trusted_risk=risk)
        asked = RouteAsk(
            RequestId(f"req-{session}"), tenant, SessionId(session), request, model=ModelId("auto"), dry_run=dry_run
        )
        return await self.router.route(asked)

    async def say(self, decision: RouteDecision, right: bool) -> None:
        body = {
            "route_id": decision.route_id,
            "verdict": "ok" if right else "wrong",
            "source": "verifier",
            "event_id": f"ci-{decision.route_id}",
        }
        reply = await self.http.post("/v1/feedback", json=body, headers={"authorization": "Bearer gh-ci"})
        assert reply.json()["weight"] == 1.0


@asynccontextmanager
async def world(store: Path, clock: FixedClock, learned: Mapping[str, object] | None = None) -> AsyncIterator[World]:
    settings = DifficultySettings(
        feedback_per_minute=1_000_000,
        read_timeout_s=5,
        reload_s=0.05,
        learned=LearnedSettings.model_validate(learned or {}),
    )
    router = DifficultyRouter(settings, POLICY, TIERS, sqlite_url(store), snapshot=cold_start_bytes(), clock=clock)
    await router.check_health()
    edge = FastAPI()
    edge.include_router(create_feedback_router(Authorizer(Keys()), router))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(edge), base_url="http://gate") as http:
        yield World(router, http, clock)
    await router.close()


async def run(*arguments: object) -> Result:
    """A command, as another process would run it: beside the server, on an event loop of its own."""
    return await asyncio.to_thread(RUNNER.invoke, app, [str(each) for each in arguments])


async def done(*arguments: object) -> str:
    result = await run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def settings_in(folder: Path) -> Mapping[str, object]:
    """What an operator deploys after a step."""
    return yaml.safe_load((folder / "learned.yaml").read_text())["learned"]


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory that waits for no disk, where the machine has one: each verdict is on disk when it is taken."""
    shared = Path("/dev/shm")  # noqa: S108 - a directory of its own is made in it
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as found:
        yield Path(found)


@pytest.fixture(autouse=True)
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws in every run."""
    monkeypatch.setattr("deployments.difficulty.deployment.secrets.randbits", random.Random(5).getrandbits)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FixedClock:
    made = FixedClock()
    monkeypatch.setattr("serve_app.cli.router_release.SystemClock", lambda: made)
    return made


async def test_hard_work_is_learned_from_traffic_and_released_step_by_step_and_taken_back(
    memory: Path, clock: FixedClock
):
    store, rows, snapshot, folder = (memory / name for name in ("router.db", "rows.jsonl", "own.snapshot", "rel"))

    async def export() -> Mapping[str, int]:
        told = await done("export", rows, "--tenant", "acme", "--store", store, "--releases", folder)
        return json.loads(told)

    # Explored, judged, exported while the server runs.
    async with world(store, clock) as there:
        given = await there.live(560, truthful, seed=1)
        await there.live(20, truthful, seed=2, tenant=OTHER)
        risky = await there.route("delete nothing, explain everything", risk=Risk.R2)
        await there.router.flush()
        counts = await export()
    assert (counts["decisions"], counts["rows"], counts["judged"]) == (561, 561, 560)
    assert {decision.propensity for decision in given} == {0.05, 0.95}
    turns = {row.id: row for row in read_traffic(rows)}
    assert {row.tenant for row in turns.values()} == {"acme"}
    assert turns[risky.route_id].chances == {}
    assert b"harbour" not in rows.read_bytes()

    # What was learned enters in shadow and nowhere else, and changes nothing there.
    await done("train", rows, "--out", snapshot, "--title", "acme")
    early = await run("release", snapshot, "--to", "apply", "--rows", rows, "--folder", folder)
    assert (early.exit_code, "shadow first" in early.output) == (1, True)
    await done("release", snapshot, "--to", "shadow", "--folder", folder)
    async with world(store, clock, settings_in(folder)) as there:
        given = await there.live(600, truthful, seed=3)
        assert {decision.mode for decision in given} == {Mode.SHADOW}
        assert {decision.reason for decision in given} == {"default", "exploration"}
        stale = await run("release", snapshot, "--to", "slice", "--rows", rows, "--folder", folder)
        assert (stale.exit_code, "no turn is left" in stale.output) == (2, True)  # the file has none that are new
        await export()

    # Judged by turns that it was not learned from.
    assert "difference may act" in await done("promote", snapshot, rows)
    worth = json.loads(await done("worth", snapshot, rows, "--budget", 0.3, "--json"))
    assert worth["turns"] == 600
    for lead in worth["leads"]:
        assert lead["lead"]["low"] > 0, lead
    said = await done("release", snapshot, "--to", "slice", "--share", 0.5, "--rows", rows, "--folder", folder)
    assert "slice: 0.5" in said

    # On a slice of the sessions, within the budget.
    async with world(store, clock, settings_in(folder)) as there:
        given = await there.live(600, truthful, seed=4)
        acting = [decision for decision in given if decision.mode is Mode.APPLY]
        assert 0.4 < len(acting) / len(given) < 0.6
        assert {each.mode for each in given if each.reason == "learned_gain"} == {Mode.APPLY}
        await export()
    await done("release", snapshot, "--to", "apply", "--rows", rows, "--budget", 0.3, "--folder", folder)
    evidence = json.loads(next(folder.glob("*.3.json")).read_text())
    assert evidence["gate"]["acts"] == "difference"
    assert evidence["changes"]["before"] == evidence["changes"]["after"]  # the same snapshot, on more sessions

    # Everywhere; and back, under the eyes of a server that nobody told.
    async with world(store, clock, settings_in(folder)) as there:
        given = await there.live(120, truthful, seed=5)
        assert {decision.mode for decision in given} == {Mode.APPLY}
        raised = [decision for decision in given if decision.reason == "learned_gain"]
        assert 0.1 < len(raised) / len(given) < 0.45
        assert "muted" in await done("rollback", "--folder", folder)
        while (await there.route("ping", dry_run=True)).snapshot_digest == raised[0].snapshot_digest:
            await asyncio.sleep(0.01)
        given = await there.live(60, truthful, seed=6)
        assert {decision.reason for decision in given} == {"default", "exploration"}
    assert settings_in(folder)["mode"] == "shadow"
    steps = [json.loads(line) for line in (await done("releases", "--folder", folder)).splitlines()]
    assert [step["step"] for step in steps] == ["shadow", "slice", "apply", "rollback"]


async def test_tenants_are_mixed_only_where_that_is_asked_for(memory: Path, clock: FixedClock):
    store, rows = memory / "router.db", memory / "rows.jsonl"
    async with world(store, clock) as there:
        await there.live(30, truthful, seed=1)
        await there.live(20, truthful, seed=2, tenant=OTHER)
    assert (await run("export", rows, "--store", store)).exit_code == 2  # neither one tenant nor all
    await done("export", rows, "--all-tenants", "--store", store)
    assert {row.tenant for row in read_traffic(rows)} == {"acme", "other"}
    for command in (("train", rows, "--out", memory / "x"), ("promote", memory / "x", rows)):
        refused = await run(*command)
        assert refused.exit_code == 2
    assert "--mixed" in (await run("train", rows, "--out", memory / "x")).output
    joined = await run("train", rows, "--out", memory / "x", "--mixed")
    assert "fewer than 200" in joined.output
    over = await run("export", rows, "--tenant", "other", "--store", store)
    assert (over.exit_code, "another tenant" in over.output) == (2, True)
