"""The log's own key: made once, never replaced, refused when it is not the one."""

import pickle
import re
from pathlib import Path

import pytest

from deployments.audit.notes import COSIGNATURE_V1, ED25519, generate_key, read_signer_key, write_signer_key
from deployments.audit.settings import AuditSettings
from deployments.audit.signing import RefusedLog, keys_directory, load_key, make_key, missing_key, write_verifier_keys

PLAIN = AuditSettings()


def test_a_log_without_a_name_gets_a_random_one(tmp_path: Path) -> None:
    key = make_key(tmp_path / "audit", PLAIN)
    assert re.fullmatch(r"gatehouse\.local/[0-9a-f]{16}", key.name)
    assert make_key(tmp_path / "other" / "audit", PLAIN).name != key.name


def test_a_log_has_the_name_of_its_settings(tmp_path: Path) -> None:
    settings = AuditSettings(origin="audit.example.org/gatehouse")
    assert make_key(tmp_path / "audit", settings).name == "audit.example.org/gatehouse"
    assert load_key(tmp_path / "audit", settings) is not None


def test_the_key_is_read_back_and_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    key = make_key(tmp_path / "audit", PLAIN)
    assert load_key(tmp_path / "audit", PLAIN) == key
    [file] = (tmp_path / "audit-keys").iterdir()
    assert file.name == "log.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_nlink == 1
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_keys_lie_where_the_settings_say(tmp_path: Path) -> None:
    settings = AuditSettings(keys_dir=str(tmp_path / "elsewhere"))
    assert keys_directory(tmp_path / "audit", settings) == tmp_path / "elsewhere"
    make_key(tmp_path / "audit", settings)
    assert (tmp_path / "elsewhere" / "log.key").is_file()


def test_a_key_is_never_written_over_another(tmp_path: Path) -> None:
    key = make_key(tmp_path / "audit", PLAIN)
    with pytest.raises(FileExistsError):
        make_key(tmp_path / "audit", PLAIN)
    assert load_key(tmp_path / "audit", PLAIN) == key


def test_what_an_interrupted_attempt_left_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "audit-keys").mkdir()
    (tmp_path / "audit-keys" / "log.key.new").write_text("PRIVATE+KEY+half")
    assert load_key(tmp_path / "audit", PLAIN) is None
    assert make_key(tmp_path / "audit", PLAIN) == load_key(tmp_path / "audit", PLAIN)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path / "audit", PLAIN)
    (tmp_path / "audit-keys" / "log.key").chmod(0o640)
    with pytest.raises(RefusedLog, match="others may read the signing key"):
        load_key(tmp_path / "audit", PLAIN)


def test_a_mounted_key_has_the_permissions_of_its_mount(tmp_path: Path) -> None:
    key = generate_key("audit.example.org", ED25519)
    write_signer_key(tmp_path / "mounted", key)
    (tmp_path / "mounted").chmod(0o444)
    assert load_key(tmp_path / "audit", AuditSettings(signing_key_file=str(tmp_path / "mounted"))) == key


def test_a_key_of_the_settings_is_never_made(tmp_path: Path) -> None:
    settings = AuditSettings(signing_key_file=str(tmp_path / "mounted"))
    with pytest.raises(RefusedLog, match="there is none"):
        load_key(tmp_path / "audit", settings)


def test_the_key_of_another_log_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path / "audit", AuditSettings(origin="one.example.org"))
    with pytest.raises(RefusedLog, match=r"'one\.example\.org'.*'two\.example\.org'"):
        load_key(tmp_path / "audit", AuditSettings(origin="two.example.org"))


def test_a_witness_key_is_no_log_key(tmp_path: Path) -> None:
    write_signer_key(tmp_path / "mounted", generate_key("witness.example.org", COSIGNATURE_V1))
    with pytest.raises(RefusedLog, match="a witness's key"):
        load_key(tmp_path / "audit", AuditSettings(signing_key_file=str(tmp_path / "mounted")))


@pytest.mark.parametrize("content", [b"", b"\n", b"PRIVATE+KEY+secretsecret", b"\xff\xfe", b"x" * 5_000])
def test_a_file_that_holds_no_key_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mounted").write_bytes(content)
    with pytest.raises(RefusedLog, match="it holds no signing key") as refused:
        load_key(tmp_path / "audit", AuditSettings(signing_key_file=str(tmp_path / "mounted")))
    assert "secret" not in str(refused.value)


def test_a_refusal_crosses_processes(tmp_path: Path) -> None:
    error = missing_key(tmp_path / "audit", PLAIN, "checkpoint has one of it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is RefusedLog
    assert str(again) == str(error)
    assert "signing key is missing, but checkpoint has one of it" in str(error)


def test_public_keys_are_written_once(tmp_path: Path) -> None:
    log, witness = generate_key("log", ED25519), generate_key("witness", COSIGNATURE_V1)
    write_verifier_keys(tmp_path, [log.verifier, witness.verifier])
    file = tmp_path / "log.vkey"
    assert file.read_text() == f"{log.verifier}\n{witness.verifier}\n"
    before = file.stat().st_ino
    write_verifier_keys(tmp_path, [log.verifier, witness.verifier])
    assert file.stat().st_ino == before
    write_verifier_keys(tmp_path, [log.verifier])
    assert file.read_text() == f"{log.verifier}\n"


def test_the_key_in_the_file_is_the_one_that_was_made(tmp_path: Path) -> None:
    key = make_key(tmp_path / "audit", PLAIN, random=lambda size: bytes(range(size)))
    assert key.name == "gatehouse.local/0001020304050607"
    assert read_signer_key(tmp_path / "audit-keys" / "log.key") == key
