"""Backups of a running installation, and what a restore makes of them."""

import asyncio
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from deployments.audit.signing import RefusedLog
from deployments.audit.verify import verify
from deployments.errors import Unauthenticated
from deployments.migrations.runner import Feature
from deployments.ports import KeySpec
from serve_app.backups import age
from serve_app.backups import take as take_module
from serve_app.backups.restore import restore
from serve_app.backups.source import source_of
from serve_app.backups.take import take
from serve_app.config import AppConfig, load_serve_file
from tests.unit.cli.installations import (
    ACME,
    at,
    backed_up,
    checks,
    config_of,
    files_of,
    gatehouse,
    put_back,
    running,
    serve_file,
    work,
)

SECRET_FILES = ("pepper", "operator.key", "audit-keys/log.key", "audit-keys/vault.key")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return serve_file(tmp_path)


@pytest.fixture
async def stopped(file: Path) -> AppConfig:
    """An installation that has run, with a few keys and records."""
    config = config_of(file)
    async with running(config) as system:
        for _ in range(3):
            await system.act()
    return config


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
async def test_what_is_backed_up_while_it_works_goes_on_elsewhere(tmp_path: Path, file: Path, name: str) -> None:
    async with running(config_of(file)) as system:
        before = await system.act()
        working = asyncio.create_task(work(system))
        said = await asyncio.to_thread(backed_up, tmp_path / name, file, "--with-secrets", "--json")
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    digest = json.loads(said.stdout)["manifest_sha256"]
    assert gatehouse("backup", "verify", tmp_path / name, "--digest", digest).exit_code == 0
    restored = put_back(tmp_path / name, tmp_path / "restored", "--digest", digest, "--json")
    assert set(checks(restored).values()) == {True}
    assert len(checks(restored)) == 17
    async with running(at(tmp_path)) as system:
        principal = await system.ledger.authenticate(before.presented)
        assert principal.key_id == before.record.key_id
        after = await system.act()
        assert (await system.ledger.authenticate(after.presented)).tenant == ACME
    assert verify(tmp_path / "restored" / "audit").ok


class _Busy(dict[str, Sequence[Feature]]):
    """Databases of a system that does something just before each of them is copied."""

    def __init__(self, databases: Mapping[str, Sequence[Feature]], act: Callable[[], object]) -> None:
        super().__init__(databases)
        self._act = act

    def items(self):
        for each in super().items():
            self._act()
            yield each


async def test_nothing_that_a_copied_store_shows_as_done_is_missing_in_the_copied_log(
    tmp_path: Path, file: Path
) -> None:
    async with running(config_of(file)) as system:
        loop = asyncio.get_running_loop()
        found = source_of(load_serve_file(file))
        busy = _Busy(found.databases, lambda: asyncio.run_coroutine_threadsafe(system.act(), loop).result())
        await asyncio.to_thread(take, replace(found, databases=busy), tmp_path / "b", 1, {}, with_secrets=True)
    [told] = [each for each in restore(tmp_path / "b", tmp_path / "restored", {}).checks if "the gate did" in each.what]
    assert told.held
    assert int(told.seen.split()[0]) >= 2  # the one before the ledger, and the one before the gate


async def test_what_happens_between_the_stores_and_the_log_is_named(tmp_path: Path, file: Path) -> None:
    async with running(config_of(file)) as system:
        await system.act()
        loop, made = asyncio.get_running_loop(), list[str]()

        def meanwhile(line: str) -> None:
            if line.startswith("stores/responses.db"):  # the last of them
                key = asyncio.run_coroutine_threadsafe(system.act(), loop).result()
                made.append(key.record.key_id)

        source = source_of(load_serve_file(file))
        await asyncio.to_thread(take, source, tmp_path / "b", 1, {}, with_secrets=True, say=meanwhile)
    outcome = restore(tmp_path / "b", tmp_path / "restored", {})
    assert outcome.ok
    assert len(made) == 1
    assert [line.split()[1] for line in outcome.newer][-3:] == ["key.created", "key.revoked", "tool_call.proposed"]
    result = put_back(tmp_path / "b", tmp_path / "again")
    assert f"  {outcome.newer[0]}\n" in result.stdout


async def test_a_key_that_was_revoked_before_the_backup_stays_revoked(tmp_path: Path, file: Path) -> None:
    async with running(config_of(file)) as system:
        key = await system.ledger.create_key(KeySpec(ACME, "lost"), "key_admin")
        await system.ledger.revoke_key(key.record.key_id, "key_admin")
        await asyncio.to_thread(backed_up, tmp_path / "b", file, "--with-secrets")
    put_back(tmp_path / "b", tmp_path / "restored")
    async with running(at(tmp_path)) as system:
        with pytest.raises(Unauthenticated):
            await system.ledger.authenticate(key.presented)


