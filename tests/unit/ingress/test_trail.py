"""The recorder over a sink that is down, full, slow or refusing: order, receipts, memory."""

import asyncio
from collections.abc import Sequence

import pytest

from deployments.clock import FixedClock
from deployments.errors import AuditDiskFull, AuditOverloaded, AuditRefused, AuditUnavailable
from deployments.ingress import trail
from deployments.ingress.trail import Recorder
from deployments.ports import AuditEvent, Body, BodyField, Receipt, TenantId
from tests.fakes_audit import InMemoryAudit


def event(number: int, text: bytes | None = None) -> AuditEvent:
    body = {BodyField.REASON: Body(bytes(32), text)} if text is not None else {}
    data = {"change_id": "CHG-1", "outcome": "succeeded"}
    return AuditEvent(f"e{number}", "change.closed", 1, TenantId("acme"), "key_1", data=data, bodies=body)


class Sink(InMemoryAudit):
    """Fails as often as `failures` says; `batches` is what it was offered."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.hangs_after_a_failure = False

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        self.batches.append([each.event_id for each in events])
        await self.open.wait()
        if self.failures:
            if self.hangs_after_a_failure:
                self.open.clear()
            raise self.failures.pop(0)
        if len(events) > 1 and any(each.event_id == "e1" for each in events):
            raise AuditRefused("One of them is wrong.")
        if events[0].event_id == "e1":
            raise AuditRefused("It is wrong.")
        return await super().append(events)

    def ids(self) -> list[str]:
        return [each.event_id for each in self.events]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "_RETRY_S", 0.0)


def recorder_of(sink: InMemoryAudit, **more: int) -> Recorder:
    return Recorder(sink, FixedClock(), 5.0, **more)


async def drained(recorder: Recorder) -> None:
    async with asyncio.timeout(10):
        await recorder.drain()


async def test_events_of_one_moment_share_an_append() -> None:
    sink = Sink()
    recorder = recorder_of(sink)
    receipts = await asyncio.gather(*(recorder.record(event(number)) for number in (5, 6, 7)))
    assert sink.batches == [["e5", "e6", "e7"]]
    assert [receipt and receipt.index for receipt in receipts] == [0, 1, 2]


@pytest.mark.parametrize("error", [AuditOverloaded("full"), AuditDiskFull("full"), AuditUnavailable("down")])
async def test_back_pressure_keeps_the_event_and_its_place(error: AuditUnavailable) -> None:
    sink = Sink(error)
    recorder = recorder_of(sink)
    assert await recorder.record(event(2)) is None
    assert await recorder.record(event(3)) is None, "it must not overtake the first"
    assert recorder.backlog == 2
    await drained(recorder)
    assert sink.ids() == ["e2", "e3"]
    assert (recorder.backlog, recorder.dropped) == (0, 0)


async def test_nobody_waits_for_a_second_failure() -> None:
    sink = Sink(AuditOverloaded("full"))
    sink.open.clear()
    sink.hangs_after_a_failure = True
    recorder = recorder_of(sink)
    first = asyncio.create_task(recorder.record(event(2)))
    while not sink.batches:
        await asyncio.sleep(0)
    others = [asyncio.create_task(recorder.record(event(number))) for number in range(3, 400)]
    await asyncio.sleep(0)
    sink.open.set()
    async with asyncio.timeout(10):
        assert set(await asyncio.gather(first, *others)) == {None}, "the sink hangs now, and they do not"
    assert recorder.backlog == 398
    sink.open.set()
    await drained(recorder)
    assert sink.ids() == [f"e{number}" for number in range(2, 400)]


async def test_after_an_outage_there_are_receipts_again() -> None:
    sink = Sink(AuditDiskFull("full"))
    recorder = recorder_of(sink)
    assert await recorder.record(event(2)) is None
    await drained(recorder)
    receipt = await recorder.record(event(3))
    assert receipt is not None
    assert receipt.index == 1


async def test_one_refused_event_costs_its_neighbours_nothing() -> None:
    sink = Sink()
    recorder = recorder_of(sink)
    receipts = await asyncio.gather(*(recorder.record(event(number)) for number in range(4)))
    assert [receipt and receipt.index for receipt in receipts] == [0, None, 1, 2]
    assert sink.ids() == ["e0", "e2", "e3"]
    assert recorder.dropped == 1


async def test_a_bug_reaches_whoever_waits_and_nobody_else() -> None:
    sink = Sink(RuntimeError("a bug"))
    recorder = recorder_of(sink)
    with pytest.raises(RuntimeError, match="a bug"):
        await recorder.record(event(2))
    assert recorder.dropped == 1
    assert await recorder.record(event(3)) is not None


async def test_a_sink_with_too_few_receipts_is_a_bug() -> None:
    class Short(InMemoryAudit):
        async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
            return (await super().append(events))[1:]

    with pytest.raises(RuntimeError, match="number of receipts"):
        await recorder_of(Short()).record(event(2))


async def test_the_backlog_is_bounded_and_what_does_not_fit_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "_BACKLOG", 3)
    sink = Sink(AuditOverloaded("full"))
    recorder = recorder_of(sink)
    for number in range(2, 8):
        assert await recorder.record(event(number)) is None
    assert (recorder.backlog, recorder.dropped) == (3, 3)
    await drained(recorder)
    assert sink.ids() == ["e2", "e3", "e4"]


async def test_text_that_waits_is_bounded_and_its_digest_stays() -> None:
    sink = Sink(AuditOverloaded("full"))
    recorder = recorder_of(sink, kept_body_bytes=10)
    for number, text in ((2, b"x" * 6), (3, b"y" * 6), (4, b"z" * 4)):
        await recorder.record(event(number, text))
    await drained(recorder)
    kept = [each.bodies[BodyField.REASON] for each in sink.events]
    assert [body.data for body in kept] == [b"x" * 6, None, b"z" * 4]
    assert {body.digest for body in kept} == {bytes(32)}
    await recorder.record(event(5, b"w" * 10))  # what has left makes room
    assert sink.events[-1].bodies[BodyField.REASON].data == b"w" * 10


async def test_a_batch_holds_a_bounded_amount_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "_BATCH_BODY_BYTES", 10)
    sink = Sink()
    recorder = recorder_of(sink)
    sizes = (4, 6, 1, 30, 2)
    await asyncio.gather(*(recorder.record(event(number, b"x" * size)) for number, size in enumerate(sizes, start=2)))
    assert sink.batches == [["e2", "e3"], ["e4"], ["e5"], ["e6"]]


async def test_a_request_that_is_gone_does_not_disturb_the_others() -> None:
    sink = Sink()
    sink.open.clear()
    recorder = recorder_of(sink)
    gone = asyncio.create_task(recorder.record(event(2)))
    stays = asyncio.create_task(recorder.record(event(3)))
    while not sink.batches:
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    sink.open.set()
    receipt = await stays
    assert receipt is not None
    assert sink.ids() == ["e2", "e3"], "its record is made all the same"
