"""The runner end to end: a served house with the real gate, real HTTP, real processes."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.clock import FixedClock, SystemClock
from deployments.gate.permits import BadPermit
from deployments.ports import GateProfile, Held, JsonValue, Released, RollbackPlan
from serve_app.runner import house as houses
from serve_app.runner import work
from serve_app.runner.house import House as Client
from serve_app.runner.house import Refused, Unavailable
from serve_app.runner.main import BAD_PERMIT, BY_HAND, DENIED, HELD, UNAVAILABLE, USAGE
from serve_app.runner.profile import CannotRun
from serve_app.runner.settings import RunnerSettings
from serve_app.runner.takeback import Back, TakeBack
from serve_app.runner.work import NotRun, Ran, Runner, Verdict, answer_of
from tests.api.permitting import AGENT, House, served

AUDIENCE = "gatehouse-run@here"


@dataclass
class Site:
    """A served house, and a workspace in which a runner of the agent's key works."""

    house: House
    url: str
    root: Path
    pins: Path
    printed: bytes = b""

    def settings(self, **changes: object) -> RunnerSettings:
        made = RunnerSettings(self.url, AGENT, self.root, AUDIENCE, self.pins)
        return replace(made, **changes)  # type: ignore[arg-type]

    async def run(self, command: object, tamper: httpx2.AsyncBaseTransport | None = None, **changes: object) -> Any:
        client = Client(self.url, AGENT, tamper)
        given = command if isinstance(command, dict) else {"command": command}
        try:
            runner = Runner(self.settings(**changes), client, self.house.clock, {"HOME": str(self.root)})
            return await runner.run(given, self.sink)
        finally:
            await client.aclose()

    async def take_back(self, permit_id: str) -> Any:
        client = Client(self.url, AGENT)
        try:
            runner = Runner(self.settings(), client, self.house.clock, {})
            return await TakeBack(runner, client, self.settings(), {})(permit_id, self.sink)
        finally:
            await client.aclose()

    def sink(self, stream: int, data: bytes) -> None:
        del stream
        self.printed += data

    async def approved(self, command: str, plan: RollbackPlan | None = None) -> Ran:
        """A held command, approved and executed."""
        held = await self.run(command)
        assert isinstance(held, NotRun)
        assert held.approval_id is not None
        await self.house.approve(held.approval_id, *([plan] if plan else []))
        ran = await self.run(command)
        assert isinstance(ran, Ran)
        return ran


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with _site(tmp_path, FixedClock()) as made:
        yield made


def _site(tmp_path: Path, clock: Any) -> Any:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def opened() -> AsyncIterator[Site]:
        root = tmp_path / "work"
        root.mkdir()
        async with House(tmp_path, clock).opened() as house, served(house) as url:
            yield Site(house, url, root, tmp_path / "pins" / "jwks.json")

    return opened()


# --- one call --------------------------------------------------------------------------------------------------------


async def test_a_read_runs_and_is_reported(site: Site) -> None:
    done = await site.run("printf hello")
    assert isinstance(done, Ran)
    assert (site.printed, done.ended.status, done.unreported) == (b"hello", 0, None)
    assert site.house.audit.names()[-3:] == ["permit.issued", "permit.redeemed", "action.reported"]
    report = site.house.audit.named("action.reported")[0]
    assert (report.data["outcome"], report.data["exit_code"]) == ("succeeded", 0)
    (output,) = report.bodies.values()
    assert output.digest == done.ended.output_digest
    assert site.house.judged() == {}


async def test_a_failure_and_a_time_out_are_reported_as_failures(site: Site) -> None:
    assert (await site.run("ls nowhere")).ended.status != 0
    assert (await site.run("sleep 1000", timeout_s=1)).ended.timed_out
    assert [event.data["outcome"] for event in site.house.audit.named("action.reported")] == ["failed", "failed"]


