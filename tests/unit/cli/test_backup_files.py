"""What a rollout reads is in a backup, comes back to where the configuration names it, and is what was registered."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.difficulty.learned import LearnedSources
from deployments.gate.candidate import read_candidate, revision_of_bundle
from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import ROUTER_TARGET, Kind
from serve_app.app import prompts_of
from serve_app.backups.restore import restore
from serve_app.config import ROOT, load_serve_file
from tests.unit.cli.installations import (
    backed_up,
    checks,
    config_of,
    files_of,
    gatehouse,
    put_back,
    running,
    serve_file,
)
from tests.unit.router.learned import two_heads_bytes

PLACED = "what the configuration names is where it names it"
OWN = "version: 1\nname: {name}\nextends: default\ntargets:\n  namespace: [{{match: [{name}], env: nonprod}}]\n"


class Site:
    """An installation whose configuration names files of every kind, outside of the checkout and of its state."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.etc = folder, folder / "etc"
        self.file, self.state = serve_file(folder), folder / "state dir"
        for name in ("now", "next/parts"):
            (self.etc / name).mkdir(parents=True)
        (self.etc / "now" / "prompt.txt").write_text("Answer briefly.")
        (self.etc / "next" / "prompt.txt").write_text("Answer at length.")  # of the same name, and another file
        (self.etc / "now" / "policy.yaml").write_text(OWN.format(name="now"))
        (self.etc / "now" / "policy.yaml.sig").write_text("a signature")
        (self.etc / "next" / "policy.yaml").write_text(OWN.format(name="next") + "include: [parts/words.yaml]\n")
        (self.etc / "next" / "parts" / "words.yaml").write_text("words: {shout: '[A-Z]+'}\n")
        (self.etc / "now" / "router.snapshot").write_bytes(two_heads_bytes())
        self.state.mkdir()
        (self.state / "next.snapshot").write_bytes(two_heads_bytes(weak_bias=-3.0))
        (self.etc / "suite.jsonl").write_text('{"name": "one"}\n')
        self.args: dict[str, Any] = yaml.safe_load(self.file.read_text())["applications"][0]["args"]
        prompt = revision_of(scan(Kind.PROMPT, "clock", self.etc / "next" / "prompt.txt"))
        self.args["models"][0] |= {
            "prompt": {"path": str(self.etc / "now" / "prompt.txt"), "revision": "p1"},
            "candidate_prompt": {"path": str(self.etc / "next" / "prompt.txt"), "revision": prompt},
        }
        snapshot = revision_of(scan(Kind.ROUTER, ROUTER_TARGET, self.state / "next.snapshot"))
        candidate = {"snapshot": str(self.state / "next.snapshot"), "revision": snapshot}
        ours = str(self.etc / "now" / "router.snapshot")
        self.args["difficulty"] = {"learned": {"snapshot": ours, "mode": "apply", "candidate": candidate}}
        policy = str(self.etc / "next" / "policy.yaml")
        self.args["gate"] = {
            "bundle": str(self.etc / "now" / "policy.yaml"),
            "bundle_key": str(self.etc / "makers.pub"),
            "candidate": {"bundle": policy, "revision": revision_of_bundle(policy)},
        }
        self.args["rollout"] = {"eval": {"suite": str(self.etc / "suite.jsonl")}}
        self.write()

    def write(self) -> None:
        document = {"applications": [{"args": self.args, "import_path": "serve_app.app:build"}]}
        self.file.write_text(yaml.safe_dump(document))

    def lose(self) -> None:
        """The machine is gone; what is left is the configuration."""
        shutil.rmtree(self.etc)
        self.state.rename(self.folder / "lost")


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    async with running(config_of(made.file)) as system:
        await system.act()
    return made


def edited(backup: Path, change: Mapping[str, object]) -> None:
    path = backup / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_a_lost_machine_comes_back_with_all_that_its_configuration_names(site: Site, tmp_path: Path) -> None:
    said = backed_up(tmp_path / "b.tar", site.file, "--with-secrets").stdout
    assert f"not in it: gate.bundle_key: {site.etc}/makers.pub" in said  # whom a site trusts is its own affair
    before = files_of(site.etc)
    snapshot = (site.state / "next.snapshot").read_bytes()
    site.lose()
    result = checks(put_back(tmp_path / "b.tar", site.state, "--json"))
    assert set(result.values()) == {True}
    assert result[PLACED]
    for setting in (
        "models[clock].candidate_prompt.path",
        "difficulty.learned.candidate.snapshot",
        "gate.candidate.bundle",
    ):
        assert result[f"{setting} is the revision that the configuration names"]
    assert files_of(site.etc) == before
    assert (site.state / "next.snapshot").read_bytes() == snapshot
    assert {path.stat().st_mode & 0o777 for path in site.etc.rglob("*") if path.is_file()} == {0o600}
    # as those who read them do, who refuse what is another revision
    config = load_serve_file(site.file).app
    assert [each.text for each in prompts_of(config)[config.models[0].engine.model]] == [  # type: ignore[index]
        "Answer briefly.",
        "Answer at length.",
    ]
    candidate = config.difficulty.learned.candidate
    assert candidate is not None
    assert LearnedSources(config.difficulty.learned, None).of(candidate.revision).current is not None
    bundle = read_candidate(config.gate.model_copy(update={"bundle_key": None}))
    assert bundle is not None
    assert bundle.name == "next"


