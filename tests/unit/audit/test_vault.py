import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audit import vault as vault_module
from deployments.audit.files import SystemDisk
from deployments.audit.record import validate
from deployments.audit.secrets_scan import ScanFailed
from deployments.audit.settings import AuditSettings, BodySettings
from deployments.audit.vault import BodyState, BodyUnreadable, Removal, Vault, open_reader
from deployments.audit.vault_keys import VaultRefused
from deployments.clock import FixedClock
from deployments.errors import AuditDiskFull, AuditRefused, AuditUnavailable, NotFound
from deployments.ports import AuditEvent, Body, BodyField, JsonValue, TenantId
from tests.unit.audit.vaults import (
    ALL,
    DAY_MS,
    NONE,
    NOW_MS,
    blob_files,
    body_of,
    bytes_of,
    key_files,
    open_vault,
    record_of,
    said,
)

ACME = TenantId("acme")
PROMPT = BodyField.PROMPT


def commit(vault: Vault, event: AuditEvent) -> AuditEvent:
    [committed] = vault.commit([event])
    return committed


def state_of(vault: Vault, event: AuditEvent, field: BodyField = PROMPT) -> BodyState:
    with pytest.raises(BodyUnreadable) as caught:
        vault.open_body(record_of(event), field)
    return caught.value.state


# --- what a record gets ------------------------------------------------------------------------------------------


def test_a_body_becomes_a_commitment_and_nothing_else_by_default(tmp_path: Path) -> None:
    committed = commit(open_vault(tmp_path, NONE), said())
    assert committed.bodies == {}
    assert committed.data.keys() == {*said().data, "prompt_commit"}
    assert blob_files(tmp_path) == []
    validate(committed)


def test_a_kept_body_reads_back(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    committed = commit(vault, said(text="what was said"))
    validate(committed)
    assert vault.open_body(record_of(committed), PROMPT) == b"what was said"
    assert open_vault(tmp_path).open_body(record_of(committed), PROMPT) == b"what was said"


def test_neither_the_record_nor_a_file_holds_what_was_said_or_whose_it_is(tmp_path: Path) -> None:
    committed = commit(open_vault(tmp_path), said(text="the quarterly figures", tenant="umbrella"))
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"quarterly" in text or b"umbrella" in text for text in texts)
    assert not any("umbrella" in str(path) for path in tmp_path.rglob("*"))
    assert b"quarterly" not in bytes_of(committed)


@pytest.mark.parametrize(
    ("mode", "kept"), [("none", set[str]()), ("arguments", {"arguments"}), ("all", {"arguments", "prompt", "output"})]
)
def test_the_tenants_mode_says_which_bodies_are_kept(tmp_path: Path, mode: str, kept: set[str]) -> None:
    bodies = BodySettings.model_validate({"default": "none", "tenants": {"acme": mode}})
    vault = open_vault(tmp_path, AuditSettings(bodies=bodies, min_free_bytes=0))
    fields = [BodyField.ARGUMENTS, BodyField.PROMPT, BodyField.OUTPUT]
    committed = commit(vault, replace(said(), bodies={field: body_of(field.value) for field in fields}))
    assert {str(field) for field in fields if f"{field}_body" in committed.data} == kept
    assert all(f"{field}_commit" in committed.data for field in fields)


def test_a_body_that_is_not_sent_or_too_large_is_only_committed_to(tmp_path: Path) -> None:
    vault = open_vault(tmp_path, AuditSettings(bodies=BodySettings(default="all", max_body_bytes=4), min_free_bytes=0))
    assert "prompt_body" in commit(vault, said("e1", "1234")).data
    assert "prompt_body" not in commit(vault, said("e2", "12345")).data
    assert "prompt_body" not in commit(vault, said("e3", "1234", kept=False)).data


def test_a_body_that_is_not_what_its_digest_says_is_refused(tmp_path: Path) -> None:
    event = replace(said(), bodies={PROMPT: Body(sha256(b"this").digest(), b"that")})
    with pytest.raises(AuditRefused):
        open_vault(tmp_path).commit([event])
    assert blob_files(tmp_path) == []


