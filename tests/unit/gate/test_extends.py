"""A bundle that extends another may add and tighten, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.gate.bundle import example_faults, load_bundle
from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shell.reader import ShellReader
from deployments.ports import GateProfile, Risk
from tests.unit.gate.tiny import tiny, write


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path, tiny())


def mine(base: Path, text: str, name: str = "mine") -> Bundle:
    path = base.parent / f"{name}.yaml"
    path.write_text(f"version: 1\nname: {name}\nextends: tiny\n{text}", encoding="utf-8")
    return read_policy(path)


def risk(bundle: Bundle, command: str, profile: GateProfile = GateProfile.OPS) -> Risk:
    return Classifier(bundle, ShellReader(20.0)).classify("shell", {"command": command}, profile).risk


def test_everything_of_the_base_is_there(base: Path) -> None:
    own, other = mine(base, ""), read_policy(base)
    for command in ("ls", "ls .env", "rm x", "ship web", "curl http://169.254.169.254/", "frob"):
        assert risk(own, command) is risk(other, command)
    assert own.policy_digest != other.policy_digest


def test_the_digest_covers_the_base(base: Path) -> None:
    before = mine(base, "").policy_digest
    base.write_text(base.read_text().replace("deletes files", "removes files"))
    assert mine(base, "").policy_digest != before


def test_a_name_is_registered_in_one_line(base: Path) -> None:
    plain, own = mine(base, ""), mine(base, "targets: {place: [{match: [harbour], env: nonprod}]}")
    assert (risk(plain, "ship web --to harbour"), risk(own, "ship web --to harbour")) == (Risk.R3, Risk.R2)
    assert risk(own, "ship web --to sea") is Risk.R3


def test_a_program_a_tool_and_a_word_are_added(base: Path) -> None:
    own = mine(
        base,
        """
words: {ticket: "[A-Z]+-[0-9]+"}
tools:
  - {adapter: fields, names: [find_ticket], fields: {id: ticket}, class: R0, reason: reads a ticket,
     examples: [{arguments: {id: OPS-1}, risk: R0}]}
programs:
  desk: {args: [ticket]}
rules:
  - {id: desk.read, commands: [desk], class: R0, reason: reads a ticket, match: [desk OPS-1], not_match: [desk ops]}
""",
    )
    assert example_faults(own) == []
    assert (risk(own, "desk OPS-1"), risk(own, "desk ops")) == (Risk.R0, Risk.R2)
    assert Classifier(own).classify("find_ticket", {"id": "OPS-1"}).risk is Risk.R0


def test_a_rule_may_raise_a_command_of_the_base(base: Path) -> None:
    own = mine(base, "rules: [{id: mine.rm, commands: [rm], class: R3, reason: never here, match: [rm x]}]")
    assert example_faults(own) == []
    assert risk(own, "rm x", GateProfile.CODING) is Risk.R3
    assert risk(read_policy(base), "rm x", GateProfile.CODING) is Risk.R1


def test_what_no_rule_of_the_base_decides_stays_held(base: Path) -> None:
    """A rule of the base for calls without words says nothing of calls with words."""
    said = tiny()
    said["rules"][3] |= {"bare": True, "match": ["ship list"]}
    write(base.parent, said)
    text = "rules: [{{id: a.b, commands: [ship list], class: {}, reason: why, match: [ship list a]}}]"
    with pytest.raises(BundleError, match="milder than the base"):
        mine(base, text.format("R0"))
    assert risk(mine(base, text.format("R2")), "ship list a") is Risk.R2


def test_cells_outcomes_and_approvers_may_rise(base: Path) -> None:
    own = mine(
        base,
        """
