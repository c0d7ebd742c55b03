import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engine.bridge import AsgiBridge
from deployments.engine.harmony import REPAIRS
from deployments.engine.settings import FlushSettings
from deployments.errors import EngineFailed, EngineTimeout
from deployments.ports import EngineItem, EngineStart, Repaired

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
AT_ONCE = FlushSettings(few_ms=0, some_ms=0, many_ms=0)
NEVER = FlushSettings(few_ms=1000, some_ms=1000, many_ms=1000)
SSE = [(b"Content-Type", b"text/event-stream")]


def start(status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers or []}


def body(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class App:
    """Plays a script of messages; an awaitable step is awaited, an exception is raised."""

    def __init__(self, *steps: Any) -> None:
        self.steps = steps
        self.scope: dict[str, Any] = {}
        self.request = b""
        self.disconnected = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.request = (await receive())["body"]
        try:
            for step in self.steps:
                if isinstance(step, BaseException):
                    raise step
                if callable(step):
                    await step(self, receive)
                else:
                    await send(step)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def until_gone(app: App, receive: Receive) -> None:
    assert (await receive())["type"] == "http.disconnect"
    app.disconnected.set()


async def for_ever(app: App, receive: Receive) -> None:
    del app, receive
    await asyncio.Event().wait()


def ask(
    bridge: AsgiBridge, deadline_s: float = 30, headers: Mapping[str, str] | None = None
) -> AsyncGenerator[EngineItem, None]:
    return bridge.call("POST", "/v1/chat/completions", headers or {}, b"{}", deadline_s)


async def everything(items: AsyncGenerator[EngineItem, None]) -> tuple[list[EngineItem], Exception | None]:
    got: list[EngineItem] = []
    try:
        async for item in items:
            got.append(item)
    except (EngineFailed, EngineTimeout) as error:
        return got, error
    return got, None


async def test_a_json_reply_is_a_start_and_its_bytes() -> None:
    app = App(start(200, [(b"Content-Type", b"application/json")]), body(b'{"a":1}', more=False))
    got, error = await everything(ask(AsgiBridge(app, AT_ONCE), headers={"Content-Type": "application/json"}))
    assert got == [EngineStart(200, (("content-type", "application/json"),)), b'{"a":1}']
    assert error is None
    assert app.request == b"{}"
    assert app.scope["path"] == "/v1/chat/completions"
    assert app.scope["headers"] == [(b"content-type", b"application/json")]


async def test_a_status_that_is_an_enum_arrives_as_a_number() -> None:
    from http import HTTPStatus

    got, _ = await everything(ask(AsgiBridge(App(start(HTTPStatus.BAD_REQUEST), body(b"", more=False)), AT_ONCE)))
    assert got == [EngineStart(400, ())]
    assert type(got[0].status) is int  # type: ignore[union-attr]


async def test_role_and_first_text_leave_at_once_and_later_chunks_are_merged() -> None:
    gates = [asyncio.Event(), asyncio.Event()]

    def gate(event: asyncio.Event) -> Callable[[App, Receive], Awaitable[None]]:
        async def wait(app: App, receive: Receive) -> None:
            await event.wait()

        return wait

    first, second = (gate(event) for event in gates)
    app = App(start(), body(b"role"), first, body(b"a"), second, body(b"b"), body(b"c"), body(b"d", more=False))
    async with aclosing(ask(AsgiBridge(app, NEVER))) as items:
        assert await anext(items) == EngineStart(200, ())
        assert await anext(items) == b"role"
        gates[0].set()
        assert await anext(items) == b"a"  # although the window is a second long and nothing else can come
        gates[1].set()
        assert await anext(items) == b"bcd"  # and the end of the reply ends the window
        with pytest.raises(StopAsyncIteration):
            await anext(items)


async def test_without_a_window_nothing_waits() -> None:
    gates = [asyncio.Event() for _ in range(3)]

    def gate(event: asyncio.Event) -> Callable[[App, Receive], Awaitable[None]]:
        async def wait(app: App, receive: Receive) -> None:
            await event.wait()

        return wait

    steps = [step for n, event in enumerate(gates) for step in (gate(event), body(str(n).encode()))]
    app = App(start(), *steps, body(b"", more=False))
    async with aclosing(ask(AsgiBridge(app, AT_ONCE))) as items:
        await anext(items)
        for n, event in enumerate(gates):
            event.set()
            assert await anext(items) == str(n).encode()


async def test_closing_early_tells_the_app_and_does_not_cancel_it() -> None:
    app = App(start(), body(b"a"), until_gone, body(b"nobody hears this"))
    bridge = AsgiBridge(app, AT_ONCE)
    items = ask(bridge)
    assert [await anext(items), await anext(items)] == [EngineStart(200, ()), b"a"]
    await items.aclose()
    await asyncio.wait_for(app.disconnected.wait(), 60)
    await bridge.aclose()
    assert not app.cancelled.is_set()
    assert bridge.active == 0


async def test_how_long_the_end_of_the_work_takes_is_told_of_what_was_given_up_alone() -> None:
    told: list[float] = []
    may_end = asyncio.Event()

    async def slowly(app: App, receive: Receive) -> None:
        await until_gone(app, receive)
        await may_end.wait()

    bridge = AsgiBridge(App(start(), body(b"a"), slowly), AT_ONCE)
    bridge.aborted = told.append
    items = ask(bridge)
    await anext(items)
    loop = asyncio.get_running_loop()
    left_s = loop.time()
    await items.aclose()
    assert told == []  # it still works
    may_end.set()
    await bridge.aclose()
    assert len(told) == 1
    assert 0 <= told[0] <= loop.time() - left_s
    whole = AsgiBridge(App(start(), body(b"a", more=False)), AT_ONCE)
    whole.aborted = told.append
    await everything(ask(whole))
    await whole.aclose()
    assert len(told) == 1


async def test_a_reader_that_is_cancelled_while_it_waits_hangs_up() -> None:
    reached = asyncio.Event()

    async def reach(app: App, receive: Receive) -> None:
        reached.set()

    app = App(reach, until_gone)
    waiting = asyncio.create_task(anext(ask(AsgiBridge(app, AT_ONCE))))  # type: ignore[arg-type]
    await reached.wait()
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(app.disconnected.wait(), 60)


async def test_an_app_that_ignores_the_hang_up_is_cancelled_after_the_grace() -> None:
    app = App(start(), body(b"a"), for_ever)
    bridge = AsgiBridge(app, AT_ONCE, abort_grace_s=0.01)
    items = ask(bridge)
    await anext(items)
    await items.aclose()
    await asyncio.wait_for(app.cancelled.wait(), 60)
    await bridge.aclose()
    assert bridge.active == 0


async def test_closing_the_bridge_ends_every_request() -> None:
    apps_bridge = AsgiBridge(App(start(), until_gone), AT_ONCE, abort_grace_s=5)
    items = ask(apps_bridge)
    await anext(items)
    await apps_bridge.aclose()
    assert apps_bridge.active == 0
    await items.aclose()


async def test_an_app_that_raises_in_the_middle_fails_after_its_bytes() -> None:
    got, error = await everything(ask(AsgiBridge(App(start(), body(b"a"), ValueError("secret")), AT_ONCE)))
    assert got == [EngineStart(200, ()), b"a"]
    assert isinstance(error, EngineFailed)
    assert "secret" not in str(error)
    assert error.__cause__ is None


async def test_the_plain_text_500_of_a_raising_app_is_not_an_answer() -> None:
    app = App(start(500), body(b"Internal Server Error", more=False), ValueError("secret"))
    got, error = await everything(ask(AsgiBridge(app, AT_ONCE)))
    assert got == []
    assert isinstance(error, EngineFailed)


async def test_an_overload_passes_as_the_app_said_it() -> None:
    got, error = await everything(ask(AsgiBridge(App(start(503), body(b'{"error":1}', more=False)), AT_ONCE)))
    assert got == [EngineStart(503, ()), b'{"error":1}']
    assert error is None


@pytest.mark.parametrize("steps", [(), (start(),), (start(), body(b"a"))])
async def test_a_reply_that_never_ends_properly_is_a_failure(steps: tuple[Any, ...]) -> None:
    _, error = await everything(ask(AsgiBridge(App(*steps), AT_ONCE)))
    assert isinstance(error, EngineFailed)


async def test_the_text_of_an_error_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    await everything(ask(AsgiBridge(App(ValueError("my secret prompt")), AT_ONCE)))
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("steps", [(for_ever,), (start(), for_ever), (start(503), for_ever)])
async def test_the_deadline_covers_the_whole_reply(steps: tuple[Any, ...]) -> None:
    app = App(*steps)
    bridge = AsgiBridge(app, AT_ONCE, abort_grace_s=0.01)
    _, error = await everything(ask(bridge, deadline_s=0.05))
    assert isinstance(error, EngineTimeout)
    await asyncio.wait_for(app.cancelled.wait(), 60)


async def test_the_deadline_also_ends_a_stream_that_never_pauses() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        while True:
            await send(body(b"x"))
            await asyncio.sleep(0)

    bridge = AsgiBridge(app, AT_ONCE, abort_grace_s=0.01)
    got, error = await everything(ask(bridge, deadline_s=0.05))
    assert isinstance(error, EngineTimeout)
    assert b"x" in b"".join(item for item in got if isinstance(item, bytes))
    await bridge.aclose()


async def test_a_slow_reader_holds_the_app_back() -> None:
    sent = 0

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start())
        for _ in range(64):
            await send(body(bytes(1 << 18)))
            sent += 1
        await send(body(b"", more=False))

    total = 0
    async with aclosing(ask(AsgiBridge(app, AT_ONCE))) as items:
        await anext(items)
        for _ in range(100):
            await asyncio.sleep(0)
        assert sent < 8  # about a mebibyte ahead, not sixteen
        async for item in items:
            assert isinstance(item, bytes)
            total += len(item)
    assert total == 64 << 18