def test_a_secret_is_masked_in_what_is_kept_and_counted(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    text = "password='hunter22' and ghp_" + "a1B2c3D4e5F6" * 3
    committed = commit(vault, said(text=text))
    assert vault.open_body(record_of(committed), PROMPT) == b"password='[masked:password]' and [masked:github_token]"
    body = committed.data["prompt_body"]
    assert isinstance(body, dict)
    assert body["masked"] == 2
    assert vault.check_body(record_of(committed), PROMPT, text.encode())


def test_a_body_that_could_not_be_scanned_is_not_kept_and_a_retry_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise ScanFailed

    vault = open_vault(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(vault_module, "mask", failing)
        committed = commit(vault, said())
    assert "prompt_body" not in committed.data
    assert commit(vault, said()) == committed
    assert vault.status().unscanned == 1
    assert vault.check_body(record_of(committed), PROMPT, b"what was said")


# --- the same event, the same bytes ------------------------------------------------------------------------------


def test_an_event_that_comes_again_has_the_same_bytes_after_a_restart_too(tmp_path: Path) -> None:
    first = bytes_of(commit(open_vault(tmp_path), said()))
    vault = open_vault(tmp_path)
    assert bytes_of(commit(vault, said())) == first
    assert bytes_of(commit(vault, said())) == first
    assert len(blob_files(tmp_path)) == 1


def test_other_events_fields_tenants_and_words_have_other_commitments_and_blobs(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    events = [
        said("e1"),
        said("e2"),
        said("e1", field=BodyField.OUTPUT),
        said("e1", tenant="other"),
        said("e1", "other words"),
    ]
    found = [(field, value) for event in vault.commit(events) for field, value in event.data.items()]
    commits = {str(value) for field, value in found if field.endswith("_commit")}
    assert len(commits) == len(blob_files(tmp_path)) == len(events)


def test_an_event_gets_the_key_of_its_own_time_whenever_it_is_committed(tmp_path: Path) -> None:
    clock = FixedClock()
    vault = open_vault(tmp_path, clock=clock)
    before = commit(vault, said("e1", at_ms=clock.ms))
    clock.advance(1_000)
    new_key = vault.rotate(ACME)
    after = commit(vault, said("e2", at_ms=clock.ms))
    body = after.data["prompt_body"]
    assert isinstance(body, dict)
    assert body["key_id"] == new_key
    reopened = open_vault(tmp_path, clock=clock)
    assert bytes_of(commit(reopened, said("e1", at_ms=NOW_MS))) == bytes_of(before)
    for committed in (before, after):
        assert reopened.open_body(record_of(committed), PROMPT) == b"what was said"
        assert reopened.check_body(record_of(committed), PROMPT, b"what was said")


def test_the_last_of_several_keys_made_at_once_is_the_newest(tmp_path: Path) -> None:
    clock = FixedClock()
    vault = open_vault(tmp_path, clock=clock)
    commit(vault, said("e1"))
    *_, last = [vault.rotate(ACME) for _ in range(12)]
    for each in (vault, open_vault(tmp_path, clock=clock)):
        body = commit(each, said("e2", at_ms=clock.ms + 1_000)).data["prompt_body"]
        assert isinstance(body, dict)
        assert body["key_id"] == last


def test_what_the_log_has_already_is_answered_whatever_settings_and_keys_are_now(tmp_path: Path) -> None:
    clock = FixedClock()
    later = NOW_MS + 5_000  # dated by a clock that is ahead: the key of that time is not there yet
    kept = commit(open_vault(tmp_path, ALL, clock), said("e1", at_ms=later))
    bare = commit(open_vault(tmp_path, NONE, clock), said("e2", at_ms=later))
    known = {"e1": kept.data, "e2": bare.data}
    clock.advance(1_000)
    open_vault(tmp_path, ALL, clock).rotate(ACME)
    for now in (NONE, ALL):
        vault = open_vault(tmp_path, now, clock)
        assert vault.commit([said("e1", at_ms=later), said("e2", at_ms=later)], known) == [kept, bare]
        assert vault.commit([said("e1", at_ms=later)], {}) != [kept]
    [forged] = open_vault(tmp_path, ALL, clock).commit([said("e2", "other words", at_ms=later)], known)
    assert forged.data["prompt_commit"] != bare.data["prompt_commit"]


@settings(max_examples=60, deadline=None)
@given(
    tenant=st.text(min_size=1, max_size=60),
    event_id=st.text(min_size=1, max_size=60),
    data=st.binary(max_size=300),
    other=st.binary(max_size=300),
    field=st.sampled_from(BodyField),
    at_ms=st.integers(0, 2**53 - 1),
)
def test_every_body_of_every_tenant_goes_round(
    tmp_path_factory: pytest.TempPathFactory,
    tenant: str,
    event_id: str,
    data: bytes,
    other: bytes,
    field: BodyField,
    at_ms: int,
) -> None:
    root = tmp_path_factory.mktemp("vault")
    vault = open_vault(root)
    event = said(event_id, data, field=field, tenant=tenant, at_ms=at_ms)
    committed = commit(vault, event)
    record = record_of(committed)
    reopened = open_vault(root)
    assert commit(reopened, event) == committed
    assert reopened.check_body(record, field, data)
    assert reopened.check_body(record, field, other) is (other == data)
    body = committed.data.get(f"{field}_body")
    if isinstance(body, dict) and body["masked"] == 0:
        assert reopened.open_body(record, field) == data
    shutil.rmtree(root)


@pytest.mark.parametrize(
    "tenant", ["../../escape", "a/b", "..", ".", "con\x00nul", "line\nend", "\ud800", "x" * 1_024, "bodies", " "]
)
def test_no_tenants_name_reaches_a_path(tmp_path: Path, tenant: str) -> None:
    root = tmp_path / "deep" / "deeper"
    vault = open_vault(root)
    committed = commit(vault, said(tenant=tenant))
    assert open_vault(root).open_body(record_of(committed), PROMPT) == b"what was said"
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert {path.name for path in root.iterdir()} == {"audit", "audit-keys"}


@pytest.mark.parametrize("tenant", ["", "x" * 1_025])
def test_a_tenant_that_no_record_can_have_gets_no_key(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(AuditRefused):
        open_vault(tmp_path).commit([said(tenant=tenant)])
    assert key_files(tmp_path) == []


def test_a_time_beyond_the_calendar_is_only_committed_to(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    committed = commit(vault, said(at_ms=2**53 - 1))
    assert "prompt_body" not in committed.data
    assert vault.check_body(record_of(committed), PROMPT, b"what was said")


# --- reading back ------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_a_blob_is_noticed(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    committed = commit(vault, said(text="short"))
    [path] = blob_files(tmp_path)
    blob = path.read_bytes()
    for bit in range(len(blob) * 8):
        changed = bytearray(blob)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert state_of(vault, committed) is BodyState.DAMAGED
    path.write_bytes(blob)
    assert vault.open_body(record_of(committed), PROMPT) == b"short"


def test_a_sound_blob_of_another_record_field_or_tenant_does_not_pass(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    committed = commit(vault, said("e1"))
    for forged in (
        replace(committed, event_id="e2"),
        replace(committed, tenant=TenantId("other")),
        replace(committed, data={**committed.data, "prompt_commit": "0" * 64}),
    ):
        assert state_of(vault, forged) is BodyState.DAMAGED
    moved = {"output_commit": committed.data["prompt_commit"], "output_body": committed.data["prompt_body"]}
    assert state_of(vault, replace(committed, data=moved), BodyField.OUTPUT) is BodyState.DAMAGED


def test_a_blob_that_a_holder_of_the_key_put_in_place_of_a_masked_one_is_noticed(tmp_path: Path) -> None:
    # Its commitment is of the unmasked words, so the digest in the record is all that tells.
    vault = open_vault(tmp_path)
    committed = commit(vault, said("e1", "password='hunter22'"))
    [path] = blob_files(tmp_path)
    commit(vault, said("e1", "password='hunter22', and more"))
    [forged] = [other for other in blob_files(tmp_path) if other != path]
    path.write_bytes(forged.read_bytes())
    assert state_of(vault, committed) is BodyState.DAMAGED


def test_a_blob_cut_anywhere_under_its_own_name_does_not_open(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    committed = commit(vault, said(text="short"))
    [path] = blob_files(tmp_path)
    blob = path.read_bytes()
    body = committed.data["prompt_body"]
    assert isinstance(body, dict)
    for size in range(len(blob)):
        name = sha256(blob[:size]).hexdigest()
        (path.parent / name).write_bytes(blob[:size])
        forged = replace(committed, data={**committed.data, "prompt_body": {**body, "blob": name}})
        assert state_of(vault, forged) is BodyState.DAMAGED


@pytest.mark.parametrize(
    "body",
    [
        None,
        "text",
        {},
        {"blob": "../../../../etc/passwd", "key_id": "dk_0000000000000000", "bytes": 1, "masked": 0},
        {"blob": "0" * 64, "key_id": "../x", "bytes": 1, "masked": 0},
        {"blob": 7, "key_id": ["dk_"], "bytes": 1, "masked": 0},
    ],
)
def test_a_record_that_names_no_blob_of_ours_is_answered_and_no_path_is_followed(
    tmp_path: Path, body: JsonValue
) -> None:
    event = replace(said(), bodies={}, data={"prompt_body": body})
    assert state_of(open_vault(tmp_path), event) in {BodyState.NOT_KEPT, BodyState.DAMAGED}


def test_a_blob_that_is_gone_is_missing_and_its_commitment_still_opens(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    committed = commit(vault, said())
    blob_files(tmp_path)[0].unlink()
    assert state_of(vault, committed) is BodyState.MISSING
    assert vault.check_body(record_of(committed), PROMPT, b"what was said")


def test_a_reader_changes_nothing_and_makes_nothing(tmp_path: Path) -> None:
    committed = commit(open_vault(tmp_path), said())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    reader = open_reader(tmp_path / "audit", tmp_path / "audit-keys")
    assert reader.open_body(record_of(committed), PROMPT) == b"what was said"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(VaultRefused, match="there is no vault key"):
        open_reader(tmp_path / "nowhere", tmp_path / "nothing")
    assert not (tmp_path / "nowhere").exists()


# --- durability --------------------------------------------------------------------------------------------------


class Died(BaseException):
    """The process ends here."""


class TornDisk(SystemDisk):
    """Stops, or fails with an errno, at its n-th call; counts them."""

    def __init__(self, stop_at: int | None = None, error: int | None = None) -> None:
        self.calls = 0
        self.stop_at = stop_at
        self.error = error

    def _step(self) -> None:
        self.calls += 1
        if self.calls - 1 == self.stop_at:
            if self.error is None:
                raise Died
            raise OSError(self.error, os.strerror(self.error))

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self._step()
        return super().open(path, flags, mode)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._step()
        return super().write(descriptor, data[:20])

    def fsync(self, descriptor: int) -> None:
        self._step()
        super().fsync(descriptor)

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        self._step()
        super().make_directory(path, mode)

    def replace(self, source: Path, target: Path) -> None:
        self._step()
        super().replace(source, target)

    def remove(self, path: Path) -> None:
        if self.stop_at is not None and self.error is None and self.calls > self.stop_at:
            raise Died  # a dead process cleans nothing up
        super().remove(path)


EVENTS = [said("e1", "first"), said("e2", "second", at_ms=NOW_MS + DAY_MS)]


def steps(root: Path) -> int:
    """System calls of committing EVENTS with an open vault."""
    disk = TornDisk()
    vault = Vault(root / "audit", root / "audit-keys", ALL, FixedClock(), disk=disk)
    disk.calls = 0
    vault.commit(EVENTS)
    return disk.calls


def test_killed_at_any_step_a_vault_opens_again_and_the_retry_gives_the_same_bytes(tmp_path: Path) -> None:
    total = steps(tmp_path / "count")
    assert total > 12
    for step in range(total):
        root = tmp_path / str(step)
        disk = TornDisk()
        vault = Vault(root / "audit", root / "audit-keys", ALL, FixedClock(), disk=disk)
        disk.calls, disk.stop_at = 0, step
        with pytest.raises(Died):
            vault.commit(EVENTS)
        again = open_vault(root)
        committed = again.commit(EVENTS)
        assert [again.open_body(record_of(event), PROMPT) for event in committed] == [b"first", b"second"]
        assert committed == open_vault(root).commit(EVENTS)
        assert len(blob_files(root)) == 2
        assert not any((root / "audit" / "bodies" / "incoming").iterdir())


def test_nothing_is_committed_before_blobs_and_their_names_are_synced(tmp_path: Path) -> None:
    class Watching(SystemDisk):
        def __init__(self) -> None:
            self.said: list[str] = []
            self.paths: dict[int, Path] = {}

        def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
            descriptor = super().open(path, flags, mode)
            self.paths[descriptor] = path
            return descriptor

        def fsync(self, descriptor: int) -> None:
            self.said.append(f"sync {self.paths[descriptor].name}")
            super().fsync(descriptor)

        def replace(self, source: Path, target: Path) -> None:
            self.said.append(f"name {source.name} {target.parent.name}")
            super().replace(source, target)

    disk = Watching()
    vault = Vault(tmp_path / "audit", tmp_path / "audit-keys", ALL, FixedClock(), disk=disk)
    vault.commit([said()])
    disk.said.clear()
    vault.commit([said("e2")])
    [folder] = {path.parent.name for path in blob_files(tmp_path)}
    assert disk.said == ["sync 000000000001", f"name 000000000001 {folder}", f"sync {folder}"]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_whatever_call_fails_the_caller_hears_of_it(tmp_path: Path, error: int) -> None:
    for step in range(steps(tmp_path / "count")):
        root = tmp_path / str(step)
        disk = TornDisk()
        vault = Vault(root / "audit", root / "audit-keys", ALL, FixedClock(), disk=disk)
        disk.calls, disk.stop_at, disk.error = 0, step, error
        with pytest.raises(AuditUnavailable) as caught:
            vault.commit(EVENTS)
        full = error == errno.ENOSPC
        assert isinstance(caught.value, AuditDiskFull) is full
        disk.stop_at = None
        if full:
            assert len(vault.commit(EVENTS)) == 2
        else:  # what the kernel dropped may look durable to a second sync
            with pytest.raises(AuditUnavailable):
                vault.commit(EVENTS)
            assert "prompt_commit" in commit(vault, said("e3", kept=False)).data
        assert len(open_vault(root).commit(EVENTS)) == 2


def test_without_room_bodies_are_refused_and_commitments_go_on(tmp_path: Path) -> None:
    vault = open_vault(tmp_path, AuditSettings(bodies=BodySettings(default="all"), min_free_bytes=2**62))
    with pytest.raises(AuditDiskFull):
        vault.commit([said()])
    assert "prompt_commit" in commit(vault, said(kept=False)).data
    assert vault.failure is None


def test_a_blob_without_a_record_harms_nobody(tmp_path: Path) -> None:
    # The process died after the blob and before the record: the retry finds blob and bytes as they were.
    first = commit(open_vault(tmp_path), said())
    assert commit(open_vault(tmp_path), said()) == first
    assert len(blob_files(tmp_path)) == 1


def test_only_what_touches_no_file_is_said_not_to_block(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    bare = replace(said(), bodies={})
    assert not vault.blocks([bare])
    assert vault.blocks([said(kept=False)])  # the tenant's first: its key is made
    vault.commit([said(kept=False)])
    assert not vault.blocks([bare, said("e2", kept=False)])
    assert vault.blocks([bare, said("e2")])


def test_threads_store_beside_each_other(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    done: list[AuditEvent] = []

    def work(worker: int) -> None:
        for number in range(10):
            done.extend(vault.commit([said(f"e{worker}-{number}", f"text {worker}", tenant=f"t{number % 3}")]))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(blob_files(tmp_path)) == vault.status().bodies == 40
    assert len(key_files(tmp_path)) == 3
    for event in done:
        assert vault.open_body(record_of(event), PROMPT).startswith(b"text ")


# --- shredding ---------------------------------------------------------------------------------------------------


def shred(vault: Vault, tenant: TenantId = ACME) -> Removal:
    removal = vault.begin_shred(tenant, "key_admin", "CHG-9", "asked for by the tenant")
    vault.finish(removal)
    return removal


def test_after_shredding_bodies_and_commitments_open_no_more_and_no_other_tenants(tmp_path: Path) -> None:
    clock = FixedClock()
    vault = open_vault(tmp_path, clock=clock)
    ours, theirs = vault.commit([said("e1"), said("e2", tenant="other")])
    clock.advance(1)
    removal = shred(vault)
    for each in (vault, open_vault(tmp_path, clock=clock)):
        assert state_of(each, ours) is BodyState.SHREDDED
        with pytest.raises(BodyUnreadable) as caught:
            each.check_body(record_of(ours), PROMPT, b"what was said")
        assert caught.value.state is BodyState.SHREDDED
        assert each.open_body(record_of(theirs), PROMPT) == b"what was said"
        assert each.pending() == []
    assert len(blob_files(tmp_path)) == 1
    assert not {f"{key_id}.key" for key_id in removal.key_ids} & {path.name for path in key_files(tmp_path)}


def test_what_is_recorded_of_a_shredding_fits_the_log_and_says_all(tmp_path: Path) -> None:
    clock = FixedClock()
    vault = open_vault(tmp_path, clock=clock)
    vault.commit([said("e1"), said("e2")])
    clock.advance(1)
    rotated = vault.rotate(ACME)
    removal = vault.begin_shred(ACME, "key_admin", "CHG-9", "asked for by the tenant")
    [event] = removal.events
    validate(event)
    assert (event.name, event.tenant, event.principal) == ("tenant.shredded", "acme", "key_admin")
    assert event.data["key_ids"] == [*removal.key_ids]
    assert rotated in removal.key_ids
    assert (event.data["bodies"], event.data["change_id"]) == (2, "CHG-9")
    assert vault.check_body(record_of(event), BodyField.REASON, b"asked for by the tenant")
    assert vault.commit(removal.events) == [event]


def test_the_next_event_of_a_shredded_tenant_gets_a_fresh_key(tmp_path: Path) -> None:
    clock = FixedClock()
    vault = open_vault(tmp_path, clock=clock)
    commit(vault, said("e1"))
    clock.advance(1)
    removal = shred(vault)
    committed = commit(vault, said("e2", at_ms=clock.ms))
    body = committed.data["prompt_body"]
    assert isinstance(body, dict)
    assert body["key_id"] not in removal.key_ids
    assert open_vault(tmp_path, clock=clock).open_body(record_of(committed), PROMPT) == b"what was said"


def test_a_planned_shredding_survives_the_process_and_is_recorded_once(tmp_path: Path) -> None:
    clock = FixedClock()
    vault = open_vault(tmp_path, clock=clock)
    committed = commit(vault, said("e1"))
    clock.advance(1)
    removal = vault.begin_shred(ACME, "key_admin", None, "why")
    assert vault.begin_shred(ACME, "key_other", "CHG-10") == removal
    clock.advance(5_000)
    again = open_vault(tmp_path, clock=clock)
    assert again.pending() == [removal]
    assert state_of(again, committed) is BodyState.SHREDDED
    fresh = commit(again, said("e2", at_ms=clock.ms))
    again.finish(removal)
    assert again.pending() == open_vault(tmp_path, clock=clock).pending() == []
    assert again.open_body(record_of(fresh), PROMPT) == b"what was said"
    assert len(key_files(tmp_path)) == 1


def test_shredding_may_stop_anywhere_and_is_finished_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    died = 0
    for step in range(8):
        clock, root = FixedClock(), tmp_path / str(step)
        vault = open_vault(root, clock=clock)
        vault.commit([said("e1"), said("e2", at_ms=NOW_MS + DAY_MS)])
        clock.advance(1)
        vault.rotate(ACME)
        removal = vault.begin_shred(ACME, "key_admin")
        really, left = os.fsync, iter(range(step))

        def dying(descriptor: int, left: Iterator[int] = left, really: Callable[[int], None] = really) -> None:
            if next(left, None) is None:
                raise Died
            really(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", dying)
            try:
                vault.finish(removal)
            except Died:
                died += 1
        again = open_vault(root, clock=clock)
        for pending in again.pending():
            assert pending == removal
            again.finish(pending)
        assert again.pending() == []
        assert blob_files(root) == []
        assert len(key_files(root)) == 1
    assert died == 5  # folder of keys, two keys, their folder again, the plan


def test_a_key_file_is_overwritten_before_its_name_goes(tmp_path: Path) -> None:
    clock = FixedClock()
    vault = open_vault(tmp_path, clock=clock)
    commit(vault, said())
    [path] = key_files(tmp_path)
    before = path.read_bytes()
    os.link(path, tmp_path / "copy")
    shred(vault)
    after = (tmp_path / "copy").read_bytes()
    assert len(after) == len(before)
    assert after != before


def test_a_tenant_that_said_nothing_cannot_be_shredded_or_rotated(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    with pytest.raises(NotFound):
        vault.begin_shred(ACME, "key_admin")
    with pytest.raises(NotFound):
        vault.rotate(ACME)
    assert vault.pending() == []


def test_more_keys_than_a_list_holds_take_several_records(tmp_path: Path) -> None:
    clock = FixedClock()
    vault = open_vault(tmp_path, clock=clock)
    commit(vault, said())
    for _ in range(70):
        vault.rotate(ACME)
    removal = vault.begin_shred(ACME, "key_admin")
    for event in removal.events:
        validate(event)
    named = [key_id for event in removal.events for key_id in event.data["key_ids"]]  # type: ignore[union-attr]
    assert named == [*removal.key_ids]
    assert len(named) == 71
    assert len({event.event_id for event in removal.events}) == len(removal.events) == 2


def test_a_body_that_was_being_stored_while_its_tenant_was_shredded_goes_under_the_new_key(tmp_path: Path) -> None:
    class Shredding(SystemDisk):
        vault: Vault | None = None
        removal: Removal | None = None

        def free_bytes(self, directory: Path) -> int:
            # Encrypted already, stored not yet.
            if self.vault is not None and self.removal is None:
                self.removal = self.vault.begin_shred(ACME, "key_admin")
            return super().free_bytes(directory)

    disk, clock = Shredding(), FixedClock()
    vault = Vault(tmp_path / "audit", tmp_path / "audit-keys", ALL, clock, disk=disk)
    commit(vault, said("e0"))
    clock.advance(1)
    disk.vault = vault
    committed = commit(vault, said("e1", at_ms=clock.ms))
    assert disk.removal is not None
    vault.finish(disk.removal)
    assert vault.open_body(record_of(committed), PROMPT) == b"what was said"


# --- retention ---------------------------------------------------------------------------------------------------


def test_a_body_is_kept_for_its_days_and_at_most_one_more(tmp_path: Path) -> None:
    settings_ = AuditSettings(bodies=BodySettings(default="all", retention_days=30), min_free_bytes=0)
    day = NOW_MS // DAY_MS * DAY_MS
    clock = FixedClock(day)
    vault = open_vault(tmp_path, settings_, clock)
    vault.commit([said("e1", at_ms=day), said("e2", at_ms=day + DAY_MS - 1), said("e3", at_ms=day + DAY_MS)])
    clock.ms = day + 31 * DAY_MS - 1
    assert vault.begin_prune() is None
    clock.ms = day + 31 * DAY_MS
    removal = vault.begin_prune()
    assert removal is not None
    [event] = removal.events
    validate(event)
    assert (event.name, event.tenant, event.at_ms) == ("bodies.pruned", "acme", clock.ms)
    assert event.data == {"bodies": 2, "days": 30}
    vault.finish(removal)
    assert len(blob_files(tmp_path)) == vault.status().bodies == 1
    assert vault.begin_prune() is None


def test_each_tenant_has_its_own_retention_and_its_own_count(tmp_path: Path) -> None:
    bodies = BodySettings(default="all", retention_days=30, tenant_retention_days={"short": 1, "long": 400})
    clock = FixedClock()
    vault = open_vault(tmp_path, AuditSettings(bodies=bodies, min_free_bytes=0), clock)
    vault.commit([said(f"{tenant}{n}", tenant=tenant) for tenant in ("short", "acme", "long") for n in range(3)])
    clock.advance(3 * DAY_MS)
    removal = vault.begin_prune()
    assert removal is not None
    assert [(event.tenant, event.data) for event in removal.events] == [("short", {"bodies": 3, "days": 1})]
    vault.finish(removal)
    clock.advance(40 * DAY_MS)
    removal = vault.begin_prune()
    assert removal is not None
    assert [(event.tenant, event.data) for event in removal.events] == [("acme", {"bodies": 3, "days": 30})]
    vault.finish(removal)
    assert vault.status().bodies == 3


def test_a_pruned_body_is_missing_and_its_commitment_opens(tmp_path: Path) -> None:
    clock = FixedClock()
    vault = open_vault(tmp_path, clock=clock)
    committed = commit(vault, said())
    clock.advance(40 * DAY_MS)
    removal = vault.begin_prune()
    assert removal is not None
    vault.finish(removal)
    assert state_of(vault, committed) is BodyState.MISSING
    assert vault.check_body(record_of(committed), PROMPT, b"what was said")


def test_pruning_that_stopped_before_or_after_its_plan_is_finished_with_the_right_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object) -> None:
        raise Died

    for planned in (False, True):
        clock, root = FixedClock(), tmp_path / str(planned)
        vault = open_vault(root, clock=clock)
        vault.commit([said("e1"), said("e2")])
        clock.advance(40 * DAY_MS)
        removal = None
        if planned:
            removal = vault.begin_prune()
        else:
            with monkeypatch.context() as patched:
                patched.setattr(vault_module, "replace_file", dying)
                with pytest.raises(Died):
                    vault.begin_prune()
        # A body of such a day that comes late is a new one, and is not among those counted.
        late = open_vault(root, clock=clock)
        commit(late, said("e3"))
        [pending] = open_vault(root, clock=clock).pending()
        assert removal in (None, pending)
        assert [event.data["bodies"] for event in pending.events] == [2]
        late.finish(pending)
        assert len(blob_files(root)) == 1
        assert late.pending() == open_vault(root, clock=clock).pending() == []


def test_bodies_whose_key_is_not_here_are_left_alone(tmp_path: Path) -> None:
    clock = FixedClock()
    commit(open_vault(tmp_path, clock=clock), said())
    key_files(tmp_path)[0].unlink()
    clock.advance(400 * DAY_MS)
    assert open_vault(tmp_path, clock=clock).begin_prune() is None
    assert len(blob_files(tmp_path)) == 1


def test_status_counts_what_is_kept(tmp_path: Path) -> None:
    clock = FixedClock()
    vault = open_vault(tmp_path, clock=clock)
    assert (vault.status().bodies, vault.status().bytes, vault.status().oldest) == (0, 0, None)
    vault.commit([said("e1"), said("e2", at_ms=NOW_MS + DAY_MS, tenant="other")])
    for each in (vault, open_vault(tmp_path, clock=clock)):
        status = each.status()
        assert (status.bodies, status.tenants) == (2, 2)
        assert status.bytes == sum(path.stat().st_size for path in blob_files(tmp_path))
        assert status.oldest is not None
        assert status.oldest.isoformat() == "2026-01-01"


# --- keys --------------------------------------------------------------------------------------------------------


def test_keys_lie_where_only_their_owner_reads(tmp_path: Path) -> None:
    commit(open_vault(tmp_path), said())
    for path in (tmp_path / "audit-keys").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert (tmp_path / "audit-keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_vault_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    open_vault(tmp_path)
    (tmp_path / "audit-keys" / "vault.key").chmod(mode)
    with pytest.raises(VaultRefused, match="open to others"):
        open_vault(tmp_path)


@pytest.mark.parametrize("text", [b"", b"\n", b"00" * 31, b"00" * 33, b"zz" * 32, b"AB" * 32, b"\xff" * 64])
def test_a_vault_key_that_is_none_is_refused(tmp_path: Path, text: bytes) -> None:
    open_vault(tmp_path)
    (tmp_path / "audit-keys" / "vault.key").write_bytes(text)
    with pytest.raises(VaultRefused, match="not 32 bytes"):
        open_vault(tmp_path)


def test_a_missing_vault_key_is_never_replaced_by_a_new_one(tmp_path: Path) -> None:
    commit(open_vault(tmp_path), said())
    key = tmp_path / "audit-keys" / "vault.key"
    key.unlink()
    with pytest.raises(VaultRefused, match="restore it"):
        open_vault(tmp_path)
    for path in key_files(tmp_path):  # all keys gone: the log still knows that there was one
        path.unlink()
    with pytest.raises(VaultRefused, match="restore it"):
        open_vault(tmp_path)
    assert not key.exists()


def test_another_vaults_key_is_refused_also_without_the_mark_in_the_log(tmp_path: Path) -> None:
    commit(open_vault(tmp_path), said())
    key = tmp_path / "audit-keys" / "vault.key"
    key.write_bytes(b"11" * 32 + b"\n")
    with pytest.raises(VaultRefused, match="not the one"):
        open_vault(tmp_path)
    (tmp_path / "audit" / "bodies" / "vault.check").unlink()
    with pytest.raises(VaultRefused, match="does not open"):
        open_vault(tmp_path)


def test_every_flipped_bit_of_a_wrapped_key_is_refused(tmp_path: Path) -> None:
    commit(open_vault(tmp_path), said())
    [path] = key_files(tmp_path)
    text = path.read_bytes()
    for bit in range(len(text) * 8):
        changed = bytearray(text)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(VaultRefused):
            open_vault(tmp_path)


def test_a_configured_vault_key_is_used_and_never_made(tmp_path: Path) -> None:
    key = tmp_path / "mounted.key"
    configured = AuditSettings(bodies=BodySettings(default="all"), vault_key_file=str(key), min_free_bytes=0)
    with pytest.raises(VaultRefused, match="no vault key"):
        open_vault(tmp_path, configured)
    assert not key.exists()
    key.write_text("ab" * 32)
    key.chmod(0o440)  # as Kubernetes mounts a secret for a group
    committed = commit(open_vault(tmp_path, configured), said())
    assert open_vault(tmp_path, configured).open_body(record_of(committed), PROMPT) == b"what was said"
    assert not (tmp_path / "audit-keys" / "vault.key").exists()
    key.chmod(0o444)
    with pytest.raises(VaultRefused, match="open to others"):
        open_vault(tmp_path, configured)


def test_a_key_that_was_being_made_in_a_crash_is_swept_away(tmp_path: Path) -> None:
    open_vault(tmp_path)
    torn = tmp_path / "audit-keys" / "tenants" / "dk_0000000000000000.key.new"
    torn.write_bytes(b"{")
    open_vault(tmp_path)
    assert not torn.exists()


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    commit(vault, said())
    removal = vault.begin_shred(ACME, "key_admin")
    (tmp_path / "audit" / "bodies" / "removals" / f"{removal.removal_id}.json").write_bytes(b"[]")
    with pytest.raises(VaultRefused, match="plan"):
        open_vault(tmp_path)
