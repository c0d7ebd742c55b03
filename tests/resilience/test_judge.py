"""What the run calls a fault is found where it is: replies that break off, records and charges that are not right."""

import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from deployments.ports import AuditEvent, RequestId
from tests.resilience.judge import charges, endings, records
from tests.resilience.load import KINDS, Ending, Load, Reply
from tests.resilience.nodes import Machine
from tests.resilience.report import steps
from tests.serve.conftest import free_port
from tests.tenants.books import Row
from tests.unit.audit.logs import entries_of, routed, write_log

_USAGE = b'{"usage":{"prompt_tokens":3,"completion_tokens":4},"choices":[]}'
_END = b"data: " + _USAGE + b"\n\ndata: [DONE]\n\n"
_ERROR = b'data: {"error":{"message":"m","type":"t","code":"c"}}\n\n'
_CHUNK = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


def said(status: int, kind: str, body: bytes, *, breaks: bool = False) -> Any:
    """A handler: this answer; `breaks`: and then the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"content-type": kind})
        await response.prepare(request)
        await response.write(body)
        if breaks:
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


@asynccontextmanager
async def listening(answer: Any, done: Callable[[], None]) -> AsyncGenerator[Machine, None]:
    """A machine with this handler; `done` is called by its first request."""

    async def first(request: web.Request) -> web.StreamResponse:
        done()
        return await answer(request)

    async def well(_: web.Request) -> web.Response:
        return web.Response()

    app, port = web.Application(), free_port()
    app.router.add_get("/-/healthz", well)
    app.router.add_post("/{path:.*}", first)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield cast(Machine, SimpleNamespace(name="m1", url=f"http://127.0.0.1:{port}"))
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("answer", "ending", "truncated"),
    [
        (said(200, "text/event-stream", _CHUNK + _END), Ending.WHOLE, False),
        (said(200, "text/event-stream", _CHUNK + _ERROR), Ending.ERROR_EVENT, False),
        (said(200, "text/event-stream", _CHUNK + _ERROR, breaks=True), Ending.ERROR_EVENT, False),
        (said(503, "application/json", _ERROR[6:]), Ending.REFUSED, False),
        (said(503, "text/plain", b"No replicas"), Ending.FOREIGN, False),
        (said(200, "text/event-stream", _CHUNK), Ending.SILENT, True),
        (said(200, "text/event-stream", _CHUNK + b'data: {"half'), Ending.SILENT, True),
        (said(200, "text/event-stream", _CHUNK, breaks=True), Ending.BROKEN, True),
    ],
    ids=["whole", "an error event", "which ends the connection", "refused", "in no dialect", "cut", "within an event",
         "broken off"],
)  # fmt: skip
async def test_how_a_reply_ends_is_seen(answer: Any, ending: Ending, truncated: bool) -> None:
    there = list[Machine]()
    load = Load(lambda: there, ["gh-key"], "t")
    async with listening(answer, load.stop) as machine:
        there.append(machine)
        await load.run(short=0, long=1)
    (reply,) = load.replies
    assert reply.ending is ending
    faults = endings(load, lost=()).faults
    assert (bool(faults["truncated"]), bool(faults["not in their dialect"])) == (truncated, ending is Ending.FOREIGN)


async def test_a_whole_answer_that_is_half_a_document_is_cut() -> None:
    there = list[Machine]()
    load = Load(lambda: there, ["gh-key"], "t", numbers=itertools.count(KINDS.index("whole")))
    async with listening(said(200, "application/json", _USAGE[:20]), load.stop) as machine:
        there.append(machine)
        await load.run(short=1, long=0)
    assert [each.ending for each in load.replies] == [Ending.SILENT]


def test_only_a_dead_machine_may_break_connections() -> None:
    load = given(Reply("r1", "long", machine="m1", ending=Ending.BROKEN))
    assert not endings(load, lost=["m1"]).faults["truncated"]
    assert endings(load, lost=["m2"]).faults["truncated"]


def given(*replies: Reply) -> Load:
    """A load that has ended so."""
    return Load(list, ["gh-key"], "t", replies=list(replies))


def whole(name: str, **more: Any) -> Reply:
    return Reply(name, "chat", machine="m1", ending=Ending.WHOLE, tokens=(3, 4), **more)


def row(name: str, output: int = 4, outcome: str = "completed") -> Row:
    return Row(f"g-{name}", name, None, "key_1", 3, output, outcome == "lost", outcome, 0, 100, 0)


@pytest.mark.parametrize(
    ("rows", "faults"),
    [
        ([row("r1"), row("r2")], set[str]()),
        ([row("r1"), row("r2"), row("r2")], {"charged twice"}),
        ([row("r1")], {"settlements lost"}),
        ([row("r1"), row("r2", output=5)], {"charged other than told"}),
        ([row("r1"), row("r2"), row("r3")], {"of nobody"}),
    ],
    ids=["right", "twice", "never", "other counts", "of nobody"],
)
def test_what_is_charged_is_held_against_what_was_told(rows: Sequence[Row], faults: set[str]) -> None:
    found = charges(given(whole("r1"), whole("r2")), rows)
    assert {name for name, each in found.faults.items() if each} == faults


def test_an_estimate_is_counted() -> None:
    found = charges(given(whole("r1"), Reply("r2", "chat")), [row("r1", outcome="lost"), row("r2", outcome="lost")])
    assert found.figures["answered, charged an estimate"] == 1
    assert found.figures["of an unknown end, charged an estimate"] == 1


def decided(number: int) -> AuditEvent:
    """The record of how request r`number` was routed."""
    return replace(routed(number), request_id=RequestId(f"r{number}"))


@pytest.mark.parametrize(
    ("receipts", "told", "faults"),
    [
        ({1: 1, 2: 2}, ["r1", "r2"], set[str]()),
        ({1: 2, 2: 1}, ["r1", "r2"], {"acknowledged and lost"}),
        ({1: 1, 9: 1}, ["r1", "r2"], {"acknowledged and lost"}),
        ({}, ["r1", "r3"], {"answered without one record of it"}),
    ],
    ids=["right", "another record", "no record", "no record of an answer"],
)
def test_what_is_in_the_log_is_held_against_receipts(
    tmp_path: Path, receipts: dict[int, int], told: Sequence[str], faults: set[str]
) -> None:
    """`receipts`: the index that a client was told, and the index of the record whose leaf it was told."""
    write_log(tmp_path, [decided(1), decided(2)])  # after the record of its opening
    leaves = [each.leaf.hex() for each in entries_of(tmp_path)]
    pairs = [(index, leaves[of]) for index, of in receipts.items()] or [None] * len(told)
    replies = [whole(name, receipt=pair) for name, pair in zip(told, pairs, strict=True)]
    found = records(replies, tmp_path, "acme")
    assert {name for name, each in found.faults.items() if each} == faults


def test_steps_hold_everything_that_came_and_begin_with_the_fault() -> None:
    seconds = [(at, 2 if at >= 0 else 1) for at in range(-4, 8)]
    edges, levels = steps(seconds)
    assert 0 in edges
    came = sum((after - before) * level for before, after, level in zip(edges[:-1], edges[1:], levels, strict=True))
    assert round(came) == sum(count for _, count in seconds)
    assert len(levels) < len(seconds)
