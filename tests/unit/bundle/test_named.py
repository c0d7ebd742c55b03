"""The files that a configuration names travel with it, and the installed configuration names them where they are."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.difficulty.learned import LearnedSources
from deployments.gate.candidate import check_revision, revision_of_bundle
from deployments.ports import ModelId
from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import ROUTER_TARGET, Kind
from serve_app.app import prompts_of
from serve_app.bundle.install import Installed, install
from serve_app.bundle.layout import BundleRefused, read_sums
from serve_app.bundle.signature import public_key
from serve_app.bundle.verify import opened, verify
from serve_app.config import AppConfig, load_serve_file
from tests.unit.bundle.test_install import GOOD, Starter, sign_again
from tests.unit.bundle.tiny import World, copy_of
from tests.unit.router.learned import two_heads_bytes

ENGINE = {"model": "tiny", "revision": "r1", "source": "/models/tiny", "num_cpus": 0.1}


class Outside:
    """Files of every kind outside of the checkout, and a configuration that names them."""

    def __init__(self, folder: Path) -> None:
        self.etc = folder
        (folder / "next").mkdir(parents=True)
        (folder / "strict" / "parts").mkdir(parents=True)
        (folder / "prompt.txt").write_text("Answer briefly.")
        (folder / "next" / "prompt.txt").write_text("Answer at length.")
        (folder / "router.snapshot").write_bytes(two_heads_bytes())
        (folder / "next" / "router.snapshot").write_bytes(two_heads_bytes(weak_bias=-3.0))
        (folder / "policy.yaml").write_text("version: 1\nextends: default\n")
        (folder / "policy.yaml.sig").write_text("a signature")
        (folder / "strict" / "policy.yaml").write_text("version: 1\ninclude: [parts/words.yaml]\n")
        (folder / "strict" / "parts" / "words.yaml").write_text("words: {}\n")
        (folder / "suite-2026-11.jsonl").write_text('{"name": "one"}\n')
        (folder / "suite.jsonl").symlink_to("suite-2026-11.jsonl")

    def args(self) -> dict[str, Any]:
        etc = self.etc
        prompt = revision_of(scan(Kind.PROMPT, "tiny", etc / "next" / "prompt.txt"))
        snapshot = revision_of(scan(Kind.ROUTER, ROUTER_TARGET, etc / "next" / "router.snapshot"))
        candidate = str(etc / "strict" / "policy.yaml")
        return {
            "models": [
                {
                    "tier": "20b",
                    "engine": ENGINE,
                    "prompt": {"path": str(etc / "prompt.txt"), "revision": "p1"},
                    "candidate_prompt": {"path": str(etc / "next" / "prompt.txt"), "revision": prompt},
                }
            ],
            "difficulty": {
                "learned": {
                    "snapshot": str(etc / "router.snapshot"),
                    "mode": "apply",
                    "candidate": {"snapshot": str(etc / "next" / "router.snapshot"), "revision": snapshot},
                }
            },
            "gate": {
                "bundle": str(etc / "policy.yaml"),
                "candidate": {"bundle": candidate, "revision": revision_of_bundle(candidate)},
            },
            "rollout": {"eval": {"suite": str(etc / "suite.jsonl")}},
        }


@pytest.fixture
def outside(world: World, tmp_path: Path) -> Iterator[Outside]:
    yield Outside(tmp_path / "etc")
    world.config()


@pytest.fixture(scope="module")
def packed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with files from outside and one prompt from `configs/`; they are gone from where they were."""
    folder = tmp_path_factory.mktemp("packed")
    outside, prompts = Outside(folder / "etc"), world.root / "configs" / "prompts"
    prompts.mkdir()
    (outside.etc / "prompt.txt").rename(prompts / "prompt.txt")
    args = outside.args()
    args["models"][0]["prompt"]["path"] = "configs/prompts/prompt.txt"
    try:
        world.make(folder / "bundle", world.contents(world.config(**args)))
    finally:
        world.config()
        shutil.rmtree(prompts)
        shutil.rmtree(outside.etc)
    return folder / "bundle"


