"""The witness over HTTP, and the command that runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import typer
from typer.testing import CliRunner

from deployments.audit.notes import ED25519, generate_key, parse_note, parse_verifier_key, verify_note
from deployments.audit.settings import AuditSettings, WitnessSettings
from deployments.audit.witness import MAX_REQUEST_BYTES, Submission, Witness, Writes, log_id
from deployments.audit.witnessing import Witnesses, newest_at
from deployments.clock import FixedClock, SystemClock
from serve_app.cli.audit_witness import register
from serve_app.witness import create_witness_app
from tests.unit.audit.witnesslogs import LOG_KEY, ORIGIN, Tree, open_witness, signed

HONEST = Tree(f"entry {number}".encode() for number in range(12))
FORKED = Tree(f"other {number}".encode() for number in range(12))
PROGRAM = "import typer; from serve_app.cli.audit_witness import register; app = typer.Typer(); register(app); app()"


class Served:
    def __init__(self, directory: Path, writes: Writes | None = None) -> None:
        self.clock = FixedClock()
        self.witness = open_witness(directory, self.clock, writes=writes)
        self.stops = 0
        app = create_witness_app(self.witness, self.clock, self.stop)
        self.client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://witness")

    def stop(self) -> None:
        self.stops += 1

    async def add(self, body: bytes) -> httpx2.Response:
        return await self.client.post("/add-checkpoint", content=body)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    found = Served(tmp_path)
    yield found
    await found.client.aclose()
    found.witness.close()


async def test_a_consistent_checkpoint_is_answered_with_signature_lines(served: Served) -> None:
    reply = await served.add(HONEST.request(0, 5))
    assert reply.status_code == 200
    note = parse_note(HONEST.note(5) + reply.content)
    assert len(verify_note(note, [LOG_KEY.verifier, served.witness.verifier])) == 2


async def test_another_size_is_409_with_the_known_one(served: Served) -> None:
    await served.add(HONEST.request(0, 5))
    reply = await served.add(HONEST.request(3, 9))
    assert (reply.status_code, reply.headers["content-type"], reply.content) == (409, "text/x.tlog.size", b"5\n")


async def test_a_fork_of_one_size_is_409(served: Served) -> None:
    await served.add(HONEST.request(0, 5))
    reply = await served.add(FORKED.request(5, 5))
    assert (reply.status_code, reply.content) == (409, b"5\n")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"nonsense", 400),
        (Submission(0, (bytes(32),) * 64, HONEST.note(5)).to_bytes(), 400),
        (Submission(6, (), HONEST.note(5)).to_bytes(), 400),
        (Submission(0, (), signed(5, HONEST.root(5), generate_key(ORIGIN, ED25519))).to_bytes(), 403),
        (Tree([b"x"], generate_key("log.test/two", ED25519)).request(0, 1), 404),
        (b"o" * (MAX_REQUEST_BYTES + 1), 413),
        (Submission(0, (bytes(32),), HONEST.note(5)).to_bytes(), 422),
    ],
)
async def test_each_refusal_has_its_status_and_a_sentence(served: Served, body: bytes, status: int) -> None:
    reply = await served.add(body)
    assert reply.status_code == status
    assert reply.text.endswith(".\n")
    assert "Traceback" not in reply.text


async def test_a_body_without_an_end_is_not_read_on(served: Served) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"o" * 10_000

    app_calls: list[dict[str, object]] = []
    body = endless()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": await anext(body), "more_body": True}

    async def send(message: dict[str, object]) -> None:
        app_calls.append(message)

    scope = {"type": "http", "method": "POST", "path": "/add-checkpoint", "headers": [], "query_string": b""}
    app = create_witness_app(served.witness, served.clock, served.stop)
    await app(scope, receive, send)  # type: ignore[arg-type]
    assert app_calls[0]["status"] == 413
    assert sent <= MAX_REQUEST_BYTES // 10_000 + 1


async def test_only_post_adds_a_checkpoint(served: Served) -> None:
    assert (await served.client.get("/add-checkpoint")).status_code == 405


async def test_the_status_says_what_is_known_of_each_log(served: Served) -> None:
    before = (await served.client.get("/status")).json()
    assert [(log["origin"], log["size"], log["cosigned_at_ms"]) for log in before["logs"]] == [(ORIGIN, 0, None)]
    await served.add(HONEST.request(0, 5))
    await served.add(FORKED.request(5, 5))
    reply = await served.client.get("/status")
    assert reply.status_code == 200
    found = reply.json()
    assert parse_verifier_key(found["key"]) == served.witness.verifier
    [log] = found["logs"]
    assert (log["size"], log["refused"], log["cosigned_at_ms"]) == (5, 1, served.clock.now_ms())


async def test_the_newest_cosigned_checkpoint_can_be_read(served: Served) -> None:
    address = f"/logs/{log_id(ORIGIN)}/checkpoint"
    assert (await served.client.get(address)).status_code == 404
    await served.add(HONEST.request(0, 5))
    found = parse_note((await served.client.get(address)).content)
    assert found.text == parse_note(HONEST.note(5)).text
    assert len(verify_note(found, [LOG_KEY.verifier, served.witness.verifier])) == 2
    assert (await served.client.get("/logs/x/checkpoint")).status_code == 404


async def test_a_state_that_cannot_be_written_ends_the_process(tmp_path: Path) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(5, "Input/output error")

    served = Served(tmp_path, Writes(replace=refuse))
    reply = await served.add(HONEST.request(0, 5))
    assert reply.status_code == 503
    assert "—" not in reply.text
    assert served.stops == 1
    assert (await served.client.get("/status")).status_code == 503
    await served.client.aclose()


# --- the command -------------------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


@contextmanager
def running(directory: Path, log_key: str) -> Iterator[tuple[str, str]]:
    """A witness in a process of its own: its address and its key."""
    command = [sys.executable, "-c", PROGRAM, "--state", str(directory), "--log-key", log_key, "--listen"]
    with subprocess.Popen(
        [*command, "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            key = process.stdout.readline().strip()
            line = process.stderr.readline()
            assert line.startswith("witness on http://"), line + process.stderr.read()
            yield line.removeprefix("witness on ").strip(), key
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


async def test_a_log_and_a_witness_agree_over_real_http_across_a_restart_and_a_rollback(tmp_path: Path) -> None:
    keys = tmp_path / "log.vkey"
    tree = Tree(f"entry {number}".encode() for number in range(12))
    tree.size = 5
    with running(tmp_path / "state", str(LOG_KEY.verifier)) as (url, key):
        keys.write_text(f"{LOG_KEY.verifier}\n{key}\n", encoding="utf-8")
        pinned = WitnessSettings(url=url, key=key)
        assert newest_at(pinned, ORIGIN, 10.0) is None
        with pytest.raises(OSError, match="does not answer"):
            newest_at(WitnessSettings(url="http://[", key=key), ORIGIN, 10.0)
        with pytest.raises(OSError, match="answered 405"):
            newest_at(WitnessSettings(url=f"{url}/add-checkpoint?", key=key), ORIGIN, 10.0)
        witnesses = Witnesses(tree, AuditSettings(witnesses=[pinned], witness_timeout_s=30.0), SystemClock())
        await witnesses.ask()
        assert (witnesses.size, witnesses.stale) == (5, False)
        await witnesses.close()
    with running(tmp_path / "state", f"@{keys}") as (url, key_again):
        assert key_again == key
        pinned = WitnessSettings(url=url, key=key)
        settings = AuditSettings(witnesses=[pinned], witness_timeout_s=30.0)
        tree.size = 12
        witnesses = Witnesses(tree, settings, SystemClock())
        await witnesses.ask()
        assert (witnesses.size, witnesses.fatal) == (12, None)
        await witnesses.close()
        newest = newest_at(pinned, ORIGIN, 10.0)
        assert newest is not None
        assert parse_note(newest).text == parse_note(tree.note(12)).text
        rolled_back = Witnesses(Tree(f"entry {number}".encode() for number in range(7)), settings, SystemClock())
        await rolled_back.ask()
        assert rolled_back.fatal is not None
        await rolled_back.close()
    with pytest.raises(OSError, match="does not answer"):
        newest_at(pinned, ORIGIN, 10.0)


def test_the_key_can_be_made_before_the_log_is_known(tmp_path: Path) -> None:
    code, output = run("--state", str(tmp_path / "state"), "--key-only", "--name", "w.test/1")
    assert code == 0
    assert parse_verifier_key(output.strip()).name == "w.test/1"
    assert run("--state", str(tmp_path / "state"), "--key-only") == (0, output)


def test_a_second_witness_on_one_state_says_so(tmp_path: Path) -> None:
    first = Witness(tmp_path, [], SystemClock())
    code, output = run("--state", str(tmp_path), "--log-key", str(LOG_KEY.verifier))
    assert code == 2
    assert "another witness runs" in output
    first.close()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "no log to witness"),
        (["--log-key", "nonsense"], "not 'name+id+base64'"),
        (["--log-key", "@/nowhere/log.vkey"], "cannot be read: No such file"),
        (["--log-key", str(LOG_KEY.verifier), "--listen", "8900"], "not HOST:PORT"),
        (["--log-key", str(LOG_KEY.verifier), "--listen", "127.0.0.1:99999"], "not HOST:PORT"),
        (["--log-key", str(LOG_KEY.verifier), "--listen", "192.0.2.1:80"], "cannot listen on 192.0.2.1:80"),
        (["--key-only", "--key", "/proc/version"], "the witness's key cannot be used"),
        (["--key-only", "--name", "two words"], "has no spaces"),
    ],
)
def test_a_witness_that_cannot_start_says_why(tmp_path: Path, arguments: list[str], problem: str) -> None:
    code, output = run("--state", str(tmp_path / "state"), *arguments)
    assert code == 2
    assert problem in " ".join(output.split())


def test_a_file_with_witness_keys_only_names_no_log(tmp_path: Path) -> None:
    _, key = run("--state", str(tmp_path / "state"), "--key-only")
    (tmp_path / "keys").write_text(key, encoding="utf-8")
    code, output = run("--state", str(tmp_path / "state"), "--log-key", f"@{tmp_path / 'keys'}")
    assert code == 2
    assert "no log's key" in output
