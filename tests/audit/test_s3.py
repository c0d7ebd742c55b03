"""Export to a bucket with object lock: moto's server, a process of its own that speaks S3 over HTTP."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import typer
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from deployments.audit.change import decode
from deployments.audit.evidence import check, collect, write
from deployments.audit.export import CHECKPOINT_FILE, CHECKPOINTS_DIR, Exporter, open_target
from deployments.audit.s3 import S3Target
from deployments.audit.settings import ExportSettings
from deployments.audit.targets import DirectoryTarget, ExportFailed, ExportRefused
from deployments.audit.tiles import TileConflict, entries_path
from deployments.clock import FixedClock, SystemClock
from serve_app.cli import audit_export
from tests.unit.audit.flows import CHANGE, change_entries
from tests.unit.audit.statics import W1, StaticLog, assert_is_log

pytestmark = [pytest.mark.audit]
SECRET = "a-secret-access-key-that-nobody-prints"
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class Server:
    """A running S3 server, and an operator's client of it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.client: Any = boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")
        self._buckets = 0

    def bucket(self, locked: bool = True) -> str:
        self._buckets += 1
        name = f"audit-{self._buckets}"
        self.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=locked)
        return name

    def stop(self) -> None:
        self.client.close()
        self.process.communicate()


@pytest.fixture(scope="module")
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def server(credentials: None) -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def log(tmp_path: Path) -> StaticLog:
    found = StaticLog(tmp_path / "audit")
    found.grow_to(600)
    found.sign_witnessed(W1)
    return found


def settings(server: Server, bucket: str, **changes: object) -> ExportSettings:
    return ExportSettings.model_validate(
        {"target": f"s3://{bucket}/logs/one", "endpoint_url": server.url, "region": "us-east-1", **changes}
    )


def target_of(server: Server, bucket: str, **changes: object) -> S3Target:
    return S3Target(settings(server, bucket, **changes), SystemClock())


def export(log: StaticLog, target: S3Target) -> int:
    return Exporter(target, FixedClock()).run_once(DirectoryTarget(log.directory))


def test_the_bucket_holds_a_valid_log_as_it_grows(server: Server, log: StaticLog) -> None:
    target = target_of(server, server.bucket())
    assert export(log, target) == 600
    log.grow_to(1_300)
    log.sign()
    assert export(log, target) == 1_300
    names = [f"{size:020d}" for size in (600, 1_300)]
    assert assert_is_log(target, log.entries, names) == 1_300
    assert target.last(CHECKPOINTS_DIR, "") == names[1]
    assert target.last(CHECKPOINTS_DIR, names[0]) == names[1]
    assert target.last(CHECKPOINTS_DIR, names[1]) is None


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
def test_what_never_changes_is_locked_and_what_changes_is_not(server: Server, log: StaticLog, mode: str) -> None:
    bucket = server.bucket()
    export(log, target_of(server, bucket, lock_mode=mode, lock_days=30))
    locked, free = 0, []
    for found in server.client.list_objects_v2(Bucket=bucket)["Contents"]:
        head = server.client.head_object(Bucket=bucket, Key=found["Key"])
        if "ObjectLockMode" not in head:
            free.append(found["Key"].removeprefix("logs/one/"))
            continue
        assert head["ObjectLockMode"] == mode
        left = head["ObjectLockRetainUntilDate"] - datetime.now(UTC)
        assert timedelta(days=29) < left <= timedelta(days=30)
        locked += 1
    assert sorted(free) == ["checkpoint", "checkpoint.witnessed", "log.vkey"]
    assert locked == 2 * 2 + 2 + 1 + 1  # full tiles, partial ones, the level above, the checkpoint


def test_nobody_deletes_a_locked_version(server: Server, log: StaticLog) -> None:
    bucket = server.bucket()
    export(log, target_of(server, bucket))
    key = f"logs/one/{entries_path(0)}"
    [version] = server.client.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]
    with pytest.raises(ClientError, match="AccessDenied"):
        server.client.delete_object(
            Bucket=bucket, Key=key, VersionId=version["VersionId"], BypassGovernanceRetention=True
        )
    found = server.client.get_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])
    assert found["Body"].read() == (log.directory / entries_path(0)).read_bytes()


def test_a_name_is_taken_once(server: Server) -> None:
    bucket = server.bucket()
    target = target_of(server, bucket)
    target.put_new("tile/0/000", b"one")
    target.put_new("tile/0/000", b"one")
    with pytest.raises(TileConflict):
        target.put_new("tile/0/000", b"two")
    assert target.read("tile/0/000") == b"one"
    [version] = server.client.list_object_versions(Bucket=bucket)["Versions"]
    assert version["Size"] == 3