async def test_the_drill_restores_beside_the_running_system_and_leaves_nothing(tmp_path: Path, file: Path) -> None:
    (tmp_path / "scratch").mkdir()
    async with running(config_of(file)) as system:
        await system.act()
        result = await asyncio.to_thread(
            gatehouse, "drill", "restore", "--config", file, "--scratch", tmp_path / "scratch"
        )
        assert await system.ledger.ready()
    assert "restore: every expectation held" in result.stdout
    assert "ok        the log verifies" in result.stdout
    assert not [*(tmp_path / "scratch").iterdir()]


def test_the_drill_is_no_success_when_something_could_not_be_tried(
    tmp_path: Path, file: Path, stopped: AppConfig
) -> None:
    (stopped.state_path / "operator.key").unlink()
    result = gatehouse("drill", "restore", "--config", file, "--scratch", tmp_path, status=1)
    assert "not tried the operator's key is known and good" in result.stdout


@pytest.mark.parametrize(
    ("where", "number", "arguments"),
    [
        ("take.copy_log", signal.SIGTERM, ["backup", "--to", "{}/b.tar", "--with-secrets", "--config", "{file}"]),
        ("take._publish", signal.SIGHUP, ["drill", "restore", "--scratch", "{}", "--config", "{file}"]),
        ("restore._make_durable", signal.SIGTERM, ["restore", "--from", "{made}", "--into", "{}/restored"]),
    ],
    ids=["backup", "drill", "restore"],
)
def test_who_is_told_to_stop_leaves_no_copy_of_a_secret(
    tmp_path: Path, file: Path, stopped: AppConfig, where: str, number: signal.Signals, arguments: Sequence[str]
) -> None:
    (tmp_path / "scratch").mkdir()
    backed_up(tmp_path / "made.tar", file, "--with-secrets")
    given = [each.format(tmp_path / "scratch", file=file, made=tmp_path / "made.tar") for each in arguments]
    program = f"""
import os, serve_app.backups.take, serve_app.backups.restore
serve_app.backups.{where} = lambda *_: os.kill(os.getpid(), {int(number)})
from serve_app.cli.main import run
run()
"""
    done = subprocess.run([sys.executable, "-c", program, *given], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (128 + number, False), done.stderr
    assert not [*(tmp_path / "scratch").iterdir()]


# --- secrets ---------------------------------------------------------------------------------------------------------


async def test_a_backup_holds_no_secret_unless_asked(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    result = backed_up(tmp_path / "b", file)
    assert "not in it: secrets" in result.stdout
    everything = b"".join(files_of(tmp_path / "b").values())
    for name in SECRET_FILES:
        assert (stopped.state_path / name).read_bytes().strip() not in everything
    result = put_back(tmp_path / "b", tmp_path / "restored", "--json")
    assert checks(result)["stored keys can be used"] is None
    with pytest.raises(RefusedLog, match="put the key back"):
        async with running(at(tmp_path)):
            pass


def test_encrypted_secrets_open_with_their_key_alone(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    public = gatehouse("backup", "key", tmp_path / "key.txt").stdout.strip()
    gatehouse("backup", "key", tmp_path / "other.txt")
    assert (tmp_path / "key.txt").stat().st_mode & 0o777 == 0o600
    backed_up(tmp_path / "b.tar", file, "--with-secrets", "--recipient", public)
    packed = (tmp_path / "b.tar").read_bytes()
    for name in SECRET_FILES:
        assert (stopped.state_path / name).read_bytes().strip() not in packed
    gatehouse("backup", "verify", tmp_path / "b.tar")
    for arguments, why in (
        ((), "say with --identity"),
        (("--identity", tmp_path / "other.txt"), "not encrypted to this key"),
        (("--identity", file), "holds no age key"),
    ):
        result = put_back(tmp_path / "b.tar", tmp_path / "restored", *arguments, status=2)
        assert why in result.stderr
        assert not (tmp_path / "restored").exists()
    put_back(tmp_path / "b.tar", tmp_path / "restored", "--identity", tmp_path / "key.txt")
    for name in SECRET_FILES:
        assert (tmp_path / "restored" / name).read_bytes() == (stopped.state_path / name).read_bytes()
        assert (tmp_path / "restored" / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["b", "b.tar"])
def test_the_medium_never_has_secrets_as_they_are_when_they_are_encrypted(
    tmp_path: Path, file: Path, stopped: AppConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whoever pulls the plug while they are encrypted finds none of them on the disk, not even deleted ones."""
    medium, looked = tmp_path / "medium", list[bytes]()

    def seen(data: bytes, recipients: Sequence[X25519PublicKey]) -> bytes:
        looked.append(b"".join(path.read_bytes() for path in medium.rglob("*") if path.is_file()))
        return age.encrypt(data, recipients)

    monkeypatch.setattr(take_module, "age", SimpleNamespace(encrypt=seen))
    public = gatehouse("backup", "key", tmp_path / "key.txt").stdout.strip()
    backed_up(medium / name, file, "--with-secrets", "--recipient", public)
    (there,) = looked
    for secret in SECRET_FILES:
        assert (stopped.state_path / secret).read_bytes().strip() not in there


def test_keys_that_lie_elsewhere_are_named_and_not_copied(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    text_of = (
        file.read_text().replace("  args:\n", "").replace("audit:\n", f"audit:\n      keys_dir: {tmp_path}/hsm\n", 1)
    )
    (tmp_path / "hsm").mkdir()
    (tmp_path / "hsm" / "log.key").write_text("elsewhere")
    file.write_text(text_of)
    result = backed_up(tmp_path / "b", file, "--with-secrets")
    assert f"not in it: audit.keys_dir: {tmp_path}/hsm" in result.stdout
    assert not any("log.key" in name for name in files_of(tmp_path / "b"))


def drilled(file: Path, scratch: Path, status: int = 0) -> Result:
    return gatehouse("drill", "restore", "--config", file, "--scratch", scratch, "--json", status=status)


def tried(result: Result) -> list[bool | None]:
    """What became of the log's key and of the bodies' key."""
    found = checks(result)
    return [found["the log can be signed"], found["kept bodies can be opened"]]


def test_keys_of_the_site_are_tried_where_they_are_known(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    """As on Kubernetes, where they are mounted: no backup has them, and a drill is a success all the same."""
    site = tmp_path / "site"
    site.mkdir()
    document = yaml.safe_load(file.read_text())
    audit = document["applications"][0]["args"]["audit"]
    for setting, name in (("signing_key_file", "log.key"), ("vault_key_file", "vault.key")):
        (stopped.state_path / "audit-keys" / name).rename(site / name)
        audit[setting] = str(site / name)
    file.write_text(yaml.safe_dump(document))
    assert tried(drilled(file, tmp_path)) == [True, True]
    backed_up(tmp_path / "b", file, "--with-secrets")
    assert tried(put_back(tmp_path / "b", tmp_path / "restored", "--json")) == [None, None]
    (site / "vault.key").write_text("cd" * 32 + "\n")
    (site / "log.key").unlink()
    assert tried(drilled(file, tmp_path, status=1)) == [False, False]


def test_a_folder_of_the_site_is_tried_where_it_is_known(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    site = tmp_path / "hsm"
    (stopped.state_path / "audit-keys").rename(site)
    document = yaml.safe_load(file.read_text())
    document["applications"][0]["args"]["audit"]["keys_dir"] = str(site)
    file.write_text(yaml.safe_dump(document))
    assert tried(drilled(file, tmp_path)) == [True, True]
    backed_up(tmp_path / "b", file, "--with-secrets")
    assert tried(put_back(tmp_path / "b", tmp_path / "restored", "--json")) == [None, None]
    (site / "log.key").unlink()
    assert tried(drilled(file, tmp_path, status=1)) == [False, True]


# --- damage ----------------------------------------------------------------------------------------------------------


def test_any_changed_file_is_found_before_anything_is_restored(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    backed_up(tmp_path / "b", file, "--with-secrets")
    found = {name for name, data in files_of(tmp_path / "b").items() if data and name != "manifest.json"}
    shipped = sorted(name for name in found if name.startswith("files/installation/"))
    names = sorted(found.difference(shipped[1:]))  # one of them stands for all
    assert len(names) > 15
    for name in names:
        path = tmp_path / "b" / name
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        assert f"{name} is damaged" in gatehouse("backup", "verify", tmp_path / "b", status=2).stderr
        path.unlink()
        assert f"missing, the first is {name}" in gatehouse("backup", "verify", tmp_path / "b", status=2).stderr
        path.write_bytes(whole)
    (tmp_path / "b" / "stores" / "more.db").touch()
    result = put_back(tmp_path / "b", tmp_path / "restored", status=2)
    assert "do not belong to the backup, the first is stores/more.db" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "serve.yaml", "state dir"]


def test_another_manifest_is_another_backup(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    said = backed_up(tmp_path / "b", file, "--json")
    digest = json.loads(said.stdout)["manifest_sha256"]
    (tmp_path / "b" / "stores" / "gate.db").write_bytes(b"")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["files"]["stores/gate.db"] = {
        "bytes": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }  # fmt: skip
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    gatehouse("backup", "verify", tmp_path / "b")  # it agrees with itself
    assert "not the one that was asked for" in put_back(tmp_path / "b", tmp_path / "r", "--digest", digest, status=2
    ).stderr  # fmt: skip


@pytest.mark.parametrize("where", ["../outside", "/etc/passwd", "stores/../../x", "."])
def test_a_manifest_names_nothing_outside(tmp_path: Path, file: Path, stopped: AppConfig, where: str) -> None:
    backed_up(tmp_path / "b", file)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["stores"][0]["file"] = where
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    assert (
        "manifest.json cannot be read: stores.0.file" in gatehouse("backup", "verify", tmp_path / "b", status=2).stderr
    )


def test_a_tar_file_that_is_cut_off_is_refused(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    backed_up(tmp_path / "b.tar", file)
    whole = (tmp_path / "b.tar").read_bytes()
    for size in (0, 100, len(whole) // 2, whole.rindex(b"stores/")):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        put_back(tmp_path / "cut.tar", tmp_path / "restored", status=2)
    assert not (tmp_path / "restored").exists()


def test_a_tar_file_that_points_outside_is_refused(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    (tmp_path / "evil").write_text("x")
    for name in ("../evil", "link"):
        with tarfile.open(tmp_path / "evil.tar", "w") as archive:
            member = tarfile.TarInfo(name)
            if name == "link":
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
        assert "no tar file" in gatehouse("backup", "verify", tmp_path / "evil.tar", status=2).stderr


def test_nothing_is_overwritten(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "file.tar").write_text("mine")
    for target in ("here", "file.tar"):
        assert "overwrites nothing" in backed_up(tmp_path / target, file, status=2).stderr
    backed_up(tmp_path / "b", file)
    before = files_of(stopped.state_path)
    result = put_back(tmp_path / "b", stopped.state_path, status=2)
    assert "a restore overwrites nothing" in result.stderr
    assert (files_of(stopped.state_path), (tmp_path / "file.tar").read_text()) == (before, "mine")
    put_back(tmp_path / "b", tmp_path / "here")  # empty: nothing to lose


def test_a_backup_without_a_log_is_none(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    shutil.rmtree(stopped.state_path / "audit")
    assert "there is no audit log" in backed_up(tmp_path / "b", file, status=2).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["serve.yaml", "state dir"]


def test_a_log_that_fails_its_check_is_kept_and_said_so(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    [tile] = [path for path in (stopped.state_path / "audit" / "tile" / "0").rglob("*") if path.is_file()][:1]
    tile.write_bytes(bytes(len(tile.read_bytes())))
    result = backed_up(tmp_path / "b", file, status=1)
    assert "the log does not verify: tiles" in result.stderr
    gatehouse("backup", "verify", tmp_path / "b", status=1)
    result = put_back(tmp_path / "b", tmp_path / "restored", "--json", status=1)
    assert checks(result)["the log verifies"] is False
    assert checks(result)["the log has the records that were backed up"] is True


# --- what the checks find --------------------------------------------------------------------------------------------


def _change(config: AppConfig, store: str, statement: str) -> None:
    with closing(sqlite3.connect(config.state_path / "state" / store)) as connection, connection:
        connection.execute(statement)


WORKS = "this version works with the tables in stores/gate.db"


@pytest.mark.parametrize(
    ("store", "statement", "check"),
    [
        ("gate.db", "UPDATE alembic_version_gate SET version_num = 'gate_9999'", WORKS),
        ("gate.db", "UPDATE gate_told SET event_id = event_id || '!'", "what the gate did is in the log"),
        ("ledger.db", "UPDATE keys SET digest = x'00'", "the operator's key is known and good"),
        ("ledger.db", "UPDATE keys SET revoked_ms = 1", "the operator's key is known and good"),
        ("ledger.db", "UPDATE tenancy_facts SET value = x'00'", "the stored keys were made under this pepper"),
    ],
    ids=["newer", "no record", "other key", "revoked", "other pepper"],
)  # fmt: skip
def test_a_restore_says_what_would_not_work(
    tmp_path: Path, file: Path, stopped: AppConfig, store: str, statement: str, check: str
) -> None:
    _change(stopped, store, statement)
    if "9999" in statement:
        _change(stopped, store, "DELETE FROM gatehouse_schema")
    backed_up(tmp_path / "b", file, "--with-secrets")
    result = put_back(tmp_path / "b", tmp_path / "restored", "--json", status=1)
    assert [what for what, held in checks(result).items() if not held] == [check]


async def test_another_logs_key_is_found(tmp_path: Path, file: Path, stopped: AppConfig) -> None:
    other = tmp_path / "other"
    other.mkdir()
    async with running(config_of(serve_file(other))):
        pass
    for name in ("log.key", "vault.key"):
        shutil.copy(other / "state dir" / "audit-keys" / name, stopped.state_path / "audit-keys" / name)
    backed_up(tmp_path / "b", file, "--with-secrets")
    result = put_back(tmp_path / "b", tmp_path / "restored", "--json", status=1)
    failed = [what for what, held in checks(result).items() if not held]
    assert failed == ["the log can be signed", "kept bodies can be opened"]
