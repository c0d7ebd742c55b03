import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from deployments.clock import FixedClock
from deployments.errors import (
    AuditUnavailable,
    BudgetExceeded,
    InvalidRequest,
    NotFound,
    PartUnavailable,
    QuotaExceeded,
    Unauthenticated,
)
from deployments.ports import (
    SYSTEM_TENANT,
    Audit,
    GateProfile,
    KeyId,
    KeySpec,
    Ledger,
    ModelId,
    NewKey,
    RequestId,
    Scope,
    TenantId,
    Usage,
)
from deployments.store import open_store, sqlite_url, wal_is_safe
from deployments.tenancy import ledger as ledger_module
from deployments.tenancy.bootstrap import bootstrap
from deployments.tenancy.budgets import Booking
from deployments.tenancy.keys import generate
from deployments.tenancy.ledger import INCORRECT_KEY, KeyLedger
from deployments.tenancy.pepper import BadPepper, load_or_create_pepper
from deployments.tenancy.settings import TenancySettings
from deployments.tenancy.store import TenancyStore
from tests.fakes_audit import InMemoryAudit

ACME = TenantId("acme")
MODEL = ModelId("demo-20b")
SETTINGS = TenancySettings(max_concurrent_requests=2, grant_ttl_s=60)


class World:
    """A ledger over a real SQLite file, with its clock and audit log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = FixedClock()
        self.audit = InMemoryAudit()
        self.store = TenancyStore(open_store(sqlite_url(directory / "state" / "tenancy.db")))
        self.ledger = self.with_pepper(load_or_create_pepper(directory / "pepper"))

    def with_pepper(self, pepper: bytes) -> KeyLedger:
        return KeyLedger(self.store, pepper, self.clock, self.audit, SETTINGS)

    async def key(self, **changes: object) -> NewKey:
        spec = KeySpec(tenant=ACME, name="agent", person="alice")
        return await self.ledger.create_key(dataclasses.replace(spec, **changes), actor="key_admin")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.ledger.open()
    yield world
    await world.ledger.drain()
    await world.store.close()


def test_the_ledger_and_the_fakes_are_the_ports(world: World) -> None:
    ledger: Ledger = world.ledger
    audit: Audit = world.audit
    assert (ledger, audit) == (world.ledger, world.audit)


async def test_nobody_gets_a_key_of_the_system(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await world.key(tenant=SYSTEM_TENANT)
    assert world.audit.events == []


# --- authenticate ------------------------------------------------------------------------------------------------


async def test_a_created_key_authenticates_as_what_it_was_created_for(world: World) -> None:
    created = await world.key(
        scopes=frozenset({Scope.INFERENCE, Scope.APPROVE}),
        models=frozenset({MODEL}),
        gate_profile=GateProfile.CODING,
        hold_s=120,
    )
    principal = await world.ledger.authenticate(created.presented)
    assert principal.tenant == ACME
    assert principal.person == "alice"
    assert principal.key_id == created.record.key_id
    assert principal.scopes == {Scope.INFERENCE, Scope.APPROVE}
    assert principal.models == {MODEL}
    assert principal.gate_profile is GateProfile.CODING
    assert principal.hold_s == 120


async def test_only_good_keys_have_holders(world: World) -> None:
    good = (await world.key(roles=frozenset({"sre", "dba"}), scopes=frozenset({Scope.APPROVE}))).record
    short = (await world.key(ttl_s=60)).record
    revoked = (await world.key()).record
    await world.ledger.revoke_key(revoked.key_id)
    asked = [good.key_id, short.key_id, revoked.key_id, KeyId("key_nobody")]
    found = {each.key_id: each for each in await world.ledger.holders(asked)}
    assert found.keys() == {good.key_id, short.key_id}
    assert found[good.key_id].roles == {"sre", "dba"}
    assert (found[good.key_id].person, found[good.key_id].scopes) == ("alice", {Scope.APPROVE})
    world.clock.advance(60_000)
    assert [each.key_id for each in await world.ledger.holders(asked)] == [good.key_id]
    assert await world.ledger.holders([]) == []


async def test_every_bad_key_gets_the_same_answer(world: World) -> None:
    revoked, expired = await world.key(), await world.key(ttl_s=10)
    await world.ledger.revoke_key(revoked.record.key_id)
    world.clock.advance(10_000)
    good = (await world.key()).presented
    wrong_secret = good[:-1] + ("a" if good[-1] != "a" else "b")
    unknown = generate(b"u" * 40).text
    for presented in (revoked.presented, expired.presented, wrong_secret, unknown, "", "sk-nonsense", "gh-\x00"):
        with pytest.raises(Unauthenticated) as caught:
            await world.ledger.authenticate(presented)
        assert caught.value.public_message == INCORRECT_KEY


async def test_a_key_is_good_until_the_millisecond_it_expires(world: World) -> None:
    key = await world.key(ttl_s=10)
    world.clock.advance(9_999)
    await world.ledger.authenticate(key.presented)
    world.clock.advance(1)
    with pytest.raises(Unauthenticated):
        await world.ledger.authenticate(key.presented)


async def test_every_path_of_authentication_compares_in_constant_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (await world.key()).presented
    compared: list[int] = []
    real = ledger_module.matches

    def spy(pepper: bytes, presented: str, stored: bytes) -> bool:
        compared.append(len(stored))
        return real(pepper, presented, stored)

    monkeypatch.setattr(ledger_module, "matches", spy)
    await world.ledger.authenticate(key)
    for presented in (key[:-1] + "?", generate(b"x" * 40).text, "nonsense"):
        with pytest.raises(Unauthenticated):
            await world.ledger.authenticate(presented)
    assert compared == [32, 32, 32, 32]


async def test_the_database_holds_no_key(world: World) -> None:
    key = (await world.key()).presented
    await world.store.close()
    stored = (world.directory / "state" / "tenancy.db").read_bytes()
    assert key[3:11].encode() in stored  # the public prefix
    assert key[11:].encode() not in stored


# --- keys and their records --------------------------------------------------------------------------------------


async def test_creating_and_revoking_are_recorded_with_who_did_it(world: World) -> None:
    key = await world.key()
    await world.ledger.revoke_key(key.record.key_id, actor="key_admin")
    created, revoked = world.audit.events
    assert (created.name, revoked.name) == ("key.created", "key.revoked")
    assert created.principal == revoked.principal == "key_admin"
    assert created.data["key_id"] == revoked.data["key_id"] == key.record.key_id
    assert key.presented not in str(world.audit.events)


async def test_no_record_no_key(world: World) -> None:
    world.audit.down = True
    with pytest.raises(AuditUnavailable):
        await world.key()
    assert await world.ledger.list_keys(None) == []


async def test_no_record_no_revocation(world: World) -> None:
    key = await world.key()
    world.audit.down = True
    with pytest.raises(AuditUnavailable):
        await world.ledger.revoke_key(key.record.key_id)
    await world.ledger.authenticate(key.presented)


async def test_revoking_twice_changes_nothing(world: World) -> None:
    key = await world.key()
    first = await world.ledger.revoke_key(key.record.key_id)
    world.clock.advance(5_000)
    assert await world.ledger.revoke_key(key.record.key_id) == first
    assert world.audit.names().count("key.revoked") == 1


async def test_revoking_an_unknown_key_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await world.ledger.revoke_key(KeyId("key_nobody"))


async def test_keys_are_listed_per_tenant(world: World) -> None:
    one = await world.key()
    world.clock.advance(1)
    two = await world.key(tenant=TenantId("other"))
    assert list(await world.ledger.list_keys(None)) == [one.record, two.record]
    assert list(await world.ledger.list_keys(ACME)) == [one.record]


async def test_keys_outlive_the_process(world: World) -> None:
    key = await world.key()
    await world.store.close()
    again = World(world.directory)
    await again.ledger.open()
    assert (await again.ledger.authenticate(key.presented)).key_id == key.record.key_id
    await again.ledger.drain()
    await again.store.close()


# --- admit and settle --------------------------------------------------------------------------------------------


async def test_a_key_has_so_many_requests_at_once_and_no_more(world: World) -> None:
    principal = await world.ledger.authenticate((await world.key()).presented)
    neighbour = await world.ledger.authenticate((await world.key()).presented)
    outcomes = await asyncio.gather(
        *(world.ledger.admit(principal, RequestId(f"r{number}"), MODEL, 100) for number in range(6)),
        return_exceptions=True,
    )
    grants = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, QuotaExceeded)]
    assert (len(grants), len(refused)) == (2, 4)
    assert refused[0].public_message.endswith("Please try again in 1s.")
    await world.ledger.admit(neighbour, RequestId("n"), MODEL, 100)
    await world.ledger.settle(grants[0], Usage(output_tokens=1))
    await world.ledger.admit(principal, RequestId("r9"), MODEL, 100)


async def test_a_request_that_nobody_settled_stops_counting(world: World) -> None:
    principal = await world.ledger.authenticate((await world.key()).presented)
    for number in range(2):
        await world.ledger.admit(principal, RequestId(f"r{number}"), MODEL, 1)
    world.clock.advance(59_999)
    with pytest.raises(QuotaExceeded):
        await world.ledger.admit(principal, RequestId("r2"), MODEL, 1)
    world.clock.advance(1)
    await world.ledger.admit(principal, RequestId("r2"), MODEL, 1)


async def test_settling_is_idempotent_and_the_first_settlement_counts(world: World) -> None:
    principal = await world.ledger.authenticate((await world.key()).presented)
    grant = await world.ledger.admit(principal, RequestId("r"), MODEL, 100)
    used = Usage(input_tokens=10, cached_tokens=4, output_tokens=5, reasoning_tokens=2)
    await asyncio.gather(*(world.ledger.settle(grant, used) for _ in range(5)))
    await world.ledger.settle(grant, Usage(input_tokens=10**9))
    [total] = await world.ledger.usage(ACME)
    assert (total.requests, total.input_tokens, total.cached_tokens) == (1, 10, 4)
    assert (total.output_tokens, total.reasoning_tokens, total.estimated_requests) == (5, 2, 0)
    assert total.key_id == principal.key_id
    assert total.model == MODEL


async def test_usage_adds_up_per_key_and_model(world: World) -> None:
    principal = await world.ledger.authenticate((await world.key()).presented)
    for model, tokens in ((MODEL, 1), (MODEL, 2), (ModelId("demo-120b"), 4)):
        grant = await world.ledger.admit(principal, RequestId("r"), model, 1)
        await world.ledger.settle(grant, Usage(output_tokens=tokens, estimated=tokens == 2))
    totals = {total.model: total for total in await world.ledger.usage(None)}
    assert totals[MODEL].output_tokens == 3
    assert totals[MODEL].estimated_requests == 1
    assert totals[ModelId("demo-120b")].output_tokens == 4
    assert list(await world.ledger.usage(TenantId("other"))) == []


async def test_usage_survives_a_crash_that_forgot_the_grant(world: World) -> None:
    principal = await world.ledger.authenticate((await world.key()).presented)
    grant = await world.ledger.admit(principal, RequestId("r"), MODEL, 1)
    await world.ledger.drain()
    forgotten = dataclasses.replace(grant, grant_id="grant_whose_row_was_never_written")
    await world.ledger.settle(forgotten, Usage(output_tokens=7))
    [total] = await world.ledger.usage(ACME)
    assert (total.requests, total.output_tokens, total.model) == (1, 7, MODEL)


async def test_open_grants_outlive_the_process(world: World) -> None:
    principal = await world.ledger.authenticate((await world.key()).presented)
    grants = [await world.ledger.admit(principal, RequestId(f"r{number}"), MODEL, 1) for number in range(2)]
    await world.ledger.drain()
    again = World(world.directory)
    await again.ledger.open()
    with pytest.raises(QuotaExceeded):
        await again.ledger.admit(principal, RequestId("r2"), MODEL, 1)
    await again.ledger.settle(grants[0], Usage())
    await again.ledger.admit(principal, RequestId("r3"), MODEL, 1)
    await again.ledger.drain()
    await again.store.close()


async def test_a_settlement_that_cannot_be_written_is_no_success(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    principal = await world.ledger.authenticate((await world.key()).presented)
    grant = await world.ledger.admit(principal, RequestId("r"), MODEL, 1)
    await world.ledger.drain()
    write = world.store.write

    async def broken(*rows: object) -> None:
        raise OperationalError("insert", {}, Exception("disk full"))

    monkeypatch.setattr(world.store, "write", broken)
    with pytest.raises(PartUnavailable):
        await world.ledger.settle(grant, Usage(output_tokens=1))
    monkeypatch.setattr(world.store, "write", write)
    await world.ledger.settle(grant, Usage(output_tokens=2))
    [total] = await world.ledger.usage(ACME)
    assert total.output_tokens == 2


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "Ünï" * 200])
async def test_no_name_that_a_client_invents_stops_the_books(world: World, text: str) -> None:
    principal = await world.ledger.authenticate((await world.key()).presented)
    odd = await world.ledger.admit(principal, RequestId(text), ModelId(text), 1)
    even = await world.ledger.admit(principal, RequestId("r"), MODEL, 1)
    await world.ledger.settle(even, Usage(output_tokens=1))
    await world.ledger.settle(odd, Usage(output_tokens=2))
    assert sum(total.output_tokens for total in await world.ledger.usage(ACME)) == 3


async def test_a_row_that_cannot_be_written_does_not_keep_the_others_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    principal = await world.ledger.authenticate((await world.key()).presented)
    bad, good = [await world.ledger.admit(principal, RequestId(name), MODEL, 1) for name in ("bad", "good")]
    await world.ledger.drain()
    write = world.store.write

    async def refuses(grants: Any, settlements: Any) -> list[Booking]:
        if any(each.grant.request_id == "bad" for each in settlements):
            raise UnicodeEncodeError("utf-8", "x", 0, 1, "no")
        return await write(grants, settlements)

    monkeypatch.setattr(world.store, "write", refuses)
    told = await asyncio.gather(
        world.ledger.settle(bad, Usage(output_tokens=1)), world.ledger.settle(good, Usage(output_tokens=2)),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(told[0], PartUnavailable)
    assert told[1] is None
    [total] = await world.ledger.usage(ACME)
    assert total.output_tokens == 2


async def test_many_at_once_share_transactions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    principals = [await world.ledger.authenticate((await world.key()).presented) for _ in range(40)]
    write, calls = world.store.write, list[int]()

    async def counted(grants: Any, settlements: Any) -> list[Booking]:
        calls.append(len(grants) + len(settlements))
        return await write(grants, settlements)

    monkeypatch.setattr(world.store, "write", counted)
    grants = await asyncio.gather(
        *(world.ledger.admit(each, RequestId(f"r{n}"), MODEL, 1) for n, each in enumerate(principals))
    )
    await asyncio.gather(*(world.ledger.settle(grant, Usage(output_tokens=1)) for grant in grants))
    await world.ledger.drain()
    assert sum(calls) == 80
    assert len(calls) < 10
    assert sum(total.requests for total in await world.ledger.usage(ACME)) == 40


# --- pepper, bootstrap, store ------------------------------------------------------------------------------------


def test_the_pepper_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "pepper"
    pepper = load_or_create_pepper(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (len(pepper), load_or_create_pepper(path)) == (32, pepper)
    assert [item.name for item in path.parent.iterdir()] == ["pepper"]


@pytest.mark.parametrize(("content", "mode"), [("00" * 32, 0o604), ("zz", 0o600), ("00" * 31, 0o600), ("", 0o600)])
def test_a_pepper_that_must_not_be_used_is_refused(tmp_path: Path, content: str, mode: int) -> None:
    path = tmp_path / "pepper"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(BadPepper):
        load_or_create_pepper(path)


async def test_a_lost_pepper_is_said_and_not_shown_as_wrong_keys(world: World) -> None:
    await world.key()
    with pytest.raises(BadPepper, match="restore it"):
        await world.with_pepper(b"another" * 5).open()


async def test_bootstrap_makes_one_operator_key_for_its_owner_only(world: World) -> None:
    assert await bootstrap(world.ledger, world.directory, "alice", ACME) is False
    path = world.directory / "operator.key"
    assert path.stat().st_mode & 0o777 == 0o600
    principal = await world.ledger.authenticate(path.read_text().strip())
    assert principal.scopes == {Scope.APPROVE, Scope.ADMIN, Scope.AUDIT_READ}
    assert principal.person == "alice"
    await world.key()
    assert await bootstrap(world.ledger, world.directory, "bob", ACME) is True
    assert [record.name for record in await world.ledger.list_keys(None)].count("operator") == 1


async def test_bootstrap_replaces_a_key_that_this_store_never_issued(world: World) -> None:
    path = world.directory / "operator.key"
    path.write_text(generate(b"o" * 40).text)
    await bootstrap(world.ledger, world.directory, "alice", ACME)
    await world.ledger.authenticate(path.read_text().strip())
    assert path.stat().st_mode & 0o777 == 0o600


async def test_bootstrap_does_not_undo_a_revocation(world: World) -> None:
    await bootstrap(world.ledger, world.directory, "alice", ACME)
    [operator] = await world.ledger.list_keys(None)
    await world.ledger.revoke_key(operator.key_id)
    await bootstrap(world.ledger, world.directory, "alice", ACME)
    assert len(await world.ledger.list_keys(None)) == 1


async def test_bootstrap_writes_no_key_without_its_record(world: World) -> None:
    world.audit.down = True
    with pytest.raises(AuditUnavailable):
        await bootstrap(world.ledger, world.directory, "alice", ACME)
    assert not (world.directory / "operator.key").exists()


async def test_the_ledger_is_ready_while_its_store_answers(world: World) -> None:
    assert await world.ledger.ready()
    lost = TenancyStore(open_store(sqlite_url(world.directory)))  # a directory is no database
    assert not await KeyLedger(lost, b"p" * 32, world.clock, world.audit, SETTINGS).ready()


async def test_sqlite_is_opened_so_that_a_commit_is_on_disk(tmp_path: Path) -> None:
    engine = open_store(sqlite_url(tmp_path / "deep" / "er" / "x.db"))
    async with engine.connect() as connection:
        synchronous = (await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one()
        journal = (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one()
        version = (await connection.exec_driver_sql("SELECT sqlite_version()")).scalar_one()
    await engine.dispose()
    safe = wal_is_safe(tuple(int(part) for part in version.split(".")))
    assert (synchronous, journal) == (2, "wal" if safe else "delete")


@pytest.mark.parametrize(
    ("version", "safe"),
    [((3, 40, 1), False), ((3, 51, 2), False), ((3, 51, 3), True), ((3, 52, 0), False), ((3, 53, 0), True)],
)
def test_wal_is_used_only_where_its_reset_bug_is_fixed(version: tuple[int, ...], safe: bool) -> None:
    assert wal_is_safe(version) is safe


# --- rotate and expire -------------------------------------------------------------------------------------------


async def test_a_rotated_key_is_the_same_key_with_another_text(world: World) -> None:
    before = await world.key(budget_tokens=100, team="web")
    principal = await world.ledger.authenticate(before.presented)
    await world.ledger.settle(await world.ledger.admit(principal, RequestId("r"), MODEL, 60), Usage(output_tokens=60))
    after = await world.ledger.rotate_key(before.record.key_id, 0, actor="key_admin")
    assert after.presented != before.presented
    with pytest.raises(Unauthenticated):
        await world.ledger.authenticate(before.presented)
    again = await world.ledger.authenticate(after.presented)
    assert again == principal
    with pytest.raises(BudgetExceeded):
        await world.ledger.admit(again, RequestId("r"), MODEL, 41)
    changes = [event for event in world.audit.events if event.name.startswith("key.")]
    assert [event.name for event in changes] == ["key.created", "key.rotated"]
    assert changes[1].principal == "key_admin"
    recorded = repr(world.audit.events[1].data)
    assert before.presented not in recorded
    assert after.presented not in recorded


async def test_the_old_text_is_good_for_as_long_as_the_grace_lasts(world: World) -> None:
    before = await world.key()
    after = await world.ledger.rotate_key(before.record.key_id, 60)
    assert after.record.previous_until_ms == world.clock.now_ms() + 60_000
    world.clock.advance(59_999)
    old, new = [await world.ledger.authenticate(text) for text in (before.presented, after.presented)]
    assert old == new
    world.clock.advance(1)
    with pytest.raises(Unauthenticated):
        await world.ledger.authenticate(before.presented)
    await world.ledger.authenticate(after.presented)


async def test_only_one_old_text_is_good(world: World) -> None:
    first = await world.key()
    second = await world.ledger.rotate_key(first.record.key_id, 600)
    third = await world.ledger.rotate_key(first.record.key_id, 600)
    with pytest.raises(Unauthenticated):
        await world.ledger.authenticate(first.presented)
    for each in (second, third):
        await world.ledger.authenticate(each.presented)


async def test_revoking_a_rotated_key_ends_both_texts(world: World) -> None:
    before = await world.key()
    after = await world.ledger.rotate_key(before.record.key_id, 600)
    await world.ledger.revoke_key(before.record.key_id)
    for each in (before, after):
        with pytest.raises(Unauthenticated):
            await world.ledger.authenticate(each.presented)
    with pytest.raises(InvalidRequest):
        await world.ledger.rotate_key(before.record.key_id, 0)


async def test_an_expired_key_gets_no_new_text(world: World) -> None:
    key = await world.key(ttl_s=10)
    world.clock.advance(10_000)
    with pytest.raises(InvalidRequest):
        await world.ledger.rotate_key(key.record.key_id, 0)
    with pytest.raises(NotFound):
        await world.ledger.rotate_key(KeyId("key_nobody"), 0)


async def test_no_rotation_without_its_record(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await world.key()

    async def down(*_: object) -> None:
        raise AuditUnavailable("down")

    monkeypatch.setattr(world.audit, "append", down)
    with pytest.raises(AuditUnavailable):
        await world.ledger.rotate_key(key.record.key_id, 0)
    with pytest.raises(AuditUnavailable):
        await world.ledger.expire_key(key.record.key_id, 0)
    await world.ledger.authenticate(key.presented)


async def test_a_key_ends_when_it_is_told_to(world: World) -> None:
    key = await world.key()
    expiring = await world.ledger.expire_key(key.record.key_id, 60, actor="key_admin")
    assert expiring.expires_ms == world.clock.now_ms() + 60_000
    await world.ledger.authenticate(key.presented)
    world.clock.advance(60_000)
    with pytest.raises(Unauthenticated):
        await world.ledger.authenticate(key.presented)
    assert (await world.ledger.expire_key(key.record.key_id, None)).expires_ms is None  # it was never revoked
    await world.ledger.authenticate(key.presented)
    await world.ledger.expire_key(key.record.key_id, 0)
    with pytest.raises(Unauthenticated):
        await world.ledger.authenticate(key.presented)
    assert world.audit.names().count("key.expiry_changed") == 3
    assert world.audit.events[1].data["expires_ms"] == expiring.expires_ms


async def test_a_revoked_key_does_not_come_back(world: World) -> None:
    key = await world.key()
    await world.ledger.revoke_key(key.record.key_id)
    with pytest.raises(InvalidRequest):
        await world.ledger.expire_key(key.record.key_id, None)
    with pytest.raises(NotFound):
        await world.ledger.expire_key(KeyId("key_nobody"), 5)
