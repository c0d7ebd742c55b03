"""`gatehouse permits` over the routes of the real gate: what it shows, and how one key follows another."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
from typer.testing import CliRunner, Result

from deployments.gate.permits import BadPermit, verify
from deployments.ports import RollbackPlan
from serve_app.cli import client as clients
from serve_app.cli import permits as cli
from serve_app.runner import house as houses
from tests.api.permitting import AGENT, RIVAL, House, served

RUNNER = "gatehouse-run@here"
_T = TypeVar("_T")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.app, words)


async def shown(monkeypatch: pytest.MonkeyPatch, url: str, *words: str, key: str = AGENT) -> Result:
    """The command against a served house; in a thread, because it waits for the house."""
    made: list[clients.ApiClient] = []

    def client() -> clients.ApiClient:
        made.append(clients.ApiClient())
        return made[-1]

    monkeypatch.setattr(cli, "ApiClient", client)
    monkeypatch.setenv("GATEHOUSE_URL", url)
    monkeypatch.setenv("GATEHOUSE_KEY", key)
    try:
        return await asyncio.to_thread(invoke, "show", *words)
    finally:
        for each in made:  # a process would end here
            each._http.close()


async def ask(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def propose(client: httpx2.AsyncClient, command: str) -> dict[str, Any]:
    body = {"tool": "run", "arguments": {"command": command}, "audience": RUNNER}
    return await ask(client, "/v1/gate/calls", body)


async def execute(client: httpx2.AsyncClient, permit: dict[str, Any]) -> None:
    place = f"/v1/permits/{permit['id']}"
    await ask(client, f"{place}/redeem", {"action_digest": permit["action_digest"], "audience": RUNNER})
    report = {"outcome": "succeeded", "exit_code": 0, "output_digest": "7" * 64, "started_ms": 1, "ended_ms": 2}
    await ask(client, f"{place}/report", report)


async def in_house(directory: Path, work: Callable[[House, str, httpx2.AsyncClient], Awaitable[_T]]) -> _T:
    async with House(directory).opened() as house, served(house) as url, house.client() as client:
        return await work(house, url, client)


async def test_a_read_is_shown_without_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(house: House, url: str, client: httpx2.AsyncClient) -> None:
        del house
        permit = (await propose(client, "git status"))["permit"]
        found = await shown(monkeypatch, url, permit["id"])
        first, expires = found.output.splitlines()
        assert first == f"{permit['id']}  ISSUED  R0  for {RUNNER}"
        assert expires.startswith("expires:    20")
        as_json = await shown(monkeypatch, url, permit["id"], "--json")
        assert json.loads(as_json.output)["id"] == permit["id"]
        assert not any(permit["token"] in each.output for each in (found, as_json))

    await in_house(tmp_path, work)


async def test_a_change_is_shown_with_its_plan_and_what_of_it_was_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(house: House, url: str, client: httpx2.AsyncClient) -> None:
        held = await propose(client, "rm marker")
        await house.approve(held["approval_id"], RollbackPlan(("touch marker", "echo a\nprm_forged"), "test -e marker"))
        permit = (await propose(client, "rm marker"))["permit"]
        await execute(client, permit)
        step = await ask(client, f"/v1/permits/{permit['id']}/rollback", {"step": 0, "audience": RUNNER})
        await execute(client, step["permit"])
        lines = (await shown(monkeypatch, url, permit["id"])).output.splitlines()
        assert lines[0] == f"{permit['id']}  REPORTED  R2  for {RUNNER}"
        assert lines[2:] == [
            f"approval:   {held['approval_id']}",
            "change:     CHG-1",
            "  done  touch marker",
            "        echo a\\nprm_forged",
            "        test -e marker",
        ]
        back = (await shown(monkeypatch, url, step["permit"]["id"])).output
        assert f"takes back: {permit['id']}" in back

    await in_house(tmp_path, work)


async def test_a_permit_of_somebody_else_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(house: House, url: str, client: httpx2.AsyncClient) -> None:
        del house
        permit = (await propose(client, "git status"))["permit"]
        for permit_id, key in ((permit["id"], RIVAL), ("prm_unknown", AGENT)):
            found = await shown(monkeypatch, url, permit_id, key=key)
            assert (found.exit_code, found.output) == (1, "gatehouse: There is no such permit.\n")
        assert (await shown(monkeypatch, url, "../approvals")).exit_code == 1

    await in_house(tmp_path, work)


async def test_a_rotated_key_signs_at_once_and_runners_believe_it_once_they_have_pinned_it(tmp_path: Path) -> None:
    async def work(house: House, url: str, client: httpx2.AsyncClient) -> None:
        runner, pins = houses.House(url, AGENT), tmp_path / "pins.json"
        old = (await propose(client, "git status"))["permit"]["token"]
        before = await houses.pinned(runner, pins)
        now_s = house.clock.now_ms() / 1000
        rotated = await asyncio.to_thread(invoke, "rotate-key", "--dir", str(tmp_path / "gate-keys"))
        assert rotated.exit_code == 0, rotated.output
        assert str(tmp_path / "gate-keys" / "permit-0002.key") in rotated.output
        new = (await propose(client, "git log"))["permit"]["token"]
        assert verify(old, before, RUNNER, now_s).aud == RUNNER
        with pytest.raises(BadPermit, match="not pinned"):
            verify(new, await houses.pinned(runner, pins), RUNNER, now_s)
        after = await houses.pinned(runner, pins, again=True)
        assert all(verify(token, after, RUNNER, now_s).aud == RUNNER for token in (old, new))
        # What is left to do: the old file goes, and what it signed proves nothing any more.
        (tmp_path / "gate-keys" / "permit-0001.key").unlink()
        last = await houses.pinned(runner, pins, again=True)
        assert verify(new, last, RUNNER, now_s).aud == RUNNER
        with pytest.raises(BadPermit, match="not pinned"):
            verify(old, last, RUNNER, now_s)
        await runner.aclose()

    await in_house(tmp_path, work)


def test_the_key_is_made_where_the_server_keeps_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEHOUSE_STATE_DIR", str(tmp_path))
    missing = invoke("rotate-key")
    assert (missing.exit_code, "start the server once" in missing.output) == (1, True)
    (tmp_path / "gate-keys").mkdir()
    assert invoke("rotate-key").exit_code == 0
    (made,) = (tmp_path / "gate-keys").iterdir()
    assert (made.name, made.stat().st_mode & 0o777) == ("permit-0001.key", 0o600)


def test_no_key_is_made_that_the_server_could_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    refused = invoke("rotate-key", "--dir", str(tmp_path))
    assert (refused.exit_code, "another account" in refused.output) == (1, True)
    assert list(tmp_path.iterdir()) == []


async def test_a_server_that_is_away_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    away = await shown(monkeypatch, "http://127.0.0.1:9", "prm_1")
    assert (away.exit_code, "no Gatehouse answers" in away.output) == (1, True)
