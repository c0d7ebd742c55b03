"""Loops over a server of our own: how many requests, how many at once, and when."""

import asyncio
import random

import pytest

from serve_app.bench.load import (
    BenchRefused,
    Endpoint,
    Level,
    Shape,
    client_session,
    levels,
    poisson_schedule,
    prompt,
    request_body,
    require_loopback,
    run_level,
)  # fmt: skip
from tests.unit.bench.sse import Script, serving


async def load(script: Script, level: Level, shape: Shape | None = None):
    async with serving(script) as url, client_session() as session:
        return await run_level(session, Endpoint("s", url, "m", "k"), shape or Shape(), level, 100)


async def test_a_closed_loop_sends_each_request_once_and_keeps_the_streams_open() -> None:
    script = Script()
    script.wait_before = 1
    async with serving(script) as url, client_session() as session, asyncio.timeout(20):
        run = asyncio.create_task(run_level(session, Endpoint("s", url, "m"), Shape(), Level(streams=3, requests=10)))
        while script.open < 3:
            await asyncio.sleep(0.005)
        script.gate.set()
        window = await run
    assert [sample.ok for sample in window.samples] == [True] * 10
    assert script.most_open == 3
    texts = [body["messages"][0]["content"] for _, _, body in script.requests]
    assert sorted(text.split()[0] for text in texts) == sorted(str(number) for number in range(10))
    assert window.wall_s > 0
    assert window.client_cpu_s > 0


async def test_a_closed_loop_ends_with_its_time() -> None:
    window = await load(Script(), Level(streams=2, duration_s=0.05))
    assert window.wall_s >= 0.05
    assert all(sample.ok for sample in window.samples)


async def test_an_open_loop_does_not_wait_for_replies() -> None:
    script = Script()
    script.wait_before = 1
    async with serving(script) as url, client_session() as session, asyncio.timeout(20):
        level = Level(rate=500, requests=6)
        run = asyncio.create_task(run_level(session, Endpoint("s", url, "m"), Shape(), level))
        while script.open < 6:
            await asyncio.sleep(0.005)
        script.gate.set()
        window = await run
    assert len(window.samples) == 6
    assert window.late_s >= 0


async def test_failures_are_samples_and_every_reply_is_reported() -> None:
    script, seen = Script((b"{}",), status=503), []
    async with serving(script) as url, client_session() as session:
        level = Level(streams=2, requests=4)
        window = await run_level(session, Endpoint("s", url, "m"), Shape(), level, on_done=seen.append)
    assert [sample.ending for sample in window.samples] == ["status 503"] * 4
    assert seen == list(window.samples)


async def test_completions_have_their_own_path_and_body() -> None:
    script = Script()
    await load(script, Level(streams=1, requests=1), Shape("completions", max_tokens=7, ignore_eos=True, salt="a"))
    ((line, _, body),) = script.requests
    assert line.startswith("POST /v1/completions ")
    assert body["prompt"].startswith("a100 ")
    assert (body["ignore_eos"], body["max_tokens"], body["stream"]) == (True, 7, True)
    assert body["stream_options"] == {"include_usage": True}


def test_poisson_arrivals_ascend_are_reproducible_and_have_the_rate() -> None:
    times = poisson_schedule(random.Random(7), 4.0, 4000, None)
    assert times == poisson_schedule(random.Random(7), 4.0, 4000, None)
    assert times != poisson_schedule(random.Random(8), 4.0, 4000, None)
    assert times == sorted(times)
    gaps = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.25, rel=0.05)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.08)  # as exponential gaps have it


def test_poisson_arrivals_end_with_the_duration() -> None:
    times = poisson_schedule(random.Random(1), 10.0, None, 3.0)
    assert times
    assert max(times) <= 3.0


def test_prompts_are_reproducible_and_differ_from_the_first_word() -> None:
    shape = Shape(prompt_tokens=20)
    assert prompt(shape, 3) == prompt(shape, 3)
    assert len({prompt(shape, number).split()[0] for number in range(50)}) == 50
    assert prompt(shape, 3) != prompt(Shape(prompt_tokens=20, seed=2), 3)
    assert len(prompt(shape, 3).split()) == 19
    assert "ignore_eos" not in request_body(shape, "m", 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests": 1},
        {"streams": 1, "rate": 1.0, "requests": 1},
        {"streams": 1},
        {"streams": 0, "requests": 1},
        {"rate": 0.0, "requests": 1},
        {"streams": 1, "requests": 0},
        {"streams": 1, "requests": 10_000_000},
        {"streams": 1, "duration_s": 0.0},
    ],
)
def test_a_level_is_bounded_and_one_thing_only(wrong: dict) -> None:
    with pytest.raises(BenchRefused):
        Level(**wrong)


def test_chat_does_not_go_with_ignore_eos() -> None:
    with pytest.raises(BenchRefused, match="completions"):
        Shape("chat", ignore_eos=True)


def test_labels_of_levels() -> None:
    assert [level.label for level in levels([1, 8], [2.5], 4, None)] == ["1 stream", "8 streams", "2.5 req/s"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost:1/x", "http://[::1]:8000"])
def test_loopback_may_be_loaded(url: str) -> None:
    require_loopback(url, allow_remote=False)


@pytest.mark.parametrize("url", ["http://10.0.0.1:8000", "https://example.org", "http://127.0.0.1.example.org"])
def test_other_machines_may_not_unless_allowed(url: str) -> None:
    with pytest.raises(BenchRefused, match="allow-remote"):
        require_loopback(url, allow_remote=False)
    require_loopback(url, allow_remote=True)


def test_what_is_no_address_is_refused_always() -> None:
    with pytest.raises(BenchRefused, match="not an http address"):
        require_loopback("127.0.0.1:8000", allow_remote=True)


def test_a_key_is_not_in_the_representation() -> None:
    assert "hidden" not in repr(Endpoint("s", "http://127.0.0.1", "m", "hidden"))