async def test_repairs_precede_the_bytes_they_concern_and_belong_to_one_request() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        name = scope["headers"][0][1].decode()
        await send(start())
        await send(body(b"before"))

        async def inner() -> None:  # vLLM parses in tasks of its own
            REPAIRS.get().append(f"note of {name}")

        await asyncio.create_task(inner())
        await send(body(b"after", more=False))

    bridge = AsgiBridge(app, AT_ONCE)
    replies = await asyncio.gather(*(everything(ask(bridge, headers={"n": name})) for name in ("one", "two")))
    for (got, _), name in zip(replies, ("one", "two"), strict=True):
        kinds = [item for item in got if not isinstance(item, EngineStart)]
        note = kinds.index(Repaired((f"note of {name}",)))
        assert b"".join(item for item in kinds[note:] if isinstance(item, bytes)).endswith(b"after")
        assert sum(isinstance(item, Repaired) for item in kinds) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=12), max_size=12), st.lists(st.booleans(), max_size=12), st.sampled_from([0, 1, 5]))
async def test_however_it_is_chunked_the_bytes_are_the_same(
    chunks: list[bytes], pauses: list[bool], window_ms: int
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(start())
        for n, chunk in enumerate(chunks):
            if n < len(pauses) and pauses[n]:
                await asyncio.sleep(0)
            await send(body(chunk))
        await send(body(b"", more=False))

    flush = FlushSettings(few_ms=window_ms, some_ms=window_ms, many_ms=window_ms)
    got, error = await everything(ask(AsgiBridge(app, flush)))
    assert error is None
    assert got[0] == EngineStart(200, ())
    assert b"".join(item for item in got[1:] if isinstance(item, bytes)) == b"".join(chunks)
