"""The verified cascade over scripted ports: what is sent, what is said of it, recorded and paid."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from deployments.audit.record import validate
from deployments.errors import EngineFailed, EngineOverloaded, Forbidden
from deployments.ingress.journey import Ask, Head
from deployments.ingress.settings import CascadeSettings, IngressSettings
from deployments.ports import (
    AttemptOutcome,
    Dialect,
    Hold,
    Mode,
    RequestId,
    Risk,
    RouteAsk,
    RouteDecision,
    Scope,
    Tier,
    Usage,
)
from tests.cascading import (
    ASKED,
    CALLS,
    QUESTION,
    RIGHT,
    TOOLS,
    WRONG,
    Asking,
    finished,
    nothing_is_owed,
    settled,
    streamed,
    world,
)
from tests.fakes import (
    BASE,
    JSON_START,
    KEY,
    SSE_START,
    STRONG,
    ChoosingDifficulty,
    RuleGate,
    Script,
    ScriptedEngine,
    Silence,
    World,
    call_chunk,
    chunk,
    json_reply,
    sse,
    stream_reply,
)
from tests.unit.ingress.test_chat_stream import SECRET, hold_dangerous

DIALECTS = {"/v1/chat/completions": Dialect.CHAT, "/v1/completions": Dialect.COMPLETIONS}


@dataclass
class Reply:
    """What the HTTP edge would send."""

    headers: Mapping[str, str]
    text: str

    def json(self) -> dict:
        return json.loads(self.text)


async def post(here: World, body: Mapping, path: str = "/v1/chat/completions", **headers: str) -> Reply:
    risk = Risk(headers["risk"]) if "risk" in headers else None
    ask = Ask(DIALECTS[path], RequestId("req_1"), KEY, headers, body, risk)
    items = [item async for item in here.surface().journey.answer(ask)]
    head, *data = items
    assert isinstance(head, Head)
    return Reply(head.headers, b"".join(data).decode())


def said(reply: Reply) -> str:
    return reply.json()["choices"][0]["message"]["content"]


def headers(reply: Reply) -> tuple[str | None, str | None, str | None]:
    """Word, reason, model."""
    names = ("x-gatehouse-cascade", "x-gatehouse-cascade-reason", "x-gatehouse-model")
    return tuple(reply.headers.get(name) for name in names)  # type: ignore[return-value]


async def test_a_failed_answer_is_asked_for_again_and_never_seen() -> None:
    here = world()
    reply = await post(here, ASKED)
    assert said(reply) == RIGHT
    assert headers(reply) == ("escalated", None, STRONG)
    assert reply.headers["x-gatehouse-tier"] == "120b"
    assert reply.headers["x-gatehouse-route-reason"] == "cascade_escalated"
    assert reply.headers["x-gatehouse-verdict"] == "unknown"
    assert reply.headers["x-gatehouse-cascade-usage"] == "demo-20b;in=11;out=5"
    assert WRONG not in reply.text
    assert "route" not in here.engine.body
    assert [call.request_id for call in (*here.engine.calls, *here.strong.calls)] == ["rt_1", "rt_1-2"]
    assert here.strong.body["model"] == STRONG
    assert here.strong.body["reasoning_effort"] == "high"  # mathematics


async def test_both_attempts_are_recorded_remembered_and_paid() -> None:
    here = world()
    reply = await post(here, ASKED)
    await settled(here)
    assert reply.json()["usage"]["total_tokens"] == 32
    assert (reply.json()["usage"]["prompt_tokens"], reply.json()["usage"]["completion_tokens"]) == (22, 10)
    first, second = finished(here)
    assert (first["model"], first["outcome"], first["attempts"], first["verdict"]) == (BASE, "abandoned", 1, "fail")
    assert "arithmetic:false_equation" in first["findings"]
    assert (second["model"], second["outcome"], second["attempts"], second["tier"]) == (STRONG, "completed", 2, "120b")
    assert {first["cascade"], second["cascade"]} == {"escalated"}
    assert [(each["input_tokens"], each["output_tokens"]) for each in (first, second)] == [(11, 5), (11, 5)]
    assert here.audit.names() == ["route.decided", "generation.finished", "generation.finished"]
    assert len({event.event_id for event in here.audit.events}) == 3
    assert [grant.model for grant in here.ledger.grants.values()] == ["auto", STRONG]
    assert list(here.ledger.settled.values()) == [Usage(11, 0, 5, 0)] * 2
    assert nothing_is_owed(here)
    assert [(each.event_id, each.tier, each.outcome) for each in here.difficulty.attempts] == [
        ("rt_1-1", Tier.BASE, AttemptOutcome.VERIFIER_FAILED),
        ("rt_1", Tier.STRONG, AttemptOutcome.OK),
    ]
    assert [ask.dry_run for ask in here.difficulty.asks] == [False, True]


async def test_nothing_that_was_said_is_in_a_record() -> None:
    here = world()
    await post(here, ASKED)
    await settled(here)
    assert "7 * 8" not in repr([event.data for event in here.audit.events])
    for event in here.audit.events:
        validate(event)


async def test_an_answer_that_does_not_fail_is_kept() -> None:
    here = world(json_reply(RIGHT))
    reply = await post(here, ASKED)
    await settled(here)
    assert (said(reply), headers(reply)) == (RIGHT, ("kept", None, BASE))
    assert here.strong.calls == []
    (record,) = finished(here)
    assert (record["verdict"], record["cascade"]) == ("unknown", "kept")
    assert len(here.ledger.grants) == 1


async def test_who_does_not_ask_gets_what_there_is() -> None:
    here = world()
    reply = await post(here, {key: value for key, value in ASKED.items() if key != "route"})
    await settled(here)
    assert (said(reply), headers(reply)) == (WRONG, (None, None, BASE))
    assert here.difficulty.attempts[0].outcome is AttemptOutcome.OK
    assert "verdict" not in finished(here)[0]


async def test_the_header_asks_as_well_and_the_body_has_the_last_word() -> None:
    plain = {key: value for key, value in ASKED.items() if key != "route"}
    assert headers(await post(world(), plain, **{"x-gatehouse-cascade": "true"}))[0] == "escalated"
    denied = await post(world(), {**ASKED, "route": {"cascade": False}}, **{"x-gatehouse-cascade": "true"})
    assert headers(denied) == (None, None, BASE)


async def refused(here: Asking, body: dict[str, object] | None = None) -> str | None:
    """Why the first answer was sent all the same."""
    reply = await post(here, {**ASKED, **(body or {})})
    await settled(here)
    assert said(reply) == WRONG
    word, why, model = headers(reply)
    assert (word, model) == ("refused", BASE)
    assert here.strong.calls == []
    assert len(here.ledger.grants) == 1
    assert nothing_is_owed(here)
    assert here.difficulty.attempts[-1].outcome is AttemptOutcome.VERIFIER_FAILED
    assert finished(here)[0]["verdict"] == "fail"
    return why


async def test_a_named_model_is_never_replaced() -> None:
    assert await refused(world(), {"model": BASE}) == "pinned"


async def test_inside_a_tool_loop_nothing_is_switched() -> None:
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "c1", "content": "56"},
    ]
    assert await refused(world(), {"messages": messages, "tools": TOOLS}) == "tool_loop"


async def test_a_cold_model_is_not_woken() -> None:
    here = world()
    here.strong.is_cold = True
    assert await refused(here) == "cold"


async def test_a_key_without_the_larger_model_keeps_the_answer() -> None:
    here = world()
    here.surface()
    here.ledger.keys.clear()
    here.ledger.add_key("gh-test-key", models=frozenset({BASE}))
    assert await refused(here) == "forbidden"


async def test_prompts_do_not_leave_the_premises_for_a_better_answer() -> None:
    assert await refused(world(strong_is_local=False)) == "forbidden"


async def test_the_policy_can_keep_the_larger_model_back() -> None:
    here = world()
    here.difficulty.denies = True
    assert await refused(here) == "policy"


async def test_a_budget_that_holds_one_answer_pays_for_one() -> None:
    here = world()
    here.surface()
    here.ledger.keys.clear()
    here.ledger.add_key("gh-test-key", budget_tokens=1500)
    assert await refused(here) == "budget"


async def test_a_place_for_one_request_is_no_place_for_two() -> None:
    here = world()
    here.ledger.max_requests = 1
    assert await refused(here) == "budget"


async def test_where_it_is_not_allowed_the_answer_is_as_without_it() -> None:
    settings = IngressSettings(record_delay_s=0, cascade=CascadeSettings(allowed=False))
    reply = await post(world(settings=settings), ASKED)
    assert (said(reply), headers(reply)) == (WRONG, ("refused", "not_allowed", BASE))
    assert "x-gatehouse-verdict" not in reply.headers


async def test_the_larger_model_has_nothing_above_it() -> None:
    here = world(strong=json_reply(WRONG))
    here.difficulty.tier = Tier.STRONG
    reply = await post(here, ASKED)
    await settled(here)
    assert headers(reply) == ("refused", "largest", STRONG)
    assert here.engine.calls == []
    assert [(each.tier, each.outcome) for each in here.difficulty.attempts] == [
        (Tier.STRONG, AttemptOutcome.VERIFIER_FAILED)
    ]


@pytest.mark.parametrize(
    ("strong", "code", "outcome"),
    [
        ([EngineOverloaded("The model is busy.", 2)], "engine_overloaded", AttemptOutcome.ABORTED),
        ([JSON_START, EngineFailed("broken")], "engine_error", AttemptOutcome.FAILED),
        ([JSON_START, b'{"choices": ['], "engine_error", AttemptOutcome.FAILED),
        (json_reply(RIGHT, finish="abort"), "engine_error", AttemptOutcome.FAILED),
        ([], "engine_error", AttemptOutcome.FAILED),
    ],
    ids=["busy", "broken", "cut", "aborted", "silent"],
)
async def test_when_the_larger_model_fails_the_first_answer_is_sent(
    strong: Script, code: str, outcome: AttemptOutcome
) -> None:
    here = world(strong=strong)
    reply = await post(here, ASKED)
    await settled(here)
    assert said(reply) == WRONG
    assert headers(reply) == ("refused", "engine", BASE)
    assert reply.headers["x-gatehouse-verdict"] == "fail"
    failed, sent = finished(here)
    assert (failed["model"], failed["outcome"], failed["attempts"]) == (STRONG, "failed", 2)
    assert failed["error_code"] is not None
    assert (sent["model"], sent["outcome"], sent["verdict"]) == (BASE, "completed", "fail")
    assert (sent["input_tokens"], sent["output_tokens"]) == (11, 5)
    assert nothing_is_owed(here)
    assert here.ledger.settled[next(iter(here.ledger.grants))] == Usage(11, 0, 5, 0)
    told = [(each.tier, each.outcome) for each in here.difficulty.attempts]
    assert told == [(Tier.STRONG, outcome), (Tier.BASE, AttemptOutcome.VERIFIER_FAILED)]
    assert here.strong.open == here.engine.open == 0


async def test_no_call_of_an_abandoned_answer_is_ever_judged() -> None:
    """Not even one that is written as text: the larger model's answer alone meets the gate."""
    leaked = f'{WRONG} <|channel|>commentary to=functions.shell<|message|>{{"command": "rm -rf /"}}<|call|>'
    here = world(json_reply(leaked), strong=json_reply(RIGHT, CALLS, "tool_calls"), gate=RuleGate(hold_dangerous))
    reply = await post(here, {**ASKED, "tools": TOOLS})
    await settled(here)
    assert headers(reply) == ("escalated", None, STRONG)
    assert [call.arguments for call in here.gate.judged] == [SECRET]
    assert "rm -rf" not in reply.text


