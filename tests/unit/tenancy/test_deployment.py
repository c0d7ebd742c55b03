import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from deployments.errors import AuditUnavailable, Unauthenticated
from deployments.ports import AuditEvent, KeySpec, Receipt, Scope, TenantId
from deployments.store import sqlite_url
from deployments.tenancy.deployment import Ledger
from deployments.tenancy.pepper import BadPepper
from deployments.tenancy.settings import TenancySettings
from tests.fakes_audit import InMemoryAudit


class Method:
    """What a handle's attribute looks like."""

    def __init__(self, call: Callable[[Sequence[AuditEvent]], Awaitable[Sequence[Receipt]]]) -> None:
        self.remote = call


class SinkHandle:
    """The audit sink's handle; the first `refusals` calls fail, as they do while the sink starts."""

    def __init__(self, refusals: int = 0) -> None:
        self.sink = InMemoryAudit()
        self.refusals = refusals
        self.append = Method(self._append)

    async def _append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        self.refusals -= 1
        if self.refusals >= 0:
            raise AuditUnavailable("starting")
        return await self.sink.append(events)


def _ledger(directory: Path, handle: SinkHandle) -> Ledger:
    return Ledger(handle, str(directory), sqlite_url(directory / "tenancy.db"), "alice", TenancySettings())


async def _until_ready(ledger: Ledger) -> None:
    async with asyncio.timeout(30):
        while not await ledger.ready():
            await asyncio.sleep(0.02)


async def test_a_fresh_ledger_makes_the_operator_key_and_then_is_ready(tmp_path: Path) -> None:
    handle = SinkHandle(refusals=1)
    ledger = _ledger(tmp_path, handle)
    await ledger.check_health()
    assert not await ledger.ready()
    await _until_ready(ledger)
    await ledger.check_health()
    operator = await ledger.authenticate((tmp_path / "operator.key").read_text().strip())
    assert Scope.ADMIN in operator.scopes
    created = await ledger.create_key(KeySpec(TenantId("acme"), "agent"), "key_admin")
    assert (await ledger.authenticate(created.presented)).tenant == "acme"
    await ledger.revoke_key(created.record.key_id, "key_admin")
    with pytest.raises(Unauthenticated):
        await ledger.authenticate(created.presented)
    assert [event.principal for event in handle.sink.events] == ["bootstrap", "key_admin", "key_admin"]
    await ledger.close()


async def test_a_ledger_whose_pepper_was_lost_fails_its_health_check(tmp_path: Path) -> None:
    first = _ledger(tmp_path, SinkHandle())
    await _until_ready(first)
    await first.close()
    (tmp_path / "pepper").unlink()
    second = _ledger(tmp_path, SinkHandle())
    with pytest.raises(BadPepper):
        await second.check_health()
    await second.close()