async def test_a_dangerous_call_is_held_approved_and_runs_once(site: Site) -> None:
    marker = site.root / "marker"
    marker.write_text("x")
    held = await site.run("rm marker")
    assert (held.verdict, marker.exists()) == (Verdict.HELD, True)
    await site.house.approve(held.approval_id)
    done = await site.run("rm marker")
    assert (done.ended.status, marker.exists()) == (0, False)
    marker.write_text("x")
    assert (await site.run("rm marker")).verdict is Verdict.HELD
    assert marker.exists()
    assert site.house.judged() == {}


async def test_a_call_that_was_approved_in_a_stream_is_executed_once(site: Site) -> None:
    marker = site.root / "marker"
    marker.write_text("x")
    held = await site.house.emitted("mcp__gatehouse__run", '{"command":"rm marker"}')
    assert isinstance(held, Held)
    await site.house.approve(held.approval_id)
    assert isinstance(await site.house.emitted("mcp__gatehouse__run", '{"command":"rm marker"}'), Released)
    done = await site.run("rm marker")
    assert (done.ended.status, marker.exists()) == (0, False)
    marker.write_text("x")
    assert (await site.run("rm marker")).verdict is Verdict.HELD
    assert len(site.house.audit.named("permit.consumed")) == 1
    assert site.house.judged() == {}


async def test_waiting_for_an_approval_ends_with_it(site: Site) -> None:
    (site.root / "marker").write_text("x")
    task = asyncio.create_task(site.run("rm marker", wait_s=60.0))
    while not (found := await site.house.desk.list_approvals(None, None)):
        await asyncio.sleep(0.01)
    await site.house.approve(found[0].approval_id)
    done = await task
    assert isinstance(done, Ran)
    assert not (site.root / "marker").exists()


async def test_a_request_that_is_withdrawn_ends_the_wait(site: Site) -> None:
    task = asyncio.create_task(site.run("rm marker", wait_s=60.0))
    while not (found := await site.house.desk.list_approvals(None, None)):
        await asyncio.sleep(0.01)
    await site.house.desk.cancel(site.house.agent, found[0].approval_id, "no")
    assert (await task).verdict is Verdict.DENIED


async def test_a_working_directory_is_part_of_the_call(site: Site) -> None:
    (site.root / "sub").mkdir()
    await site.run({"command": "pwd", "cwd": "sub"})
    assert site.printed.decode().strip() == str(site.root / "sub")
    for outside in ("..", "/", "nowhere"):
        with pytest.raises(CannotRun):
            await site.run({"command": "pwd", "cwd": outside})
    assert len(site.house.audit.named("permit.issued")) == 1


async def test_under_coding_work_in_the_workspace_flows(site: Site) -> None:
    record = site.house.world.ledger.keys[AGENT]
    site.house.world.ledger.keys[AGENT] = replace(record, gate_profile=GateProfile.CODING)
    assert (await site.run("mkdir out")).ended.status == 0
    assert (site.root / "out").is_dir()
    assert (await site.run("git push --force")).verdict is Verdict.HELD


# --- nothing runs without the gate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("down", ["audit", "server"])
async def test_without_the_gate_nothing_runs(site: Site, down: str) -> None:
    changes: dict[str, object] = {}
    if down == "audit":
        site.house.audit.down = True
    client = Client(site.url if down == "audit" else "http://127.0.0.1:9", AGENT)
    runner = Runner(site.settings(**changes), client, site.house.clock, {})
    with pytest.raises(Unavailable):
        await runner.run({"command": "touch marker"}, site.sink)
    await client.aclose()
    assert list(site.root.iterdir()) == []


async def test_a_frozen_key_is_told_so_whether_or_not_its_replica_knows_it_yet(site: Site) -> None:
    await site.run("printf one")  # the replica has just asked who is frozen
    await site.house.desk.freeze(site.house.bob, site.house.agent.key_id, "suspicious")
    for later_ms, command in ((0, "printf two"), (0, "rm marker"), (3_000, "printf two"), (0, "rm marker")):
        site.house.clock.advance(later_ms)
        with pytest.raises(Refused, match="^principal_frozen"):
            await site.run(command)
    assert site.printed == b"one"


