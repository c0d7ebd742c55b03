from pathlib import Path
from typing import Any

import pytest

from deployments.gate.cases import Case, read_cases
from deployments.gate.diff import Direction, differences, moved
from deployments.gate.grammar import BundleError
from deployments.gate.lint import lint
from deployments.gate.policy import Bundle, read_policy
from deployments.ports import GateProfile
from tests.unit.gate.tiny import tiny, write


@pytest.fixture
def base(tmp_path: Path) -> Bundle:
    return read_policy(write(tmp_path, tiny()))


def changed(directory: Path, **sections: Any) -> Bundle:
    """The small bundle with sections replaced; a dict is merged into what is there, a list is put before it."""
    said = tiny()
    for name, value in sections.items():
        before = said.get(name)
        said[name] = (before or {}) | value if isinstance(value, dict) else [*value, *(before or [])]
    return read_policy(write(directory, said, "changed"))


def checks(bundle: Bundle, examples: bool = False) -> set[tuple[str, str]]:
    return {(each.check, each.where) for each in lint(bundle, examples)}


def test_a_sound_bundle_has_few_findings(base: Bundle) -> None:
    assert checks(base) == {("unused", "write")}


@pytest.mark.parametrize(
    ("section", "value", "found"),
    [
        ("programs", {"lonely": {"flags": ["-x"]}}, ("no-rule", "lonely")),
        ("words", {"extra": "[a-z]"}, ("unused", "extra")),
        ("effects", {"extra": {"class": "R3"}}, ("unused", "extra")),
        ("targets", {"extra": [{"match": ["*"], "env": "prod"}]}, ("unused", "extra")),
        ("targets", {"place": [{"match": ["*"], "env": "nonprod"}]}, ("catch-all", "place *")),
        (
            "targets",
            {"place": [{"match": ["dev-*"], "env": "nonprod"}, {"match": ["dev-db"], "env": "prod"}]},
            ("shadowed", "place dev-db"),
        ),
        (
            "programs",
            {"ship": {"flags": ["--to=place", "--write"], "targets": ["place"], "args": ["name"],
                      "sub": {"list": {"args": ["name"]}}}},
            ("parent-flags", "ship"),
        ),
        (
            "rules",
            [{"id": "a.b", "commands": ["curl"], "bare": True, "class": "R2", "reason": "why", "match": ["curl"] * 2}],
            ("duplicate", "curl"),
        ),
    ],
)  # fmt: skip
def test_what_is_hardly_meant_is_found(tmp_path: Path, section: str, value: Any, found: tuple[str, str]) -> None:
    assert found in checks(changed(tmp_path, **{section: value}))


@pytest.mark.parametrize(
    ("pattern", "suspicious"),
    [("*.com", True), ("*", True), ("*example.com", True), ("*.ci.example.com", False), ("git.example.com", False)],
)
def test_hosts_that_cover_too_much_are_found(tmp_path: Path, pattern: str, suspicious: bool) -> None:
    hosts = [*tiny()["targets"]["host"], {"match": [pattern], "env": "nonprod", "egress": "listed"}]
    found = checks(changed(tmp_path, targets={"host": hosts}))
    assert bool(found & {("egress", f"host {pattern}"), ("catch-all", f"host {pattern}")}) is suspicious


def test_a_standing_rule_outside_of_files_is_found(tmp_path: Path) -> None:
    said = tiny()
    said["rules"][4]["standing"] = True
    assert ("standing", "ship.go") in checks(read_policy(write(tmp_path, said)))


def test_an_effect_that_no_example_shows_is_found(tmp_path: Path) -> None:
    said = tiny()
    said["programs"]["ls"]["flags"] += ["-o=file @write", "-w=file @write"]
    said["rules"][0]["not_match"] += ["ls -w x"]
    found = checks(read_policy(write(tmp_path, said)), examples=True)
    assert ("untested", "ls -o") in found
    assert ("untested", "ls -w") not in found


