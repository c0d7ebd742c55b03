"""Every client in every case: how many requests, which exit code, what its user reads."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx2
import pytest

from tests.conformance import upstream as scripted
from tests.conformance.cases import AGENTS, COMMAND_LINES, LIBRARIES, SOME_LIBRARIES
from tests.conformance.conftest import MOST_OPEN, NOTE
from tests.conformance.drivers import LIMIT_S, Ran
from tests.conformance.task import Task
from tests.conformance.upstream import AFTER, ANSWER, PARTIAL
from tests.serve.test_graph import wait_until

ALL = (*COMMAND_LINES, *LIBRARIES)
SOME = (*COMMAND_LINES, *SOME_LIBRARIES)
SILENCE_S = float(os.environ.get("GATEHOUSE_SILENCE_S", "330"))
"""Longer than the 300 s after which Codex and Claude Code give up at their defaults; CI takes less."""

OWN_KEY = ("--ttl", "3600")
"""A key with any option is one that no other case uses."""

each_of = pytest.mark.parametrize


# --- answers -----------------------------------------------------------------------------------------------------


@each_of("name", ALL)
def test_an_answer_costs_one_request(task, name: str) -> None:
    with task(name, "plain") as it:
        ran = it.run(scripted.plain)
        assert ran.exit_code == 0
        assert ANSWER in ran.output
        assert [each.status for each in it.sent] == [200]


@each_of("name", SOME)
def test_an_answer_after_reasoning_arrives_whole(task, name: str) -> None:
    with task(name, "reasoning") as it:
        ran = it.run(scripted.reasoning)
        assert ran.exit_code == 0
        assert ANSWER in ran.output
        assert it.row.requests == 1


@each_of("name", (*AGENTS, *LIBRARIES))
def test_a_tool_call_runs_and_its_output_comes_back(task, name: str) -> None:
    with task(name, "one-call") as it:
        ran = it.run(scripted.one_call("cat note.txt"))
        assert ran.exit_code == 0
        assert AFTER in ran.output
        assert it.row.requests == 2
        (output,) = it.asked[-1].results
        assert NOTE in output


@each_of("name", (*AGENTS, *LIBRARIES))
def test_parallel_calls_over_two_rounds_all_come_back(task, name: str) -> None:
    with task(name, "rounds") as it:
        ran = it.run(scripted.rounds(("echo one", "echo two"), ("cat note.txt", "echo four")))
        assert ran.exit_code == 0
        assert AFTER in ran.output
        assert it.row.requests == 3
        outputs = it.asked[-1].results
        assert len(outputs) == 4
        for word in ("one", "two", NOTE, "four"):
            assert sum(word in output for output in outputs) == 1


@each_of("name", ["codex", "claude-code", "opencode"])
def test_a_client_that_replays_reasoning_gets_it_to_the_model(task, name: str) -> None:
    with task(name, "reasoning-replayed") as it:
        it.run(scripted.one_call("cat note.txt"))
        said = [message for message in it.asked[-1].messages if message["role"] == "assistant"]
        thoughts = [str(message.get("reasoning") or message.get("reasoning_content")) for message in said]
        assert any("I have to look." in thought for thought in thoughts)


# --- held calls --------------------------------------------------------------------------------------------------


@each_of("name", (*AGENTS, *SOME_LIBRARIES))
def test_a_held_call_that_is_approved_while_the_client_waits_runs_once(task, name: str) -> None:
    with task(name, "approved", "--hold-s", "60") as it:
        with it.house.approving() as approved:
            ran = it.run(scripted.one_call("rm doomed.txt"))
        assert ran.exit_code == 0
        assert AFTER in ran.output
        assert len(approved) == 1
        assert it.row.requests == 2
        assert len(it.asked[-1].results) == 1
        assert not (it.folder / "doomed.txt").exists()


@each_of("name", (*AGENTS, *SOME_LIBRARIES))
def test_a_withheld_call_does_not_run_and_its_notice_is_the_answer(task, name: str) -> None:
    with task(name, "withheld") as it:
        ran = it.run(scripted.one_call("rm doomed.txt"))
        assert ran.exit_code == 0
        it.saw(ran, "[gatehouse:held id=", "Not executed")
        assert it.row.requests == 1
        assert (it.folder / "doomed.txt").exists()


@each_of("name", (*AGENTS, *SOME_LIBRARIES))
def test_of_two_calls_the_released_one_runs_and_the_withheld_one_does_not(task, name: str) -> None:
    with task(name, "partly-withheld") as it:
        ran = it.run(scripted.some_calls("cat note.txt", "rm doomed.txt"))
        assert ran.exit_code == 0
        assert AFTER in ran.output
        assert it.row.requests == 2
        (output,) = it.asked[-1].results
        assert NOTE in output
        assert "[gatehouse:held id=" in it.asked[-1].text
        assert (it.folder / "doomed.txt").exists()


# --- refusals that trying again does not mend --------------------------------------------------------------------


def refused(it: Task, ran: Ran) -> None:
    """aider ends with 0 whatever happened; everybody else says that it failed."""
    if it.client.name != "aider":
        assert ran.exit_code != 0
    assert ANSWER not in ran.output


@each_of("name", SOME)
def test_a_context_overflow_is_said_and_not_repeated(task, name: str) -> None:
    with task(name, "too-long") as it:
        ran = it.run(scripted.too_long)
        refused(it, ran)
        # opencode tries to compact the conversation first, which is a request of its own.
        assert it.row.requests == (2 if name == "opencode" else 1)
        it.saw(ran, TOO_LONG.get(name, "maximum context length"))


def test_opencode_compacts_an_overflowing_conversation_and_goes_on(task) -> None:
    with task("opencode", "too-long-at-first") as it:
        ran = it.run(scripted.too_long_at_first)
        assert ANSWER in ran.output  # and yet it exits with 1, because there was an error on the way
        assert it.row.requests == 3


TOO_LONG = {
    "aider": "token limit",
    "codex": "context window",
    "claude-code": "too long",
    "anthropic-python-stream": "prompt is too long",
    "anthropic-node-messages": "prompt is too long",
}


@each_of("name", SOME)
def test_an_exhausted_budget_costs_one_request(task, name: str) -> None:
    with task(name, "budget", "--budget-tokens", "1") as it:
        ran = it.run(scripted.plain)
        refused(it, ran)
        assert it.row.requests == 1
        assert it.sent[0].retry_after is None
        assert it.sent[0].should_retry == "false"
        assert it.asked == []
        it.saw(ran, BUDGET.get(name, "budget exceeded"))


BUDGET = {"codex": "usage limit"}


@each_of("name", SOME)
def test_a_revoked_key_is_refused_without_a_storm(task, name: str) -> None:
    with task(name, "bad-key", *OWN_KEY) as it:
        ran = it.run(scripted.plain, configured=lambda: revoke(it))
        refused(it, ran)
        assert it.asked == []
        assert it.row.requests <= BAD_KEY.get(name, 1)
        assert {each.status for each in it.sent} == {401}


BAD_KEY = {"codex": 6}


def revoke(it: Task) -> None:
    """Revoke the task's key; everywhere within 5 s, so wait until it is refused."""
    with it.house.stack.operator() as http:
        (key,) = [each for each in http.get("/v1/admin/keys").json()["data"] if each["name"] == it.folder.name]
        http.delete(f"/v1/admin/keys/{key['id']}").raise_for_status()
    headers = {"authorization": f"Bearer {it.place.key}"}
    wait_until(lambda: httpx2.get(f"{it.house.stack.url}/v1/models", headers=headers).status_code == 401, 10)


