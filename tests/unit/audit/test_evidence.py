"""The evidence package: what is in it, that it holds, and that every change to it is found, twice."""

import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from deployments.audit import evidence_verify
from deployments.audit.change import Change, Joins, decode, select, summarize
from deployments.audit.change_report import Data, Heading, Items, Table, Text, to_html, to_markdown
from deployments.audit.evidence import (
    MANIFEST_FILE,
    BadEvidence,
    NoSuchChange,
    Package,
    check,
    collect,
    files_of,
    manifest_of,
    write,
)
from deployments.audit.export import CHECKPOINT_FILE, KEYS_FILE, WITNESSED_FILE, Exporter
from deployments.audit.merkle import leaf_hash
from deployments.audit.notes import parse_note
from deployments.audit.proofs import parse_inclusion_proof, prove_inclusion
from deployments.audit.targets import DirectoryTarget, ExportFailed, ExportRefused
from deployments.audit.tiles import TileReader, entries_path, tile_path
from deployments.clock import FixedClock
from deployments.ports import AuditEvent, JsonValue
from serve_app.cli import audit_evidence
from tests.unit.audit.flows import (
    CHANGE,
    FIRST_MS,
    approval,
    asked,
    call,
    change_entries,
    change_events,
    closed,
    consumed,
    entries_of,
    finished,
    released,
    reported,
    rolled_back,
    routed_in,
)
from tests.unit.audit.logs import D1, D2, D3, event
from tests.unit.audit.statics import LOG, OTHER_LOG, W1, W2, StaticLog, signed

KEY = str(LOG.verifier)
HOSTILE = "</code><script>alert(1)</script>`|\n# Approved by everybody\n\x1b[31m\u202e**bold** <b>&amp;"


def log_of(directory: Path, events: Sequence[AuditEvent]) -> StaticLog:
    log = StaticLog(directory)
    log.grow(*entries_of(events))
    log.sign()
    return log


def collected(log: StaticLog, change_id: str = CHANGE, tenant: str | None = None) -> Package:
    return collect(DirectoryTarget(log.directory), change_id, FIRST_MS, tenant)


def incident(**data: JsonValue) -> AuditEvent:
    return event("incident.opened", "i1", **{"incident_id": "inc_1", "kind": "x", "severity": "low", **data})


def packed(package: Package, directory: Path) -> Path:
    write(package, directory)
    return directory


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> StaticLog:
    found = StaticLog(tmp_path_factory.mktemp("log") / "audit")
    found.grow(*change_entries())
    found.sign_witnessed(W1, W2)
    return found