table: {R0: {prod: [R1, R1, R2, R1, R1, R2]}}
profiles: {observe: {outcomes: {R3: hold}}}
approvers: {R3: [security]}
""",
    )
    assert own.approvers == {Risk.R3: ("security",)}
    classifier = Classifier(own, ShellReader(20.0))
    assert classifier.classify("shell", {"command": "ship web --to sea"}, GateProfile.OBSERVE).outcome == "hold"
    assert classifier.classify("shell", {"command": "ls /opt"}).risk is Risk.R1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("targets: {place: [{match: ['*'], env: nonprod}]}", "milder"),
        ("targets: {place: [{match: ['?*'], env: nonprod}]}", "milder"),
        ("targets: {place: [{match: ['[!x]*'], env: nonprod}]}", "milder"),
        ("targets: {host: [{match: ['*'], env: nonprod}]}", "milder"),
        ("targets: {host: [{match: ['*.*'], env: prod, sensitivity: sensitive, egress: listed}]}", "milder"),
        ("targets: {path: [{match: ['*'], env: nonprod, workspace: true}]}", "milder"),
        ("targets: {path: [{match: ['/*'], env: nonprod}]}", "milder"),
        ("rules: [{id: my.rm, commands: [rm], class: R0, reason: fine, match: [rm x]}]", "milder than the base"),
        ("rules: [{id: a.b, commands: [ship], class: R2, bare: true, reason: fine, match: [ship]}]", "milder than the"),
        ("rules: [{id: my.ls, commands: [ls], class: R1, standing: true, reason: fine, match: [ls]}]", "standing plan"),
        ("rules: [{id: my.go, commands: [ship], class: R2, reason: fine, match: [ship web]}]", "milder than the base"),
        ("rules: [{id: file.list, commands: [ls], class: R3, reason: twice, match: [ls]}]", "given twice"),
        ("programs: {rm: {flags: [-f, --what], args: ['file*']}}", "'rm' is specified by the base"),
        ("programs: {'new, rm': {}}", "'rm' is specified by the base"),
        ("words: {name: '.*'}", "words: 'name' is said by the base"),
        ("effects: {write: {class: R1}}", "effects: 'write' is said by the base"),
        ("tools: [{adapter: fields, names: [Write], fields: {path: text}, class: R0, reason: reads, "
         "examples: [{arguments: {path: a}, risk: R0}]}]", "'Write' is registered by the base"),
        ("tools: [{adapter: shell, names: [new, shell], command: [command], "
         "examples: [{arguments: {command: ls}, risk: R0}]}]", "'shell' is registered by the base"),
        ("table: {R0: {prod: [R0, R0, R2, R1, R1, R2]}}", "below the"),
        ("profiles: {ops: {outcomes: {R2: needs_plan}}}", "below the base's"),
        ("profiles: {ops: {outcomes: {R2: release}}}", "below the base's"),
        ("profiles: {ops: {outcomes: {}, standing: {change_id: abc, steps: [a], verify: abc}}}", "standing plan"),
        ("approvers: {R3: []}", "approvers of R3"),
        ("environment: [LD_PRELOAD]", "chooses what runs"),
        ("environment: [GIT_SSH_COMMAND]", "chooses what runs"),
        ("environment: [https_proxy]", "chooses what runs"),
        ("program_directories: [/tmp/bin]", "may write to"),
        ("program_directories: [./bin]", "no absolute"),
        ("program_directories: [/usr/bin/../../tmp]", "no absolute"),
        ("sinks: [/etc/passwd]", "may hold something"),
        ("sinks: ['*']", "may hold something"),
        ("extends: tiny", "given twice"),
        ("surprise: 1", "surprise"),
    ],
)  # fmt: skip
def test_what_loosens_is_refused(base: Path, text: str, why: str) -> None:
    with pytest.raises(BundleError, match=why):
        mine(base, text)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("curl http://169.254.169.254/", "host: [{match: ['169.254.169.254'], env: nonprod}]"),
        ("curl http://169.254.1.9/", "host: [{match: ['169.254.1.*'], env: nonprod}]"),
        ("curl http://mirror.example.com/", "host: [{match: [mirror.example.com], env: nonprod}]"),
        ("ls deploy/.env", "path: [{match: ['./deploy/*'], env: nonprod, workspace: true}]"),
        ("ls /srv/site/key.pem", "path: [{match: ['/srv/site/*'], env: nonprod}]"),
        ("ls /srv/site/*.pem", "path: [{match: ['/srv/site/*'], env: nonprod}]"),
        ("ship web --to vault", "place: [{match: [vault], env: nonprod}]"),
    ],
)
def test_what_the_base_marks_stays_marked(base: Path, command: str, text: str) -> None:
    own = mine(base, f"targets: {{{text}}}")
    assert risk(own, command).rank >= risk(read_policy(base), command).rank > 0


def test_extending_what_extends_keeps_every_floor(base: Path) -> None:
    mine(base, "targets: {place: [{match: [archive], env: prod, sensitivity: sensitive}]}")
    path = base.parent / "third.yaml"
    path.write_text(
        "version: 1\nname: third\nextends: mine\n"
        "targets: {place: [{match: [archive, vault, harbour], env: nonprod}]}\n"
    )  # fmt: skip
    third = read_policy(path)
    assert [risk(third, f"ship web --to {place}") for place in ("archive", "vault", "harbour")] == [
        Risk.R3,
        Risk.R3,
        Risk.R2,
    ]


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c")])
def test_bundles_that_extend_each_other_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, other in zip(names, (*names[1:], names[0]), strict=True):
        write(tmp_path, {"version": 1, "name": name, "extends": other})
    with pytest.raises(BundleError, match="extend each other"):
        read_policy(tmp_path / "a.yaml")


def test_a_long_chain_is_refused(base: Path) -> None:
    for number in range(9):
        below = "tiny" if number == 0 else f"n{number - 1}"
        write(base.parent, {"version": 1, "name": f"n{number}", "extends": below})
    assert read_policy(base.parent / "n2.yaml").name == "n2"
    with pytest.raises(BundleError, match="more than"):
        read_policy(base.parent / "n8.yaml")


def test_an_absent_or_hostile_base_is_refused(tmp_path: Path) -> None:
    for name in ("absent", "../default", "/etc/passwd", "Default", ""):
        path = write(tmp_path, {"version": 1, "name": "mine", "extends": name})
        with pytest.raises(BundleError):
            read_policy(path)


def test_a_failing_example_of_the_base_refuses_what_extends_it(base: Path) -> None:
    said = tiny()
    said["rules"][0]["match"].append("rm y")
    write(base.parent, said)
    path = write(base.parent, {"version": 1, "name": "mine", "extends": "tiny"})
    with pytest.raises(BundleError, match="file.list should make 'rm y'"):
        load_bundle(path)


def edited(base: Path, **changes: Any) -> BundleError:
    said = tiny() | changes
    with pytest.raises(BundleError) as found:
        read_policy(write(base.parent, said))
    return found.value


def test_floors_hold_for_every_bundle(base: Path) -> None:
    said = tiny()
    hosts = [entry for entry in said["targets"]["host"] if "class" not in entry]
    assert "must be registered as FORBIDDEN" in str(edited(base, targets=said["targets"] | {"host": hosts}))
    first = [{"match": ["169.254.*"], "env": "nonprod"}, *said["targets"]["host"]]
    assert "must be registered as FORBIDDEN" in str(edited(base, targets=said["targets"] | {"host": first}))
    standing = said["profiles"]["coding"]["standing"]
    profiles = said["profiles"] | {"ops": said["profiles"]["ops"] | {"standing": standing}}
    assert "may not have a standing plan" in str(edited(base, profiles=profiles))
    assert "chooses what runs" in str(edited(base, environment=["BASH_ENV"]))
    wide = yaml.safe_load(yaml.safe_dump(said["table"]))
    wide["R3"]["prod"] = ["R3"] * 7
    assert "7 cells" in str(edited(base, table=wide))
    programs = said["programs"] | {"x, ls": {}}
    assert "'ls' is specified twice" in str(edited(base, programs=programs))
    assert "is a role already" in str(edited(base, targets=said["targets"] | {"name": []}))