@pytest.fixture
def ours(packed: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return copy_of(packed, tmp_path)


def sums_of(bundle: Path) -> Mapping[str, str]:
    return read_sums((bundle / "SHA256SUMS").read_bytes())


def put(bundle: Path, target: Path, world: World) -> tuple[Installed, AppConfig]:
    done = install(bundle, target, public_key(world.public), start=Starter(), machine=lambda _: GOOD)
    return done, load_serve_file(target / "current" / "serve.yaml").app


def test_all_of_them_travel_listed_and_signed(packed: Path, world: World) -> None:
    sums = sums_of(packed)
    assert [path for path in sums if path.startswith("files/") or "/prompts/" in path] == [
        "configs/prompts/prompt.txt",
        "files/candidate_prompt.path/tiny/prompt.txt",
        "files/difficulty.learned.candidate.snapshot/router.snapshot",
        "files/difficulty.learned.snapshot/router.snapshot",
        "files/gate.bundle/policy.yaml",
        "files/gate.bundle/policy.yaml.sig",
        "files/gate.candidate.bundle/parts/words.yaml",
        "files/gate.candidate.bundle/policy.yaml",
        "files/rollout.eval.suite/suite.jsonl",
    ]
    manifest = verify(packed, public_key(world.public)).manifest
    held = {each.setting: each.held for each in manifest.named if each.held is not None}
    assert {setting: each.root for setting, each in held.items()} == {
        "candidate_prompt.path": "files/candidate_prompt.path/tiny/prompt.txt",
        "difficulty.learned.candidate.snapshot": "files/difficulty.learned.candidate.snapshot/router.snapshot",
        "gate.candidate.bundle": "files/gate.candidate.bundle",
    }
    bill = json.loads((packed / "sbom.cdx.json").read_text())
    parts = {each["bom-ref"]: each for each in bill["components"]}
    assert len(parts) == len(bill["components"])
    listed = [path for path in sums if path.startswith("files/")]
    for path in (*listed, "configs/policies/routing.yaml", "configs/prompts/prompt.txt"):
        assert parts[f"file:{path}"]["hashes"] == [{"alg": "SHA-256", "content": sums[path]}]
    prompt = parts["file:files/candidate_prompt.path/tiny/prompt.txt"]
    assert prompt["version"] == held["candidate_prompt.path"].revision
    assert prompt["properties"] == [{"name": "gatehouse:setting", "value": "models[tiny].candidate_prompt.path"}]


def test_the_installed_configuration_names_them_where_they_are(packed: Path, world: World, tmp_path: Path) -> None:
    done, app = put(packed, tmp_path / "target", world)
    assert app.gate.bundle == str(done.release / "files" / "gate.bundle" / "policy.yaml")
    assert app.routing_policy == str(done.release / "configs" / "policies" / "routing.yaml")
    assert Path(app.routing_policy).read_text() == "version: 1\n"
    # as those who read them do, who refuse what is another revision
    assert [each.text for each in prompts_of(app)[ModelId("tiny")]] == ["Answer briefly.", "Answer at length."]
    learned, candidate = app.difficulty.learned, app.difficulty.learned.candidate
    assert candidate is not None
    sources = LearnedSources(learned, None)
    assert sources.of(candidate.revision) is not sources.configured
    assert app.gate.candidate is not None
    check_revision(app.gate.candidate)
    suite = app.rollout.eval.suite
    assert suite is not None
    assert Path(suite).read_text() == '{"name": "one"}\n', "what a link leads to"


def test_what_is_not_said_is_named_too(bundle: Path, world: World, tmp_path: Path) -> None:
    config = bundle / "configs" / "serve.tiny.yaml"
    document = yaml.safe_load(config.read_text())
    del document["applications"][0]["args"]["gate"], document["applications"][0]["args"]["routing_policy"]
    config.write_text(yaml.safe_dump(document))
    sign_again(bundle, world, "configs/serve.tiny.yaml")
    done, app = put(bundle, tmp_path / "target", world)
    assert app.gate.bundle == str(done.release / "configs" / "policies" / "default.yaml")
    assert app.routing_policy == str(done.release / "configs" / "policies" / "routing.yaml")


@pytest.mark.parametrize(
    ("lost", "key"),
    [
        ("prompt.txt", r"models\[tiny\]\.prompt\.path"),
        ("next/prompt.txt", r"models\[tiny\]\.candidate_prompt\.path"),
        ("router.snapshot", "difficulty.learned.snapshot"),
        ("next/router.snapshot", "difficulty.learned.candidate.snapshot"),
        ("policy.yaml", "gate.bundle"),
        ("strict/policy.yaml", "gate.candidate.bundle"),
        ("strict/parts/words.yaml", "gate.candidate.bundle"),
        ("suite.jsonl", "rollout.eval.suite"),
    ],
)
def test_a_file_that_is_not_there_is_named(world: World, outside: Outside, lost: str, key: str) -> None:
    args = outside.args()
    (outside.etc / lost).unlink()
    with pytest.raises(BundleRefused, match=rf"^{key}: the file {outside.etc}/{lost} does not exist\.$"):
        world.contents(world.config(**args))


def _changed(path: str) -> Callable[[Outside], object]:
    return lambda outside: (outside.etc / path).write_bytes((outside.etc / path).read_bytes() + b"# changed\n")


def _linked(outside: Outside) -> None:
    (outside.etc / "next" / "prompt.txt").rename(outside.etc / "next" / "prompt-2026-11.txt")
    (outside.etc / "next" / "prompt.txt").symlink_to("prompt-2026-11.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_changed("next/prompt.txt"), r"models\[tiny\]\.candidate_prompt\.path: what lies at .* is the revision"),
        (_changed("next/router.snapshot"), r"candidate\.snapshot: what lies at .* is the revision"),
        (_changed("strict/parts/words.yaml"), r"gate\.candidate\.bundle: what lies at .* is the revision"),
        (_linked, "prompt.txt is a link to a file of another name: name that one"),
        (lambda each: (each.etc / "strict" / "parts" / "x").symlink_to("words.yaml"), "'parts/x' is not a plain file"),
        (lambda each: (each.etc / "strict" / "ä.yaml").touch(), "has a name that a bundle cannot hold"),
    ],
    ids=["prompt", "snapshot", "policy", "link", "link in a folder", "name"],
)
def test_what_is_not_the_revision_that_is_named_does_not_travel(
    world: World, outside: Outside, change: Callable[[Outside], object], message: str
) -> None:
    args = outside.args()
    change(outside)
    with pytest.raises(BundleRefused, match=message):
        world.contents(world.config(**args))