@pytest.fixture(scope="module")
def whole(log: StaticLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good package; nobody writes to it."""
    return packed(collected(log), tmp_path_factory.mktemp("whole") / "evidence")


@pytest.fixture
def package(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "evidence")


def run_verify(package: Path, *arguments: str) -> tuple[int, str]:
    """The stand-alone checker as an auditor runs it: nothing installed, nothing of ours on the path."""
    command = [sys.executable, "-I", "-S", str(package / "verify.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=package.parent)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def both_find(package: Path, said: str) -> None:
    """Both checkers refuse the package; `check` with these words."""
    with pytest.raises(BadEvidence, match=said):
        check(package)
    assert not evidence_verify.check(str(package), "")


def rehash(package: Path) -> None:
    """What a forger does last: a MANIFEST that fits."""
    paths = [path for path in package.rglob("*") if path.is_file() and path.name != MANIFEST_FILE]
    files = {path.relative_to(package).as_posix(): path.read_bytes() for path in paths}
    (package / MANIFEST_FILE).write_bytes(manifest_of(files))


def flips(data: bytes) -> Iterator[bytes]:
    """`data` with one byte changed, for every byte."""
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


# --- what is in it -----------------------------------------------------------------------------------------------


def test_every_record_of_the_change_is_there_and_no_other(log: StaticLog) -> None:
    found = collected(log)
    assert [record.record["name"] for record in found.records] == [
        "route.decided",
        "tool_call.proposed",
        "tool_call.classified",
        "approval.requested",
        "tool_call.held",
        "generation.finished",
        "approval.planned",
        "approval.voted",
        "approval.granted",
        "tool_call.proposed",
        "tool_call.classified",
        "permit.consumed",
        "tool_call.released",
        "generation.finished",
        "action.reported",
        "rollback.reported",
        "change.closed",
    ]
    assert [log.entries[record.index] for record in found.records] == [record.entry for record in found.records]


def test_a_package_has_these_files(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
        MANIFEST_FILE,
        "checkpoint",
        "evidence.json",
        "log.vkey",
        "proofs",
        "report.html",
        "report.md",
        "verify.py",
    ]


def test_sha256sum_reads_the_manifest(whole: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "--quiet", MANIFEST_FILE], cwd=whole, check=False)
    assert done.returncode == 0


def test_incidents_rollouts_and_configurations_of_the_change_belong_to_it(tmp_path: Path) -> None:
    events = [
        event("incident.opened", "i1", incident_id="inc_1", kind="latency", severity="high", approval_id="apr_1"),
        event("config.changed", "c1", config_digest=D1, change_id=CHANGE),
        event("policy.changed", "p1", policy_digest=D3, rule_set="ops", change_id=CHANGE),
        event("rollout.started", "r1", rollout_id="ro_1", kind="model", change_id=CHANGE),
        event("rollout.promoted", "r2", rollout_id="ro_1", kind="model", share_percent=25),
        event("rollout.started", "r3", rollout_id="ro_2", kind="model"),
        *asked(),
        event("incident.updated", "i2", incident_id="inc_1", title="slow"),
        event("incident.opened", "i3", incident_id="inc_2", kind="latency", severity="low"),
        event("bypass.attempted", "b1", kind="held_call_executed", gate_call_id="gc_1"),
    ]
    names = [str(found.record["event_id"]) for found in collected(log_of(tmp_path, events)).records]
    assert [name for name in names if name[:2] in {"i1", "i2", "i3", "c1", "p1", "r1", "r2", "r3", "b1"}] == [
        "i1",
        "c1",
        "p1",
        "r1",
        "r2",
        "i2",
        "b1",
    ]


def test_what_a_rollout_was_judged_by_is_in_the_report(tmp_path: Path) -> None:
    of = {"rollout_id": "ro_1", "kind": "model", "change_id": CHANGE, "rules_digest": D1}
    registered = {"kind": "model", "model": "gpt", "revision": D1, "signed": True, "change_id": CHANGE}
    asked = {"cases": 40, "candidate_passed": 38, "baseline_passed": 39, "p_value": 0.5, "p_needed": 0.0005}
    events = [
        event("rollout.registered", "a1", artefact_files=3, artefact_bytes=1_000, **registered),
        event("rollout.started", "r1", **of, rules=["shares: 5 25 100", "eval_cases: 40"]),
        event("rollout.promoted", "r2", **of, share_percent=5, **asked, families=["code: 9 of 10, before 10"]),
        event("rollout.rolled_back", "r3", **of, reason="worse", figures=["error: bad 60 of 200, before 1 of 90"]),
    ]
    package = collected(log_of(tmp_path, events))
    change = summarize(CHANGE, [each.record for each in package.records])
    [rollout], [artefact] = change.rollouts, change.registrations
    assert (artefact.files, artefact.size, artefact.signed, artefact.revision) == (3, 1_000, True, D1)
    assert rollout.evaluation == "38 of 40 cases, 39 before; p 0.5, goes back at 0.0005"
    assert (rollout.reason, rollout.figures) == ("worse", ["error: bad 60 of 200, before 1 of 90"])
    assert rollout.rules == ["shares: 5 25 100", "eval_cases: 40"]
    report = files_of(package)["report.md"].decode()
    for text in ("38 of 40 cases, 39 before", "bad 60 of 200", "eval_cases: 40", "Registered by", "9 of 10, before 10"):
        assert text in report, text


def test_a_record_that_names_another_change_is_shown_but_leads_no_further(tmp_path: Path) -> None:
    events = [
        *asked(),
        event(
            "incident.opened",
            "i1",
            incident_id="inc_1",
            kind="x",
            severity="low",
            approval_id="apr_1",
            change_id="CHG-9",
        ),
        event("incident.updated", "i2", incident_id="inc_1", title="of the other change"),
        event("change.closed", "other", change_id="CHG-9", outcome="failed"),
    ]
    found = collected(log_of(tmp_path, events))
    assert [record.record["event_id"] for record in found.records][-1] == "i1"
    points = summarize(CHANGE, [record.record for record in found.records]).points
    assert "incident.opened names another change: CHG-9" in [point.text for point in points]


def test_only_whole_ids_join(tmp_path: Path) -> None:
    events = [*asked(), *asked("CHG-1234", "apr_12", "gc_12"), *asked("XCHG-123", "apr_13", "gc_13")]
    assert len(collected(log_of(tmp_path, events)).records) == 7


def test_a_tenants_records_and_the_systems_are_told_apart_from_others(tmp_path: Path) -> None:
    mine = [*asked(), *released()]
    others = [replace(found, tenant=type(found.tenant)("zeta")) for found in asked(CHANGE, "apr_2", "gc_20")]
    log = log_of(tmp_path, [*mine, *others, closed()])
    assert {found.record["tenant"] for found in collected(log, tenant="acme").records} == {"acme", "system"}
    found = collected(log)
    points = summarize(CHANGE, [record.record for record in found.records]).points
    assert "records of several tenants name this change id: it may be several changes" in [
        point.text for point in points
    ]


def test_a_change_with_many_calls_is_found_whole(tmp_path: Path) -> None:
    calls = [found for number in range(100) for found in asked(CHANGE, f"apr_{number}", f"gc_{number}")]
    assert len(collected(log_of(tmp_path, [*calls, *asked("CHG-9", "x", "y")])).records) == 700


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(range(12)))
def test_the_order_of_records_does_not_decide_what_belongs(order: list[int]) -> None:
    some = [
        *asked()[:5],
        *asked("CHG-9", "apr_9", "gc_9")[:4],
        *asked()[6:],
        finished("x", "req-x"),
        reported("failed", "gc_1"),
    ]
    records = [decode(entry) for entry in entries_of([some[place] for place in order])]
    found = {str(record["event_id"]) for record, _ in select(CHANGE, None, records)}
    wanted = {some[place].event_id for place in (0, 1, 2, 3, 4, 9, 11)}
    assert found == wanted


def test_an_entry_that_cannot_belong_is_recognised_without_decoding_it() -> None:
    joins = Joins('CHG "1" \u00e9')
    entry = entries_of([closed(title="x")])[0].replace(b'"CHG-123"', '"CHG \\"1\\" \u00e9"'.encode())
    assert joins.may_belong(entry)
    assert joins.take(decode(entry)) == "change_id"
    assert not joins.may_belong(entries_of([closed()])[0])


def test_a_change_that_nobody_named_is_not_found(log: StaticLog) -> None:
    with pytest.raises(NoSuchChange, match="none of the log's 332 records names the change CHG-124"):
        collected(log, "CHG-124")


def test_the_checkpoint_that_most_parties_signed_is_taken_if_it_covers_the_change(tmp_path: Path) -> None:
    log = StaticLog(tmp_path)
    log.grow(*entries_of(asked()))
    witnessed = log.sign_witnessed(W1)
    log.grow(*[entries_of([*asked(), routed_in("later")])[-1]])
    log.sign()
    assert collected(log).note == witnessed
    log.grow(*[entries_of([*asked(), routed_in("later"), closed()])[-1]])
    newest = log.sign()
    assert collected(log).note == newest


def test_signatures_that_nobody_can_check_are_left_out(tmp_path: Path) -> None:
    log = StaticLog(tmp_path, witnesses=(W1,))
    log.grow(*entries_of(asked()))
    log.sign(W1, W2)
    package = collected(log)
    assert [found.name for found in parse_note(package.note).signatures] == [LOG.name, W1.name]
    write(package, tmp_path / "evidence")
    check(tmp_path / "evidence", KEY)


# --- what it is made from ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [entries_path(0), tile_path(0, 0), entries_path(1, 76), tile_path(0, 1, 76)])
def test_no_evidence_is_made_from_a_damaged_log(log: StaticLog, tmp_path: Path, path: str) -> None:
    damaged = shutil.copytree(log.directory, tmp_path / "audit")
    data = (damaged / path).read_bytes()
    (damaged / path).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BadEvidence, match="the log's tiles"):
        collect(DirectoryTarget(damaged), CHANGE, FIRST_MS)


def test_no_evidence_is_made_from_forged_tiles(log: StaticLog, tmp_path: Path) -> None:
    forged = StaticLog(tmp_path / "forged")
    forged.grow(b"forged", *log.entries[1:])
    forged.sign()
    (forged.directory / CHECKPOINT_FILE).write_bytes((log.directory / CHECKPOINT_FILE).read_bytes())
    with pytest.raises(BadEvidence, match="another root"):
        collect(DirectoryTarget(forged.directory), CHANGE, FIRST_MS)
    mixed = shutil.copytree(log.directory, tmp_path / "mixed")
    for path in (entries_path(0), tile_path(0, 0)):
        (mixed / path).write_bytes((forged.directory / path).read_bytes())
    with pytest.raises(BadEvidence, match="tile/0/000 does not lead to the checkpoint's root"):
        collect(DirectoryTarget(mixed), CHANGE, FIRST_MS)


@pytest.mark.parametrize("size", [300, 400])
def test_no_evidence_is_made_from_a_log_that_signed_two_histories(log: StaticLog, tmp_path: Path, size: int) -> None:
    forked = shutil.copytree(log.directory, tmp_path / "audit")
    (forked / WITNESSED_FILE).write_bytes(signed(size, b"\x01" * 32, [W1, W2]))
    (forked / CHECKPOINT_FILE).write_bytes(signed(332, log.root))
    with pytest.raises(ExportRefused):
        collect(DirectoryTarget(forked), CHANGE, FIRST_MS)


def test_no_evidence_is_made_from_a_record_in_the_wrong_place(tmp_path: Path) -> None:
    log = StaticLog(tmp_path)
    log.grow(*entries_of([routed_in("a"), closed()])[::-1])
    log.sign()
    with pytest.raises(BadEvidence, match="record 0 says that it is record 1"):
        collected(log)


def test_no_evidence_is_made_under_another_key_than_the_given_one(log: StaticLog) -> None:
    with pytest.raises(BadEvidence, match="not the given one"):
        collect(DirectoryTarget(log.directory), CHANGE, FIRST_MS, pinned=str(OTHER_LOG.verifier))


def test_no_evidence_is_made_under_a_checkpoint_that_the_log_did_not_sign(log: StaticLog, tmp_path: Path) -> None:
    forged = shutil.copytree(log.directory, tmp_path / "audit")
    (forged / CHECKPOINT_FILE).write_bytes(signed(332, log.root, key=OTHER_LOG))
    with pytest.raises(ExportRefused, match="not signed by the log's key"):
        collect(DirectoryTarget(forged), CHANGE, FIRST_MS)


def test_a_directory_without_a_log_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match=r"log\.vkey is missing"):
        collect(DirectoryTarget(tmp_path), CHANGE, FIRST_MS)


def test_an_export_gives_the_same_evidence(log: StaticLog, tmp_path: Path) -> None:
    copy = DirectoryTarget(tmp_path / "copy")
    Exporter(copy, FixedClock()).run_once(DirectoryTarget(log.directory))
    assert collect(copy, CHANGE, FIRST_MS) == collected(log)


# --- it holds ----------------------------------------------------------------------------------------------------


def test_a_good_package_passes_both_checkers(log: StaticLog, whole: Path) -> None:
    assert len(check(whole, KEY, DirectoryTarget(log.directory)).records) == 17
    status, said = run_verify(whole, "--key", KEY)
    assert status == 0
    assert said.count("OK      record ") == 17
    assert "OK      cosigned by example.org/w1" in said
    assert said.endswith(f"All 17 records are in the log example.com/log.\nThe log's key: {KEY}\n")


def test_without_a_pinned_key_the_checker_says_what_that_means(whole: Path) -> None:
    status, said = run_verify(whole)
    assert status == 0
    assert "only that the package agrees with itself" in said


def test_both_checkers_refuse_a_package_of_another_log(tmp_path: Path) -> None:
    other = StaticLog(tmp_path / "audit", key=OTHER_LOG)
    other.grow(*change_entries())
    other.sign()
    package = packed(collected(other), tmp_path / "evidence")
    check(package)
    with pytest.raises(BadEvidence, match="not the given one"):
        check(package, KEY)
    status, said = run_verify(package, "--key", KEY)
    assert (status, "not" in said or "BROKEN" in said) == (1, True)


# --- every change is found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["checkpoint", "evidence.json", "log.vkey", "report.md", "report.html", "verify.py", "proofs/41.tlog-proof"]
)
def test_a_file_that_was_changed_is_named(package: Path, path: str) -> None:
    data = (package / path).read_bytes()
    (package / path).write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    both_find(package, f"{path} is not what MANIFEST says")


@pytest.mark.parametrize("path", ["checkpoint", "evidence.json", "report.html", "verify.py", "proofs/41.tlog-proof"])
def test_a_file_that_was_removed_is_missed(package: Path, path: str) -> None:
    (package / path).unlink()
    rehash(package)
    both_find(package, "41" if path.startswith("proofs") else f"{path} is missing")


@pytest.mark.parametrize("path", ["more.txt", "proofs/9.tlog-proof"])
def test_a_file_that_was_added_is_found(package: Path, path: str) -> None:
    (package / path).write_bytes(b"more")
    both_find(package, "is not what MANIFEST says")
    rehash(package)
    both_find(package, f"{path} is not what this version")


def small_package(tmp_path: Path) -> Path:
    log = log_of(tmp_path / "audit", [routed_in("a"), closed(), routed_in("b"), routed_in("c"), routed_in("d")])
    return packed(collected(log), tmp_path / "small")


def test_every_changed_byte_of_a_proof_is_found(tmp_path: Path) -> None:
    package = small_package(tmp_path)
    path = package / "proofs" / "1.tlog-proof"
    sound, note = path.read_bytes(), (package / CHECKPOINT_FILE).read_bytes()
    head, record = checkpoint_of(package), evidence_verify.read_records(str(package))[0]
    assert evidence_verify.check_record(str(package), record, note, head) == (1, "change.closed")
    for changed in flips(sound):
        path.write_bytes(changed)
        rehash(package)
        with pytest.raises(BadEvidence):
            check(package)
        with pytest.raises(evidence_verify.Broken):
            evidence_verify.check_record(str(package), record, note, head)


def test_a_hash_of_a_proof_has_one_spelling(tmp_path: Path) -> None:
    package = small_package(tmp_path)
    path = package / "proofs" / "1.tlog-proof"
    head, _, note = path.read_bytes().partition(b"=\n")
    spelled = head[:-1] + bytes([head[-1] + 1])  # the last digit has two bits that decoding drops
    assert b64decode(spelled[-43:] + b"=") == b64decode(head[-43:] + b"=")
    path.write_bytes(spelled + b"=\n" + note)
    rehash(package)
    both_find(package, "the hashes of a proof are the base64")


def test_a_proof_that_the_manifest_does_not_name_is_found(package: Path) -> None:
    manifest = (package / MANIFEST_FILE).read_text()
    lines = [line for line in manifest.splitlines(keepends=True) if "proofs/41." not in line]
    (package / MANIFEST_FILE).write_text("".join(lines))
    both_find(package, r"proofs/41\.tlog-proof is not what MANIFEST says")


def test_every_changed_byte_of_a_record_is_found(tmp_path: Path) -> None:
    package = small_package(tmp_path)
    path = package / "evidence.json"
    sound, note = path.read_bytes(), (package / CHECKPOINT_FILE).read_bytes()
    head, record = checkpoint_of(package), evidence_verify.read_records(str(package))[0]
    begin = sound.index(b'"records"')
    for changed in flips(sound[begin:]):
        path.write_bytes(sound[:begin] + changed)
        rehash(package)
        with pytest.raises(BadEvidence):
            check(package)
    for changed in flips(record["entry"].encode()):
        with pytest.raises(evidence_verify.Broken):
            evidence_verify.check_record(str(package), {**record, "entry": changed.decode()}, note, head)
    for changed in flips(record["leaf"].encode()):
        with pytest.raises(evidence_verify.Broken):
            evidence_verify.check_record(str(package), {**record, "leaf": changed.decode("latin-1")}, note, head)


def test_every_changed_byte_of_the_checkpoint_is_found(tmp_path: Path) -> None:
    log = StaticLog(tmp_path / "audit")
    log.grow(*entries_of([closed(), routed_in("a")]))
    log.sign(W1)
    package = packed(collected(log), tmp_path / "evidence")
    sound, keys = (package / CHECKPOINT_FILE).read_bytes(), keys_of(package)
    assert evidence_verify.check_checkpoint(sound, keys).size == 2
    proof = package / "proofs" / "0.tlog-proof"
    proven = proof.read_bytes().removesuffix(sound)
    for changed in flips(sound):
        (package / CHECKPOINT_FILE).write_bytes(changed)
        proof.write_bytes(proven + changed)
        rehash(package)
        with pytest.raises(BadEvidence):
            check(package)
        with pytest.raises(evidence_verify.Broken):
            evidence_verify.check_checkpoint(changed, keys)


def keys_of(package: Path) -> list[evidence_verify.Key]:
    return [evidence_verify.Key(line) for line in (package / KEYS_FILE).read_text().splitlines()]


def checkpoint_of(package: Path) -> evidence_verify.Checkpoint:
    return evidence_verify.check_checkpoint((package / CHECKPOINT_FILE).read_bytes(), keys_of(package))


@pytest.mark.parametrize("path", ["report.md", "report.html", "verify.py", "evidence.json", "log.vkey"])
def test_what_is_made_from_the_records_is_made_again_and_compared(package: Path, path: str) -> None:
    data = (package / path).read_text()
    forged = {
        "report.md": data.replace("`alice` approved", "`carol` approved"),
        "report.html": data.replace("alice", "carol"),
        "verify.py": data.replace("return not broken", "return True"),
        "evidence.json": data.replace('"outcome": "succeeded"', '"outcome": "failed"', 1),
        "log.vkey": data + str(OTHER_LOG.verifier) + "\n",
    }[path]
    assert forged != data
    (package / path).write_text(forged)
    rehash(package)
    with pytest.raises(BadEvidence):
        check(package)


def test_records_of_another_change_do_not_slip_into_a_package(log: StaticLog, tmp_path: Path) -> None:
    mine, theirs = collected(log), collected(log, "CHG-9")
    both = sorted(
        [*zip(mine.records, mine.proofs, strict=True), *zip(theirs.records, theirs.proofs, strict=True)],
        key=lambda pair: pair[0].index,
    )
    mixed = replace(mine, records=tuple(record for record, _ in both), proofs=tuple(proof for _, proof in both))
    with pytest.raises(BadEvidence, match="do not belong to the change"):
        check(packed(mixed, tmp_path / "evidence"))


def repacked(package: Package, directory: Path, **changes: object) -> Path:
    """A package that a forger writes anew, with a MANIFEST that fits."""
    return packed(replace(package, **changes), directory)  # type: ignore[arg-type]


def test_records_that_are_not_in_order_are_found(log: StaticLog, tmp_path: Path) -> None:
    sound = collected(log)
    turned = repacked(sound, tmp_path / "e", records=sound.records[::-1], proofs=sound.proofs[::-1])
    both_find(turned, "the records are not in order")


def test_a_record_that_occurs_twice_is_found(log: StaticLog, tmp_path: Path) -> None:
    sound = collected(log)
    twice = repacked(
        sound, tmp_path / "e", records=(*sound.records, sound.records[-1]), proofs=(*sound.proofs, sound.proofs[-1])
    )
    both_find(twice, "the records are not in order")


def test_a_proof_with_more_in_it_is_not_the_packages(log: StaticLog, tmp_path: Path) -> None:
    sound = collected(log)
    first = replace(parse_inclusion_proof(sound.proofs[0]), extra=b"trust me").to_bytes()
    both_find(repacked(sound, tmp_path / "e", proofs=(first, *sound.proofs[1:])), "its proof is not under")


def test_a_proof_under_another_checkpoint_is_not_the_packages(log: StaticLog, tmp_path: Path) -> None:
    sound = collected(log)
    other = signed(332, log.root, [W2])
    first = replace(parse_inclusion_proof(sound.proofs[0]), checkpoint=other).to_bytes()
    both_find(repacked(sound, tmp_path / "e", proofs=(first, *sound.proofs[1:])), "its proof is not under")


def under(package: Package, directory: Path, note: bytes) -> Path:
    """The package with another checkpoint, also in its proofs. Its report stays what it was."""
    written = packed(package, directory)
    (written / CHECKPOINT_FILE).write_bytes(note)
    for found, proof in zip(package.records, package.proofs, strict=True):
        moved = replace(parse_inclusion_proof(proof), checkpoint=note).to_bytes()
        (written / "proofs" / f"{found.index}.tlog-proof").write_bytes(moved)
    rehash(written)
    return written


def test_a_signature_by_a_stranger_under_the_checkpoint_is_found(log: StaticLog, tmp_path: Path) -> None:
    stranger = replace(W1, name="example.edu/stranger", seed=bytes(range(9, 41)))
    note = signed(332, log.root, [stranger])
    both_find(under(collected(log), tmp_path / "e", note), "signatures that nothing in the package can check")


def test_two_signatures_by_one_key_under_the_checkpoint_are_found(log: StaticLog, tmp_path: Path) -> None:
    note = signed(332, log.root, [W1, W1])
    both_find(under(collected(log), tmp_path / "e", note), "signatures that nothing in the package can check")


def test_a_checkpoint_that_only_witnesses_signed_is_refused(log: StaticLog, tmp_path: Path) -> None:
    note = parse_note(signed(332, log.root, [W1, W2]))
    witnesses = replace(note, signatures=note.signatures[1:]).to_bytes()
    both_find(under(collected(log), tmp_path / "e", witnesses), "not signed by the log's key")


def test_a_checkpoint_of_another_origin_is_refused(log: StaticLog, tmp_path: Path) -> None:
    note = signed(332, log.root, origin="example.com/another")
    both_find(under(collected(log), tmp_path / "e", note), "is of another log")


def test_a_record_that_claims_another_place_is_found(tmp_path: Path) -> None:
    log = StaticLog(tmp_path / "audit")
    log.grow(*entries_of([routed_in("a"), closed()])[::-1])
    log.sign()
    note = (log.directory / CHECKPOINT_FILE).read_bytes()
    head = evidence_verify.check_checkpoint(note, [evidence_verify.Key(KEY)])
    (tmp_path / "proofs").mkdir()
    reader = TileReader(log.store)
    proof = prove_inclusion(0, leaf_hash(log.entries[0]), note, reader.at(2)).to_bytes()
    (tmp_path / "proofs" / "0.tlog-proof").write_bytes(proof)
    claim = {"index": 0, "leaf": leaf_hash(log.entries[0]).hex(), "entry": log.entries[0].decode()}
    with pytest.raises(evidence_verify.Broken, match="it says that it is record 1"):
        evidence_verify.check_record(str(tmp_path), claim, note, head)


@pytest.mark.parametrize(
    "text",
    ["", "a+b", "+d455c521+AQ==", KEY.replace("d455c521", "d455c522"), KEY[:-4] + "BBBB", KEY.replace("+AQ", "+Ag")],
)
def test_the_checker_takes_no_key_that_is_none(text: str) -> None:
    with pytest.raises(evidence_verify.Broken):
        evidence_verify.Key(text)


def test_a_record_that_was_left_out_is_found_with_the_log_alone(log: StaticLog, tmp_path: Path) -> None:
    sound = collected(log)
    vote = next(place for place, found in enumerate(sound.records) if found.record["name"] == "approval.voted")
    less = replace(
        sound,
        records=(*sound.records[:vote], *sound.records[vote + 1 :]),
        proofs=(*sound.proofs[:vote], *sound.proofs[vote + 1 :]),
    )
    package = packed(less, tmp_path / "evidence")
    check(package, KEY)
    with pytest.raises(BadEvidence, match="the package lacks 1 records of the change, the first is 55"):
        check(package, KEY, DirectoryTarget(log.directory))


def test_a_log_that_grew_since_still_shows_that_a_package_is_complete(tmp_path: Path) -> None:
    events = [*asked(), *released()]
    log = log_of(tmp_path / "audit", events)
    package = packed(collected(log), tmp_path / "evidence")
    later = [*(routed_in(f"later-{number}") for number in range(300)), closed()]
    log.grow(*entries_of([*events, *later])[len(events) :])
    log.sign()
    check(package, KEY, DirectoryTarget(log.directory))


def test_a_log_that_lost_records_does_not_confirm_a_package(log: StaticLog, whole: Path, tmp_path: Path) -> None:
    shorter = StaticLog(tmp_path / "shorter")
    shorter.grow(*log.entries[:300])
    shorter.sign()
    with pytest.raises(ExportRefused, match="the log has a checkpoint of 300 records only, the package one of 332"):
        check(whole, KEY, DirectoryTarget(shorter.directory))
    other = StaticLog(tmp_path / "other")
    other.grow(b"forged", *log.entries[1:], b"more")
    other.sign()
    with pytest.raises(ExportRefused, match="are not those of the package's checkpoint"):
        check(whole, KEY, DirectoryTarget(other.directory))


def test_a_link_in_a_package_is_not_followed(package: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes((package / "report.md").read_bytes())
    (package / "report.md").unlink()
    (package / "report.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadEvidence, match="not a plain file"):
        check(package)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"schema": "gatehouse.evidence/1"}',
        '{"schema": "gatehouse.evidence/1", "change_id": "x", "tenant": null, "made_at_ms": 1, "records": []}',
        '{"schema": "gatehouse.evidence/1", "change_id": "x", "tenant": null, "made_at_ms": 1, "records": [1]}',
        '{"schema": "gatehouse.evidence/1", "change_id": "x", "tenant": null, "made_at_ms": 1, '
        '"records": [{"index": 41, "leaf": "zz", "entry": "{}", "belongs_by": ""}]}',
        '{"schema": "gatehouse.evidence/1", "change_id": "x", "tenant": null, "made_at_ms": 1, '
        '"records": [{"index": 41, "leaf": "\\u00e9", "entry": "\\ud800", "belongs_by": ""}]}',
        '{"schema": "gatehouse.evidence/1", "change_id": "\\ud800", "tenant": null, "made_at_ms": 1, "records": [1]}',
        "[" * 100_000,
    ],
)
def test_nonsense_is_refused_and_never_raised_on(package: Path, document: str) -> None:
    (package / "evidence.json").write_text(document)
    rehash(package)
    both_find(package, r"evidence\.json")


@pytest.mark.parametrize("manifest", [b"", b"\n", b"\xff", b"a  b\n", b"0" * 64 + b"  ../evidence/checkpoint\n"])
def test_a_manifest_of_nonsense_is_refused(package: Path, manifest: bytes) -> None:
    (package / MANIFEST_FILE).write_bytes(manifest)
    both_find(package, "MANIFEST")


def test_a_package_is_never_written_over_another(log: StaticLog, package: Path) -> None:
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError):
        write(collected(log), package)
    assert {path: path.read_bytes() for path in package.rglob("*") if path.is_file()} == before


# --- Ed25519 of the stand-alone checker --------------------------------------------------------------------------

RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe"
        "24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302a"
        "eeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed2"
        "8dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("key", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032_verify_and_no_changed_byte_does(key: str, message: str, signature: str) -> None:
    public, said, value = bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature)
    assert evidence_verify.is_signed(public, said, value)
    assert not evidence_verify.is_signed(public, said + b"\x00", value)
    for changed in flips(value):
        assert not evidence_verify.is_signed(public, said, changed)


@settings(max_examples=60, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=100), place=st.integers(0, 95))
def test_the_checker_agrees_with_the_library(seed: bytes, message: bytes, place: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert evidence_verify.is_signed(public, message, signature)
    both = bytearray(signature + public)
    both[place] ^= 0x80
    signature, public = bytes(both[:64]), bytes(both[64:])
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        agreed = True
    except (InvalidSignature, ValueError):
        agreed = False
    assert evidence_verify.is_signed(public, message, signature) == agreed


def test_a_signature_has_one_spelling() -> None:
    key, message, signature = (bytes.fromhex(text) for text in RFC_8032[1])
    s = int.from_bytes(signature[32:], "little") + evidence_verify.ORDER
    assert not evidence_verify.is_signed(key, message, signature[:32] + s.to_bytes(32, "little"))
    assert not evidence_verify.is_signed(key, message, signature + b"\x00")
    assert not evidence_verify.is_signed(b"\xff" * 32, message, signature)


def test_a_point_has_one_spelling() -> None:
    # The neutral point as a key accepts R = s * B for every message; its second spelling must not be a key at all.
    s = 7
    signature = evidence_verify.encode_point(evidence_verify.multiply(s, evidence_verify.BASE)) + s.to_bytes(
        32, "little"
    )
    assert evidence_verify.is_signed((1).to_bytes(32, "little"), b"any", signature)
    assert not evidence_verify.is_signed((evidence_verify.P + 1).to_bytes(32, "little"), b"any", signature)


# --- what the report says ----------------------------------------------------------------------------------------


def change_of(events: Sequence[AuditEvent]) -> Change:
    records = [decode(entry) for entry in entries_of(events)]
    return summarize(CHANGE, [record for record, _ in select(CHANGE, None, records)])


def points_of(events: Sequence[AuditEvent]) -> list[str]:
    return [point.text for point in change_of(events).points]


def test_a_change_that_went_well_has_no_open_points() -> None:
    change = change_of(change_events())
    [action] = change.actions
    assert change.points == []
    assert (change.outcome, change.rollback_status, change.title) == ("succeeded", "not_needed", "Restart the cache")
    assert action.status() == "executed, reported as succeeded"
    assert action.approvers() == ["alice"]
    assert (action.requester, action.requester_key) == ("rita", "key_1")
    assert (action.risk, action.plan_digest, action.exit_code) == ("R2", D2, 0)
    assert action.gate_call_ids == ["gc_1", "gc_2"]


@pytest.mark.parametrize("end", ["rejected", "expired", "cancelled", "stale"])
def test_an_approval_that_ended_shows_as_such(end: str) -> None:
    change = change_of([*asked(), approval(end), closed("failed")])
    assert change.actions[0].status() == f"{end}, not executed"
    assert [point.text for point in change.points] == [f"apr_1: the approval was {end}; nothing was executed"]


SAYS: list[tuple[str, list[AuditEvent], str]] = [
    ("missing report", released(), "apr_1: no outcome was reported"),
    (
        "alert",
        [
            *released(),
            event(
                "incident.opened",
                "i1",
                incident_id="inc_1",
                kind="action_unreported",
                severity="medium",
                approval_id="apr_1",
            ),
        ],
        "apr_1: no outcome was reported; an alert was raised (record 14)",
    ),
    ("unknown outcome", [*released(), reported("unknown")], "apr_1: its outcome is reported as unknown"),
    ("no rollback", [*released(), reported("failed")], "apr_1: it failed, and no rollback was reported"),
    (
        "failed rollback",
        [*released(), reported("failed"), rolled_back("failed", approval_id="apr_1")],
        "apr_1: its rollback failed",
    ),
    ("failed rollback of all", [*released(), rolled_back("failed")], "the rollback of the change failed"),
    (
        "two reports",
        [*released(), reported("succeeded"), reported("failed")],
        "two reports contradict each other: succeeded, failed",
    ),
    ("not closed", [*released(), reported()], "the change is not closed"),
    ("waiting", [], "apr_1: it still waits for its plan, votes or release"),
    ("no grant", [consumed()], "apr_1: R2 was released without a granted approval"),
    ("no votes", [consumed()], "apr_1: R2 was released with 0 approving persons of 1"),
    (
        "after rejection",
        [approval("rejected"), consumed()],
        "apr_1: it was released although its approval was rejected",
    ),
    ("report without release", [reported(gate_call="gc_1")], "although it was never released"),
    (
        "no plan",
        [call("proposed", "gc_3"), call("released", "gc_3", action_digest=D1, profile="ops", change_id=CHANGE)],
        "call gc_3: R2 was released without a rollback plan",
    ),
    (
        "after denial",
        [
            call("denied", "gc_3"),
            call("released", "gc_3", action_digest=D1, profile="ops", change_id=CHANGE, rollback_digest=D2),
        ],
        "call gc_3: it was released although it was denied",
    ),
    (
        "bypass",
        [event("bypass.attempted", "b1", kind="held_call_executed", gate_call_id="gc_1", reason="a result came")],
        "an attempt to bypass the gate: held_call_executed: a result came",
    ),
    (
        "incident",
        [event("incident.opened", "i1", incident_id="inc_1", kind="x", severity="low", change_id=CHANGE)],
        "incident inc_1 is not closed",
    ),
    (
        "rollout",
        [event("rollout.started", "r1", rollout_id="ro_1", kind="model", change_id=CHANGE)],
        "rollout ro_1 has not ended: it is started",
    ),
    (
        "no way back",
        [closed("rolled_back")],
        "the change was closed as rolled back, but no rollback was reported",
    ),
]


@pytest.mark.parametrize(("events", "said"), [pytest.param(more, said, id=name) for name, more, said in SAYS])
def test_what_is_open_or_wrong_is_a_point_of_the_report(tmp_path: Path, events: list[AuditEvent], said: str) -> None:
    points = points_of([*asked(), *events])
    assert any(said in point for point in points), points
    report = files_of(collected(log_of(tmp_path, [*asked(), *events])))["report.html"].decode()
    assert said.replace("&", "&amp;").replace("'", "&#x27;") in report


def test_an_r3_call_needs_two_persons_and_not_its_requester() -> None:
    events = [*asked(risk="R3"), *released(risk="R3"), approval("voted", suffix=":rita", voter="rita", approve=True)]
    assert "apr_1: R3 was approved by its own requester" in points_of(events)
    assert "apr_1: R3 was released with 1 approving persons of 2" in points_of(
        [*asked(risk="R3"), *released(risk="R3")]
    )


def test_a_call_under_a_standing_plan_needs_no_approval_but_a_report() -> None:
    events = [
        call("proposed", "gc_1"),
        call(
            "released",
            "gc_1",
            risk="R1",
            action_digest=D1,
            profile="ops",
            change_id=CHANGE,
            rollback_digest=D2,
            standing_plan="sp_1",
        ),
    ]
    change = change_of(events)
    assert change.actions[0].standing_plan == "sp_1"
    assert "call gc_1: no outcome was reported" in [point.text for point in change.points]
    assert not any("without" in point.text for point in change.points)


def test_an_unknown_report_does_not_take_back_a_known_one() -> None:
    change = change_of([*asked(), *released(), reported("succeeded"), reported("unknown")])
    assert change.actions[0].outcome == "succeeded"


def test_a_rejecting_vote_is_shown_with_its_person(tmp_path: Path) -> None:
    events = [*asked(), approval("voted", suffix=":carl", voter="carl", approve=False), approval("rejected")]
    report = files_of(collected(log_of(tmp_path, events)))["report.md"].decode()
    assert "| Votes | `carl` rejected 2026-01-01 00:00:07 UTC (record 7) |" in report
    assert "| Decision | rejected 2026-01-01 00:00:08 UTC |" in report


def test_the_report_says_how_far_its_key_can_be_trusted(whole: Path) -> None:
    report = (whole / "report.html").read_text()
    assert "only as good as whoever handed it over" in report
    assert KEY in report


def hostile_package(tmp_path: Path) -> dict[str, bytes]:
    change = HOSTILE.replace("\n", " ")
    events = [
        *asked(change),
        call("proposed", "gc_3", tool=HOSTILE, approval_id="apr_1"),
        event("incident.opened", "i", incident_id=HOSTILE, kind=HOSTILE, severity="x", title=HOSTILE, change_id=change),
        event("change.closed", "c", change_id=change, outcome="failed", title=HOSTILE, reporter=HOSTILE),
    ]
    return files_of(collected(log_of(tmp_path / "audit", events), change))


def test_the_html_is_well_formed_and_hostile_text_stays_text(tmp_path: Path) -> None:
    page = hostile_package(tmp_path)["report.html"].decode()
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))  # noqa: S314 - it is ours
    tags = {element.tag for element in root.iter()}
    assert not tags & {"script", "b", "img", "a", "link", "iframe", "object", "form"}
    assert not any(
        name.startswith("on") or name in {"href", "src"} for element in root.iter() for name in element.attrib
    )
    texts = [text for element in root.iter("code") for text in element.itertext()]
    assert any("</code><script>alert(1)</script>" in text for text in texts)
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_hostile_text_makes_no_structure_in_markdown(tmp_path: Path) -> None:
    text = hostile_package(tmp_path)["report.md"].decode()
    assert "\n# Approved" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    for line in text.splitlines():
        assert line.count("`") % 2 == 0
        outside = "".join(line.split("`")[::2])
        assert "<script>" not in outside
        assert "**bold**" not in outside
    rows = [line for line in text.splitlines() if line.startswith("| ") and "alert" in line]
    assert rows
    header = {"Record": 6, "Incident": 7}
    assert {row.count(" | ") + 1 for row in rows} <= {2, *header.values()}


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_well_formed_html_and_one_line_of_markdown(text: str) -> None:
    blocks = [
        Heading(1, [Data(text)]),
        Text([f"x{text}"]),
        Items([[Data(text)]]),
        Table(("a", "b"), [[[Data(text)], [text]]]),
    ]
    root = ElementTree.fromstring(to_html(text, blocks).removeprefix("<!DOCTYPE html>\n"))  # noqa: S314 - it is ours
    assert {element.tag for element in root.iter("code")} == {"code"}
    lines = to_markdown(blocks).split("\n")
    assert len([line for line in lines if line]) == 6
    assert lines[-2].replace("\\|", "").count("|") == 3


@pytest.mark.parametrize(
    "change",
    [
        (b'"title":"x"', b'"title":"\\ud800"'),
        (b'"title":"x"', b'"title": "x"'),
        (b'"title":"x"', b'"title":"x","title":"x"'),
        (b'"title":"x"', b'"title":1e99999'),
    ],
)
def test_a_record_that_is_not_canonical_makes_no_evidence(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    log = StaticLog(tmp_path)
    log.grow(entries_of([closed(title="x")])[0].replace(*change))
    log.sign()
    with pytest.raises(BadEvidence, match="record 0: the entry is not in RFC 8785 form"):
        collected(log)


def test_times_that_no_calendar_has_are_still_shown(tmp_path: Path) -> None:
    late = closed()
    entry = entries_of([late])[0].replace(str(FIRST_MS).encode(), str(2**53 - 1).encode())
    log = StaticLog(tmp_path)
    log.grow(entry)
    log.sign()
    assert f"{2**53 - 1} ms" in files_of(collected(log))["report.md"].decode()


# --- the command -------------------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> tuple[int, str]:
    app = typer.Typer()
    app.callback()(lambda: None)
    audit_evidence.register(app)
    done = CliRunner().invoke(app, ["evidence", *map(str, arguments)])
    return done.exit_code, done.output


def test_the_command_makes_and_checks_a_package(log: StaticLog, tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    status, said = command(log.directory, "--change-id", CHANGE, "--out", out)
    assert status == 0
    assert said.startswith(f"{out} proves 17 records of {CHANGE}; read {out / 'report.html'}.")
    assert command("--check", out, "--key", KEY) == (
        0,
        f"All 17 records of {CHANGE} are in the log; completeness was not checked.\n",
    )
    assert command(log.directory, "--check", out, "--key", KEY) == (
        0,
        f"All 17 records of {CHANGE} are in the log; none of the change's records is missing.\n",
    )
    status, said = command("--check", out)
    assert status == 0
    assert "only that the package agrees with itself" in said


def test_the_command_exits_1_when_the_evidence_is_broken(log: StaticLog, package: Path, tmp_path: Path) -> None:
    assert command("--check", package, "--key", str(OTHER_LOG.verifier)) == (
        1,
        "gatehouse: the log's key in the package is not the given one.\n",
    )
    (package / "report.md").write_text("All was well.")
    assert command("--check", package)[0] == 1
    shorter = StaticLog(tmp_path / "shorter")
    shorter.grow(*log.entries[:300])
    shorter.sign()
    out = tmp_path / "out"
    status, said = command(shorter.directory, "--change-id", CHANGE, "--out", out, "--export", log.directory)
    assert (status, "was rolled back" in said, out.exists()) == (1, True, False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["LOG", "--change-id", "CHG-124", "--out", "OUT"],
        ["LOG", "--change-id", CHANGE],
        ["LOG", "--out", "OUT"],
        ["--change-id", CHANGE, "--out", "OUT"],
        ["NOWHERE", "--change-id", CHANGE, "--out", "OUT"],
        ["LOG", "--change-id", "a\nb", "--out", "OUT"],
        ["LOG", "--change-id", CHANGE, "--out", "PACKAGE"],
        ["LOG", "--change-id", CHANGE, "--out", "OUT", "--key", "no key"],
        ["--check", "NOWHERE"],
        [],
    ],
)
def test_the_command_exits_2_with_one_sentence_when_there_is_nothing_to_do(
    log: StaticLog, package: Path, tmp_path: Path, arguments: list[str]
) -> None:
    paths = {"LOG": log.directory, "OUT": tmp_path / "out", "NOWHERE": tmp_path / "no", "PACKAGE": package}
    status, said = command(*(str(paths.get(word, word)) for word in arguments))
    assert status == 2, said
    assert said.startswith("gatehouse: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_evidence_needs_no_ray_and_no_http(log: StaticLog, tmp_path: Path) -> None:
    code = (
        "import sys, typer; from serve_app.cli.audit_evidence import register\n"
        "app = typer.Typer(); app.callback()(lambda: None); register(app)\n"
        "try: app(['evidence', sys.argv[1], '--change-id', 'CHG-123', '--out', sys.argv[2]])\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "assert not {'ray', 'sqlalchemy', 'boto3', 'httpx2'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(log.directory), str(tmp_path / "evidence")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
