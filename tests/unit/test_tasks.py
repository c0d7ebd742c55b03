import asyncio

import pytest

from deployments.tasks import Opening, Rounds, Tasks


async def test_draining_waits_for_what_was_begun_meanwhile() -> None:
    tasks, seen = Tasks(), list[str]()

    async def second() -> None:
        await asyncio.sleep(0)
        seen.append("second")

    async def first() -> None:
        await asyncio.sleep(0)
        tasks.begin(second())
        seen.append("first")

    tasks.begin(first())
    await tasks.drain()
    assert seen == ["first", "second"]


async def test_an_opening_is_shared_and_a_failed_one_is_tried_again() -> None:
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if calls == 1:
            raise OSError("not yet")

    opening = Opening(work)
    found = await asyncio.gather(opening.done(), opening.done(), return_exceptions=True)
    assert [type(each) for each in found] == [OSError, OSError]
    assert calls == 1
    await asyncio.gather(opening.done(), opening.done())
    await opening.done()
    assert calls == 2


async def test_whoever_gives_up_does_not_end_the_opening_of_the_others() -> None:
    may, opened = asyncio.Event(), list[bool]()

    async def work() -> None:
        await may.wait()
        opened.append(True)

    opening = Opening(work)
    impatient, patient = asyncio.create_task(opening.done()), asyncio.create_task(opening.done())
    await asyncio.sleep(0)
    impatient.cancel()
    may.set()
    await patient
    assert opened == [True]


async def test_closing_waits_for_the_round_under_way_and_begins_no_other() -> None:
    begun, may, seen = asyncio.Event(), asyncio.Event(), list[str]()

    async def work() -> float:
        begun.set()
        await may.wait()
        seen.append("whole")
        return 0.0

    rounds = Rounds()
    rounds.begin(work)
    await begun.wait()
    closing = asyncio.create_task(rounds.close())
    await asyncio.sleep(0)
    assert not closing.done()
    may.set()
    await closing
    assert seen == ["whole"]


async def test_a_loop_that_waits_is_closed_at_once_and_one_that_is_woken_goes_on() -> None:
    wake, ran = asyncio.Event(), asyncio.Semaphore(0)

    async def work() -> None:
        ran.release()

    rounds = Rounds()
    rounds.begin(work, wake)
    await ran.acquire()
    wake.set()
    await ran.acquire()
    await rounds.close()
    assert ran.locked()


async def test_what_ends_a_loop_is_said() -> None:
    async def work() -> float:
        raise ValueError("broken")

    rounds = Rounds()
    rounds.begin(work)
    rounds.check()
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        rounds.check()
    await rounds.close()


async def test_a_round_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.tasks._LONGEST_CLOSE_S", 0.0)
    cut = asyncio.Event()

    async def work() -> float:
        try:
            await asyncio.Event().wait()
        finally:
            cut.set()
        return 0.0

    rounds = Rounds()
    rounds.begin(work)
    await asyncio.sleep(0)
    await rounds.close()
    assert cut.is_set()
