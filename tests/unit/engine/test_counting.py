"""What a request costs while it is answered: whatever the pieces, the bytes are the app's and the counts are exact."""

import asyncio
import json
import pickle
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.clock import FixedClock
from deployments.engine.bridge import AsgiBridge
from deployments.engine.counting import TALLY, Tally
from deployments.engine.replica import EngineReplica
from deployments.engine.settings import FlushSettings
from deployments.engine.synthetic import SyntheticSettings, TokenClock
from deployments.errors import EngineFailed
from deployments.ingress.opening import Opening
from deployments.ports import Counted, EngineCall, EngineItem, EngineStart, RequestId, SessionId, Usage

AT_ONCE = FlushSettings(few_ms=0, some_ms=0, many_ms=0)
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


@dataclass
class Part:
    prompt: str = "p"
    input_tokens: int = 7
    cached_tokens: int = 0
    output_tokens: int = 0


def body(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Generating:
    """An app that generates tokens, says pieces in between, and notes how many there were when each piece was said."""

    def __init__(self, pieces: list[tuple[int, bytes]], pauses: frozenset[int] = frozenset()) -> None:
        self.pieces = pieces
        self.pauses = pauses
        self.part = Part()
        self.tokens_at = {0: 0}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        tally = TALLY.get()
        if tally is not None:
            tally.add(self.part)
        await send(START)
        said = 0
        for number, (tokens, data) in enumerate(self.pieces):
            self.part.output_tokens += tokens
            await send(body(data))
            said += len(data)
            self.tokens_at[said] = self.part.output_tokens
            if number in self.pauses:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        await send(body(b"", more=False))


def asked(bridge: AsgiBridge, counted: bool = True) -> AsyncGenerator[EngineItem, None]:
    return bridge.call("POST", "/v1/chat/completions", {}, b"{}", 30, counted)


PIECES = st.lists(st.tuples(st.integers(0, 5), st.binary(min_size=1, max_size=9)), max_size=12)


@given(PIECES, st.frozensets(st.integers(0, 11)), st.integers(0, 14))
def test_any_pieces_leave_as_the_same_bytes_with_the_counts_that_belong_to_them(
    pieces: list[tuple[int, bytes]], pauses: frozenset[int], taken: int
) -> None:
    async def read() -> None:
        app = Generating(pieces, pauses)
        plain = [item async for item in asked(AsgiBridge(Generating(pieces, pauses), AT_ONCE), counted=False)]
        assert not any(isinstance(item, Counted) for item in plain)
        whole = b"".join(data for _, data in pieces)
        assert b"".join(item for item in plain if isinstance(item, bytes)) == whole
        data, last = b"", Usage()
        items = asked(AsgiBridge(app, AT_ONCE))
        async with aclosing(items):
            number = 0
            async for item in items:
                if isinstance(item, Counted):
                    data += item.data
                    assert item.usage.input_tokens == 7
                    assert item.usage.output_tokens == app.tokens_at[len(data)]
                    assert item.usage.output_tokens >= last.output_tokens
                    last = item.usage
                else:
                    assert isinstance(item, EngineStart)
                number += 1
                if number > taken:  # whoever hangs up here has the count of what came
                    break
            else:
                assert data == whole
                assert last.output_tokens == (sum(tokens for tokens, _ in pieces) if pieces else 0)
        assert whole.startswith(data)

    asyncio.run(read())


@given(PIECES, st.integers(0, 12))
def test_the_ingress_hears_the_bytes_and_knows_the_count_of_the_last_ones(
    pieces: list[tuple[int, bytes]], taken: int
) -> None:
    async def engine() -> AsyncGenerator[EngineItem, None]:
        yield Counted(b"", Usage(7, 0, 0))  # a count alone may come before the start, and is no word of the answer
        yield EngineStart(200, ())
        tokens = 0
        for more, data in pieces:
            tokens += more
            yield Counted(data, Usage(7, 0, tokens))
            yield Counted(b"", Usage(7, 0, tokens))

    async def read() -> None:
        opening = Opening(engine())
        await opening.start(None)
        heard: list[bytes] = []
        async for item in opening:
            assert isinstance(item, bytes)
            heard.append(item)
            assert opening.counted == Usage(7, 0, sum(more for more, _ in pieces[: len(heard)]))
            if len(heard) > taken:
                break
        assert heard == [data for _, data in pieces[: taken + 1]]
        await opening.aclose()

    asyncio.run(read())


def test_choices_share_their_prompt_and_a_batch_has_one_for_each() -> None:
    tally = Tally()
    assert tally.read() is None
    tally.add(Part("a", 10, 0, 3))
    assert tally.read() == Usage(10, 0, 3)
    tally.add(Part("a", 10, 8, 4))  # it found what the first one had read
    tally.add(Part("b", 5, 2, 1))
    assert tally.read() == Usage(15, 2, 8)
    tally.clear()
    assert tally.read() is None


async def test_a_silent_request_says_its_count_when_it_has_grown_and_only_then() -> None:
    part, go = Part(), asyncio.Event()

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        tally = TALLY.get()
        assert tally is not None
        tally.add(part)
        await go.wait()
        await send(START)
        await send(body(b"whole", more=False))

    items = asked(AsgiBridge(silent, AT_ONCE, count_every_s=0.02))
    assert await anext(items) == Counted(b"", Usage(7, 0, 0))
    waiting = asyncio.ensure_future(anext(items))
    for _ in range(3):  # rounds in which nothing grows
        await asyncio.sleep(0.02)
    assert not waiting.done()
    part.output_tokens = 5
    assert await waiting == Counted(b"", Usage(7, 0, 5))
    go.set()
    rest = [item async for item in items]
    assert [type(item) for item in rest] == [EngineStart, Counted]
    assert rest[1] == Counted(b"whole", Usage(7, 0, 5))


async def test_what_nobody_counts_is_bytes_as_ever() -> None:
    async def mute(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"x", more=False))

    got = [item async for item in asked(AsgiBridge(mute, AT_ONCE))]
    assert got[1:] == [b"x"]


