import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deployments.gate.bundle import load_bundle
from deployments.gate.grammar import BundleError
from deployments.gate.policy import read_policy
from deployments.gate.signature import check_signature, sign, signature_path
from tests.unit.gate.tiny import tiny, write


def keys(directory: Path, name: str = "key") -> tuple[Path, Path]:
    """A private and a public key in PEM, as `openssl genpkey -algorithm ed25519` writes them."""
    key = Ed25519PrivateKey.generate()
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signed_bundle_loads(tmp_path: Path) -> None:
    path, (private, public) = write(tmp_path, tiny()), keys(tmp_path)
    signature_path(path).write_bytes(sign(read_policy(path).policy_digest, private))
    assert load_bundle(path, key=public).name == "tiny"


def test_another_content_another_key_or_no_signature_does_not(tmp_path: Path) -> None:
    path, (private, public), (other, _) = write(tmp_path, tiny()), keys(tmp_path), keys(tmp_path, "other")
    with pytest.raises(BundleError, match="not signed"):
        load_bundle(path, key=public)
    digest = read_policy(path).policy_digest
    signature_path(path).write_bytes(sign(digest, other))
    with pytest.raises(BundleError, match="is not by the key"):
        load_bundle(path, key=public)
    signature_path(path).write_bytes(sign("0" * 64, private))
    with pytest.raises(BundleError, match="signs another content"):
        load_bundle(path, key=public)
    forged = sign("0" * 64, private).replace(b"0" * 64, digest.encode())
    signature_path(path).write_bytes(forged)
    with pytest.raises(BundleError, match="is not by the key"):
        load_bundle(path, key=public)


def test_a_change_of_the_base_breaks_the_signature(tmp_path: Path) -> None:
    base, (private, public) = write(tmp_path, tiny()), keys(tmp_path)
    own = write(tmp_path, {"version": 1, "name": "mine", "extends": "tiny"})
    signature_path(own).write_bytes(sign(read_policy(own).policy_digest, private))
    assert load_bundle(own, key=public).name == "mine"
    base.write_text(base.read_text().replace("deletes files", "removes files"))
    with pytest.raises(BundleError, match="signs another content"):
        load_bundle(own, key=public)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"policy_digest": 1, "signature": "?"}'])
def test_what_is_no_signature_is_refused(tmp_path: Path, content: bytes) -> None:
    path, (_, public) = write(tmp_path, tiny()), keys(tmp_path)
    signature_path(path).write_bytes(content)
    with pytest.raises(BundleError, match="is no signature|another content"):
        check_signature(read_policy(path).policy_digest, path, public)


def test_keys_are_checked(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    private.chmod(0o644)
    with pytest.raises(BundleError, match="0600"):
        sign("a" * 64, private)
    with pytest.raises(BundleError, match="cannot be read"):
        sign("a" * 64, tmp_path / "absent")
    public.chmod(0o600)
    with pytest.raises(BundleError, match="no private key"):
        sign("a" * 64, public)
    curve = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "curve").write_bytes(curve)
    (tmp_path / "curve").chmod(0o600)
    with pytest.raises(BundleError, match="no Ed25519 key"):
        sign("a" * 64, tmp_path / "curve")
    path = write(tmp_path, tiny())
    for wrong in (private, tmp_path / "absent", tmp_path / "curve"):
        with pytest.raises(BundleError, match="key"):
            load_bundle(path, key=wrong)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_keys_of_openssl_work(tmp_path: Path) -> None:
    private, public = tmp_path / "k.pem", tmp_path / "k.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    private.chmod(0o600)
    path = write(tmp_path, tiny())
    signature_path(path).write_bytes(sign(read_policy(path).policy_digest, private))
    assert load_bundle(path, key=public).name == "tiny"
