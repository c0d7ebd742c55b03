import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deployments.errors import InvalidRequest
from deployments.rollout.artefacts import check, read_key, scan, sign
from deployments.rollout.plan import check_plan, revision_of
from deployments.rollouts import Artefact, Bound, FileSum, Kind, Metric, Plan, Rules

SUM = "ab" * 32


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "weights.bin").write_bytes(bytes(range(256)) * 10_000)
    return folder


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "artefacts.key", tmp_path / "artefacts.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private


def test_a_copy_is_the_same_revision_and_every_byte_counts(model: Path, tmp_path: Path) -> None:
    found = scan(Kind.MODEL, "demo-20b", model)
    assert [each.path for each in found.files] == ["config.json", "sub/weights.bin"]
    copy = shutil.copytree(model, tmp_path / "copy")
    same = scan(Kind.MODEL, "demo-20b", copy)
    assert same.path != found.path
    assert revision_of(same) == revision_of(found) == check(found, None)
    for other in (
        replace(found, target="demo-120b"),
        replace(found, kind=Kind.ENGINE),
        replace(found, settings='{"a":1}'),
        replace(found, files=(replace(found.files[0], sha256=SUM), *found.files[1:])),
        replace(found, files=(replace(found.files[0], path="other.json"), *found.files[1:])),
    ):
        assert revision_of(other) != revision_of(found)
    assert revision_of(replace(found, files=found.files[::-1])) == revision_of(found)
    spelled = [replace(found, settings=text) for text in ('{"a":1,"b":2}', '{ "b": 2, "a": 1 }')]
    assert revision_of(spelled[0]) == revision_of(spelled[1])


def test_a_file_that_changed_is_missing_or_new_is_refused_by_name(model: Path) -> None:
    found = scan(Kind.MODEL, "demo-20b", model)
    weights = model / "sub" / "weights.bin"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + b"\x00")
    with pytest.raises(InvalidRequest, match="'sub/weights.bin' of the artefact has changed"):
        check(found, None)
    weights.write_bytes(data)
    (model / "extra.py").write_text("")
    with pytest.raises(InvalidRequest, match=r"'extra.py' of the artefact is not part of it"):
        check(found, None)
    (model / "extra.py").unlink()
    assert check(found, None) == revision_of(found)
    (model / "config.json").unlink()
    with pytest.raises(InvalidRequest, match=r"'config.json' of the artefact is missing"):
        check(found, None)


@pytest.mark.parametrize("what", ["file", "folder", "pipe"])
def test_what_is_no_plain_file_is_refused(model: Path, tmp_path: Path, what: str) -> None:
    if what == "pipe":
        os.mkfifo(model / "odd")
    else:
        target = tmp_path / "elsewhere"
        target.mkdir() if what == "folder" else target.write_text("")
        (model / "odd").symlink_to(target)
    with pytest.raises(InvalidRequest, match="'odd' is not a plain file"):
        scan(Kind.MODEL, "demo-20b", model)


def test_a_single_file_and_settings_alone_are_artefacts(model: Path) -> None:
    single = scan(Kind.ROUTER, "router", model / "config.json")
    assert check(single, None) == revision_of(single)
    bare = scan(Kind.ENGINE, "demo-20b", None, '{"max_num_seqs": 8}')
    assert (bare.path, bare.files) == ("", ())
    (model / "loop").symlink_to(model / "loop")
    for nothing in (
        lambda: scan(Kind.ENGINE, "demo-20b", None),
        lambda: scan(Kind.ENGINE, "demo-20b", model / "absent"),
        lambda: scan(Kind.ENGINE, "demo-20b", model / "loop"),
    ):
        with pytest.raises(InvalidRequest):
            nothing()