@pytest.mark.parametrize("path", ["candidate_prompt.path/tiny/prompt.txt", "gate.candidate.bundle/parts/words.yaml"])
def test_a_signer_s_mistake_is_found(ours: Path, world: World, path: str) -> None:
    changed = f"files/{path}"
    (ours / changed).write_text("another\n")
    with pytest.raises(BundleRefused, match=f"1 of .* files has changed: {changed}"):
        verify(ours, public_key(world.public))
    sign_again(ours, world, changed)
    with pytest.raises(BundleRefused, match=r"is not the revision that bundle\.json says of"):
        verify(ours, public_key(world.public))


def test_a_manifest_names_no_file_that_the_bundle_lacks(bundle: Path, world: World) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["named"][0]["path"] = "configs/policies/nothing.yaml"
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    sign_again(bundle, world, "bundle.json")
    with pytest.raises(BundleRefused, match=r"names configs/policies/nothing\.yaml, and the bundle has no such file"):
        opened(bundle, public_key(world.public))


def test_a_bundle_from_before_installs_as_it_did(bundle: Path, world: World, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    del manifest["named"]
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    sign_again(bundle, world, "bundle.json")
    _, app = put(bundle, tmp_path / "target", world)
    assert app.gate.bundle == "configs/policies/default.yaml"