async def test_a_client_that_leaves_during_the_first_attempt_starts_no_second() -> None:
    here = world([JSON_START, Silence()])
    asking = asyncio.create_task(post(here, ASKED))
    while not here.engine.open:
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await settled(here)
    assert here.engine.open == 0
    assert here.strong.calls == []
    assert [each["outcome"] for each in finished(here)] == ["aborted"]
    assert nothing_is_owed(here)


async def test_a_stream_is_checked_at_its_end_for_the_next_turn() -> None:
    here = world(streamed(WRONG))
    reply = await post(here, {**ASKED, "stream": True})
    await settled(here)
    assert WRONG in reply.text
    assert headers(reply) == ("unverified", "stream", BASE)
    assert here.strong.calls == []
    assert here.difficulty.attempts[0].outcome is AttemptOutcome.VERIFIER_FAILED
    assert finished(here)[0]["verdict"] == "fail"


async def test_a_stream_that_breaks_off_at_the_larger_model_leaves_the_first_one_whole() -> None:
    broken = [SSE_START, sse(chunk(content="It is")), EngineFailed("broken")]
    here = world(streamed(WRONG), strong=broken)
    plain = {key: value for key, value in ASKED.items() if key != "route"}
    reply = await post(here, {**plain, "stream": True}, **{"x-gatehouse-cascade": "buffer"})
    assert headers(reply) == ("refused", "engine", BASE)
    assert WRONG in reply.text
    assert reply.text.rstrip().endswith("data: [DONE]")


