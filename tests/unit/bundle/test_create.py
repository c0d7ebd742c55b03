"""What goes into a bundle, and what may not."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import Kind
from serve_app.bundle.contents import Contents, Overlay
from serve_app.bundle.create import create
from serve_app.bundle.install import serve_file
from serve_app.bundle.layout import BundleRefused, read_manifest, read_sums
from serve_app.bundle.signature import signing_key
from serve_app.bundle.verify import verify
from serve_app.bundle.wheels import fetch, platforms
from tests.unit.bundle.tiny import DIGEST, NOW_MS, VOCABULARY, World, write_wheel


def test_everything_is_there_and_listed(made: Path, world: World) -> None:
    sums = read_sums((made / "SHA256SUMS").read_bytes())
    assert sorted(sums) == [
        "added/LICENCE.txt",
        "bundle.json",
        "configs/policies/default.yaml",
        "configs/policies/routing.yaml",
        "configs/serve.tiny.yaml",
        "images.txt",
        "install.sh",
        "kuberay/operator/values.yaml",
        "rendered/edge.yaml",
        "requirements/cpu.lock",
        "requirements/installer.txt",
        "requirements/own.txt",
        "requirements/torch-cpu.lock",
        "sbom.cdx.json",
        "vocabulary/o200k_base.tiktoken",
        "weights/tiny/config.json",
        "weights/tiny/sub/weights.bin",
        "wheels/deep-1.0-py3-none-any.whl",
        "wheels/gatehouse_serving-9.9-py3-none-any.whl",
        "wheels/plain-1.0-py3-none-any.whl",
        "wheels/torch_like-1.0-py3-none-any.whl",
    ]
    assert (made / "vocabulary" / "o200k_base.tiktoken").read_bytes() == VOCABULARY
    assert (made / "images.txt").read_text().splitlines() == [
        f"quay.internal:5000/operator:v1@{DIGEST}",
        f"registry.internal/gatehouse:1@{DIGEST}",
    ]


def test_the_manifest_says_what_it_is_for(made: Path, world: World) -> None:
    manifest = read_manifest((made / "bundle.json").read_bytes())
    assert (manifest.version, manifest.build, manifest.made_at_ms) == ("9.9", "cpu", NOW_MS)
    assert (manifest.config, manifest.overlays, manifest.added) == (
        "configs/serve.tiny.yaml",
        ["edge"],
        ["added/LICENCE.txt"],
    )
    (model,) = manifest.models
    registered = scan(Kind.MODEL, "tiny", world.root / "checkpoint")
    assert model.revision == revision_of(registered), "what `gatehouse rollout register` calls these weights"
    assert model.bytes == sum(each.size for each in registered.files)
    others = {"bundle.json", "sbom.cdx.json", "SHA256SUMS", "SHA256SUMS.sig"}
    files = [path for path in made.rglob("*") if path.is_file() and path.name not in others]
    assert manifest.bytes == sum(path.stat().st_size for path in files)


def test_the_installer_s_list_is_the_project_and_what_it_asks_for(made: Path) -> None:
    text = (made / "requirements" / "installer.txt").read_text()
    sums = read_sums((made / "SHA256SUMS").read_bytes())
    found = dict(re.findall(r"^(\S+)==\S+ \\\n    --hash=sha256:([0-9a-f]{64})$", text, re.MULTILINE))
    wheels = {"deep": "deep-1.0", "gatehouse-serving": "gatehouse_serving-9.9", "plain": "plain-1.0"}
    assert found == {name: sums[f"wheels/{wheel}-py3-none-any.whl"] for name, wheel in wheels.items()}


def test_the_bill_of_materials_names_every_part_by_its_digest(made: Path) -> None:
    sums = read_sums((made / "SHA256SUMS").read_bytes())
    bill = json.loads((made / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", bill["serialNumber"]
    )
    assert bill["metadata"]["timestamp"] == "2026-11-18T11:06:40Z"
    parts = {each["bom-ref"]: each for each in [bill["metadata"]["component"], *bill["components"]]}
    assert len(parts) == 1 + len(bill["components"]), "a reference is used once"
    assert {ref for ref, each in parts.items() if each["type"] in {"library", "application"}} == {
        "pkg:pypi/deep@1.0",
        "pkg:pypi/gatehouse-serving@9.9",
        "pkg:pypi/plain@1.0",
        "pkg:pypi/torch-like@1.0",
    }
    for ref, each in parts.items():
        for said in each.get("properties", []):
            file = said["value"] if said["name"] == "gatehouse:file" else ref.removeprefix("file:")
            assert each["hashes"] == [{"alg": "SHA-256", "content": sums[file]}], ref
    assert {
        name: parts[f"pkg:pypi/{name}"].get("licenses") for name in ("plain@1.0", "torch-like@1.0", "deep@1.0")
    } == {
        "plain@1.0": [{"license": {"name": "MIT License"}}],
        "torch-like@1.0": [{"license": {"name": "BSD-3-Clause"}}],
        "deep@1.0": None,
    }
    assert bill["metadata"]["component"]["licenses"] == [{"expression": "Apache-2.0"}]
    needs = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert needs["pkg:pypi/gatehouse-serving@9.9"] == ["pkg:pypi/plain@1.0"]
    assert needs["pkg:pypi/plain@1.0"] == ["pkg:pypi/deep@1.0"]
    assert {*needs, *(each for many in needs.values() for each in many)} <= parts.keys()
    (weights,) = (each for each in parts.values() if each["type"] == "machine-learning-model")
    assert {each["name"]: each["hashes"][0]["content"] for each in weights["components"]} == {
        path.removeprefix("weights/tiny/"): digest for path, digest in sums.items() if path.startswith("weights/")
    }
    images = {each["name"]: each["purl"] for each in parts.values() if each["type"] == "container"}
    assert images["quay.internal:5000/operator"] == (
        f"pkg:oci/operator@sha256%3A{32 * 'ab'}?repository_url=quay.internal%3A5000%2Foperator&tag=v1"
    )


def test_a_candidate_brings_its_own_weights(world: World, tmp_path: Path) -> None:
    other = shutil.copytree(world.root / "checkpoint", tmp_path / "next")
    (other / "sub" / "weights.bin").write_bytes(b"better")
    engine = {"model": "tiny", "revision": "r1", "source": "/models/tiny", "num_cpus": 0.1}
    candidate = {**engine, "revision": "ab" * 32, "source": "/models/tiny-next"}
    config = world.config(models=[{"tier": "20b", "engine": engine, "candidate": candidate}])
    weights = {"tiny": world.root / "checkpoint", "tiny:candidate": other}
    try:
        made = world.make(tmp_path / "bundle", world.contents(config, weights=weights))
        assert [(each.place, each.folder) for each in made.manifest.models] == [
            ("engine", "weights/tiny"),
            ("candidate", "weights/tiny-candidate"),
        ]
        installed = yaml.safe_load(serve_file(made.manifest, Path("/opt/gatehouse"), tmp_path / "bundle"))
        (model,) = installed["applications"][0]["args"]["models"]
        for entry in made.manifest.models:
            place = model[entry.place]["source"]
            assert place == f"/opt/gatehouse/models/{entry.folder.split('/')[1]}-{entry.revision[:16]}"
    finally:
        world.config()


def test_a_candidate_with_the_weights_of_its_engine_is_a_part_of_its_own(world: World, tmp_path: Path) -> None:
    engine = {"model": "tiny", "revision": "r1", "source": "/models/tiny", "num_cpus": 0.1}
    model = {"tier": "20b", "engine": engine, "candidate": engine | {"revision": "ab" * 32}}
    both = dict.fromkeys(("tiny", "tiny:candidate"), world.root / "checkpoint")
    try:
        world.make(tmp_path / "bundle", world.contents(world.config(models=[model]), weights=both))
    finally:
        world.config()
    bill = json.loads((tmp_path / "bundle" / "sbom.cdx.json").read_text())
    refs = [each["bom-ref"] for each in bill["components"]]
    assert sum(ref.startswith("model:") for ref in refs) == 2
    assert len({*refs}) == len(refs), "a reference is used once"


def test_the_same_contents_are_the_same_bundle(made: Path, world: World, tmp_path: Path) -> None:
    again = world.make(tmp_path / "again")
    assert again.digest == hashlib.sha256((made / "SHA256SUMS").read_bytes()).hexdigest()


def test_an_unsigned_bundle_says_so(world: World, tmp_path: Path, stranger: Path) -> None:
    world.make(tmp_path / "bundle", signed=False)
    assert verify(tmp_path / "bundle", None).signed_by is None
    with pytest.raises(BundleRefused, match="not signed"):
        verify(tmp_path / "bundle", signing_key(world.private).public_key())


def image(text: str) -> Callable[[World, Path], Contents]:
    return lambda world, folder: world.contents(overlays=[Overlay("edge", "", [text])])


def with_link(world: World, folder: Path) -> Contents:
    (folder / "config.json").write_text("{}")
    (folder / "weights.bin").symlink_to(world.root / "checkpoint" / "sub" / "weights.bin")
    return world.contents(weights={"tiny": folder})


def with_name(world: World, folder: Path) -> Contents:
    (folder / "config.json").write_text("{}")
    (folder / "gewicht-ä").write_text("")
    return world.contents(weights={"tiny": folder})


def same_name(world: World, folder: Path) -> Contents:
    (folder / "LICENCE.txt").write_text("another")
    return world.contents(added=[world.root / "LICENCE.txt", folder / "LICENCE.txt"])


def elsewhere(world: World, folder: Path) -> Contents:
    config = world.config()
    (folder / config.name).write_bytes(config.read_bytes())
    return world.contents(folder / config.name)


def beside(world: World, folder: Path) -> Contents:
    other = world.root / "configs" / "serve.other.yaml"
    other.write_text("args:\n  store_url: postgresql+psycopg://me:secret@db/gatehouse\n")
    try:
        return world.contents()
    finally:
        other.unlink()


def relative_source(world: World, folder: Path) -> Contents:
    model = {"tier": "20b", "engine": {"model": "tiny", "revision": "r1", "source": "openai/gpt-oss-20b"}}
    return world.contents(world.config(models=[model]), weights={})


def demonstration(world: World, folder: Path) -> Contents:
    model = {"tier": "20b", "engine": {"model": "tiny", "revision": "r1", "source": "demo:demo-20b"}}
    return world.contents(world.config(models=[model]))


REFUSED: dict[str, tuple[Callable[[World, Path], Contents], str]] = {
    "no checkpoint": (
        lambda world, _: world.contents(weights={}),
        "no checkpoint of tiny in /models/tiny: .*--weights tiny=",
    ),
    "a name of a hub": (relative_source, r"the weights of tiny are no folder \(openai/gpt-oss-20b\)"),
    "weights of nobody": (
        lambda world, _: world.contents(weights={"tiny": world.root / "checkpoint", "huge": world.root}),
        "huge is no model with weights",
    ),
    "weights of a demonstration": (demonstration, "its weights are in the package"),
    "a link among the weights": (with_link, "weights.bin is neither a file"),
    "a name that not every tool reads": (with_name, "has a name that a bundle cannot hold"),
    "a policy elsewhere": (
        lambda world, folder: world.contents(world.config(routing_policy=str(folder / "routing.yaml"))),
        "routing_policy: the file .*/routing.yaml does not exist",
    ),
    "a policy that climbs": (
        lambda world, _: world.contents(world.config(gate={"bundle": "configs/../pyproject.yaml"})),
        "gate.bundle: the file configs/../pyproject.yaml does not exist",
    ),
    "a policy that is not there": (
        lambda world, _: world.contents(world.config(gate={"bundle": "default", "shadow_bundle": "next"})),
        "gate.shadow_bundle: the file configs/policies/next.yaml does not exist",
    ),
    "a password": (
        lambda world, _: world.contents(world.config(store_url="postgresql+psycopg://me:secret@db/gatehouse")),
        "store_url holds a password",
    ),
    "a password among the parameters": (
        lambda world, _: world.contents(world.config(store_url="postgresql+psycopg://me@db/gatehouse?password=secret")),
        "store_url holds a password",
    ),
    "a password in a configuration that is not this one": (
        beside,
        "configs/serve.other.yaml has the URL of a database that holds a password",
    ),
    "an image by tag": (image("registry.internal/gatehouse:latest"), "is not named by the digest"),
    "an image of zeros": (image(f"registry.internal/gatehouse@sha256:{64 * '0'}"), "fill in kuberay/components/site"),
    "two of one name": (same_name, "two things that are to be added are called LICENCE.txt"),
    "nothing to add": (lambda world, folder: world.contents(added=[folder / "x"]), "is neither a file nor a folder"),
    "a config in the place of another": (elsewhere, "would take the place of configs/serve.tiny.yaml"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_go_into_a_bundle_is_refused_before_anything_is_fetched(
    world: World, tmp_path: Path, what: str
) -> None:
    gather, message = REFUSED[what]
    started = len(world.started)
    with pytest.raises(BundleRefused, match=message) as caught:
        gather(world, tmp_path)
    assert "secret" not in str(caught.value)
    assert len(world.started) == started
    world.config()


def test_a_bundle_overwrites_nothing_and_leaves_nothing_half_done(world: World, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(BundleRefused, match="overwrites nothing"):
        world.make(tmp_path / "there")

    def fails(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
        raise BundleRefused("the line is down")

    with pytest.raises(BundleRefused, match="the line is down"):
        create(world.contents(), tmp_path / "bundle", None, NOW_MS, {}, start=fails)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_wheel_that_is_none_of_the_lock_s_is_not_taken(world: World, tmp_path: Path) -> None:
    other = tmp_path / "index"
    write_wheel(other, "plain", head=["Summary: not the one that was locked"])
    for path in world.index.glob("[dt]*.whl"):
        shutil.copy(path, other)
    (tmp_path / "wheels").mkdir()
    locks = world.root / "requirements"
    with pytest.raises(BundleRefused, match=r"pip download .* failed"):
        fetch(locks, "cpu", tmp_path / "wheels", [other], world.start, {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1"})


def test_platforms_are_those_of_the_locks_best_first() -> None:
    found = platforms()
    assert found[0] == "manylinux_2_31_x86_64"
    assert (
        found.index("manylinux_2_28_x86_64")
        < found.index("manylinux_2_17_x86_64")
        < found.index("manylinux2014_x86_64")
    )
    assert not [each for each in found if each > "manylinux_2_31" and "_2_" in each and int(each.split("_")[2]) > 31]
