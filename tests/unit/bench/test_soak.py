"""The rules for replies and memory, and a whole soak against a small server that misbehaves in known ways."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from serve_app.bench.load import BenchRefused
from serve_app.bench.soak import (
    Engine,
    Kill,
    Soak,
    SoakPlan,
    body_of,
    check_plan,
    draw,
    ended_check,
    engines_of,
    kill_check,
    leak_check,
    longest_pause,
    memory_checks,
    victim_of,
)
from serve_app.bench.soak_memory import (
    Bounds,
    Sample,
    Use,
    kind_of,
    process_tree,
    take_sample,
    theil_sen,
    thinned,
    total_pss,
    total_rss,
    tree_slope,
    trends,
)
from serve_app.bench.soak_replies import Ending, StreamWatch, judge_refusal, judge_whole
from serve_app.cli.bench_more import register

MIB = 2**20
ERROR = {"error": {"message": "The engine stopped.", "type": "server_error", "param": None, "code": "upstream_error"}}
WHOLE = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"completion_tokens": 2},
}


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


CHUNK = event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
LAST = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = event({"choices": [], "usage": {"completion_tokens": 7}})
DONE = b"data: [DONE]\n\n"


def watched(body: bytes, size: int = 1 << 20) -> tuple[Ending, str]:
    watch = StreamWatch()
    for start in range(0, len(body), size):
        watch.feed(body[start : start + size])
    reply = watch.end()
    return reply.ending, reply.detail


@pytest.mark.parametrize("size", [1, 3, 17, 4096])
def test_a_whole_stream_is_whole_however_it_is_cut_into_pieces(size: int) -> None:
    watch = StreamWatch()
    body = b": keep-alive\n\n" + CHUNK + CHUNK + LAST + USAGE + DONE
    for start in range(0, len(body), size):
        watch.feed(body[start : start + size])
    reply = watch.end()
    assert (reply.ending, reply.detail, reply.events, reply.output_tokens) == (Ending.COMPLETE, "", 5, 7)


@pytest.mark.parametrize(
    ("body", "ending", "detail"),
    [
        (CHUNK + event(ERROR), Ending.ERROR_EVENT, ""),
        (CHUNK + LAST, Ending.CUT, "no [DONE] and no error event"),
        (b"", Ending.CUT, "no [DONE] and no error event"),
        (CHUNK + event(ERROR) + DONE, Ending.MALFORMED, "something after the last event"),
        (CHUNK + LAST + DONE + CHUNK, Ending.MALFORMED, "something after the last event"),
        (CHUNK + DONE, Ending.MALFORMED, "[DONE] without a finish_reason"),
        (CHUNK + b"data: {\n\n", Ending.MALFORMED, "an event that is not JSON"),
        (CHUNK + b"data: 3\n\n", Ending.MALFORMED, "an event that is not an object"),
        (CHUNK + b"Internal Server Error\n", Ending.MALFORMED, "a line that is neither data nor a comment"),
        (CHUNK + event({"object": "x"}), Ending.MALFORMED, "a chunk without choices"),
        (CHUNK + b'data: {"choi', Ending.MALFORMED, "the last line is not complete"),
        (event({"error": "no"}), Ending.MALFORMED, "no error object"),
        (event({"error": {"message": "m", "type": "t", "param": None}}), Ending.MALFORMED, "an error without 'code'"),
    ],
)
def test_a_stream_that_is_not_whole_is_named_for_what_it_is(body: bytes, ending: Ending, detail: str) -> None:
    assert watched(body) == (ending, detail)
    assert watched(body, 5) == (ending, detail)


def test_a_line_without_end_is_not_kept() -> None:
    watch = StreamWatch()
    for _ in range(40):
        watch.feed(b"x" * 2**16)
    assert watch.end().detail == "a line of more than 1 MiB"


def test_whole_answers() -> None:
    assert judge_whole(json.dumps(WHOLE).encode()).ending is Ending.COMPLETE
    assert judge_whole(json.dumps(WHOLE).encode()).output_tokens == 2
    assert judge_whole(json.dumps(WHOLE).encode()[:-5]).ending is Ending.CUT
    assert judge_whole(b"[]").ending is Ending.MALFORMED
    assert judge_whole(json.dumps(WHOLE | {"usage": None}).encode()).ending is Ending.MALFORMED
    unfinished = WHOLE | {"choices": [WHOLE["choices"][0] | {"finish_reason": None}]}
    assert judge_whole(json.dumps(unfinished).encode()).ending is Ending.MALFORMED


def test_refusals_say_when_to_come_back() -> None:
    body = json.dumps(ERROR).encode()
    good = judge_refusal(503, {"retry-after": "2"}, body)
    assert (good.ending, good.retry_after_s, good.detail) == (Ending.REFUSED, 2.0, "upstream_error")
    assert judge_refusal(400, {}, body).ending is Ending.REFUSED
    for status, headers, text in (
        (503, {}, body),
        (429, {"retry-after": "soon"}, body),
        (429, {"retry-after": "-1"}, body),
        (500, {}, b"Internal Server Error"),
        (500, {}, b'{"detail": "no"}'),
        (500, {}, b"[]"),
    ):
        assert judge_refusal(status, headers, text).ending is Ending.MALFORMED


def test_the_same_seed_draws_the_same_requests() -> None:
    plan = SoakPlan("http://127.0.0.1:1", "k")
    one, two = random.Random(5), random.Random(5)
    first = [draw(one, number, plan, number % 7 == 0) for number in range(500)]
    assert first == [draw(two, number, plan, number % 7 == 0) for number in range(500)]
    hung = [ticket for ticket in first if ticket.hang_up_events is not None or ticket.hang_up_s is not None]
    assert 60 < len(hung) < 140  # a fifth
    assert all(ticket.hang_up_events is None or ticket.hang_up_s is None for ticket in first)
    assert all((ticket.pause_s is not None) == (ticket.number % 7 == 0 and ticket.streamed) for ticket in first)
    assert all(1 <= ticket.max_tokens <= plan.long_tokens for ticket in first)


def test_plans_that_must_not_run() -> None:
    plan = SoakPlan("http://127.0.0.1:1", "k", duration_s=10)
    check_plan(plan, allow_remote=False)
    remote = replace(plan, url="http://10.0.0.1:8000")
    check_plan(remote, allow_remote=True)
    for bad, allowed in (
        (remote, False),
        (replace(remote, kill_after_s=1, admin_key="a", pid=2), True),
        (replace(plan, kill_after_s=1), False),
        (replace(plan, kill_after_s=1, admin_key="a"), False),
        (replace(plan, kill_after_s=10, admin_key="a", pid=2), False),
    ):
        with pytest.raises(BenchRefused):
            check_plan(bad, allowed)


def test_a_plan_and_its_report_show_no_key() -> None:
    plan = SoakPlan("http://127.0.0.1:1", "secret-one", admin_key="secret-two")
    assert "secret" not in repr(plan)


def test_the_busiest_engines_core_is_the_victim_and_only_below_our_process() -> None:
    reply = {"data": [
        {"model": "a", "state": "ready", "running": 1, "pid": 10, "core_pids": [11]},
        {"model": "b", "state": "ready", "running": 5, "pid": 20, "core_pids": [21, 22]},
        {"model": "c", "state": "down"},
    ]}  # fmt: skip
    engines = engines_of(reply)
    assert engines[2] == Engine("c", False, 0, 0, ())
    assert victim_of(engines, [1, 10, 11, 20, 21, 22])[1] == 21
    assert victim_of([replace(engines[1], core_pids=())], [20])[1] == 20
    with pytest.raises(BenchRefused):
        victim_of(engines, [1, 10, 11])
    with pytest.raises(BenchRefused):
        victim_of(engines[2:], [1])


def test_pauses_leave_out_the_time_an_engine_was_away() -> None:
    pauses = [(0.0, 10.0), (50.0, 130.0)]
    assert longest_pause(pauses, None) == 80.0
    assert longest_pause(pauses, (60.0, 120.0)) == 20.0
    assert longest_pause([], (1.0, 2.0)) == 0.0


def test_verdicts_on_leaks_and_kills() -> None:
    assert leak_check(None, None, 15).passed is None
    assert leak_check(0, 1.0, 15).passed is True
    assert leak_check(2, None, 15).passed is False
    assert kill_check(None, "", 300).passed is False
    assert kill_check(Kill("m", 5, (4, 5), True, 10.0, None), "", 300).passed is False
    assert kill_check(Kill("m", 5, (4, 5), True, 10.0, 30.0), "", 300).passed is True


def test_a_replica_that_ends_by_itself_is_found() -> None:
    def seen(*pids: int) -> Sample:
        kinds = {4: "replica Engine:m:r", 5: "VLLM::EngineCore", 6: "replica Ingress", 7: "ray IDLE"}
        return Sample(0.0, {pid: Use(kinds[pid], 1, 1, 1, 1) for pid in pids})

    killed = Kill("m", 5, (4, 5), True, 10.0, 30.0)
    assert ended_check([seen(4, 5, 6, 7), seen(6)], killed).passed is True
    assert ended_check([seen(4, 5, 6, 7), seen(4, 5, 6)], None).passed is True
    alone = ended_check([seen(4, 5, 6), seen(6)], None)
    assert alone.passed is False
    assert "VLLM::EngineCore (5)" in alone.detail
    assert ended_check([seen(6), seen(4)], killed).passed is False
    assert ended_check([], None).passed is True


def test_requests_carry_a_seed_only_when_told_to() -> None:
    plan = SoakPlan("http://127.0.0.1:1", "k")
    ticket = draw(random.Random(1), 9, plan, False)
    assert "seed" not in body_of(ticket, plan)
    assert body_of(ticket, replace(plan, request_seeds=True))["seed"] == 9


def test_theil_sen_ignores_outliers() -> None:
    points = [(float(x), 2.0 * x + 1) for x in range(50)]
    points[10], points[30] = (10.0, 900.0), (30.0, -900.0)
    assert theil_sen(points) == pytest.approx(2.0)
    assert theil_sen(points[:1]) is None
    assert theil_sen([(1.0, 1.0), (1.0, 5.0)]) is None


def series(anonymous: Callable[[float], float], files: Callable[[float], float], kind: str = "k") -> list[Sample]:
    """30 minutes, a sample every 10 s, sizes in MiB."""
    return [
        Sample(float(at), {7: Use(kind, 2**30, 2**29, int(anonymous(at) * MIB), int(files(at)))})
        for at in range(0, 1801, 10)
    ]


@pytest.mark.parametrize(
    ("anonymous", "files", "verdict"),
    [
        (lambda at: 500, lambda at: 60, "flat"),
        (lambda at: 500 + 300 * min(1, at / 300), lambda at: 60 + min(40, at), "flat"),  # grows in the warm-up only
        (lambda at: 500 + at / 3600 * 20, lambda at: 60, "flat"),
        (lambda at: 5000 + at / 3600 * 40, lambda at: 60, "flat"),  # fast, but a small share of a large process
        (lambda at: 500 + at / 3600 * 80, lambda at: 60, "memory grows"),
        (lambda at: 500, lambda at: 60 + at / 30, "open files grow"),
    ],
)
def test_flat_and_growing_processes(
    anonymous: Callable[[float], float], files: Callable[[float], float], verdict: str
) -> None:
    (trend,) = trends(series(anonymous, files), Bounds())
    assert trend.verdict == verdict
    checks = {check.name: check.passed for check in memory_checks([trend], Bounds())}
    assert checks == {
        "memory is flat": verdict != "memory grows",
        "open files are flat": verdict != "open files grow",
    }


def test_a_short_life_is_not_judged() -> None:
    (trend,) = trends(series(lambda at: 500 + at, lambda at: 60)[:60], Bounds())
    assert trend.verdict == "too short to judge"
    assert [check.passed for check in memory_checks([trend], Bounds())] == [None, None]


def test_totals_and_thinning() -> None:
    samples = series(lambda at: 1, lambda at: 1)
    assert total_rss(samples[0]) == 2**30
    assert total_pss(samples[0]) == 2**29
    assert tree_slope(samples, total_rss, Bounds()) == 0.0
    assert tree_slope(samples[:3], total_rss, Bounds()) is None
    assert len(thinned(samples, 50)) <= 50
    assert thinned(samples[:7]) == samples[:7]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["ray::ServeReplica:gatehouse:Engine:demo-20b:demo-1"], "replica Engine:demo-20b:demo-1"),
        (["ray::ServeReplica:gatehouse:Ingress.handle_request"], "replica Ingress"),
        (["ray::ServeController.listen_for_change"], "ray ServeController"),
        (["VLLM::EngineCore"], "VLLM::EngineCore"),
        (["/v/bin/python", "-m", "serve_app", "up"], "gatehouse up"),
        (["/v/bin/python3.11", "-u", "/r/dashboard/dashboard.py", "--x"], "dashboard.py"),
        (["/r/core/src/ray/raylet/raylet", "--x"], "raylet"),
        ([""], "unknown"),
    ],
)
def test_processes_have_short_names(arguments: list[str], kind: str) -> None:
    assert kind_of(arguments) == kind


def test_a_real_process_tree_is_found_and_weighed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert child.pid in process_tree(os.getpid())
        use = take_sample(os.getpid(), 1.0).processes[os.getpid()]
        assert use.rss > MIB
        assert use.files >= 3
    finally:
        child.kill()
        child.wait(10)
    assert child.pid not in process_tree(os.getpid())
    assert process_tree(child.pid) == []


def test_a_process_whose_name_looks_like_fields_is_read_right(tmp_path: Path) -> None:
    for pid, parent, state in ((5, 1, "S"), (6, 5, "R"), (7, 5, "Z")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) S 9 (b)) {state} {parent} 0 0")
    (tmp_path / "self").mkdir()
    assert sorted(process_tree(5, tmp_path)) == [5, 6]


Serve = Callable[[str, dict, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Serve) -> AsyncIterator[str]:
    """A small HTTP server on the loopback interface: one request a connection, `answer` writes the reply."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length")]
            body = json.loads(await reader.readexactly(int(length[0]))) if length else {}
            await answer(head.split(" ")[1], body, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def head(status: int, kind: str, length: int | None = None, extra: str = "") -> bytes:
    size = "" if length is None else f"content-length: {length}\r\n"
    return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{size}{extra}connection: close\r\n\r\n".encode()


def whole(status: int, value: object, extra: str = "") -> bytes:
    body = json.dumps(value).encode()
    return head(status, "application/json", len(body), extra) + body


class Model:
    """Answers well, except as told: 'cut' forgets [DONE], 'rude' gives no retry-after, 'leak' never drains."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.asked = 0

    async def __call__(self, path: str, body: dict, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/admin/engines":
            running = 3 if "leak" in self.faults else 0
            state = {"model": "m", "state": "ready", "running": running, "pid": 1, "core_pids": []}
            writer.write(whole(200, {"data": [state]}))
        elif path != "/v1/chat/completions":
            writer.write(whole(200, {}))
        else:
            self.asked += 1
            if self.asked % 5 == 0:
                extra = "" if "rude" in self.faults else "retry-after: 0\r\n"
                writer.write(whole(503, ERROR, extra))
            elif not body.get("stream"):
                writer.write(whole(200, WHOLE))
            else:
                writer.write(head(200, "text/event-stream"))
                for _ in range(5):
                    writer.write(CHUNK)
                    await writer.drain()
                writer.write(LAST + USAGE + (b"" if "cut" in self.faults else DONE))


def short_plan(url: str) -> SoakPlan:
    return SoakPlan(
        url, "k", duration_s=30, streams=4, max_requests=60, admin_key="a", pid=os.getpid(), sample_s=0.05, drain_s=0.2
    )


async def test_a_soak_of_a_good_server_holds() -> None:
    async with serving(Model()) as url:
        told: list[int] = []
        report = await Soak(short_plan(url), lambda progress: told.append(progress.requests)).run()
    assert report.passed, report.checks
    assert report.requests == 60
    assert report.leaked == 0
    assert report.endings["streamed"][Ending.COMPLETE.value] > 0
    assert report.endings["whole"][Ending.COMPLETE.value] > 0
    assert sum(counter.get(Ending.REFUSED.value, 0) for counter in report.endings.values()) > 0
    assert report.memory
    assert told
    text = json.dumps(report.to_json())
    assert json.loads(text)["passed"] is True
    assert json.loads(text)["plan"]["admin_key"] is None


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("cut", "every stream ends with [DONE] or an error event"),
        ("rude", "every refusal is OpenAI's error object, with retry-after on 429 and 503"),
        ("leak", "no leaked request"),
    ],
)
async def test_a_soak_finds_what_is_wrong(fault: str, check: str) -> None:
    async with serving(Model(fault)) as url:
        report = await Soak(short_plan(url)).run()
    assert not report.passed
    assert [each.name for each in report.checks if each.passed is False] == [check]


async def test_a_soak_needs_a_server() -> None:
    async with serving(Model()) as url:
        pass
    with pytest.raises(BenchRefused):
        await Soak(short_plan(url)).run()


async def test_a_process_that_is_not_there_is_said() -> None:
    async with serving(Model()) as url:
        with pytest.raises(BenchRefused):
            await Soak(replace(short_plan(url), pid=2**22 - 1)).run()


@pytest.mark.parametrize(
    ("arguments", "key", "sentence"),
    [
        (["soak", "--url", "http://10.0.0.1:8000"], "k", "not this machine"),
        (["soak"], "", "no key"),
        (["soak", "--kill-engine-after", "5"], "k", "operator's key"),
        (["affinity", "--url", "http://10.0.0.1:8000"], "k", "not this machine"),
        (["gpu", "--models", "7b"], "k", "--models takes"),
    ],
)
def test_the_commands_refuse_in_one_sentence(arguments: list[str], key: str, sentence: str) -> None:
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, arguments, env={"GATEHOUSE_KEY": key})
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
