import json
from pathlib import Path

import pytest

from deployments.gate.cases import read_cases
from deployments.gate.circumstances import Circumstances
from deployments.gate.classify import Classifier
from deployments.gate.explain import Step, as_json, explain
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shell.reader import ShellReader
from deployments.ports import GateProfile, Risk
from tests.unit.gate.tiny import tiny, write

READER = ShellReader(20.0)
CORPORA = Path(__file__).resolve().parents[2] / "gate" / "corpora"


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    return read_policy(write(tmp_path, tiny()))


def steps(bundle: Bundle, command: str, profile: GateProfile = GateProfile.OPS) -> dict[str, Step]:
    found = explain(bundle, "shell", {"command": command}, profile, reader=READER)
    return {step.command: step for step in found.steps}


def test_each_command_has_its_rule_its_targets_and_its_cell(small: Bundle) -> None:
    found = steps(small, "ls src && rm -f ./a.pem; ship web --to sea")
    assert list(found) == ["ls src", "rm -f ./a.pem", "ship web --to sea"]
    ls, rm, ship = found.values()
    assert (ls.rule, ls.risk, ls.bases) == ("file.list", Risk.R0, ("R0",))
    assert [(each.kind, each.name, each.workspace) for each in ls.targets] == [("path", "./src", True)]
    assert rm.cells == ("R2/prod/sensitive/none -> R3",)
    assert [(each.name, each.sensitivity) for each in rm.targets] == [("./a.pem", "sensitive")]
    assert (ship.env, ship.bases, ship.risk) == ("prod", ("R3",), Risk.R3)
    assert [(each.kind, each.name) for each in ship.targets] == [("place", "sea")]


def test_what_is_not_registered_is_said(small: Bundle) -> None:
    [step] = steps(small, "curl http://example.org/x").values()
    assert [(each.kind, each.name, each.registered) for each in step.targets] == [("host", "example.org", False)]
    assert step.cells == ("R0/prod/sensitive/other -> R2",)
    [unknown] = steps(small, "frobnicate --all").values()
    assert (unknown.rule, unknown.bases, unknown.risk) == (None, ("UNKNOWN",), Risk.R2)


def test_nested_commands_are_steps_and_texts_of_their_own(bundle: Bundle) -> None:
    found = explain(bundle, "shell", {"command": "bash -c 'cat .env; rm -rf /'"}, reader=READER)
    assert found.scripts == ("bash -c 'cat .env; rm -rf /'", "cat .env; rm -rf /")
    assert {"cat .env", "rm -rf /"} <= {step.command for step in found.steps}
    assert found.risk is Risk.R3


def test_the_outcome_under_each_profile(small: Bundle) -> None:
    found = explain(small, "shell", {"command": "rm x"}, reader=READER)
    told = {each.profile.value: (each.risk.value, each.outcome, each.change_id) for each in found.verdicts}
    assert told == {
        "observe": ("R2", "release", None),
        "coding": ("R1", "release", "standing-workspace-1"),
        "ops": ("R2", "hold", None),
    }
    [step] = steps(small, "rm x", GateProfile.CODING).values()
    assert step.covered


def test_other_tools_are_one_step(small: Bundle) -> None:
    found = explain(small, "Write", {"path": "deploy/key.pem", "text": "x"}, reader=READER)
    [step] = found.steps
    assert [each.name for each in step.targets] == ["./deploy/key.pem"]
    assert (found.risk, step.cells) == (Risk.R3, ("R2/prod/sensitive/none -> R3",))


def test_circumstances_that_raise_are_told_apart(small: Bundle) -> None:
    found = explain(small, "shell", {"command": "ls"}, circumstances=Circumstances(recovered=True), reader=READER)
    assert (found.risk_alone, found.risk) == (Risk.R0, Risk.R2)


def test_a_call_without_canonical_form_has_no_steps(small: Bundle) -> None:
    found = explain(small, "shell", '{"command": "ls", "command": "rm"}', reader=READER)
    assert (found.arguments, found.steps, found.risk) == (None, (), Risk.R2)
    assert explain(small, "nothing", {}, reader=READER).steps == ()
    assert explain(small, "shell", {"command": 1}, reader=READER).risk is Risk.R2


def test_it_is_plain_json(small: Bundle) -> None:
    found = as_json(explain(small, "shell", {"command": "ls .env | rm x"}, reader=READER))
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found, default=str))
    assert found["risk"] == "R2"


def test_taking_notes_changes_no_verdict(bundle: Bundle) -> None:
    """Over lines of the corpora: the steps of the noting judge come to what the classifier says."""
    classifier = Classifier(bundle, READER)
    cases = [case for file in sorted(CORPORA.glob("*.jsonl")) for case in read_cases(file)[::97]]
    lines = [case.shown for case in cases if case.tool == "shell"]
    assert len(lines) > 30
    for line in lines:
        found = explain(bundle, "shell", {"command": line}, reader=READER)
        assert found.risk is classifier.classify("shell", {"command": line}).risk
        assert max((step.risk.rank for step in found.steps), default=0) == found.risk.rank, line
        covered = explain(bundle, "shell", {"command": line}, GateProfile.CODING, reader=READER)
        alone = classifier.classify("shell", {"command": line}, GateProfile.CODING)
        assert max((step.risk.rank for step in covered.steps), default=0) == alone.risk.rank, line


def test_a_raise_by_what_is_read_has_a_reason(bundle: Bundle) -> None:
    for line in ("cat .env", "grep -rn x . --include=LICENSE*", "kubectl get secrets", "aws iam list-users"):
        found = explain(bundle, "shell", {"command": line}, reader=READER)
        assert found.risk is Risk.R1
        assert any("sensitive" in reason for reason in found.reasons), line