def test_one_example_speaks_for_all_names_of_a_flag_and_none_is_asked_for_what_raises_nothing(tmp_path: Path) -> None:
    said = tiny()
    said["effects"] |= {"widen": {"env": "prod"}}
    said["programs"]["ls"]["flags"] += ["-o, --output=file @write", "-x, --all @widen", "-y, --yes @write"]
    said["rules"][0]["not_match"] += ["ls --output x"]
    found = checks(read_policy(write(tmp_path, said)), examples=True)
    assert {where for check, where in found if check == "untested"} == {"ls --yes"}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"with": ["-q", "-x"]}, {"prints tool list -x"}),
        ({"values": {"--format": "id", "--as": "id"}}, {"prints tool list --as"}),
        ({"only": ["-q", "-C", "--write", "--nope"]}, {"prints tool list --nope"}),
        ({"single": ["*", "-1"]}, {"prints tool list -1"}),
        ({"with": ["-q"], "values": {"--format": "id"}, "only": ["-C"], "single": ["*"]}, set[str]()),
    ],
)
def test_a_flag_of_prints_that_the_command_does_not_take_is_found(
    tmp_path: Path, said: dict[str, Any], found: set[str]
) -> None:
    listing = {"flags": ["-q", "--format=name"], "prints": [{"kind": "hash"}, {"kind": "number", **said}]}
    tool = {"flags": ["--write"], "inherited": ["-C=file"], "sub": {"list": listing}}
    rules = [{"id": "tool.list", "commands": ["tool list"], "class": "R0", "reason": "why", "match": ["tool list"]}]
    every = lint(changed(tmp_path, programs={"tool": tool}, rules=rules), examples=False)
    assert {f"{each.check} {each.where}" for each in every if each.check == "prints"} == found


@pytest.mark.parametrize(("child", "suspicious"), [("list", True), ("--version", False), ("help", False)])
def test_flags_before_what_only_says_its_version_are_no_finding(tmp_path: Path, child: str, suspicious: bool) -> None:
    tool = {"flags": ["--write"], "args": ["name"], "sub": {child: {}}}
    say = f"tool {child}"
    rules = [{"id": "tool.say", "commands": [say], "class": "R0", "reason": "why", "match": [say]},
             {"id": "tool.go", "commands": ["tool"], "class": "R2", "reason": "why", "match": ["tool x"]}]  # fmt: skip
    found = checks(changed(tmp_path, programs={"tool": tool}, rules=rules))
    assert (("parent-flags", "tool") in found) is suspicious


def test_what_an_extending_bundle_lowers_or_cannot_lower_is_found(tmp_path: Path, base: Bundle) -> None:
    targets = {"place": [{"match": ["sea", "vault"], "env": "nonprod"}]}
    own = read_policy(write(tmp_path, {"version": 1, "name": "mine", "extends": "tiny", "targets": targets}))
    found = checks(own, examples=True)
    assert ("lowered", "ship web --to sea") in found
    assert ("overruled", "place vault") in found
    assert base.name == "tiny"


@pytest.mark.parametrize(
    ("sections", "direction", "part", "name"),
    [
        ({"programs": {"new": {}}}, Direction.LOOSER, "programs", "new"),
        ({"programs": {"ls": {"flags": ["-l", "-a"], "args": ["file*"]}}}, Direction.LOOSER, "programs", "ls"),
        ({"programs": {"ls": {"flags": [], "args": ["file*"]}}}, Direction.STRICTER, "programs", "ls"),
        ({"programs": {"ls": {"flags": ["-l @write"], "args": ["file*"]}}}, Direction.STRICTER, "programs", "ls"),
        ({"programs": {"ls": {"flags": ["-l=name"], "args": ["file*"]}}}, Direction.UNCLEAR, "programs", "ls"),
        ({"programs": {"ls": {"flags": ["-l"], "args": ["name*"]}}}, Direction.UNCLEAR, "programs", "ls"),
        ({"words": {"name": "[a-z]"}}, Direction.UNCLEAR, "words", "name"),
        ({"effects": {"write": {"class": "R1"}}}, Direction.UNCLEAR, "effects", "write"),
        ({"environment": ["TZ"]}, Direction.LOOSER, "environment", "TZ"),
        ({"sinks": ["/dev/stdout"]}, Direction.LOOSER, "sinks", "/dev/stdout"),
        ({"tools": [{"adapter": "fields", "names": ["t"], "fields": {}, "class": "R0", "reason": "why",
          "examples": [{"arguments": {}, "risk": "R0"}]}]},
         Direction.LOOSER, "tools", "t"),
        ({"approvers": {"R3": ["x"]}}, Direction.UNCLEAR, "approvers", "R3"),
        ({"targets": {"place": [{"match": ["@default", "lab", "sea"], "env": "nonprod"}]}},
         Direction.LOOSER, "targets", "place sea"),
        ({"targets": {"place": [{"match": ["@default"], "env": "nonprod"}, {"match": ["vault"], "env": "prod",
          "sensitivity": "sensitive"}, {"match": ["*"], "env": "prod"}]}}, Direction.STRICTER, "targets", "place lab"),
        ({"table": {"R0": {"nonprod": ["R0", "R1", "R2", "R1", "R1", "R2"], "prod": ["R1", "R1", "R2", "R1", "R1",
          "R2"]}}}, Direction.STRICTER, "table", "R0/prod/normal/none"),
    ],
)  # fmt: skip
def test_a_difference_has_a_direction(
    tmp_path: Path, base: Bundle, sections: dict[str, Any], direction: Direction, part: str, name: str
) -> None:
    found = differences(base, changed(tmp_path, **sections))
    assert (direction, part, name) in {(each.direction, each.part, each.name) for each in found}
    back = {(each.part, each.name): each.direction for each in differences(changed(tmp_path, **sections), base)}
    opposite = {Direction.LOOSER: Direction.STRICTER, Direction.STRICTER: Direction.LOOSER}
    assert back[part, name] is opposite.get(direction, Direction.UNCLEAR)


