"""The small parts of the ingress: sessions, windows, keys that were checked, and events the sink did not take."""

import asyncio
import pickle
from collections.abc import Mapping

import pytest

from deployments import errors
from deployments.clock import FixedClock
from deployments.errors import AuditRefused, ContextTooLong, GatehouseError, Unauthenticated
from deployments.ingress import session
from deployments.ingress.dialects.chat import ChatCodec
from deployments.ingress.dialects.completions import CompletionCodec
from deployments.ingress.dialects.upstream import upstream_error
from deployments.ingress.principals import Principals
from deployments.ingress.session import SESSION_HEADERS
from deployments.ingress.trail import Recorder
from deployments.ingress.window import Window
from deployments.ports import AuditEvent, JsonValue, Principal, SessionId, TenantId
from tests.fakes_audit import InMemoryAudit
from tests.fakes_ledger import InMemoryLedger

LEDGER = InMemoryLedger()
ACME = LEDGER.add_key("a", tenant="acme")
OTHER = LEDGER.add_key("b", tenant="other")
TURN = [{"role": "system", "content": "s"}, {"role": "user", "content": "first"}]


def asked(text: str, **more: object):
    return ChatCodec().read({"messages": [{"role": "user", "content": text}], **more})


def session_of(principal: Principal, headers: Mapping[str, str], body: Mapping[str, JsonValue]) -> SessionId:
    """Of a chat request, which is its own internal form."""
    return session.session_of(principal, headers, body, body)


@pytest.mark.parametrize("name", SESSION_HEADERS)
def test_a_named_session_is_one_session_per_tenant(name: str) -> None:
    here = session_of(ACME, {name: "s1"}, {"messages": TURN})
    assert here == session_of(ACME, {name: "s1"}, {"messages": []})
    assert here != session_of(OTHER, {name: "s1"}, {"messages": TURN})
    assert here != session_of(ACME, {name: "s2"}, {"messages": TURN})


def test_without_a_name_the_opening_of_the_conversation_is_the_session() -> None:
    first = session_of(ACME, {}, {"model": "auto", "messages": TURN})
    later = [*TURN, {"role": "assistant", "content": "x"}, {"role": "user", "content": "second"}]
    assert first == session_of(ACME, {}, {"model": "auto", "messages": later})
    assert first != session_of(ACME, {}, {"model": "auto", "messages": TURN[:1]})


def test_what_changes_with_every_request_does_not_change_the_session() -> None:
    internal = {"messages": TURN}
    bodies: list[Mapping[str, JsonValue]] = [
        {"model": "auto", "system": [{"type": "text", "text": f"x-anthropic-billing-header: cch={number}"}]}
        for number in range(2)
    ]
    one, two = (session.session_of(ACME, {}, body, internal) for body in bodies)
    assert one == two


def test_sessions_named_in_the_body() -> None:
    assert session_of(ACME, {}, {"prompt_cache_key": "k"}) == session_of(ACME, {"x-session-id": "k"}, {})
    user = {"user_id": '{"session_id": "k"}'}
    assert session_of(ACME, {}, {"metadata": user}) == session_of(ACME, {"x-session-id": "k"}, {})


async def test_a_window_counts_only_what_might_not_fit() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text.split())

    window = Window(100, count)
    await window.check(asked("short"))
    assert counted == []
    await window.check(asked("word " * 90))
    with pytest.raises(ContextTooLong) as caught:
        await window.check(asked("word " * 100))
    assert (caught.value.max_tokens, caught.value.param) == (100, "messages")


