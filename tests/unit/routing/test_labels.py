import asyncio
import json
from pathlib import Path

import httpx2
import pytest
import typer
from typer.testing import CliRunner

from deployments.clock import FixedClock
from router.types import Effort
from serve_app.cli import router_labels
from serve_app.routing.data import DataRefused, read_own
from serve_app.routing.labels import Plan, connect, jobs_of, read_labels, read_prompts, rows, run

KEY = "secret-key"
QUESTIONS = [
    {"id": "sum", "prompt": "What is seventeen plus four?", "check": {"kind": "numeric", "expected": 21.0}},
    {
        "id": "city",
        "prompt": "Which city?\nA. Bern\nB. Rome",
        "task": "geo",
        "check": {"kind": "choice", "expected": "B"},
    },
]


class Server:
    """An OpenAI-compatible server: `weak` knows sums, `strong` knows everything. `fails` are sent first, in order."""

    def __init__(self, fails: list[int | Exception] | None = None) -> None:
        self.fails = list(fails or [])
        self.asked: list[dict] = []
        self.under_way = self.most_under_way = 0
        self.down = False

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/v1/chat/completions"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if self.down:
            return httpx2.Response(401, json={"error": "no"})
        if self.fails:
            failure = self.fails.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return httpx2.Response(failure, json={"error": "later"})
        body = json.loads(request.content)
        self.asked.append(body)
        text = (
            "The answer is 21." if "plus" in body["messages"][-1]["content"] else "B" if body["model"] == "big" else "A"
        )
        return httpx2.Response(
            200,
            json={
                "object": "chat.completion",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
            },
        )


def plan(**fields: object) -> Plan:
    return Plan(**{"base_url": "http://fake/v1", "models": {"weak": "small", "strong": "big"}} | fields)


def write(file: Path, questions: list[dict] = QUESTIONS) -> Path:
    file.write_text("".join(json.dumps(each) + "\n" for each in questions), "utf-8")
    return file


async def label(server: Server, folder: Path, waits: list[float] | None = None, **fields: object):
    prompts = read_prompts(write(folder / "prompts.jsonl"))
    made = plan(**fields)

    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)

    async with connect(made, KEY, httpx2.MockTransport(server)) as http:
        return await run(prompts, made, folder / "labels.jsonl", http, FixedClock(), sleep)


async def test_every_prompt_model_and_effort_becomes_one_line_without_the_prompt(tmp_path: Path) -> None:
    server = Server()
    progress = await label(server, tmp_path)
    found = read_labels(tmp_path / "labels.jsonl")
    assert (progress.jobs, progress.done, progress.right) == (12, 12, 9)
    assert {(each.id, each.size, each.effort) for each in found} == {
        (prompt, size, effort) for prompt in ("sum", "city") for size in ("weak", "strong") for effort in Effort
    }
    assert {(each.id, each.size) for each in found if not each.ok} == {("city", "weak")}
    assert {(each.prompt_tokens, each.completion_tokens, each.finish) for each in found} == {(9, 4, "stop")}
    assert {body["reasoning_effort"] for body in server.asked} == {"low", "medium", "high"}
    text = (tmp_path / "labels.jsonl").read_text("utf-8")
    assert "seventeen" not in text
    assert "The answer" not in text
    assert KEY not in text


async def test_a_finished_run_asks_nothing_again_and_a_cut_off_one_asks_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    await label(Server(), tmp_path)
    before = out.read_bytes()
    again = Server()
    progress = await label(again, tmp_path)
    assert (progress.there, progress.done, again.asked, out.read_bytes()) == (12, 0, [], before)

    lines = before.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    rest = Server()
    progress = await label(rest, tmp_path)
    assert (progress.there, progress.done, len(rest.asked)) == (5, 7, 7)
    assert {each.job for each in read_labels(out)} == {json.loads(line)["job"] for line in lines}


async def test_another_question_under_the_same_id_is_another_job() -> None:
    made = plan()
    asked = [{**QUESTIONS[0]}, {**QUESTIONS[0], "prompt": "What is seventeen plus five?"}]
    first, second = ({job.job for job in jobs_of(_read(each), made)} for each in asked)
    assert not first & second
    assert not first & {job.job for job in jobs_of(_read(asked[0]), plan(temperature=0.5))}
    assert len(first) == 6


def _read(question: dict):
    from serve_app.routing.labels import Prompt

    return (Prompt.model_validate(question),)


async def test_what_may_pass_is_tried_again_with_growing_waits(tmp_path: Path) -> None:
    waits: list[float] = []
    server = Server([503, httpx2.ConnectError("gone"), httpx2.ReadTimeout("late")])
    progress = await label(server, tmp_path, waits, concurrency=1)
    assert waits == [1.0, 2.0, 4.0]
    assert (progress.done, progress.failures) == (12, 0)


