"""Whatever happens to a bundle on its way is refused, and the file is named."""

import hashlib
import os
import shutil
import subprocess
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.bundle.layout import BundleRefused, read_sums, sums_text
from serve_app.bundle.signature import public_key, signing_key
from serve_app.bundle.verify import verify
from tests.unit.bundle.tiny import World

WEIGHTS = "weights/tiny/sub/weights.bin"


def refused(bundle: Path, world: World) -> str:
    with pytest.raises(BundleRefused) as caught:
        verify(bundle, public_key(world.public))
    return str(caught.value)


def sign_again(bundle: Path, world: World, sums: bytes) -> None:
    (bundle / "SHA256SUMS").write_bytes(sums)
    (bundle / "SHA256SUMS.sig").write_bytes(world.key.sign(sums))


def test_what_arrives_as_it_was_made_is_accepted(made: Path, world: World) -> None:
    found = verify(made, public_key(world.public))
    assert found.signed_by is not None
    assert {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} - found.sums.keys() == {
        "SHA256SUMS",
        "SHA256SUMS.sig",
    }
    assert verify(made, None).signed_by is None


def test_the_machine_s_own_tools_say_the_same(bundle: Path, world: World) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    sums = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    signature = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(world.public), "-rawin", "-in", "SHA256SUMS"]
    signature += ["-sigfile", "SHA256SUMS.sig"]
    for command in (sums, signature):
        done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command
    (bundle / WEIGHTS).write_bytes(b"other")
    assert subprocess.run(sums, cwd=bundle, capture_output=True, check=False).returncode == 1
    (bundle / "SHA256SUMS").write_bytes((bundle / "SHA256SUMS").read_bytes() + b"\n")
    assert subprocess.run(signature, cwd=bundle, capture_output=True, check=False).returncode == 1


def longer(bundle: Path) -> None:
    with (bundle / WEIGHTS).open("ab") as file:
        file.write(b"\0")


def swapped(bundle: Path) -> None:
    one, other = bundle / WEIGHTS, bundle / "weights/tiny/config.json"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def linked(path: str, target: str) -> Callable[[Path], None]:
    def act(bundle: Path) -> None:
        place = bundle / path
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.symlink_to(target)

    return act


def added(path: str) -> Callable[[Path], None]:
    def act(bundle: Path) -> None:
        (bundle / path).parent.mkdir(exist_ok=True)
        (bundle / path).write_text("more")

    return act


