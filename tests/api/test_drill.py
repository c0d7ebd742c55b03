"""The INC-04 drill against a house whose gate is real: every expectation holds, and each control it tests is needed."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import httpx2
import pytest

from deployments.clock import SystemClock
from deployments.ports import Scope
from serve_app.drills import inc04
from tests.api.permitting import House, served

ROOT = "gh-root"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    found = House(tmp_path, SystemClock())
    found.world.ledger.add_key(ROOT, Scope.ADMIN, Scope.APPROVE, Scope.AUDIT_READ, tenant="operators", person="root")
    async with found.opened():
        yield found


def _silent(line: str) -> None:
    del line


async def drill(house: House, key: str = ROOT, tell: Callable[[str], object] = _silent) -> inc04.DrillReport:
    async with served(house) as url:

        def carry_out() -> inc04.DrillReport | inc04.DrillRefused:
            with httpx2.Client(base_url=url, timeout=30) as http:
                try:
                    return inc04.run(http, key, tell)
                except inc04.DrillRefused as refused:
                    return refused

        found = await asyncio.to_thread(carry_out)
    if isinstance(found, inc04.DrillRefused):
        raise found
    return found


def failed(report: inc04.DrillReport) -> Sequence[str]:
    return [each.what for each in report.findings if not each.held]


@pytest.mark.timeout(240)
async def test_every_expectation_holds_and_nothing_stays_behind(house: House) -> None:
    report = await drill(house)
    assert failed(report) == []
    assert report.ok
    assert len(report.findings) >= 20
    assert await house.desk.frozen() == [], "what the drill froze is released"
    drilled = [key for key in house.world.ledger.keys.values() if key.tenant == report.tenant]
    assert len(drilled) == 5
    assert all(key.revoked_ms is not None for key in drilled)
    assert house.judged() == {}, "the verifier finds the records in order"
    opened = {str(event.data["incident_id"]) for event in house.audit.events if event.name == "incident.opened"}
    closed = {str(event.data["incident_id"]) for event in house.audit.events if event.name == "incident.closed"}
    assert opened
    assert opened <= closed
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


@pytest.mark.timeout(240)
async def test_a_gate_that_freezes_nobody_fails_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(self: object) -> tuple[()]:
        return ()

    monkeypatch.setattr(house.desk, "frozen", nobody.__get__(house.desk))
    monkeypatch.setattr(inc04, "_WAIT_S", 0.5)
    monkeypatch.setattr(inc04, "_FROZEN_S", 0.5)
    assert "the keys behind the attempts are frozen" in failed(await drill(house))


@pytest.mark.timeout(240)
async def test_an_alert_that_fires_already_is_not_taken_for_the_drills(house: House) -> None:
    told: list[str] = []
    await house.desk.freeze(house.bob, house.agent.key_id, "suspicious")
    report = await drill(house, tell=told.append)
    assert failed(report) == []
    assert [each.what for each in report.findings if inc04.ALERT in each.what] == []
    assert [line for line in told if "fires already, with 1 frozen before" in line]
    assert [each.key_id for each in await house.desk.frozen()] == [house.agent.key_id]


async def test_without_an_operators_key_there_is_no_drill(house: House) -> None:
    with pytest.raises(inc04.DrillRefused, match="refused"):
        await drill(house, "gh-bob")


def test_without_a_server_there_is_no_drill() -> None:
    with httpx2.Client(base_url="http://127.0.0.1:9") as http, pytest.raises(inc04.DrillRefused, match="no Gatehouse"):
        inc04.run(http, "key", lambda line: None)
