import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from deployments.audit.read import read_records
from deployments.audit.writer import lock_log
from deployments.clock import FixedClock, SystemClock
from deployments.ports import TenantId
from serve_app.cli.audit_bodies import register
from tests.unit.audit.logs import SMALL, open_log, routed
from tests.unit.audit.vaults import ALL, DAY_MS, blob_files, key_files, open_vault, said

app = typer.Typer()
register(app)
runner = CliRunner()
NOW = FixedClock(SystemClock().now_ms())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A log of log.opened, a record without a body, one with, and one that is a hundred days old; no server."""
    writer = open_log(tmp_path / "audit", SMALL)
    vault = open_vault(tmp_path, ALL, NOW)
    events = [
        said("e1", "what was said", at_ms=NOW.ms),
        said("e2", "long ago", at_ms=NOW.ms - 100 * DAY_MS),
    ]
    for event in [routed(1), *vault.commit(events)]:
        [outcome] = writer.commit([[event]])
        assert isinstance(outcome, list), outcome
    writer.record_head()
    writer.close()
    return tmp_path


def run(*arguments: object) -> Result:
    return runner.invoke(app, [str(each) for each in arguments])


def last(root: Path) -> dict[str, object]:
    return {**list(read_records(root / "audit"))[-1]}


def test_body_prints_what_was_kept_and_writes_it_for_its_owner_only(root: Path) -> None:
    done = run("body", root / "audit", 2, "--field", "prompt")
    assert (done.exit_code, done.stdout) == (0, "what was said")
    done = run("body", root / "audit", 2, "--field", "prompt", "--keys", root / "audit-keys", "--out", root / "body")
    assert done.exit_code == 0
    assert (root / "body").read_bytes() == b"what was said"
    assert (root / "body").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["LOG", 1, "--field", "prompt"], 1),
        (["LOG", 2, "--field", "output"], 1),
        (["LOG", 99, "--field", "prompt"], 2),
        (["NOWHERE", 2, "--field", "prompt"], 2),
        (["LOG", 2, "--field", "prompt", "--keys", "NOWHERE"], 2),
        (["LOG", 2, "--field", "prompt", "--out", "NOWHERE/x"], 2),
    ],
)
def test_body_says_in_one_sentence_why_there_is_none(root: Path, arguments: list[object], status: int) -> None:
    places = {"LOG": str(root / "audit"), "NOWHERE": str(root / "nowhere"), "NOWHERE/x": str(root / "nowhere" / "x")}
    done = run("body", *(places.get(str(each), each) for each in arguments))
    assert done.exit_code == status
    assert done.stderr.startswith("gatehouse: ")
    assert done.stderr.count("\n") == 1


def test_check_body_tells_the_right_words_from_others(root: Path) -> None:
    (root / "words").write_text("what was said")
    assert run("check-body", root / "audit", 2, "--field", "prompt", "--file", root / "words").exit_code == 0
    (root / "words").write_text("what was said.")
    done = run("check-body", root / "audit", 2, "--field", "prompt", "--file", root / "words")
    assert done.exit_code == 1
    assert "not committed" in done.stderr
    assert run("check-body", root / "audit", 2, "--field", "output", "--file", root / "words").exit_code == 2


def test_shred_records_first_and_then_nothing_opens(root: Path) -> None:
    done = run("shred", "acme", "--change-id", "CHG-9", "--reason", "asked", "--yes", "--log", root / "audit")
    assert done.exit_code == 0, done.stderr
    record = last(root)
    assert (record["name"], record["tenant"], record["principal"]) == ("tenant.shredded", "acme", "operator")
    assert json.loads(done.stdout)["index"] == record["sequence"]
    assert blob_files(root) == []
    (root / "words").write_text("what was said")
    assert run("body", root / "audit", 2, "--field", "prompt").exit_code == 1
    assert run("check-body", root / "audit", 2, "--field", "prompt", "--file", root / "words").exit_code == 2
    (root / "words").write_text("asked")
    index = record["sequence"]
    assert run("check-body", root / "audit", index, "--field", "reason", "--file", root / "words").exit_code == 0


def test_shred_asks_before_it_destroys(root: Path) -> None:
    done = runner.invoke(app, ["shred", "acme", "--change-id", "C", "--log", str(root / "audit")], input="n\n")
    assert done.exit_code != 0
    assert len(blob_files(root)) == 2


def test_shred_and_prune_leave_a_log_alone_that_a_server_writes(root: Path) -> None:
    lock_log(root / "audit")
    for command in (["shred", "acme", "--change-id", "C", "--yes"], ["prune", "--days", "30"], ["rotate-key", "acme"]):
        done = run(*command, "--log", root / "audit")
        assert done.exit_code == 2
        assert "is being written by process" in done.stderr
    assert len(blob_files(root)) == 2


def test_shredding_a_tenant_that_is_not_there_says_so(root: Path) -> None:
    done = run("shred", "nobody", "--change-id", "C", "--yes", "--log", root / "audit")
    assert done.exit_code == 2
    assert "no keys" in done.stderr


def test_prune_deletes_what_is_too_old_and_records_it(root: Path) -> None:
    done = run("prune", "--days", 30, "--log", root / "audit")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {"pruned": {"acme": 1}}
    record = last(root)
    assert record["name"] == "bodies.pruned"
    assert record["data"] == {"bodies": 1, "days": 30}
    assert len(blob_files(root)) == 1
    assert json.loads(run("prune", "--days", 30, "--log", root / "audit").stdout) == {"pruned": {}}


def test_prune_takes_retention_from_one_place(root: Path) -> None:
    assert run("prune", "--log", root / "audit").exit_code == 2
    assert run("prune", "--log", root / "audit", "--days", 3, "--config", "configs/serve.local.yaml").exit_code == 2
    assert run("prune", "--log", root / "audit", "--config", "nowhere.yaml").exit_code == 2
    done = run("prune", "--log", root / "audit", "--config", "configs/serve.local.yaml")
    assert json.loads(done.stdout) == {"pruned": {"acme": 1}}


def test_a_shredding_that_was_interrupted_is_recorded_once_and_finished_by_the_next_command(root: Path) -> None:
    vault = open_vault(root, ALL, NOW)
    removal = vault.begin_shred(TenantId("acme"), "key_admin", "CHG-9")
    writer = open_log(root / "audit")
    writer.commit([removal.events])
    writer.record_head()
    writer.close()
    assert run("prune", "--days", 30, "--log", root / "audit").exit_code == 0
    names = [record["name"] for record in read_records(root / "audit")]
    assert names.count("tenant.shredded") == 1
    assert blob_files(root) == []
    assert len(key_files(root)) == 1


def test_rotate_key_gives_new_bodies_a_new_key(root: Path) -> None:
    done = run("rotate-key", "acme", "--log", root / "audit")
    assert done.exit_code == 0
    assert done.stdout.strip() in {path.stem for path in key_files(root)}
    assert len(key_files(root)) == 2
    assert run("body", root / "audit", 2, "--field", "prompt").stdout == "what was said"