# --- what passes -------------------------------------------------------------------------------------------------


@each_of("name", SOME)
def test_a_rate_limit_is_waited_for(task, name: str) -> None:
    with task(name, "rate-limit", *OWN_KEY) as it:
        free = threading.Event()
        with occupied(it, free), freeing(it, free):
            ran = it.run(scripted.plain)
        assert ran.exit_code == 0
        assert ANSWER in ran.output
        assert it.sent[0].status == 429
        assert 1 <= int(it.sent[0].retry_after or 0) <= 60
        assert it.sent[-1].status == 200
        assert it.row.requests <= MOST_TRIES.get(name, 3)


MOST_TRIES = {"codex": 6, "claude-code": 11, "opencode": 6, "aider": 8, "continue": 8}


@contextmanager
def occupied(it: Task, free: threading.Event) -> Iterator[None]:
    """All places of the key are taken until `free`."""
    it.house.upstream.play(scripted.plain, titles=scripted.blocked(free))
    body = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "A title, please"}]}

    def wait() -> None:
        with httpx2.Client(headers={"authorization": f"Bearer {it.place.key}"}, timeout=300) as http:
            http.post(f"{it.house.stack.url}/v1/chat/completions", json=body)

    threads = [threading.Thread(target=wait) for _ in range(MOST_OPEN)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(it.house.upstream.aside) == MOST_OPEN, 30)
        yield
    finally:
        free.set()
        for thread in threads:
            thread.join(30)