async def test_a_dead_app_is_as_dead_when_it_is_counted() -> None:
    app = Generating([(1, b"x")])

    async def dying(scope: Any, receive: Any, send: Any) -> None:
        tally = TALLY.get()
        assert tally is not None
        tally.add(app.part)
        await send(START)
        await send(body(b"x"))
        raise RuntimeError("dead")

    got: list[EngineItem] = []
    with pytest.raises(EngineFailed):
        async for item in asked(AsgiBridge(dying, AT_ONCE)):
            got.append(item)
    assert got[-1] == Counted(b"x", Usage(7, 0, 0))


def test_counts_cross_processes() -> None:
    item = Counted(b"data", Usage(1, 2, 3))
    assert pickle.loads(pickle.dumps(item)) == item


@pytest.mark.parametrize("tokens", [1, 2, 5])
async def test_the_token_clock_counts_what_it_has_said(tokens: int) -> None:
    settings = SyntheticSettings.model_validate(
        {"model": "syn", "revision": "r1", "first_token_ms": 0.0, "token_ms": 0.0, "flush": AT_ONCE}
    )
    core = TokenClock(settings, FixedClock())
    raw = json.dumps({"model": "syn", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    call = EngineCall("/v1/chat/completions", {}, raw, RequestId("r"), SessionId("s"), counted=True)
    opening = Opening(EngineReplica(core, settings, FixedClock(), 0.0).call(call))
    await opening.start(None)
    heard = b""
    async for item in opening:
        assert isinstance(item, bytes)
        heard += item
        if heard.count(b'"content":"') > tokens:  # the first one is the empty text of the role
            break
    assert opening.counted is not None
    assert opening.counted.input_tokens > 0
    assert opening.counted.output_tokens == heard.count(b'"content":"') - 1
    await opening.aclose()
