"""The files of the keys that permits are signed with, and the command that a call is."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deployments.errors import GateUnavailable
from deployments.gate.commands import Run, claim_key, run_of
from deployments.gate.permit_keys import PermitKeys, make_key


def test_the_first_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    keys = PermitKeys(tmp_path / "keys")
    keys.open()
    (path,) = (tmp_path / "keys").iterdir()
    assert (path.name, path.stat().st_mode & 0o777) == ("permit-0001.key", 0o600)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    again = PermitKeys(tmp_path / "keys")
    again.open()
    assert again.newest().kid == keys.newest().kid


def test_the_newest_of_two_signs_and_both_are_published(tmp_path: Path) -> None:
    keys = PermitKeys(tmp_path)
    keys.open()
    first = keys.newest().kid
    made = make_key(tmp_path)
    assert keys.newest().kid != first
    assert [key.kid for key in keys.all()] == [keys.newest().kid, first]
    made.unlink()
    assert keys.newest().kid == first


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_may_read_signs_nothing(tmp_path: Path, mode: int) -> None:
    keys = PermitKeys(tmp_path)
    keys.open()
    (tmp_path / "permit-0001.key").chmod(mode)
    with pytest.raises(GateUnavailable, match="0600"):
        keys.newest()


def test_a_file_that_holds_no_key_of_ours_signs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "permit-0001.key"
    other = Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for data in (b"", b"not a key", other):
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(GateUnavailable):
            PermitKeys(tmp_path).open()


def test_without_a_key_nothing_is_signed(tmp_path: Path) -> None:
    with pytest.raises(GateUnavailable):
        PermitKeys(tmp_path).newest()


def test_a_directory_that_cannot_be_made_holds_no_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GateUnavailable):
        PermitKeys(tmp_path / "file" / "keys").open()


# --- which command a call is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments", "run"),
    [
        ("run", '{"command":"ls -l"}', Run("ls -l")),
        ("Bash", '{"command":"ls","description":"List","timeout":1000}', Run("ls")),
        ("exec_command", '{"cmd":"ls","workdir":"/w","yield_time_ms":1}', Run("ls", "/w")),
        ("shell", '{"command":["bash","-lc","ls -l"]}', Run("ls -l")),
        ("shell", '{"command":["ls","-l"],"workdir":"./a/../b/"}', Run(("ls", "-l"), "b")),
        ("run", '{"command":"ls","cwd":".","timeout_s":5}', Run("ls", None, 5)),
        ("shell", '{"command":["sh","-c","ls"]}', Run(("sh", "-c", "ls"))),
        ("deploy", '{"command":"ls"}', None),
        ("run", '{"command":""}', None),
        ("run", '{"command":[]}', None),
        ("run", '{"command":["ls",1]}', None),
        ("run", '{"command":"ls","cmd":"ls"}', None),
        ("run", '{"command":"ls","cwd":"a","workdir":"b"}', None),
        ("run", '{"command":"ls","cwd":1}', None),
        ("shell", '{"command":"ls","with_escalated_permissions":true}', None),
        ("Bash", '{"command":"ls","run_in_background":true}', None),
        ("run", '["ls"]', None),
        ("run", "ls", None),
    ],
)
def test_the_command_of_a_call(tool: str, arguments: str, run: Run | None) -> None:
    assert run_of(tool, arguments) == run


def test_a_claim_is_for_one_key_of_one_tenant_and_one_command() -> None:
    mine = claim_key("acme", "key_1", "run", '{"command":"ls"}')
    assert claim_key("acme", "key_1", "Bash", '{"command":"ls"}') == mine
    others = {
        claim_key("rival", "key_1", "run", '{"command":"ls"}'),
        claim_key("acme", "key_2", "run", '{"command":"ls"}'),
        claim_key("acme", "key_1", "run", '{"command":"ls -l"}'),
        claim_key("acme", "key_1", "run", '{"command":["ls"]}'),
        claim_key("acme", "key_1", "run", '{"command":"ls","cwd":"a"}'),
        claim_key("acme", "key_1", "deploy", '{"command":"ls"}'),
        claim_key("acme", "key_1", "deploy2", '{"command":"ls"}'),
        claim_key("acme", "key_1", "run", '{"command":"ls","force":true}'),
    }
    assert len(others) == 8
    assert mine not in others
