"""`gatehouse rollout eval` against a server that answers as it is told."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serve_app.cli import rollout

pytestmark = pytest.mark.enable_socket


class Model:
    """Which answers the model has wrong, by prompt; `busy`: so often it refuses first."""

    def __init__(self) -> None:
        self.wrong = set[str]()
        self.dead = set[str]()
        self.busy = 0
        self.asked: list[dict[str, Any]] = []
        self.keys = set[str | None]()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    model = Model()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(200, {"data": [{"id": "demo-20b"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            model.asked.append(body)
            model.keys.add(self.headers["authorization"])
            prompt = body["messages"][0]["content"]
            if model.busy:
                model.busy -= 1
                self.answer(503, {"error": {"message": "busy"}})
            elif prompt in model.dead:
                self.answer(500, {"error": {"message": "dead"}})
            else:
                text = "no" if prompt in model.wrong else "yes"
                self.answer(200, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("GATEHOUSE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GATEHOUSE_KEY", "secret")
    yield model
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def suite(tmp_path: Path) -> str:
    file = tmp_path / "suite.jsonl"
    lines = [
        {"name": f"case-{number}", "family": ("code", "json")[number % 2], "prompt": f"question {number}",
         "checks": {"expects": "yes"}, "example": "yes"}
        for number in range(20)
    ]  # fmt: skip
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(file)


def run(suite: str, *arguments: str) -> Any:
    return CliRunner().invoke(rollout.app, ["eval", "--model", "demo-20b", "--suite", suite, *arguments])


def test_the_rate_of_each_family_is_shown_with_its_interval(model: Model, suite: str) -> None:
    model.wrong = {"question 0"}
    done = run(suite)
    assert done.exit_code == 0, done.output
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if "/" in line}
    assert "9/10" in lines["code"]
    assert "60% to 98%" in lines["code"]
    assert "19/20" in lines["all"]
    assert "Failed: case-0." in done.stdout
    assert "question" not in done.output
    assert model.keys == {"Bearer secret"}
    assert {(each["temperature"], each["model"]) for each in model.asked} == {(0.0, "demo-20b")}


def test_what_is_worse_than_the_baseline_exits_1(model: Model, suite: str, tmp_path: Path) -> None:
    saved = tmp_path / "before.json"
    assert run(suite, "--save", str(saved)).exit_code == 0
    assert run(suite, "--baseline", str(saved)).exit_code == 0
    model.wrong = {f"question {number}" for number in range(6)}
    few = run(suite, "--baseline", str(saved))  # 1/64 is no 1/100
    assert (few.exit_code, "It is not shown to be worse." in few.stdout) == (0, True)
    model.wrong = {f"question {number}" for number in range(7)}
    many = run(suite, "--baseline", str(saved), "--json")
    assert many.exit_code == 1
    said = json.loads(many.stdout)["baseline"]
    assert (said["only_before"], said["only_now"], said["p_value"], said["worse"]) == (7, 0, 1 / 128, True)
    told = json.loads(saved.read_text())
    assert told["passed"] == {f"case-{number}": True for number in range(20)}


def test_a_part_is_the_same_part_every_time(model: Model, suite: str) -> None:
    run(suite, "--cases", "6")
    first, model.asked = model.asked, []
    run(suite, "--cases", "6")
    assert len(first) == 6
    assert sorted(map(str, first)) == sorted(map(str, model.asked))


def test_a_busy_server_is_asked_again_and_a_dead_one_counts_against_the_model(model: Model, suite: str) -> None:
    model.busy, model.dead = 4, {"question 3"}
    done = run(suite, "--parallel", "1")
    assert "19/20" in done.stdout
    assert "Not answered: case-3 (status 500)." in done.stdout


def test_a_baseline_says_nothing_of_what_was_not_answered(model: Model, suite: str, tmp_path: Path) -> None:
    saved = tmp_path / "before.json"
    model.dead = {f"question {number}" for number in range(10)}
    assert run(suite, "--save", str(saved)).exit_code == 0
    assert json.loads(saved.read_text())["passed"] == {f"case-{number}": True for number in range(10, 20)}
    again = run(suite, "--baseline", str(saved))  # counted against the model now, but not of what nobody knew then
    assert "10/10 against 10/10" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--cases", "none"), "the number of cases is 1 to 10000, or all"),
        (("--suite", "absent.jsonl"), "absent.jsonl cannot be read"),
        (("--model", "other"), "there is no model 'other'; there are demo-20b"),
        (("--baseline", "absent.json"), "absent.json cannot be read"),
        (("--baseline", "SUITE"), "is not what `gatehouse rollout eval --save` writes"),
        (("--baseline", "OTHER"), "was made with another suite"),
        (("--save", "absent/after.json"), "absent/after.json cannot be written"),
    ],
    ids=["cases", "suite", "model", "no-baseline", "bad-baseline", "other-suite", "save"],
)
def test_what_cannot_be_done_is_said(
    model: Model, suite: str, tmp_path: Path, arguments: tuple[str, str], says: str
) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"model": "demo-20b", "suite": "0" * 64, "passed": {"case-1": True}}))
    option, value = arguments
    done = run(suite, option, {"SUITE": suite, "OTHER": str(other)}.get(value, value))
    assert done.exit_code in {1, 2}
    assert says in done.stderr
    assert "Traceback" not in done.output


def test_a_url_that_is_none_is_said(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEHOUSE_URL", "http://[::1")
    monkeypatch.setenv("GATEHOUSE_KEY", "secret")
    for done in (run(suite), CliRunner().invoke(rollout.app, ["status"])):
        assert (done.exit_code, done.stderr) == (1, "gatehouse: GATEHOUSE_URL is http://[::1, which is no address.\n")


def test_without_a_server_it_says_so(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEHOUSE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GATEHOUSE_KEY", "secret")
    done = run(suite)
    assert done.exit_code == 1
    assert "no Gatehouse answers at http://127.0.0.1:9" in done.stderr