async def test_arguments_that_nobody_can_read_are_no_outage(site: Site) -> None:
    with pytest.raises(Refused, match="too deep"):
        answer_of({"status": "withheld", "reasons": ["the nesting is too deep"]})
    for reason in ("gate_unavailable: the audit log does not answer", "witness_stale: no witness"):
        with pytest.raises(Unavailable):
            answer_of({"status": "withheld", "reasons": [reason]})


class Tampering(httpx2.AsyncBaseTransport):
    """Between the runner and the house: changes what `change` answers for, by path."""

    def __init__(self, change: Callable[[str, dict[str, Any]], None]) -> None:
        self._inner = httpx2.AsyncHTTPTransport()
        self._change = change

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = await self._inner.handle_async_request(request)
        body = json.loads(await reply.aread())
        await reply.aclose()
        self._change(request.url.path, body)
        return httpx2.Response(reply.status_code, json=body)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _permit(change: Callable[[dict[str, Any]], None]) -> Tampering:
    def on(path: str, body: dict[str, Any]) -> None:
        if path == "/v1/gate/calls":
            change(body["permit"])

    return Tampering(on)


def _claim(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(permit: dict[str, Any]) -> None:
        head, body, signature = permit["token"].split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        claims[name] = value
        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        permit["token"] = f"{head}.{body}.{signature}"

    return change


def _binding(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda permit: permit["binding"].update({name: value})


_TAMPERED: Mapping[str, Callable[[dict[str, Any]], None]] = {
    **{
        f"claim {name}": _claim(name, value)
        for name, value in {
            "iss": "x", "aud": "other", "sub": "key_x", "jti": "prm_x", "iat": 1, "nbf": 1, "exp": 9e9, "act": "0" * 64,
            "risk": "R0", "exec_profile": "gatehouse-run/1", "policy_digest": "0" * 64, "gate_call_id": "0" * 32,
            "approval_id": "apr_x", "change_id": "CHG-X", "rollback_digest": "0" * 64, "new": 1,
        }.items()
    },
    **{
        f"binding {name}": _binding(name, value)
        for name, value in {
            "schema": "x", "gate_call_id": "0" * 32, "tenant": "rival", "principal": "key_x", "session": "x",
            "tool": "shell", "arguments": '{"command":"touch tampered"}', "policy_digest": "0" * 64,
            "classifier_version": "9", "new": 1,
        }.items()
    },
    "no token": lambda permit: permit.update(token=None),
    "no binding": lambda permit: permit.update(binding=None),
}  # fmt: skip


@pytest.mark.parametrize("what", _TAMPERED)
async def test_a_permit_that_was_tampered_with_executes_nothing(site: Site, what: str) -> None:
    with pytest.raises(BadPermit):
        await site.run("printf ran", _permit(_TAMPERED[what]))
    assert (site.printed, list(site.root.iterdir())) == (b"", [])
    assert site.house.audit.named("permit.redeemed") == []


async def test_the_permit_of_one_call_does_not_run_another(site: Site) -> None:
    kept: list[dict[str, Any]] = []

    def swap(path: str, body: dict[str, Any]) -> None:
        if path == "/v1/gate/calls":
            kept.append(body["permit"])
            body["permit"] = kept[0]

    tamper = Tampering(swap)
    await site.run("printf one", tamper)
    with pytest.raises(BadPermit):
        await site.run("printf two", Tampering(swap))
    assert site.printed == b"one"


async def test_the_same_permit_does_not_run_twice(site: Site) -> None:
    kept: list[dict[str, Any]] = []

    def replay(path: str, body: dict[str, Any]) -> None:
        if path == "/v1/gate/calls":
            kept.append(body["permit"])
            body["permit"] = kept[0]

    await site.run("printf one", Tampering(replay))
    with pytest.raises(Refused):
        await site.run("printf one", Tampering(replay))
    assert site.printed == b"one"
    assert [event.data["kind"] for event in site.house.audit.named("bypass.attempted")] == ["permit_replayed"]


async def test_a_key_that_is_not_pinned_is_not_believed(site: Site) -> None:
    await site.run("printf one")
    keys = json.loads(site.pins.read_text())["keys"]
    assert (len(keys), site.pins.stat().st_mode & 0o777) == (1, 0o600)
    other = {"keys": [{**keys[0], "kid": "other"}]}
    site.pins.write_text(json.dumps(other))
    with pytest.raises(BadPermit):
        await site.run("printf two")
    assert site.printed == b"one"
    client = Client(site.url, AGENT)
    await houses.pinned(client, site.pins, again=True)
    await client.aclose()
    assert (await site.run("printf two")).ended.status == 0


async def test_a_report_that_is_lost_is_tried_again(site: Site) -> None:
    lost = 2

    class Losing(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            nonlocal lost
            if request.url.path.endswith("/report") and lost:
                lost -= 1
                raise httpx2.ConnectError("lost")
            return await super().handle_async_request(request)

    done = await site.run("printf one", Losing())
    assert (done.unreported, len(site.house.audit.named("action.reported"))) == (None, 1)


class Unanswered(httpx2.AsyncHTTPTransport):
    """Loses answers of the server to `/redeem`, the first `times`; `before` they reach it, or after it has acted."""

    def __init__(self, times: int, *, before: bool = False) -> None:
        super().__init__()
        self.left, self.before, self.nonces = times, before, []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not request.url.path.endswith("/redeem"):
            return await super().handle_async_request(request)
        self.nonces.append(json.loads(request.content)["nonce"])
        lost, self.left = self.left > 0, self.left - 1
        if lost and self.before:
            raise httpx2.ConnectError("lost")
        reply = await super().handle_async_request(request)
        if lost:
            await reply.aread()
            await reply.aclose()
            raise httpx2.ReadError("lost")
        return reply


@pytest.mark.parametrize("before", [True, False], ids=["never-sent", "never-answered"])
async def test_a_redemption_whose_answer_is_lost_is_asked_for_again_and_executes_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.setattr(work, "_PAUSE_S", 0.001)
    transport = Unanswered(2, before=before)
    done = await site.run("printf one", transport)
    assert (site.printed, done.ended.status, done.unreported) == (b"one", 0, None)
    assert (len(transport.nonces), len(set(transport.nonces))) == (3, 1)
    assert site.house.audit.names()[-3:] == ["permit.issued", "permit.redeemed", "action.reported"]
    again = Unanswered(0)
    await site.run("printf one", again)
    assert again.nonces[0] not in transport.nonces
    assert site.house.audit.named("bypass.attempted") == []
    assert site.house.judged() == {}


async def test_without_any_answer_nothing_is_executed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_PAUSE_S", 0.001)
    transport = Unanswered(1_000)
    with pytest.raises(Unavailable):
        await site.run("printf one", transport)
    assert (len(transport.nonces), site.printed) == (4, b"")
    assert site.house.audit.named("action.reported") == []


async def test_a_refused_redemption_is_not_asked_for_again(site: Site) -> None:
    transport = Unanswered(0)

    class Late(Unanswered):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if request.url.path.endswith("/redeem"):
                site.house.clock.advance(300_000)
            return await transport.handle_async_request(request)

    with pytest.raises(Refused, match="expired"):
        await site.run("printf one", Late(0))
    assert (len(transport.nonces), site.printed) == (1, b"")
    await transport.aclose()


async def test_an_interrupted_runner_says_so(site: Site) -> None:
    task = asyncio.create_task(site.run("printf begun; sleep 1000"))
    while not site.printed:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [event.data["outcome"] for event in site.house.audit.named("action.reported")] == ["unknown"]


# --- the way back ----------------------------------------------------------------------------------------------------


async def test_a_consumed_permit_is_taken_back_by_its_plan(site: Site) -> None:
    marker = site.root / "marker"
    marker.write_text("x")
    ran = await site.approved("rm marker")
    assert not marker.exists()
    back = await site.take_back(ran.permit_id)
    assert (back.back, back.steps, marker.exists()) == (Back.DONE, (0, 1), True)
    (event,) = site.house.audit.named("rollback.reported")
    assert (event.data["outcome"], event.data["permit_id"]) == ("succeeded", ran.permit_id)
    assert (await site.take_back(ran.permit_id)).steps == ()
    assert site.house.judged() == {}


async def test_a_step_that_fails_ends_the_way_back_and_can_be_tried_again(site: Site) -> None:
    (site.root / "marker").write_text("x")
    plan = RollbackPlan(("touch sub/marker",), "test -e sub/marker")
    ran = await site.approved("rm marker", plan)
    back = await site.take_back(ran.permit_id)
    assert (back.back, back.steps) == (Back.FAILED, (0,))
    assert site.house.audit.named("rollback.reported")[0].data["outcome"] == "failed"
    (site.root / "sub").mkdir()
    assert (await site.take_back(ran.permit_id)).back is Back.DONE
    outcomes = [event.data["outcome"] for event in site.house.audit.named("rollback.reported")]
    assert outcomes == ["failed", "succeeded"]
    assert site.house.judged() == {}


async def test_a_verification_in_words_is_left_to_a_human(site: Site) -> None:
    (site.root / "marker").write_text("x")
    ran = await site.approved("rm marker", RollbackPlan(("touch marker",), "see that customers are served"))
    back = await site.take_back(ran.permit_id)
    assert (back.back, back.steps, back.verify) == (Back.BY_HAND, (0,), "see that customers are served")
    assert site.house.audit.named("rollback.reported") == []


async def test_a_step_of_a_higher_class_stops_until_it_is_approved(site: Site) -> None:
    (site.root / "marker").write_text("x")
    ran = await site.approved("rm marker", RollbackPlan(("sudo reboot",), "test -e marker"))
    back = await site.take_back(ran.permit_id)
    assert (back.back, back.steps, back.not_run.verdict) == (Back.STOPPED, (), Verdict.HELD)
    denied = await site.approved("rm other", RollbackPlan(("curl http://169.254.169.254/x",), "true"))
    assert (await site.take_back(denied.permit_id)).not_run.verdict is Verdict.DENIED


# --- the command line ------------------------------------------------------------------------------------------------


async def cli(site: Site, *words: str, **variables: str) -> tuple[int, str, str]:
    env = {
        "PATH": os.environ["PATH"], "HOME": str(site.root.parent), "GATEHOUSE_KEY": AGENT, "GATEHOUSE_URL": site.url,
        "XDG_STATE_HOME": str(site.root.parent / "state"), **variables,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from serve_app.runner.main import run; run()", *words,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=site.root, env=env,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def now(tmp_path: Path) -> AsyncIterator[Site]:
    """With the machine's clock: the command line has no other."""
    async with _site(tmp_path, SystemClock()) as made:
        yield made


async def test_the_command_line_runs_words_and_texts(now: Site) -> None:
    assert (await cli(now, "--", "printf", "%s|", "a b", "$HOME"))[:2] == (0, "a b|$HOME|")
    assert (await cli(now, "-c", "printf out; ls nowhere"))[:2] == (2, "out")
    assert (await cli(now, "-lc", "exit 3"))[0] == 3
    (now.root / "sub").mkdir()
    assert (await cli(now, "--cwd", "sub", "--", "pwd"))[1].strip() == str(now.root / "sub")


async def test_the_command_line_says_why_nothing_ran(now: Site) -> None:
    (now.root / "marker").write_text("x")
    status, out, err = await cli(now, "--", "rm", "marker")
    assert (status, out) == (HELD, "")
    assert "apr_" in err
    assert (await cli(now, "--", "curl", "http://169.254.169.254/x"))[0] == DENIED
    assert (await cli(now, "--", "ls", GATEHOUSE_URL="http://127.0.0.1:9"))[0] == UNAVAILABLE
    assert (await cli(now, "--", "ls", GATEHOUSE_KEY="gh-nobody"))[0] == DENIED
    assert (await cli(now, "--", "ls", GATEHOUSE_KEY=""))[0] == USAGE
    assert (await cli(now, "--", "no-such-program"))[0] == 127
    assert (await cli(now, "--cwd", "..", "--", "ls"))[0] == 66
    assert (await cli(now))[0] == USAGE
    assert (await cli(now, "pin"))[0] == 0
    (pins,) = (now.root.parent / "state" / "gatehouse-run").iterdir()
    pins.write_text('{"keys": []}')
    assert (await cli(now, "--", "ls"))[0] == BAD_PERMIT
    assert (await cli(now, "pin"))[0] == 0
    assert (await cli(now, "--", "ls"))[0] == 0
    assert (now.root / "marker").exists()


async def test_the_command_line_takes_back(now: Site) -> None:
    marker = now.root / "marker"
    marker.write_text("x")
    ran = await now.approved("rm marker")
    status, _, err = await cli(now, "rollback", ran.permit_id, "--audience", AUDIENCE)
    assert (status, marker.exists()) == (0, True), err
    assert (await cli(now, "rollback", "prm_unknown"))[0] == DENIED
    other = await now.approved("rm marker", RollbackPlan(("touch marker",), "see that customers are served"))
    assert (await cli(now, "rollback", other.permit_id))[0] == BY_HAND


# --- as an agent's tool ----------------------------------------------------------------------------------------------


async def test_an_mcp_client_uses_it_as_its_shell(now: Site) -> None:
    from mcp.client.client import Client as McpClient
    from mcp.client.stdio import StdioServerParameters

    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-c", "from serve_app.runner.main import run; run()", "--mcp", "--root", str(now.root), "--wait", "30"],
        env={
            "PATH": os.environ["PATH"], "HOME": str(now.root.parent), "GATEHOUSE_KEY": AGENT, "GATEHOUSE_URL": now.url,
            "XDG_STATE_HOME": str(now.root.parent / "state"),
        },
        cwd=str(now.root),
    )  # fmt: skip
    told: list[str] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        del done, total
        told.append(message or "")

    async with McpClient(parameters) as client:
        (tool,) = (await client.list_tools()).tools
        assert (tool.name, tool.input_schema["required"]) == ("run", ["command"])

        async def call(**arguments: JsonValue) -> tuple[str, bool]:
            result = await client.call_tool("run", dict(arguments), progress_callback=progress)
            return "".join(getattr(part, "text", "") for part in result.content), bool(result.is_error)

        text, failed = await call(command="printf hello")
        assert (text.startswith("hello\n["), failed) == (True, False)
        text, failed = await call(command="ls nowhere")
        assert ("exit status 2" in text, failed) == (True, True)
        assert (await call(command="ls", sudo=True))[1]
        assert (await call(command="ls", cwd="/"))[1]
        text, failed = await call(command="curl http://169.254.169.254/x")
        assert (text.startswith("DENIED"), failed) == (True, True)
        # Approved in the stream, claimed here: no second approval.
        (now.root / "marker").write_text("x")
        held = await now.house.emitted("mcp__gatehouse__run", '{"command":"rm marker","timeout_s":9}')
        assert isinstance(held, Held)
        await now.house.approve(held.approval_id)
        assert isinstance(
            await now.house.emitted("mcp__gatehouse__run", '{"command":"rm marker","timeout_s":9}'), Released
        )
        text, failed = await call(command="rm marker", timeout_s=9)
        assert (failed, (now.root / "marker").exists()) == (False, False), text
        # Not approved anywhere: it waits, says so, and runs once a human has said yes.
        (now.root / "other").write_text("x")
        waiting = asyncio.create_task(call(command="rm other"))
        while not any("waits for approval" in each for each in told):
            await asyncio.sleep(0.02)
        open_ones = [each for each in await now.house.desk.list_approvals(None, None) if each.state == "NEEDS_PLAN"]
        await now.house.approve(open_ones[0].approval_id)
        text, failed = await waiting
        assert (failed, (now.root / "other").exists()) == (False, False), text
    assert now.house.judged() == {}