def piped(path: str) -> Callable[[Path], None]:
    """A pipe that holds the same bytes, for whoever opens it."""

    def act(bundle: Path) -> None:
        data = (bundle / path).read_bytes()
        (bundle / path).unlink()
        os.mkfifo(bundle / path)
        threading.Thread(target=(bundle / path).write_bytes, args=(data,), daemon=True).start()

    return act


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte more": (longer, f"1 of .* files has changed: {WEIGHTS}"),
    "two files swapped": (swapped, f"2 of .* files have changed: weights/tiny/config.json, {WEIGHTS}"),
    "a file gone": (lambda bundle: (bundle / WEIGHTS).unlink(), f"1 file is missing: {WEIGHTS}"),
    "a file more": (added("wheels/evil-1.0-py3-none-any.whl"), "1 file is not part of the bundle: wheels/evil-1.0"),
    "a folder more": (added("more/file"), "1 file is not part of the bundle: more/file"),
    "a hidden file": (added("configs/.hidden"), r"not part of the bundle: configs/.hidden"),
    "a link to the same bytes": (
        linked("weights/tiny/config.json", "sub/weights.bin"),
        "config.json is neither a file",
    ),
    "a link to a folder": (linked("weights/tiny/sub", "/etc"), "weights/tiny/sub is neither a file"),
    "a link that leads nowhere": (linked("more", "/nowhere"), "more is neither a file"),
    "a pipe": (lambda bundle: os.mkfifo(bundle / "pipe"), "pipe is neither a file"),
    "the list is a link": (linked("SHA256SUMS", "bundle.json"), "SHA256SUMS is a link"),
    "the list is a pipe": (piped("SHA256SUMS"), "SHA256SUMS is no file"),
    "another manifest": (lambda bundle: (bundle / "bundle.json").write_text("{}"), "bundle.json has changed"),
    "no signature": (lambda bundle: (bundle / "SHA256SUMS.sig").unlink(), "not signed: there is no SHA256SUMS.sig"),
    "half a signature": (lambda bundle: (bundle / "SHA256SUMS.sig").write_bytes(b"0" * 32), "is no signature of"),
    "no list": (lambda bundle: (bundle / "SHA256SUMS").unlink(), "there is no SHA256SUMS"),
    "nothing": (shutil.rmtree, "there is no bundle at"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_happens_on_the_way_is_seen(bundle: Path, world: World, what: str) -> None:
    act, message = DAMAGE[what]
    act(bundle)
    with pytest.raises(BundleRefused, match=message):
        verify(bundle, public_key(world.public))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bit_of_any_file_counts(bundle: Path, world: World, data: st.DataObject) -> None:
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
    try:
        named = path.relative_to(bundle).as_posix()
        assert named in refused(bundle, world)
    finally:
        path.write_bytes(content)


LINES = {
    "leads out": (f"{'0' * 64}  ../outside\n", "names a path that leaves the bundle"),
    "leads out later": (f"{'0' * 64}  configs/../../outside\n", "names a path that leaves the bundle"),
    "absolute": (f"{'0' * 64}  /etc/passwd\n", "names a path that leaves the bundle"),
    "the list itself": (f"{'0' * 64}  SHA256SUMS\n", "is none of a list of checksums"),
    "binary mode": (f"{'0' * 64} *configs/x\n", "is none of a list of checksums"),
    "no digest": ("configs/x\n", "is none of a list of checksums"),
    "capitals": (f"{'A' * 64}  configs/x\n", "is none of a list of checksums"),
    "a backslash": (f"{'0' * 64}  configs\\x\n", "names a path that leaves the bundle"),
    "no end": (f"{'0' * 64}  configs/x", "is not the list of a bundle"),
    "not ASCII": (f"{'0' * 64}  configs/ü\n", "is not a list of checksums"),
}


@pytest.mark.parametrize("what", LINES)
def test_a_list_that_says_something_else_is_refused_though_it_is_signed(bundle: Path, world: World, what: str) -> None:
    line, message = LINES[what]
    sign_again(bundle, world, (bundle / "SHA256SUMS").read_bytes() + line.encode())
    assert message in refused(bundle, world)


def test_a_line_twice_is_refused(bundle: Path, world: World) -> None:
    sums = (bundle / "SHA256SUMS").read_bytes()
    sign_again(bundle, world, sums + sums.splitlines(keepends=True)[-1])
    assert "is none of a list of checksums" in refused(bundle, world)


def test_what_the_same_key_signed_for_another_purpose_is_no_bundle(bundle: Path, world: World) -> None:
    sums = (bundle / "SHA256SUMS").read_bytes()
    sign_again(bundle, world, b"gatehouse artefact v1\n" + sums.split(b"\n", 1)[1])
    assert "its first line is another one" in refused(bundle, world)


def test_somebody_else_s_signature_is_refused(made: Path, stranger: Path) -> None:
    with pytest.raises(BundleRefused, match="no signature of SHA256SUMS by the key"):
        verify(made, public_key(stranger))


def test_weights_of_another_revision_than_the_manifest_says_are_refused(bundle: Path, world: World) -> None:
    sums = dict(read_sums((bundle / "SHA256SUMS").read_bytes()))
    (bundle / WEIGHTS).write_bytes(b"other weights")
    sums[WEIGHTS] = hashlib.sha256(b"other weights").hexdigest()
    sign_again(bundle, world, sums_text(sums))
    assert "the weights of tiny are not those of the revision" in refused(bundle, world)


def test_a_large_file_is_read_in_pieces(bundle: Path, world: World) -> None:
    large = bundle / "added" / "image.tar"
    with large.open("wb") as file:
        file.truncate(96 * 2**20)
    sums = dict(read_sums((bundle / "SHA256SUMS").read_bytes()))
    sign_again(bundle, world, sums_text({**sums, "added/image.tar": "0" * 64}))
    tracemalloc.start()
    try:
        assert "1 of" in refused(bundle, world)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_keys_that_are_none_are_one_sentence(tmp_path: Path, world: World) -> None:
    open_to_all = tmp_path / "open.pem"
    shutil.copy(world.private, open_to_all)
    open_to_all.chmod(0o644)
    text = tmp_path / "text.pem"
    text.write_text("no key")
    text.chmod(0o600)
    for file, message in (
        (open_to_all, "others may read"),
        (text, "no private key"),
        (tmp_path / "x", "cannot be read"),
    ):
        with pytest.raises(BundleRefused, match=message):
            signing_key(file)
    for file, message in ((text, "no public key"), (tmp_path / "x", "cannot be read")):
        with pytest.raises(BundleRefused, match=message):
            public_key(file)