async def test_failures_leave_no_line_and_the_next_run_makes_up_for_them(tmp_path: Path) -> None:
    progress = await label(Server([400, 429, 429, 429, 429]), tmp_path, concurrency=1)
    assert progress.failed == {"http_400": 1, "http_429": 1}
    assert len(read_labels(tmp_path / "labels.jsonl")) == 10
    progress = await label(Server(), tmp_path)
    assert (progress.there, progress.done, progress.failures) == (10, 2, 0)


async def test_a_server_that_refuses_everything_stops_the_run(tmp_path: Path) -> None:
    server = Server()
    server.down = True
    progress = await label(server, tmp_path, concurrency=1, most_failures=3)
    assert progress.stopped
    assert progress.failed == {"http_401": 3}


async def test_no_more_calls_are_under_way_than_allowed(tmp_path: Path) -> None:
    server = Server()
    await label(server, tmp_path, concurrency=3)
    assert server.most_under_way == 3


async def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    async def second(_: httpx2.Request) -> httpx2.Response:
        with pytest.raises(DataRefused, match="another run"):
            await label(Server(), tmp_path)
        return httpx2.Response(400)

    await label(second, tmp_path, concurrency=1, most_failures=1)  # type: ignore[arg-type]


async def test_an_answer_cut_off_at_the_limit_is_wrong(tmp_path: Path) -> None:
    async def cut(_: httpx2.Request) -> httpx2.Response:
        message = {"message": {"role": "assistant", "content": "21"}, "finish_reason": "length"}
        return httpx2.Response(200, json={"choices": [message]})

    await label(cut, tmp_path)  # type: ignore[arg-type]
    assert {(each.ok, each.finish, each.prompt_tokens) for each in read_labels(tmp_path / "labels.jsonl")} == {
        (False, "length", None)
    }


@pytest.mark.parametrize("reply", [b"{}", b"oops", b'{"choices": []}', b'{"choices": [{"message": {"content": 3}}]}'])
async def test_what_is_no_completion_is_no_label(tmp_path: Path, reply: bytes) -> None:
    async def odd(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=reply)

    progress = await label(odd, tmp_path)  # type: ignore[arg-type]
    assert progress.failed == {"not_a_chat_completion": 12}


async def test_rows_for_training_average_repeats_and_need_both_models(tmp_path: Path) -> None:
    await label(Server(), tmp_path, efforts=(Effort.MEDIUM,), repeats=2, keep_answers=True)
    prompts = read_prompts(tmp_path / "prompts.jsonl")
    labels = read_labels(tmp_path / "labels.jsonl")
    made = rows(prompts, labels, Effort.MEDIUM, Effort.MEDIUM)
    assert [(row["id"], row["weak_ok"], row["strong_ok"]) for row in made] == [("sum", 1.0, 1.0), ("city", 0.0, 1.0)]
    assert made[1]["weak_answer"] == "A"
    assert rows(prompts, labels, Effort.LOW, Effort.MEDIUM) == []
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made), "utf-8")
    assert [row.helps for row in read_own(file)] == [False, True]


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        ({"id": "x", "prompt": "p"}, "check"),
        ({"id": "x", "prompt": "p", "check": {"kind": "choice", "expected": "b"}}, "check.choice.expected"),
        ({"id": "x", "prompt": "p", "check": {"kind": "regex", "pattern": "("}}, "does not compile"),
        ({"id": "x", "prompt": "p", "check": {"kind": "exact", "expected": "y"}, "label": 1}, "label"),
    ],
    ids=["no-check", "small-letter", "bad-pattern", "unknown-key"],
)
def test_a_prompt_that_cannot_be_used_is_named_and_not_quoted(tmp_path: Path, question: dict, complaint: str) -> None:
    with pytest.raises(DataRefused, match=complaint) as refused:
        read_prompts(write(tmp_path / "p.jsonl", [QUESTIONS[0], {**question, "prompt": "hidden words"}]))
    assert "line 2" in str(refused.value)
    assert "hidden words" not in str(refused.value)


def test_two_prompts_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="more than once"):
        read_prompts(write(tmp_path / "p.jsonl", [QUESTIONS[0], QUESTIONS[0]]))


def test_a_damaged_result_is_refused_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    out.write_text('{"job": "x"}\n', "utf-8")
    with pytest.raises(DataRefused, match="line 1"):
        read_labels(out)


def test_the_command_makes_labels_and_says_how_many(tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.jsonl")
    progress = router_labels.make_labels(
        prompts, plan(), tmp_path / "labels.jsonl", KEY, FixedClock(), httpx2.MockTransport(Server())
    )
    assert router_labels.summary_of(progress) == "12 of 12 labels (0 from before), 9 right in this run"


@pytest.mark.parametrize("arguments", [["--effort", "huge"], ["--strong-effort", "huge", "--rows", "r"]])
def test_the_command_refuses_what_it_does_not_know(tmp_path: Path, arguments: list[str]) -> None:
    app = typer.Typer()
    router_labels.register(app)
    missing = str(tmp_path / "none.jsonl")
    result = CliRunner().invoke(app, [missing, "--out", str(tmp_path / "o.jsonl"), *arguments])
    assert result.exit_code == 2