def test_a_deleted_checkpoint_is_not_taken_for_an_empty_bucket(server: Server, log: StaticLog) -> None:
    bucket = server.bucket()
    target = target_of(server, bucket)
    assert target.read(CHECKPOINT_FILE) is None
    export(log, target)
    server.client.delete_object(Bucket=bucket, Key=f"logs/one/{CHECKPOINT_FILE}")
    with pytest.raises(ExportFailed, match="checkpoint was deleted from s3://"):
        export(log, target)


def test_a_log_that_was_rolled_back_is_refused(server: Server, log: StaticLog, tmp_path: Path) -> None:
    target = target_of(server, server.bucket())
    export(log, target)
    older = StaticLog(tmp_path / "older")
    older.grow_to(599)
    older.sign()
    with pytest.raises(ExportRefused, match="knows 600 records"):
        export(older, target)


def test_a_checkpoint_that_was_put_back_does_not_hide_a_rollback(
    server: Server, log: StaticLog, tmp_path: Path
) -> None:
    bucket = server.bucket()
    target = target_of(server, bucket)
    older = StaticLog(tmp_path / "older")
    older.grow_to(500)
    note = older.sign()
    export(older, target)
    export(log, target)
    server.client.put_object(Bucket=bucket, Key=f"logs/one/{CHECKPOINT_FILE}", Body=note)
    with pytest.raises(ExportRefused, match="knows 600 records"):
        export(older, target)


def test_a_lock_that_the_bucket_does_not_have_is_an_error_in_words(server: Server, log: StaticLog) -> None:
    bucket = server.bucket(locked=False)
    target = target_of(server, bucket)
    with pytest.raises(ExportFailed, match="the bucket has no object lock"):
        export(log, target)
    assert export(log, target_of(server, bucket, lock_mode="none")) == 600


def test_a_missing_bucket_is_an_error_in_words(server: Server, log: StaticLog) -> None:
    with pytest.raises(ExportFailed, match="there is no such bucket"):
        export(log, target_of(server, "no-such-bucket"))


def test_names_are_listed_beyond_one_page(server: Server) -> None:
    bucket = server.bucket(locked=False)
    target = target_of(server, bucket, lock_mode="none")
    for number in range(1_005):
        server.client.put_object(Bucket=bucket, Key=f"logs/one/{CHECKPOINTS_DIR}/{number:020d}", Body=b"")
    assert target.last(CHECKPOINTS_DIR, "") == f"{1_004:020d}"


def test_a_store_that_is_down_is_a_failure_and_the_next_attempt_succeeds(credentials: None, log: StaticLog) -> None:
    mine = Server()
    bucket = mine.bucket()
    target = target_of(mine, bucket)
    export(log, target)
    mine.stop()
    exporter = Exporter(target, FixedClock())
    with pytest.raises(ExportFailed, match="the store does not answer") as failure:
        exporter.run_once(DirectoryTarget(log.directory))
    assert exporter.status().failure == str(failure.value)
    assert SECRET not in str(failure.value)


def test_credentials_appear_in_no_message(server: Server, log: StaticLog, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    target = target_of(server, server.bucket())
    export(log, target)
    with pytest.raises(ExportFailed) as failure:
        export(log, target_of(server, "no-such-bucket"))
    assert SECRET not in repr(failure.value) + str(failure.value) + repr(target.__dict__) + caplog.text


def test_the_command_exports_to_a_bucket(server: Server, log: StaticLog) -> None:
    bucket = server.bucket()
    app = typer.Typer()
    app.callback()(lambda: None)
    audit_export.register(app)
    arguments = ["export", str(log.directory), f"s3://{bucket}/logs/one", "--endpoint-url", server.url]
    done = CliRunner().invoke(app, [*arguments, "--region", "us-east-1", "--lock-days", "3"])
    assert done.exit_code == 0, done.output
    assert_is_log(target_of(server, bucket), log.entries, [f"{600:020d}"])


def test_evidence_is_made_from_a_bucket_and_is_complete_against_it(server: Server, tmp_path: Path) -> None:
    log = StaticLog(tmp_path / "audit")
    log.grow(*change_entries())
    log.sign()
    target = target_of(server, server.bucket())
    export(log, target)
    package = collect(target, CHANGE, made_ms=1)
    write(package, tmp_path / "evidence")
    assert check(tmp_path / "evidence", log=target).records == package.records
    assert json.loads(package.records[0].entry) == decode(package.records[0].entry)


def test_without_boto3_the_error_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['boto3'] = sys.modules['botocore.exceptions'] = None\n"
        "from deployments.audit.export import open_target\n"
        "from deployments.audit.settings import ExportSettings\n"
        "from deployments.clock import SystemClock\n"
        "open_target(ExportSettings(target=sys.argv[1]), SystemClock())\n"
        "assert 'botocore' not in sys.modules or sys.argv[1].startswith('s3')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "-c", code, "s3://bucket"], capture_output=True, text=True, check=False)
    assert "install Gatehouse with its extra 's3'" in done.stderr


def test_settings_open_a_bucket(server: Server) -> None:
    assert open_target(settings(server, "b"), SystemClock()).name == "s3://b/logs/one/"
