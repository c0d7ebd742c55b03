import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from deployments.gate.deployment import PolicyGate
from deployments.gate.notice_settings import Command, NoticeSettings
from deployments.gate.settings import GateSettings, Running
from deployments.ports import Approval, Permit, PermitState
from deployments.store import sqlite_url
from tests.fakes_audit import InMemoryAudit
from tests.unit.gate.test_approvals import AGENT, BOB, PLAN, ROOT, Keyring, proposal, seen


class Method:
    """What a handle's attribute looks like."""

    def __init__(self, call: Callable[..., Awaitable[object]]) -> None:
        self.remote = call


class SinkHandle:
    """The audit sink's handle."""

    def __init__(self) -> None:
        self.sink = InMemoryAudit()
        self.append = Method(self.sink.append)
        self.find = Method(self.sink.find)


class LedgerHandle:
    """The ledger's handle."""

    def __init__(self) -> None:
        self.ledger = Keyring()
        self.holders = Method(self.ledger.holders)


def gate_over(
    sink: SinkHandle, ledger: LedgerHandle, path: Path, settings: GateSettings, running: Running | None = None
) -> PolicyGate:
    return PolicyGate(sink, ledger, sqlite_url(path / "gate.db"), str(path / "keys"), settings, running or Running())


async def test_a_gate_that_starts_before_the_log_announces_its_policy_when_the_log_is_there(tmp_path: Path) -> None:
    handle = SinkHandle()
    handle.sink.down = True
    settings, running = GateSettings(sweep_s=1.0), Running(config_digest="c" * 64)
    gate = gate_over(handle, LedgerHandle(), tmp_path, settings, running)
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


async def test_whose_votes_count_is_asked_of_the_ledger(tmp_path: Path) -> None:
    sink, ledger = SinkHandle(), LedgerHandle()
    gate = gate_over(sink, ledger, tmp_path, GateSettings())
    await gate.check_health()
    policy = str(sink.sink.named("policy.changed")[0].data["policy_digest"])
    opened = await gate.propose(proposal(1, policy=policy))
    assert isinstance(opened, Approval)
    planned = await gate.plan(AGENT, opened.approval_id, "CHG-1", PLAN)
    await gate.vote(BOB, planned.approval_id, seen(planned), True, "")
    bob = ledger.ledger.keys.pop(BOB.key_id)
    again = await gate.propose(proposal(2, policy=policy))
    assert isinstance(again, Approval)
    ledger.ledger.keys[BOB.key_id] = bob
    await gate.vote(BOB, again.approval_id, seen(again), True, "")
    assert isinstance(await gate.propose(proposal(3, policy=policy)), Permit)
    claimed = await gate.claim(AGENT, "shell", proposal().arguments, "runner-1")
    assert claimed.state is PermitState.ISSUED, "a runner can take what has left in a stream"
    await gate.close()


async def test_keys_are_frozen_and_released_and_counted(tmp_path: Path) -> None:
    gate = gate_over(SinkHandle(), LedgerHandle(), tmp_path, GateSettings())
    await gate.freeze(BOB, AGENT.key_id, "")
    assert [each.key_id for each in await gate.frozen()] == [AGENT.key_id]
    assert (await gate.health()).frozen == 1
    await gate.unfreeze(ROOT, AGENT.key_id, "CHG-1", "")
    assert (await gate.health()).frozen == 0
    await gate.close()


async def test_messages_are_sent_while_the_gate_lives(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = tmp_path / "hook"
    script.write_text(f"#!/bin/sh\ncat >> {told}\n")
    script.chmod(0o700)
    settings = GateSettings(notices=NoticeSettings(commands={"hook": Command(argv=(str(script),))}))
    gate = gate_over(SinkHandle(), LedgerHandle(), tmp_path, settings)
    await gate.freeze(BOB, AGENT.key_id, "")
    async with asyncio.timeout(60):
        while not told.exists() or "principal.frozen" not in told.read_text():
            await asyncio.sleep(0.02)
    await gate.check_health()
    await gate.close()
