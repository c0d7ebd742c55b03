import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from deployments.clock import FixedClock
from deployments.difficulty.deployment import DifficultyRouter
from deployments.difficulty.feedback import trusted
from deployments.difficulty.settings import DifficultySettings
from deployments.errors import InvalidRequest, NotFound, QuotaExceeded
from deployments.ports import (
    Feedback,
    FeedbackSource,
    FeedbackVerdict,
    KeyId,
    ModelId,
    Principal,
    RequestId,
    RouteAsk,
    RouteDecision,
    RouteId,
    Scope,
    SessionId,
    TenantId,
    Tier,
)
from router.policy import ROUTING_V1
from tests.unit.router.asks import INCIDENT, ask

ACME = TenantId("acme")
TIERS = {Tier.BASE: ("demo-20b", "r1"), Tier.STRONG: ("demo-120b", "r7")}
SETTINGS = DifficultySettings(feedback_per_minute=3, explained_days=7, read_timeout_s=5)
DAY_MS = 86_400_000


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
async def router(any_store_url: str, clock: FixedClock) -> AsyncIterator[DifficultyRouter]:
    made = DifficultyRouter(SETTINGS, ROUTING_V1, TIERS, any_store_url, clock=clock)
    await made.check_health()
    yield made
    await made.close()


async def turn(router: DifficultyRouter, text: str = INCIDENT, session: str = "s1") -> RouteDecision:
    asked = RouteAsk(RequestId("r"), ACME, SessionId(session), ask(text), model=ModelId("auto"))
    decision = await router.route(asked)
    await router.flush()
    return decision


def verdict(decision: RouteDecision, event: str = "e1", **fields: object) -> Feedback:
    said = Feedback(
        event, ACME, KeyId("k1"), decision.route_id, FeedbackVerdict.WRONG, FeedbackSource.VERIFIER, weight=1.0
    )
    return replace(said, **fields)


async def test_a_wrong_answer_escalates_the_next_turn_of_a_diagnosis(router: DifficultyRouter):
    first = await turn(router)
    assert first.tier is Tier.BASE
    await router.feedback(verdict(first))
    assert (await turn(router)).reason == "incident_failed_once"


async def test_the_same_event_twice_is_one_verdict_and_with_other_content_a_conflict(router: DifficultyRouter):
    first = await turn(router)
    soft = verdict(first, weight=0.5)
    for _ in range(5):  # more often than the rate allows: what is known costs nothing
        await router.feedback(soft)
    assert (await turn(router)).tier is Tier.BASE
    for other in (
        replace(soft, verdict=FeedbackVerdict.OK), replace(soft, source=FeedbackSource.USER), replace(soft, score=0.1),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest) as refused:
            await router.feedback(other)
        assert refused.value.code == "feedback_conflict"


async def test_at_once_one_of_two_contradicting_verdicts_wins(router: DifficultyRouter):
    first = await turn(router)
    said = [verdict(first), verdict(first, verdict=FeedbackVerdict.OK)]
    ends = await asyncio.gather(*(router.feedback(each) for each in said), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["InvalidRequest", "NoneType"]


async def test_a_verdict_on_a_turn_that_has_been_answered_since_changes_nothing_now(router: DifficultyRouter):
    first = await turn(router)
    await turn(router)
    await router.feedback(verdict(first))
    assert (await turn(router)).tier is Tier.BASE


async def test_too_many_verdicts_are_refused(router: DifficultyRouter, clock: FixedClock):
    turns = [await turn(router, session=f"s{number}") for number in range(4)]
    for number, each in enumerate(turns[:3]):
        await router.feedback(verdict(each, f"e{number}"))
    with pytest.raises(QuotaExceeded):
        await router.feedback(verdict(turns[3], "e3"))
    await router.feedback(verdict(turns[3], "e3", key_id=KeyId("k2")))
    clock.advance(60_000)
    await router.feedback(verdict(turns[0], "e4"))


async def test_a_turn_of_another_tenant_an_unknown_and_an_old_one_cannot_be_judged(
    router: DifficultyRouter, clock: FixedClock
):
    first = await turn(router)
    for said in (
        verdict(first, tenant=TenantId("other")), verdict(first, route_id=RouteId("route_0")),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await router.feedback(said)
    clock.advance(7 * DAY_MS)
    await router.feedback(verdict(first, "late"))
    clock.advance(1)
    with pytest.raises(NotFound):
        await router.feedback(verdict(first, "too late"))


@pytest.mark.parametrize(
    ("source", "fields", "weight"),
    [
        ("verifier", {}, 0.5),
        ("verifier", {"roles": frozenset({"verifier"})}, 1.0),
        ("verifier", {"scopes": frozenset({Scope.ADMIN})}, 1.0),
        ("human", {}, 0.3),
        ("human", {"person": "ann"}, 0.3),
        ("human", {"scopes": frozenset({Scope.APPROVE})}, 0.3),
        ("human", {"person": "ann", "scopes": frozenset({Scope.APPROVE})}, 1.0),
        ("tool", {}, 0.5),
        ("user", {"person": "ann", "scopes": frozenset({Scope.APPROVE, Scope.ADMIN})}, 0.3),
    ],
)  # fmt: skip
def test_trust_follows_the_credential(source: str, fields: dict[str, object], weight: float):
    principal = replace(Principal(ACME, KeyId("k1"), None, frozenset({Scope.INFERENCE})), **fields)
    assert trusted(principal, FeedbackSource(source)) == weight