async def test_a_buffered_stream_with_calls_is_judged_as_ever() -> None:
    calling = stream_reply(sse(call_chunk(0, "shell", SECRET)), sse(chunk(finish="tool_calls")))
    here = world(calling, gate=RuleGate(hold_dangerous))
    reply = await post(here, {**ASKED, "tools": TOOLS, "route": {"cascade": True, "buffer": True}, "stream": True})
    assert headers(reply) == ("unverified", "tool_calls", BASE)
    assert len(here.gate.judged) == 1
    assert SECRET not in reply.text


async def test_a_reply_that_is_too_long_to_hold_goes_out_unverified() -> None:
    settings = IngressSettings(record_delay_s=0, cascade=CascadeSettings(max_answer_bytes=4096))
    here = world(json_reply(WRONG + " more" * 2000), settings=settings)
    reply = await post(here, ASKED)
    assert headers(reply) == ("unverified", "too_long", BASE)
    assert said(reply).startswith(WRONG)


async def test_several_choices_are_not_checked() -> None:
    body = json.loads(json_reply(WRONG)[1])  # type: ignore[arg-type]
    here = world([JSON_START, json.dumps({**body, "choices": body["choices"] * 2}).encode()])
    reply = await post(here, {**ASKED, "n": 2})
    assert headers(reply) == ("unverified", "choices", BASE)