@contextmanager
def freeing(it: Task, free: threading.Event) -> Iterator[None]:
    """Make room as soon as the client was told that there is none."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            if any(each.status == 429 for each in it.sent):
                free.set()
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


@each_of("name", SOME)
def test_an_overload_that_passes_is_waited_for(task, name: str) -> None:
    with task(name, "overload-passes") as it:
        ran = it.run(scripted.busy(2))
        assert ran.exit_code == 0
        assert ANSWER in ran.output
        assert it.row.requests == 3
        assert {each.status for each in it.sent[:2]} == {OVERLOAD[it.client.dialect]}
        assert all(1 <= int(each.retry_after or 0) <= 60 for each in it.sent[:2])


OVERLOAD = {"chat": 503, "responses": 429, "messages": 529}


@each_of("name", ["codex", *SOME_LIBRARIES])
def test_an_overload_that_lasts_ends_after_few_requests(task, name: str) -> None:
    with task(name, "overload-lasts") as it:
        ran = it.run(scripted.busy(10_000))
        refused(it, ran)
        assert it.row.requests <= (6 if name == "codex" else 3)
        assert len(it.asked) == it.row.requests


# --- answers that do not end as they should ----------------------------------------------------------------------


@each_of("name", SOME)
def test_an_answer_cut_by_the_length_limit_is_not_taken_for_a_whole_one(task, name: str) -> None:
    with task(name, "truncated") as it:
        ran = it.run(scripted.truncated)
        # Claude Code asks three times for the rest.
        assert it.row.requests == (4 if name == "claude-code" else 1)
        if name in SILENT_ON_LENGTH:
            assert PARTIAL in ran.output
            it.row.seen = f"{PARTIAL} (nothing tells that it was cut)"
        else:
            it.saw(ran, CUT.get(name, "cut by the length limit"))


SILENT_ON_LENGTH = ("opencode", "continue", "openai-agents-responses")
"""They get `length` or `incomplete` and do not say so."""
CUT = {"codex": "max_output_tokens", "claude-code": "output token maximum", "aider": "hit a token limit"}


@each_of("name", SOME)
def test_a_stream_that_breaks_once_does_not_end_as_half_an_answer(task, name: str) -> None:
    with task(name, "broken-once") as it:
        ran = it.run(scripted.broken(1))
        assert it.row.requests <= 2
        if it.row.requests == 1:  # it leaves the decision to its user
            assert ran.exit_code != 0
            it.saw(ran, CUT_OFF)
        else:
            assert ran.exit_code == 0
            assert ANSWER in ran.output


CUT_OFF = "ended before it was complete"


@each_of("name", SOME)
def test_a_stream_that_always_breaks_never_looks_finished(task, name: str) -> None:
    with task(name, "broken-always") as it:
        ran = it.run(scripted.broken(10_000), limit_s=2 * LIMIT_S)
        refused(it, ran)
        assert it.row.requests <= BROKEN.get(name, 1)
        it.saw(ran, CUT_OFF if name not in NOT_STREAMED else "the model")


BROKEN = {
    "codex": 6, "claude-code": 12, "opencode": 6, "continue": 12, "aider": 10, "openai-python-3-responses": 3,
    "openai-agents-responses": 3, "langchain-chat": 3,
}  # fmt: skip
NOT_STREAMED = ("claude-code", "openai-python-3-responses", "openai-agents-responses", "langchain-chat")
"""Whole replies that break are an overload to the client; Claude Code changes to them after its first stream."""


def test_a_long_silence_is_survived_with_one_generation_each(task, house, clients) -> None:
    """All at once, because they only wait."""
    names = [name for name in (*COMMAND_LINES, "openai-python-3-chat-stream") if clients.installed(name)]
    house.upstream.play(scripted.silent(SILENCE_S))
    with ExitStack() as rows, ThreadPoolExecutor(len(names)) as pool:
        tasks = [rows.enter_context(task(name, "silence", *OWN_KEY, default_timers=True)) for name in names]
        running = [pool.submit(it.run, None, limit_s=LIMIT_S + SILENCE_S) for it in tasks]
        for it, each in zip(tasks, running, strict=True):
            ran = each.result()
            assert ran.exit_code == 0, it.row
            assert ANSWER in ran.output, it.row
            assert it.row.requests == 1, it.row
            assert ran.seconds >= SILENCE_S
        assert len(house.upstream.asked) == len(names)