def test_rules_and_profiles_have_directions(tmp_path: Path, base: Bundle) -> None:
    said = tiny()
    said["rules"][1]["class"] = "R1"
    said["rules"][3]["class"] = "R1"
    said["profiles"]["observe"]["outcomes"]["R3"] = "hold"
    found = {(each.direction, each.part, each.name) for each in differences(base, read_policy(write(tmp_path, said)))}
    assert found == {
        (Direction.LOOSER, "rules", "rm"),
        (Direction.STRICTER, "rules", "ship list"),
        (Direction.STRICTER, "profiles", "observe"),
    }
    assert differences(base, base) == []


def test_the_looser_stand_first(tmp_path: Path, base: Bundle) -> None:
    found = differences(base, changed(tmp_path, programs={"new": {}}, words={"name": "[a-z]"}, environment=["TZ"]))
    order = list(Direction)
    assert [order.index(each.direction) for each in found] == sorted(order.index(each.direction) for each in found)


def test_calls_that_move_are_told(tmp_path: Path, base: Bundle) -> None:
    targets = {"place": [{"match": ["sea"], "env": "nonprod"}, *tiny()["targets"]["place"]]}
    said = tiny() | {"targets": tiny()["targets"] | targets}
    said["rules"][3]["class"] = "R2"
    new = read_policy(write(tmp_path, said))
    lines = ["ls", "ship list a", "ship web --to sea", "rm x"]
    cases = [Case(at, "shell", {"command": line}, GateProfile.OPS) for at, line in enumerate(lines, 1)]
    found = [(each.direction, each.case.line, each.before, each.after) for each in moved(base, new, cases)]
    assert found == [
        (Direction.LOOSER, 3, ("R3", "hold"), ("R2", "hold")),
        (Direction.STRICTER, 2, ("R0", "release"), ("R2", "hold")),
    ]
    assert moved(base, base, cases) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2"),
        ("[]", "line 2"),
        ("{}", "a command, or a tool"),
        ('{"command": "ls", "tool": "shell", "arguments": {}}', "a command, or a tool"),
        ('{"tool": "shell"}', "a command, or a tool"),
        ('{"command": "ls", "risk": "R9"}', "risk"),
        ('{"command": "ls", "surprise": 1}', "surprise"),
        ('{"command": 1}', "command"),
        ('{"command": "' + "x" * 2_000_000 + '"}', "longer than"),
    ],
)
def test_a_case_that_is_none_is_named_by_its_line(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(f'{{"command": "ls"}}\n{line}\n')
    with pytest.raises(BundleError, match="line 2") as found:
        read_cases(path)
    assert why in str(found.value)


def test_the_shipped_corpora_are_cases() -> None:
    directory = Path(__file__).resolve().parents[2] / "gate" / "corpora"
    assert all(read_cases(path) for path in directory.glob("*.jsonl"))