def test_only_what_is_signed_by_the_key_is_good(model: Path, key_file: Path, tmp_path: Path) -> None:
    key, found = read_key(key_file.with_suffix(".pub")), scan(Kind.MODEL, "demo-20b", model)
    signed = sign(found, key_file)
    assert check(signed, key) == check(signed, None) == revision_of(found)
    other = tmp_path / "other.key"
    other.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    other.chmod(0o600)
    for bad in (
        found,
        replace(found, signature="???"),
        sign(found, other),
        replace(sign(replace(found, settings='{"a":1}'), key_file), settings="{}"),
    ):
        with pytest.raises(InvalidRequest, match="signed"):
            check(bad, key)
    key_file.chmod(0o640)
    with pytest.raises(InvalidRequest, match="Others may read"):
        sign(found, key_file)
    with pytest.raises(InvalidRequest):
        read_key(key_file)


@pytest.mark.parametrize(
    "artefact",
    [
        Artefact(Kind.MODEL, "m", "/x", (FileSum("../up", 1, SUM),)),
        Artefact(Kind.MODEL, "m", "/x", (FileSum("/abs", 1, SUM),)),
        Artefact(Kind.MODEL, "m", "/x", (FileSum("a//b", 1, SUM),)),
        Artefact(Kind.MODEL, "m", "/x", (FileSum("a", -1, SUM),)),
        Artefact(Kind.MODEL, "m", "/x", (FileSum("a", 1, "AB" * 32),)),
        Artefact(Kind.MODEL, "m", "/x", (FileSum("a", 1, SUM), FileSum("a", 2, SUM))),
        Artefact(Kind.MODEL, "m", "", (FileSum("a", 1, SUM),)),
        Artefact(Kind.MODEL, "a b", settings='{"a":1}'),
        Artefact(Kind.MODEL, "m", settings="[1]"),
        Artefact(Kind.MODEL, "m", settings='{"a":NaN}'),
        Artefact(Kind.MODEL, "m", settings='{"a":1e999}'),
        Artefact(Kind.MODEL, "m", settings='{"a":"\\ud800"}'),
        Artefact(Kind.MODEL, "m", "/x", (FileSum("w\udcff", 1, SUM),)),
        Artefact(Kind.MODEL, "m", settings='{"a":'),
    ],
    ids=[
        "up",
        "abs",
        "empty-part",
        "size",
        "sum",
        "twice",
        "no-path",
        "target",
        "list",
        "nan",
        "infinite",
        "half",
        "name",
        "cut",
    ],
)
def test_an_artefact_without_a_meaning_has_no_revision(artefact: Artefact) -> None:
    with pytest.raises(InvalidRequest):
        revision_of(artefact)


GOOD = Plan("ro-1", Kind.MODEL, "m", "b" * 64, "a" * 64, "CHG-1")
BOUND = Bound(Metric.ERROR, 0.01, 0.05, 10)


@pytest.mark.parametrize(
    "plan",
    [
        replace(GOOD, change_id=""),
        replace(GOOD, rollout_id="a b"),
        replace(GOOD, previous_revision=GOOD.revision),
        replace(GOOD, shares=()),
        replace(GOOD, shares=(5, 25)),
        replace(GOOD, shares=(25, 5, 100)),
        replace(GOOD, shares=(0, 100)),
        replace(GOOD, shares=(100,)),
        replace(GOOD, rules=Rules(min_s=10, deadline_s=5)),
        replace(GOOD, rules=Rules(false_alarm=0.5)),
        replace(GOOD, rules=Rules(design_effect=0.5)),
        replace(GOOD, rules=Rules(bounds=())),
        replace(GOOD, rules=Rules(bounds=(BOUND, BOUND))),
        replace(GOOD, rules=Rules(bounds=(replace(BOUND, required=False),))),
        replace(GOOD, rules=Rules(bounds=(replace(BOUND, tolerance=0.01),))),
    ],
    ids=[
        "change", "id", "same", "none", "no-100", "shrinks", "zero", "all-at-once", "times", "alarm",
        "effect", "no-bounds", "twice", "none-required", "tolerance",
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_carried_out_is_refused(plan: Plan) -> None:
    check_plan(GOOD)
    check_plan(replace(GOOD, shares=(100,), shadow=True))
    with pytest.raises(InvalidRequest):
        check_plan(plan)
