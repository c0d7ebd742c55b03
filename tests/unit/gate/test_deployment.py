import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from deployments.gate.deployment import PolicyGate
from deployments.gate.settings import GateSettings, Running
from deployments.ports import AuditEvent, Receipt
from deployments.store import sqlite_url
from tests.fakes_audit import InMemoryAudit


class Method:
    """What a handle's attribute looks like."""

    def __init__(self, call: Callable[[Sequence[AuditEvent]], Awaitable[Sequence[Receipt]]]) -> None:
        self.remote = call


class SinkHandle:
    """The audit sink's handle."""

    def __init__(self) -> None:
        self.sink = InMemoryAudit()
        self.append = Method(self.sink.append)


async def test_a_gate_that_starts_before_the_log_announces_its_policy_when_the_log_is_there(tmp_path: Path) -> None:
    handle = SinkHandle()
    handle.sink.down = True
    settings, running = GateSettings(sweep_s=1.0), Running(config_digest="c" * 64)
    gate = PolicyGate(handle, sqlite_url(tmp_path / "gate.db"), settings, running)
    await asyncio.gather(*(gate.check_health() for _ in range(5)))
    assert await gate.ready()
    assert handle.sink.names() == []
    handle.sink.down = False
    async with asyncio.timeout(30):
        while len(handle.sink.names()) < 2:
            await asyncio.sleep(0.02)
    assert handle.sink.names() == ["policy.changed", "config.changed"]
    assert handle.sink.events[0].data["rule_set"]
    await gate.check_health()
    await gate.close()
