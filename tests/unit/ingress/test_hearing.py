"""Replies of engines, heard whole, and what is read out of them."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.course import Course, Why, Wish, Word, evidence_of, wish_of, words_of
from deployments.ingress.dialects.chat import ChatCodec
from deployments.ingress.hearing import Heard, hear, transcribe
from deployments.ingress.opening import Opening
from deployments.ingress.verifying import parses_as_shell, parses_as_yaml, task_of, verdict_of
from deployments.ports import (
    AttemptOutcome,
    EngineCall,
    EngineItem,
    Repaired,
    RequestId,
    RouteRequest,
    SessionId,
    Usage,
)
from router.types import Role, TaskType, Turn
from router.verify.values import Check, Finding, Status, Task, Verdict
from tests.fakes import JSON_START, USAGE, ScriptedEngine, call_chunk, chunk, json_reply, sse


def whole(text: str, **more: object) -> bytes:
    reply = json.loads(json_reply(text)[1])  # type: ignore[arg-type]
    reply["choices"][0]["message"] |= more
    return json.dumps(reply).encode()


def events(*chunks: object) -> bytes:
    return sse(*chunks, USAGE, "[DONE]")  # type: ignore[arg-type]


def test_a_whole_reply() -> None:
    found = transcribe(whole("Hello."), stream=False)
    assert found is not None
    assert (found.text, found.finish, found.calls, found.usage) == ("Hello.", "stop", 0, Usage(11, 0, 5, 0))


def test_a_streamed_reply_however_it_is_cut() -> None:
    found = transcribe(
        events(chunk(reasoning="hm"), chunk(content="Hel"), chunk(content="lo."), chunk(finish="stop")), True
    )
    assert found is not None
    assert (found.text, found.finish, found.calls, found.usage) == ("Hello.", "stop", 0, Usage(11, 4, 5, 0))


@pytest.mark.parametrize(
    "more",
    [{"tool_calls": [{"id": "c"}]}, {"function_call": {"name": "f"}}, {"mcp": {"x": 1}}],
    ids=["calls", "legacy", "unknown"],
)
def test_what_is_no_words_counts_as_a_call(more: dict[str, object]) -> None:
    found = transcribe(whole("Hello.", **more), stream=False)
    assert found is not None
    assert found.calls == 1


def test_calls_in_a_stream_are_seen() -> None:
    found = transcribe(events(chunk(content="a"), call_chunk(0, "f", "{}"), chunk(finish="tool_calls")), True)
    assert found is not None
    assert found.calls > 0


@pytest.mark.parametrize(
    ("data", "stream"),
    [
        (b"{", False),
        (b'{"choices": []}', False),
        (b'{"choices": [{"message": {"content": 3}}]}', False),
        (json_reply("a", finish="abort")[1], False),
        (sse(chunk(content="a"), chunk(finish="stop")), True),
        (events(chunk(content="a")), True),
        (events(chunk(content="a"), chunk(finish="error")), True),
        (events(chunk(content="a"), chunk(index=1, content="b"), chunk(finish="stop")), True),
        (b"data: {\n\ndata: [DONE]\n\n", True),
    ],
    ids=["cut", "empty", "strange", "aborted", "endless", "unfinished", "error", "choices", "broken"],
)
def test_what_is_broken_or_strange_says_nothing(data: bytes, stream: bool) -> None:
    assert transcribe(data, stream) is None


def opening(*script: object) -> tuple[Opening, ScriptedEngine]:
    engine = ScriptedEngine(script)  # type: ignore[arg-type]
    return Opening(engine.call(EngineCall("/", {}, b"{}", RequestId("r"), SessionId("s")))), engine


async def test_a_reply_is_heard_to_its_end_and_told_again_in_order() -> None:
    items, engine = opening(JSON_START, b"one", Repaired(("note",)), b"two")
    await items.start(None)
    heard = await hear(items, stream=False, most_bytes=100)
    assert engine.open == 0
    assert (heard.data, heard.rest) == (b"onetwo", None)
    assert [item async for item in heard.replay()] == [b"one", Repaired(("note",)), b"two"]


async def test_a_long_reply_is_told_as_far_as_it_was_heard_and_then_goes_on() -> None:
    items, engine = opening(JSON_START, b"12345", b"67890", b"abcde")
    await items.start(None)
    heard = await hear(items, stream=False, most_bytes=8)
    assert heard.said() is None
    replay = heard.replay()
    assert [item async for item in replay] == [b"12345", b"67890", b"abcde"]
    await replay.aclose()
    assert engine.open == 0


async def test_a_long_reply_that_nobody_wants_any_more_is_ended() -> None:
    items, engine = opening(JSON_START, b"12345", b"67890", b"abcde")
    await items.start(None)
    heard = await hear(items, stream=False, most_bytes=3)
    await heard.replay().aclose()
    assert (engine.open, engine.aborted) == (0, 1)


async def test_an_engine_that_nobody_listens_to_any_more_is_stopped() -> None:
    silent, stopped = asyncio.Event(), asyncio.Event()

    async def engine() -> AsyncGenerator[EngineItem, None]:
        yield JSON_START
        try:
            yield b"1"
            silent.set()
            await asyncio.Event().wait()
        finally:
            stopped.set()

    items = Opening(engine())
    await items.start(None)
    hearing = asyncio.create_task(hear(items, stream=False, most_bytes=100))
    await silent.wait()
    hearing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    assert stopped.is_set()


async def test_a_reader_that_is_stopped_between_two_items_stops_the_engine() -> None:
    stopped = asyncio.Event()

    async def engine() -> AsyncGenerator[EngineItem, None]:
        yield JSON_START
        try:
            yield b"1"
            yield b"2"
        finally:
            stopped.set()

    class Refusing(Opening):
        async def __anext__(self) -> EngineItem:
            await super().__anext__()
            raise EngineFailed("broken")

    items = Refusing(engine())
    await items.start(None)
    with pytest.raises(EngineFailed):
        await hear(items, stream=False, most_bytes=100)
    assert stopped.is_set()


async def test_an_engine_that_fails_is_closed() -> None:
    items, engine = opening(JSON_START, b"1", EngineFailed("broken"))
    await items.start(None)
    with pytest.raises(EngineFailed):
        await hear(items, stream=False, most_bytes=100)
    assert engine.open == 0


SPENT = Usage(100, 30, 20, 10)


def test_the_count_of_a_whole_reply_takes_another_in() -> None:
    usage = json.loads(Heard((whole("a"),), False).with_usage(SPENT).data)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (111, 25, 136)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 30
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 10


def test_the_count_of_a_stream_takes_another_in_and_nothing_else_changes() -> None:
    before = events(chunk(content='say "usage"'), chunk(finish="stop"))
    after = Heard((before,), True).with_usage(SPENT)
    said = after.said()
    assert said is not None
    assert said.usage == Usage(111, 34, 25, 10)
    assert said.text == 'say "usage"'
    assert after.data.count(b"data: ") == before.count(b"data: ")


def test_a_reply_without_a_count_is_left_as_it_is() -> None:
    data = json.dumps({"choices": [{"message": {"content": "a"}}]}).encode()
    assert Heard((data,), False).with_usage(SPENT).data == data


# --- the wish ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "route", "wish"),
    [
        ("", None, Wish()),
        ("true", None, Wish(cascade=True)),
        ("TRUE", {}, Wish(cascade=True)),
        ("buffer", None, Wish(cascade=True, buffer=True)),
        ("false", {"cascade": True}, Wish(cascade=True)),
        ("buffer", {"cascade": False}, Wish(cascade=False, buffer=True)),
        ("", {"cascade": True, "buffer": True}, Wish(cascade=True, buffer=True)),
    ],
)
def test_the_wish_of_header_and_body(header: str, route: dict[str, bool] | None, wish: Wish) -> None:
    body = {"model": "auto", **({} if route is None else {"route": route})}
    assert wish_of({"x-gatehouse-cascade": header}, body) == (wish, {"model": "auto"})


def test_a_wish_that_is_none() -> None:
    with pytest.raises(InvalidRequest, match=r"route\.cascade"):
        wish_of({}, {"route": {"cascade": 1}})
    with pytest.raises(InvalidRequest, match="Unknown parameter"):
        wish_of({}, {"route": {"model": "x"}})


# --- verdicts as evidence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "outcome"),
    [
        ((), AttemptOutcome.OK),
        ((Check.PRESENCE, Check.SCHEMA), AttemptOutcome.EMPTY),
        ((Check.REPETITION, Check.COMPLETION), AttemptOutcome.LOOPING),
        ((Check.COMPLETION,), AttemptOutcome.TRUNCATED),
        ((Check.SCHEMA,), AttemptOutcome.PARSE_FAILED),
        ((Check.CODE, Check.ARITHMETIC), AttemptOutcome.PARSE_FAILED),
        ((Check.COMMITMENT,), AttemptOutcome.VERIFIER_FAILED),
        ((Check.COMMITMENT, Check.CITATION), AttemptOutcome.VERIFIER_FAILED),
        ((Check.ARITHMETIC,), AttemptOutcome.VERIFIER_FAILED),
    ],
)
def test_what_a_verdict_is_evidence_of(checks: tuple[Check, ...], outcome: AttemptOutcome) -> None:
    findings = tuple(Finding(check, Status.FAIL, "kind") for check in checks)
    verdict = Verdict(Status.FAIL if checks else Status.UNKNOWN, findings)
    assert evidence_of(verdict) is outcome
    assert words_of(verdict) == [f"{check.value}:kind" for check in checks]


def test_no_verdict_is_no_evidence() -> None:
    assert evidence_of(None) is AttemptOutcome.OK


def test_headers_say_only_what_was_asked_for() -> None:
    verdict = Verdict(Status.FAIL, ())
    assert Course(verdict=verdict).headers == {}
    assert Course(word=Word.REFUSED, why=Why.COLD, verdict=verdict).headers == {
        "x-gatehouse-cascade": "refused",
        "x-gatehouse-cascade-reason": "cold",
        "x-gatehouse-verdict": "fail",
    }


def test_a_stream_that_is_too_long_is_not_kept() -> None:
    course = Course(listens=True)
    course.hear(b"12345", 8)
    assert bytes(course.heard) == b"12345"
    course.hear(b"67890", 8)
    assert (course.listens, bytes(course.heard)) == (False, b"")
    course.hear(b"1", 8)
    assert bytes(course.heard) == b""


# --- what is asked, as the checks take it ------------------------------------------------------------------------


def task(**body: object) -> Task:
    asked = ChatCodec().read({"messages": [{"role": "user", "content": "Summarize: a"}], **body})  # type: ignore[dict-item]
    return task_of(asked, RouteRequest((Turn(Role.USER, "Summarize: a"),)))


def test_a_task_holds_the_form_that_was_asked_for() -> None:
    schema = {"type": "object"}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert (task(response_format=form).schema, task(response_format=form).wants_json) == (schema, True)
    assert (task(response_format={"type": "json_object"}).schema, task().wants_json) == (None, False)
    assert task(response_format={"type": "json_object"}).wants_json
    assert task().type is TaskType.EXTRACTION


def test_stop_strings_and_small_limits_make_an_open_end() -> None:
    assert not task().open_ended
    assert not task(max_tokens=4096).open_ended
    assert task(stop=["\n"]).open_ended
    assert task(max_tokens=16).open_ended


async def test_a_check_that_breaks_is_no_verdict(caplog: pytest.LogCaptureFixture) -> None:
    said = transcribe(whole("SECRET"), stream=False)
    assert said is not None
    broken = Task(TaskType.GENERAL, None)  # type: ignore[arg-type]
    assert await verdict_of(said, broken) is None
    assert "TypeError" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("text", "parses"),
    [
        ("ls -l | sort", True),
        ("for x in a b; do echo $x; done", True),
        ("for x in a b; do echo $x", False),
        ("if [ -f a ]; then", False),
        ("echo 'a", False),
        ("kubectl get pods -o json | jq '.items[] | .metadata.name'", True),
        ("cat <<EOF\nhi\nEOF\n", True),
    ],
)
def test_shell(text: str, parses: bool) -> None:
    assert parses_as_shell(text) is parses


@pytest.mark.parametrize(
    ("text", "parses"),
    [
        ("a: 1\nb: [1, 2]", True),
        ("a: [1, 2", False),
        ("a: b: c", False),
        ("---\na: 1\n---\nb: 2\n", True),
        ("!!python/object:os.system {}", True),
        ("a: &x [*x, *x]", True),
    ],
)
def test_yaml_is_parsed_and_never_built(text: str, parses: bool) -> None:
    assert parses_as_yaml(text) is parses
