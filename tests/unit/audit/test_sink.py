"""The sink as a whole, on a real disk: what is refused, what is proven, what happens beside."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from deployments.audit.deployment import open_writer
from deployments.audit.merkle import leaf_hash, verify_consistency
from deployments.audit.notes import COSIGNATURE_V1, generate_key, parse_checkpoint, parse_note, parse_verifier_key
from deployments.audit.proofs import Trust, parse_inclusion_proof, verify_inclusion_proof
from deployments.audit.recover import CorruptLog
from deployments.audit.settings import AuditSettings, BodySettings, ExportSettings, WitnessSettings
from deployments.audit.sink import Sink
from deployments.audit.verify import verify
from deployments.clock import SystemClock
from deployments.errors import AuditRefused, AuditUnavailable, NotFound, WitnessStale
from deployments.ports import AuditEvent, Body, BodyField, RequestId, TenantId

ACME = TenantId("acme")
FAST = AuditSettings(checkpoint_interval_ms=10, canary_interval_s=0.001)
NOBODY = WitnessSettings(url="http://127.0.0.1:9", key=str(generate_key("w.test/1", COSIGNATURE_V1).verifier))
Open = Callable[..., Sink]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    sinks: list[Sink] = []

    def open_sink(settings: AuditSettings = FAST, directory: Path = tmp_path / "audit") -> Sink:
        clock = SystemClock()
        sinks.append(Sink(directory, settings, clock, partial(open_writer, directory, settings, "test", clock)))
        return sinks[-1]

    yield open_sink
    for sink in sinks:
        await sink.close()


def revoked(number: int, tenant: str = ACME) -> AuditEvent:
    return AuditEvent(f"key.revoked:{number}", "key.revoked", 1, TenantId(tenant), "p", data={"key_id": f"k{number}"})


def proposed(number: int, arguments: bytes = b"ls") -> AuditEvent:
    body = Body(sha256(arguments).digest(), arguments)
    return AuditEvent(
        f"call:{number}", "tool_call.proposed", SystemClock().now_ms(), ACME, "p", RequestId("r"),
        data={"gate_call_id": f"g{number}", "tool": "shell"}, bodies={BodyField.ARGUMENTS: body},
    )  # fmt: skip


def released(risk: str, profile: str = "ops") -> AuditEvent:
    data = {"gate_call_id": "g", "tool": "shell", "risk": risk, "action_digest": "0" * 64, "profile": profile}
    return AuditEvent(f"released:{risk}:{profile}", "tool_call.released", 1, ACME, "p", data=data)


def consumed() -> AuditEvent:
    data = {"approval_id": "a", "action_digest": "0" * 64, "risk": "R2"}
    return AuditEvent("consumed", "permit.consumed", 1, ACME, "p", data=data)


# --- what is appended ----------------------------------------------------------------------------------------------


async def test_a_receipt_is_proven_to_somebody_who_pinned_the_key(opened: Open) -> None:
    sink = opened()
    receipts = await sink.append([revoked(number) for number in range(300)])
    proven = await sink.prove(receipts[123].index)
    key = parse_verifier_key((await sink.verifier_keys())[0])
    proof = parse_inclusion_proof(proven.proof)
    trusted = verify_inclusion_proof(proof, receipts[123].index, receipts[123].leaf_hash, Trust(key.name, (key,)))
    assert trusted.checkpoint.size >= receipts[-1].index + 1


async def test_records_come_back_as_they_were_hashed_and_by_tenant(opened: Open) -> None:
    sink = opened()
    receipts = await sink.append([revoked(1), revoked(2, "other"), revoked(3)])
    page = await sink.records(receipts[0].index, 10, ACME)
    assert [each.receipt for each in page.records] == [receipts[0], receipts[2]]
    assert all(leaf_hash(each.entry) == each.receipt.leaf_hash for each in page.records)
    assert page.next is None
    first = await sink.records(receipts[0].index, 1, None)
    assert (len(first.records), first.next) == (1, receipts[1].index)


async def test_a_record_is_found_by_the_id_of_its_event(opened: Open) -> None:
    sink = opened()
    receipts = await sink.append([revoked(1), revoked(2)])
    assert (await sink.find("key.revoked:2")).receipt == receipts[1]
    with pytest.raises(NotFound):
        await sink.find("key.revoked:3")


async def test_the_newest_tree_begins_with_every_older_one(opened: Open) -> None:
    sink = opened()
    await sink.append([revoked(number) for number in range(10)])
    await sink.prove(5)
    old = parse_checkpoint(parse_note(await sink.checkpoint()).text)
    receipts = await sink.append([revoked(number) for number in range(10, 400)])
    await sink.prove(receipts[-1].index)
    found = await sink.consistency(old.size)
    new = parse_checkpoint(parse_note(found.checkpoint).text)
    assert new.size > old.size
    assert verify_consistency(old.size, new.size, old.root, new.root, found.hashes)


async def test_what_is_not_there_is_not_found(opened: Open) -> None:
    sink = opened()
    await sink.append([revoked(1)])
    for asked in (sink.prove(999), sink.tile("tile/0/x001/000"), sink.tile("../head.json"), sink.consistency(999)):
        with pytest.raises(NotFound):
            await asked


async def test_an_id_with_other_content_is_refused_and_recorded_as_an_attempt(opened: Open) -> None:
    sink = opened()
    await sink.append([revoked(1)])
    with pytest.raises(AuditRefused):
        await sink.append([AuditEvent("key.revoked:1", "key.revoked", 1, ACME, "p", data={"key_id": "forged"})])
    page = await sink.records(0, 100, ACME)
    assert b'"kind":"event_conflict"' in page.records[-1].entry
    assert b"forged" not in b"".join(each.entry for each in page.records)


async def test_a_retry_finds_its_first_receipt_although_bodies_are_kept_since(tmp_path: Path, opened: Open) -> None:
    sink = opened()
    event = proposed(1)
    [first] = await sink.append([event])
    await sink.close()
    again = opened(FAST.model_copy(update={"bodies": BodySettings(default="all")}))
    assert await again.append([event]) == [first]


async def test_a_refused_event_leaves_no_key_and_no_body(tmp_path: Path, opened: Open) -> None:
    sink = opened(FAST.model_copy(update={"bodies": BodySettings(default="all")}))
    good = proposed(1)
    bad = AuditEvent("x", "tool_call.proposed", 1, TenantId("new"), "p", data={"no": 1}, bodies=good.bodies)
    with pytest.raises(AuditRefused):
        await sink.append([bad])
    assert not [*(tmp_path / "audit-keys" / "tenants").glob("*.key")]


async def test_closing_signs_everything(tmp_path: Path, opened: Open) -> None:
    slow = AuditSettings(checkpoint_interval_ms=3_600_000, checkpoint_records=10_000)
    sink = opened(slow)
    await sink.append([revoked(number) for number in range(20)])
    await sink.close()
    signed = parse_checkpoint(parse_note((tmp_path / "audit" / "checkpoint").read_bytes()).text)
    report = verify(tmp_path / "audit")
    assert report.ok
    assert signed.size == report.records


# --- witnesses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [released("R2"), released("R3"), consumed()], ids=lambda event: event.event_id)
async def test_no_dangerous_call_leaves_while_no_witness_has_confirmed_the_log(opened: Open, event: AuditEvent) -> None:
    sink = opened(FAST.model_copy(update={"witnesses": [NOBODY]}))
    before = (await sink.head()).size
    with pytest.raises(WitnessStale, match="R2 or R3"):
        await sink.append([revoked(1), event])
    assert (await sink.head()).size == before
    assert (await sink.status()).witness_stale


@pytest.mark.parametrize("event", [released("R0"), released("R1"), released("R3", "observe"), revoked(1)])
async def test_everything_else_goes_on_without_witnesses(opened: Open, event: AuditEvent) -> None:
    sink = opened(FAST.model_copy(update={"witnesses": [NOBODY]}))
    assert len(await sink.append([event])) == 1


async def test_without_witnesses_nothing_is_held_back(opened: Open) -> None:
    sink = opened()
    assert len(await sink.append([released("R3"), consumed()])) == 2
    assert not (await sink.status()).witness_stale


# --- bodies --------------------------------------------------------------------------------------------------------


async def test_shredding_is_recorded_and_proofs_stay(tmp_path: Path, opened: Open) -> None:
    sink = opened(FAST.model_copy(update={"bodies": BodySettings(default="all")}))
    [receipt] = await sink.append([proposed(1, b"secret plan")])
    assert [*(tmp_path / "audit" / "bodies").rglob("dk_*/*")]
    shredded = await sink.shred(ACME, "operator", "CHG-9", "contract ended")
    [record] = (await sink.records(shredded.index, 1, ACME)).records
    assert b'"change_id":"CHG-9"' in record.entry
    assert not [*(tmp_path / "audit" / "bodies").rglob("dk_*/*")]
    assert (await sink.prove(receipt.index)).receipt == receipt
    await sink.close()
    report = verify(tmp_path / "audit")
    assert report.ok, [check for check in report.checks if check.failures]
    assert report.to_json()["bodies"] == {"present": 0, "shredded": 1, "pruned": 0}


async def test_a_tenant_without_bodies_cannot_be_shredded(opened: Open) -> None:
    with pytest.raises(NotFound):
        await opened().shred(TenantId("nobody"), "operator", "CHG-9", "")


# --- export, rollback ----------------------------------------------------------------------------------------------


async def test_what_is_acknowledged_is_exported(tmp_path: Path, opened: Open) -> None:
    settings = FAST.model_copy(update={"export": ExportSettings(target=str(tmp_path / "copy"), interval_s=0.01)})
    sink = opened(settings)
    await sink.append([revoked(number) for number in range(700)])
    while ((await sink.status()).exported_size or 0) < (await sink.head()).size:
        await asyncio.sleep(0.01)
    report = verify(tmp_path / "copy")
    assert report.ok
    assert report.records == (await sink.head()).size


@pytest.mark.parametrize("place", ["copy", "export"])
async def test_a_volume_that_was_rolled_back_does_not_open(tmp_path: Path, opened: Open, place: str) -> None:
    log, elsewhere = tmp_path / "audit", tmp_path / "elsewhere"
    change: dict[str, object] = {"checkpoint_copies": [str(elsewhere)]}
    if place == "export":
        change = {"export": ExportSettings(target=str(elsewhere), interval_s=3_600.0)}
    settings = FAST.model_copy(update=change)
    first = opened(settings)
    await first.append([revoked(1)])
    await first.close()
    snapshot = tmp_path / "snapshot"
    shutil.copytree(log, snapshot)
    second = opened(settings)
    await second.append([revoked(2), revoked(3)])
    await second.close()
    shutil.rmtree(log)
    shutil.copytree(snapshot, log)
    with pytest.raises(CorruptLog, match="records"):
        opened(settings)
    assert {path.name: path.read_bytes() for path in (log / "segments").iterdir()} == {
        path.name: path.read_bytes() for path in (snapshot / "segments").iterdir()
    }


class JumpingClock(SystemClock):
    """A wall clock that goes back a day each time it is read."""

    def __init__(self) -> None:
        self._now_ms = super().now_ms()

    def now_ms(self) -> int:
        self._now_ms -= 86_400_000
        return self._now_ms


async def test_a_clock_that_jumps_changes_neither_the_order_nor_the_proofs(tmp_path: Path) -> None:
    directory, clock = tmp_path / "audit", JumpingClock()
    sink = Sink(directory, FAST, clock, partial(open_writer, directory, FAST, "test", clock))
    try:
        receipts = [(await sink.append([replace(revoked(number), at_ms=clock.now_ms())]))[0] for number in range(20)]
        assert [each.index for each in receipts] == [*range(receipts[0].index, receipts[0].index + 20)]
        assert (await sink.check()).problem is None
        assert (await sink.prove(receipts[-1].index)).receipt == receipts[-1]
    finally:
        await sink.close()
    assert verify(directory).ok


# --- health --------------------------------------------------------------------------------------------------------


async def test_the_canary_is_appended_read_back_and_proven(opened: Open) -> None:
    sink = opened()
    checked = await sink.check()
    assert checked.problem is None
    assert checked.index is not None
    assert checked.checkpoint_size is not None
    assert checked.checkpoint_size > checked.index


async def test_one_canary_serves_everybody_who_asks_meanwhile(opened: Open) -> None:
    sink = opened(FAST.model_copy(update={"canary_interval_s": 3_600.0}))
    first = await sink.check()
    again = await asyncio.gather(*(sink.check() for _ in range(20)))
    assert all(each == first for each in again)


async def test_a_closed_log_fails_its_canary_and_its_health_check(opened: Open) -> None:
    sink = opened()
    await sink.append([revoked(1)])
    await sink.close()
    checked = await sink.check()
    assert checked.problem == "The audit log is closed."
    with pytest.raises(AuditUnavailable):
        await sink.check_health()