async def test_a_window_never_counts_more_than_there_is() -> None:
    # every cut may split one token in two: a lower bound stays one
    window = Window(30_000, lambda text: len(text) // 2 + 1)
    await window.check(asked("a" * 59_990))
    with pytest.raises(ContextTooLong):
        await window.check(asked("a" * 61_000))


async def test_token_id_prompts_are_checked_without_a_tokenizer() -> None:
    with pytest.raises(ContextTooLong):
        await Window(4, None).check(CompletionCodec().read({"prompt": [1, 2, 3, 4]}))
    await Window(4, None).check(CompletionCodec().read({"prompt": [[1], [1, 2, 3]]}))


async def test_checked_keys_are_remembered_briefly() -> None:
    clock = FixedClock()
    ledger = InMemoryLedger(clock)
    ledger.add_key("gh-1")
    principals = Principals(ledger, clock, ttl_s=2)
    await principals.authenticate("gh-1")
    ledger.keys.clear()
    await principals.authenticate("gh-1")
    clock.advance(2_001)
    with pytest.raises(Unauthenticated):
        await principals.authenticate("gh-1")
    ledger.add_key("gh-1")
    await principals.authenticate("gh-1")  # a failure is not remembered


def event(number: int, name: str = "key.revoked") -> AuditEvent:
    return AuditEvent(f"e{number}", name, 1, TenantId("acme"), "key_1", data={"key_id": "key_1"})


class Refusing(InMemoryAudit):
    async def append(self, events):
        if self.down:
            return await super().append(events)
        if any(each.event_id == "e1" for each in events):
            raise AuditRefused("never")
        return await super().append(events)


async def test_a_refused_event_does_not_block_the_others(caplog: pytest.LogCaptureFixture) -> None:
    audit, clock = Refusing(), FixedClock()
    audit.down = True
    recorder = Recorder(audit, clock, 1.0)
    for number in (0, 1, 2):
        clock.advance(2_000)
        await recorder.record(event(number))
    audit.down = False
    async with asyncio.timeout(10):
        while recorder.backlog:
            await asyncio.sleep(0.01)
    assert [each.event_id for each in audit.events] == ["e0", "e2"]
    assert recorder.dropped == 1, "only the refused one is lost, and it is counted"
    assert "refuses" in caplog.text


async def test_a_sink_that_hangs_costs_a_request_its_deadline_once() -> None:
    class Hanging(InMemoryAudit):
        calls = 0

        async def append(self, events):
            self.calls += 1
            await asyncio.Event().wait()

    audit = Hanging()
    recorder = Recorder(audit, FixedClock(), 0.01)
    assert await recorder.record(event(0)) is None
    calls = audit.calls
    assert await recorder.record(event(1)) is None  # known to be down: not asked again within the second
    assert audit.calls <= calls + 1  # only the flusher may try
    assert recorder.backlog == 2


def subclasses(cls: type[GatehouseError]) -> list[type[GatehouseError]]:
    return [cls, *(each for child in cls.__subclasses__() for each in subclasses(child))]


SAMPLES: dict[str, tuple[object, ...]] = {
    "UnknownModel": ("m",),
    "ContextTooLong": (5, 4, "prompt"),
    "BodyTooLarge": (9,),
    "QuotaExceeded": ("x", 7),
    "EngineOverloaded": ("x", 7),
    "InvalidRequest": ("x", "param", "code"),
}


@pytest.mark.parametrize("cls", [c for c in subclasses(GatehouseError) if c.__module__ == errors.__name__])
def test_every_error_survives_pickle(cls: type[GatehouseError]) -> None:
    error = cls(*SAMPLES.get(cls.__name__, ("words",)))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (str(again), again.code, vars(again)) == (str(error), error.code, vars(error))


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "Input length (3068) exceeds model's maximum context length (2048).", "context_length_exceeded"),
        (400, "This model's maximum context length is 2048 tokens. However, you requested 5 output tokens and your "
              "prompt contains at least 2044 input tokens", "context_length_exceeded"),
        (400, "temperature must be non-negative", "invalid_value"),
        (404, "The model `x` does not exist.", "upstream_error"),
        (503, "", "server_is_overloaded"),
        (500, "EngineCore encountered an issue", "upstream_error"),
    ],
)  # fmt: skip
def test_engine_errors(status: int, message: str, code: str) -> None:
    body = b'{"error":{"message":"%s","type":"BadRequestError","param":null,"code":400}}' % message.encode()
    error = upstream_error(status, body)
    assert error.code == code
    assert "EngineCore" not in str(error)


def test_an_engine_error_never_echoes_pydantic() -> None:
    body = b'{"error":{"message":"1 validation error: secret input","param":"body.x","code":400}}'
    error = upstream_error(400, body)
    assert "secret" not in str(error)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_replayed_reasoning_reaches_the_engine_under_one_name(name: str) -> None:
    turns = [{"role": "assistant", "content": "a", name: "hm"}, {"role": "user", "content": "b"}]
    messages = ChatCodec().read({"messages": turns}).body["messages"]
    assert messages == [{"role": "assistant", "content": "a", "reasoning_content": "hm"}, turns[1]]