def test_each_is_in_the_backup_once_with_its_checksum_and_what_it_belongs_to(site: Site, tmp_path: Path) -> None:
    backed_up(tmp_path / "b", site.file)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    below = {name for name in manifest["files"] if name.startswith("files/")}
    etc = f"files/absolute{site.etc}"
    assert {name for name in below if not name.startswith("files/installation/")} == {
        f"{etc}/now/prompt.txt", f"{etc}/now/policy.yaml", f"{etc}/now/policy.yaml.sig", f"{etc}/now/router.snapshot",
        f"{etc}/next/prompt.txt", f"{etc}/next/policy.yaml", f"{etc}/next/parts/words.yaml", f"{etc}/suite.jsonl",
        "files/state/next.snapshot",
    }  # fmt: skip
    shipped = {str(path.relative_to(ROOT)) for path in (ROOT / "configs" / "policies").rglob("*.yaml")}
    assert {name.removeprefix("files/installation/") for name in below if "installation/" in name} <= shipped
    assert f"files/installation/{config_of(site.file).routing_policy}" in below
    assert "files/installation/configs/policies/words.yaml" in below  # the bundle that is extended reads it
    for name in below:
        data = (tmp_path / "b" / name).read_bytes()
        assert manifest["files"][name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert {each["setting"]: each["held"] and each["held"]["root"] for each in manifest["named"]} == {
        "routing_policy": None,
        "gate.bundle": None,
        "gate.candidate.bundle": f"{etc}/next",
        "difficulty.learned.snapshot": None,
        "difficulty.learned.candidate.snapshot": "files/state/next.snapshot",
        "models[clock].prompt.path": None,
        "models[clock].candidate_prompt.path": f"{etc}/next/prompt.txt",
        "rollout.eval.suite": None,
    }


def test_what_is_there_stays_and_other_content_stops_the_restore(site: Site, tmp_path: Path) -> None:
    backed_up(tmp_path / "b", site.file)
    site.state.rename(tmp_path / "lost")
    other = site.etc / "now" / "prompt.txt"
    other.write_text("Answer in Latin.")
    (site.etc / "suite.jsonl").unlink()
    before = files_of(site.etc)
    result = put_back(tmp_path / "b", site.state, status=2)
    assert f"1 file that the configuration names is there, and not what was backed up: {other}." in result.stderr
    assert (files_of(site.etc), site.state.exists()) == (before, False)
    other.unlink()
    kept = (site.etc / "next" / "prompt.txt").stat().st_mtime_ns
    result = put_back(tmp_path / "b", site.state)
    assert other.read_text() == "Answer briefly."
    assert (site.etc / "next" / "prompt.txt").stat().st_mtime_ns == kept
    assert "the others were put back" in result.stdout


def linked(site: Site) -> Path:
    """The candidate's snapshot behind a link of another name: its revision is that of the file."""
    (site.state / "next.snapshot").rename(site.etc / "next.snapshot")
    link = site.etc / "current.snapshot"
    link.symlink_to("next.snapshot")
    site.args["difficulty"]["learned"]["candidate"]["snapshot"] = str(link)
    (site.state / "prompt.txt").symlink_to(site.etc / "now" / "other.txt")
    (site.etc / "now" / "prompt.txt").rename(site.etc / "now" / "other.txt")
    site.args["models"][0]["prompt"]["path"] = str(site.state / "prompt.txt")
    site.write()
    return link


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in place", "elsewhere"])
def test_a_link_comes_back_as_a_link(site: Site, tmp_path: Path, elsewhere: bool) -> None:
    link = linked(site)
    backed_up(tmp_path / "b", site.file, "--with-secrets")
    site.lose()
    option = ("--files-into", tmp_path / "apart") if elsewhere else ()
    found = checks(put_back(tmp_path / "b", site.state, "--json", *option))
    assert found["difficulty.learned.candidate.snapshot is the revision that the configuration names"]
    there = tmp_path / "apart" / "absolute" / str(link)[1:] if elsewhere else link
    assert (there.is_symlink(), there.resolve().name) == (True, "next.snapshot")
    assert (site.state / "prompt.txt").resolve() == there.parent / "now" / "other.txt"
    assert (site.state / "prompt.txt").read_text() == "Answer briefly."
    if not elsewhere:
        candidate = load_serve_file(site.file).app.difficulty.learned.candidate
        assert candidate is not None
        assert LearnedSources(load_serve_file(site.file).app.difficulty.learned, None).of(candidate.revision)


def test_a_link_that_leads_elsewhere_stops_the_restore(site: Site, tmp_path: Path) -> None:
    link = linked(site)
    backed_up(tmp_path / "b", site.file)
    site.state.rename(tmp_path / "lost")
    link.unlink()
    link.symlink_to("suite.jsonl")
    assert f"not what was backed up: {link}." in put_back(tmp_path / "b", site.state, status=2).stderr
    assert not site.state.exists()
    link.unlink()
    put_back(tmp_path / "b", site.state)
    assert link.resolve() == site.etc / "next.snapshot"


def test_the_drill_puts_them_back_beside_the_running_system(site: Site, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    before = {path: path.stat().st_mtime_ns for path in site.etc.rglob("*")}
    result = gatehouse("drill", "restore", "--config", site.file, "--scratch", tmp_path / "scratch")
    assert f"ok        {PLACED}" in result.stdout
    assert "ok        gate.candidate.bundle is the revision that the configuration names" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in site.etc.rglob("*")} == before
    assert not [*(tmp_path / "scratch").iterdir()]


def test_they_can_go_elsewhere(site: Site, tmp_path: Path) -> None:
    backed_up(tmp_path / "b", site.file)
    (site.etc / "now" / "prompt.txt").write_text("Answer in Latin.")
    before = files_of(site.etc)
    result = put_back(tmp_path / "b", tmp_path / "restored", "--files-into", tmp_path / "apart", "--json")
    found = checks(result)
    assert found[PLACED]
    assert found["gate.candidate.bundle is the revision that the configuration names"]
    apart = tmp_path / "apart" / "absolute"
    assert (apart / str(site.etc)[1:] / "now" / "prompt.txt").read_text() == "Answer briefly."
    assert (tmp_path / "apart" / "installation" / "configs" / "policies" / "words.yaml").is_file()
    assert (tmp_path / "restored" / "next.snapshot").is_file()
    assert files_of(site.etc) == before


def test_a_candidate_that_is_no_longer_its_revision_is_said(site: Site, tmp_path: Path) -> None:
    for path in (site.etc / "next" / "prompt.txt", site.etc / "next" / "parts" / "words.yaml"):
        path.write_text(path.read_text() + "# changed\n")
    backed_up(tmp_path / "b", site.file, "--with-secrets")
    site.lose()
    found = checks(put_back(tmp_path / "b", site.state, "--json", status=1))
    assert [what.split(" is ")[0] for what, held in found.items() if held is False] == [
        "gate.candidate.bundle",
        "models[clock].candidate_prompt.path",
    ]


def test_a_file_too_many_in_the_candidate_s_folder_is_said(site: Site, tmp_path: Path) -> None:
    backed_up(tmp_path / "b", site.file, "--with-secrets")
    site.state.rename(tmp_path / "lost")
    (site.etc / "next" / "more.yaml").write_text("{}")
    found = checks(put_back(tmp_path / "b", site.state, "--json", status=1))
    assert [what for what, held in found.items() if held is False] == [
        "gate.candidate.bundle is the revision that the configuration names"
    ]


@pytest.mark.parametrize(
    ("lost", "key"),
    [
        ("now/prompt.txt", "models[clock].prompt.path"),
        ("next/prompt.txt", "models[clock].candidate_prompt.path"),
        ("now/router.snapshot", "difficulty.learned.snapshot"),
        ("now/policy.yaml", "gate.bundle"),
        ("next/policy.yaml", "gate.candidate.bundle"),
        ("next/parts/words.yaml", "gate.candidate.bundle"),
        ("suite.jsonl", "rollout.eval.suite"),
    ],
)
def test_a_backup_without_one_of_them_is_none(site: Site, tmp_path: Path, lost: str, key: str) -> None:
    (site.etc / lost).unlink()
    result = backed_up(tmp_path / "b", site.file, status=2)
    assert f"{key}: the file {site.etc}/{lost} does not exist." in result.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("include: [../../secret.yaml]\n", "an included file must lie below the bundle"),
        ("include: [/etc/hostname]\n", "an included file must lie below the bundle"),
        ("extends: policy\n", "extend each other without an end"),
        ("version: [\n", "policy.yaml is not readable YAML"),
    ],
    ids=["climbs", "absolute", "endless", "no YAML"],
)
def test_a_policy_brings_nothing_but_its_own_files(site: Site, tmp_path: Path, said: str, why: str) -> None:
    (site.folder / "secret.yaml").write_text("hush: hush\n")
    (site.etc / "now" / "policy.yaml").write_text(said)
    assert why in backed_up(tmp_path / "b", site.file, status=2).stderr
    assert not (tmp_path / "b").exists()