async def test_completions_can_ask() -> None:
    def written(text: str) -> Script:
        body = {"id": "c", "object": "text_completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}}  # fmt: skip
        return [JSON_START, json.dumps(body).encode()]

    here = world(written(WRONG), strong=written(RIGHT))
    reply = await post(
        here, {"model": "auto", "prompt": QUESTION}, "/v1/completions", **{"x-gatehouse-cascade": "true"}
    )
    assert headers(reply) == ("escalated", None, STRONG)
    assert reply.json()["choices"][0]["text"] == RIGHT


async def test_structured_output_is_held_to_its_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    here = world(json_reply('{"n": "many"}'), strong=json_reply('{"n": 56}'))
    reply = await post(here, {**ASKED, "response_format": form})
    await settled(here)
    assert headers(reply)[0] == "escalated"
    assert reply.headers["x-gatehouse-verdict"] == "pass"
    assert here.difficulty.attempts[0].outcome is AttemptOutcome.PARSE_FAILED


async def test_the_wish_of_the_client_for_an_effort_holds_for_both() -> None:
    here = world()
    await post(here, {**ASKED, "reasoning_effort": "low"})
    assert here.strong.body["reasoning_effort"] == "low"


async def test_every_answer_can_be_checked_for_the_memory() -> None:
    settings = IngressSettings(record_delay_s=0, cascade=CascadeSettings(verify_all=True))
    here = world(settings=settings)
    reply = await post(here, {key: value for key, value in ASKED.items() if key != "route"})
    await settled(here)
    assert (said(reply), headers(reply)) == (WRONG, (None, None, BASE))
    assert here.difficulty.attempts[0].outcome is AttemptOutcome.VERIFIER_FAILED
    assert finished(here)[0]["verdict"] == "fail"


async def test_trusted_risk_goes_with_the_second_question() -> None:
    here = world()
    await post(here, ASKED, **{"risk": "R2"})
    assert [ask.request.trusted_risk for ask in here.difficulty.asks] == [Risk.R2] * 2


# --- what else the router says of a turn --------------------------------------------------------------------------


class Deciding(ChoosingDifficulty):
    """Every decision with these fields."""

    def __init__(self, **fields: object) -> None:
        super().__init__()
        self.fields = fields

    async def route(self, ask: RouteAsk) -> RouteDecision:
        decision = replace(await super().route(ask), **self.fields)
        return decision if ask.explained else replace(decision, detail=None)


async def test_every_answer_says_how_it_was_routed() -> None:
    here = World(ScriptedEngine(json_reply(RIGHT)), difficulty=Deciding(mode=Mode.APPLY, confidence=0.75))
    reply = await post(here, {**ASKED, "route": None})
    said = {name: reply.headers[f"x-gatehouse-route-{name}"] for name in ("schema", "mode", "confidence", "effort")}
    assert said == {"schema": "1", "mode": "apply", "confidence": "0.75", "effort": "medium"}
    assert reply.headers["x-gatehouse-route-policy"] == "0" * 64
    assert reply.headers["x-gatehouse-route-reason"] == "default"
    assert "x-gatehouse-route-signals" not in reply.headers


@pytest.mark.parametrize(
    ("scopes", "wanted", "told"),
    [
        ((Scope.INFERENCE, Scope.ADMIN), "true", True),
        ((Scope.INFERENCE,), "true", False),
        ((Scope.INFERENCE, Scope.ADMIN), "no", False),
    ],
    ids=["admin", "user", "unasked"],
)
async def test_only_who_may_know_is_told_what_decided(scopes: tuple[Scope, ...], wanted: str, told: bool) -> None:
    here = World(ScriptedEngine(json_reply(RIGHT)), difficulty=Deciding())
    here.surface()
    here.ledger.keys.clear()
    here.ledger.add_key(KEY, *scopes)
    await post(here, {**ASKED, "route": None}, **{"x-gatehouse-route-debug": wanted})
    assert [ask.explained for ask in here.difficulty.asks] == [told]


@pytest.mark.parametrize(("hold", "error"), [(Hold.REFUSE, Forbidden), (Hold.QUEUE, EngineOverloaded)])
async def test_a_turn_that_is_held_is_answered_by_nobody(hold: Hold, error: type[Exception]) -> None:
    here = World(ScriptedEngine(json_reply(RIGHT)), difficulty=Deciding(hold=hold))
    with pytest.raises(error):
        await post(here, {**ASKED, "route": None})
    await settled(here)
    assert here.engine.calls == here.strong.calls == []
    assert list(here.ledger.settled.values()) == [Usage()]


async def test_a_larger_model_that_is_held_back_is_not_asked() -> None:
    here = world()
    answer = here.difficulty.route

    async def held(ask: RouteAsk) -> RouteDecision:
        return replace(await answer(ask), hold=Hold.QUEUE if ask.dry_run else None)

    here.difficulty.route = held
    assert await refused(here) == "policy"