def test_a_link_in_a_candidate_s_folder_is_no_file_of_it(site: Site, tmp_path: Path) -> None:
    (site.etc / "next" / "elsewhere").symlink_to("/etc/hostname")
    assert "gate.candidate.bundle:" in (said := backed_up(tmp_path / "b", site.file, status=2).stderr)
    assert "'elsewhere' is not a plain file" in said


def test_a_backup_from_before_restores_as_it_did(site: Site, tmp_path: Path) -> None:
    backed_up(tmp_path / "b", site.file, "--with-secrets")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    del manifest["named"]
    files = {name: each for name, each in manifest["files"].items() if not name.startswith("files/")}
    shutil.rmtree(tmp_path / "b" / "files")
    (tmp_path / "b" / "policies").mkdir()
    (tmp_path / "b" / "policies" / "default.yaml").write_text("version: 1\n")
    data = (tmp_path / "b" / "policies" / "default.yaml").read_bytes()
    files["policies/default.yaml"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    gatehouse("backup", "verify", tmp_path / "b")
    before = files_of(site.etc)
    found = checks(put_back(tmp_path / "b", tmp_path / "restored", "--json"))
    assert set(found.values()) == {True}
    assert len(found) == 16
    assert files_of(site.etc) == before


def test_what_fails_after_all_leaves_no_file_behind(site: Site, tmp_path: Path) -> None:
    backed_up(tmp_path / "b", site.file)
    site.lose()
    site.etc.mkdir()
    (site.etc / "now").write_text("a file where a folder was")  # after next/ in the order of places
    result = put_back(tmp_path / "b", site.state, status=2)
    assert f"{site.etc}/now/policy.yaml cannot be put back: Not a directory." in result.stderr
    assert [path.name for path in site.etc.iterdir()] == ["now"]
    assert not site.state.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("files/elsewhere/x", "files/elsewhere/x belongs nowhere"),
        ("files/x", "files/x belongs nowhere"),
        ("files/state/audit-keys/log.key", "which is a file of the state itself"),
        ("files/state/state/gate.db", "which is a file of the state itself"),
    ],
)
def test_a_manifest_puts_nothing_where_it_does_not_belong(site: Site, tmp_path: Path, name: str, why: str) -> None:
    backed_up(tmp_path / "b", site.file, "--with-secrets")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    path = tmp_path / "b" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    sums = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    edited(tmp_path / "b", manifest | {"files": {**manifest["files"], name: sums}})
    assert why in put_back(tmp_path / "b", tmp_path / "restored", status=2).stderr
    assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize(
    ("links", "why"),
    [
        ({"files/absolute/x": "files/absolute/nothing"}, "which it cannot be"),
        ({"audit/x": "files/state/next.snapshot"}, "audit/x belongs nowhere"),
        ({"files/x": "files/state/next.snapshot"}, "files/x belongs nowhere"),
    ],
)
def test_a_manifest_links_nothing_to_where_it_does_not_belong(
    site: Site, tmp_path: Path, links: dict[str, str], why: str
) -> None:
    backed_up(tmp_path / "b", site.file, "--with-secrets")
    edited(tmp_path / "b", {"links": links})
    assert why in put_back(tmp_path / "b", tmp_path / "restored", status=2).stderr
    assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize("key", ["path", "root"])
def test_a_manifest_names_no_file_that_it_lacks(site: Site, tmp_path: Path, key: str) -> None:
    backed_up(tmp_path / "b", site.file)
    named = json.loads((tmp_path / "b" / "manifest.json").read_text())["named"]
    held = next(each for each in named if each["held"])
    (held if key == "path" else held["held"])[key] = "files/absolute/nothing"
    edited(tmp_path / "b", {"named": named})
    assert "the manifest names files/absolute/nothing" in gatehouse("backup", "verify", tmp_path / "b", status=2).stderr


def test_an_installation_elsewhere_gets_its_own_policies_back(site: Site, tmp_path: Path) -> None:
    backed_up(tmp_path / "b", site.file, "--with-secrets")
    there = tmp_path / "other machine"
    outcome = restore(tmp_path / "b", tmp_path / "restored", {}, installation=there)
    assert outcome.ok
    routing = config_of(site.file).routing_policy
    assert (there / routing).read_bytes() == (ROOT / routing).read_bytes()
