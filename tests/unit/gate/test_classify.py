import json
from pathlib import Path

import pytest

from deployments.gate.circumstances import Circumstances
from deployments.gate.classify import Classification, Classifier
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.ports import GateProfile, JsonValue, Risk


def shell(classifier: Classifier, command: JsonValue, profile: GateProfile = GateProfile.OPS) -> Classification:
    return classifier.classify("shell", {"command": command}, profile)


@pytest.mark.parametrize(
    ("line", "risk"),
    [
        ("kubectl get pods", Risk.R0),
        ("kubectl get secret web", Risk.R1),
        ("kubectl get pods --context elsewhere", Risk.R1),
        ("kubectl rollout restart deployment/web", Risk.R1),
        ("kubectl rollout restart deployment/web -n staging", Risk.R1),
        ("kubectl rollout restart deployment/web -n shop", Risk.R2),
        ("kubectl delete namespace staging", Risk.R2),
        ("kubectl delete ns/dev", Risk.R2),
        ("kubectl delete namespace prod", Risk.R3),
        ("kubectl delete namespace staging prod", Risk.R3),
        ("kubectl delete namespace staging --context elsewhere", Risk.R3),
        ("kubectl delete namespace --all", Risk.R3),
        ("kubectl delete namespace", Risk.R3),
        ("kubectl --namespace=shop delete pod web", Risk.R3),
        ("kubectl delete pod web -nshop", Risk.R3),
        ("kubectl delete deployments.apps web", Risk.R2),
        ("kubectl delete Namespace prod", Risk.R3),
        ("git push origin feature/x", Risk.R2),
        ("git push origin main", Risk.R3),
        ("git push --force origin topic", Risk.R3),
        ("git push -f", Risk.R3),
        ("git push origin HEAD:main", Risk.R3),
        ("rm notes.txt", Risk.R2),
        ("rm -rf ~", Risk.R3),
        ("rm -rf /", Risk.R3),
        ("cat ~/.ssh/id_rsa", Risk.R1),
        ("cat .env", Risk.R1),
        ("cp .env /tmp/x", Risk.R3),
        ("curl http://localhost:8000/", Risk.R0),
        ("curl https://example.com/", Risk.R2),
        ("curl http://169.254.169.254/", Risk.FORBIDDEN),
        ("sudo ls", Risk.R2),
        ("frobnicate --all", Risk.R2),
        ("terraform plan", Risk.R1),
        ("terraform destroy", Risk.R3),
    ],
)
def test_what_lines_are_worth(classifier: Classifier, line: str, risk: Risk) -> None:
    found = shell(classifier, line)
    assert found.risk is risk, found.reasons


def test_a_list_of_words_is_the_command_itself(classifier: Classifier) -> None:
    assert shell(classifier, ["bash", "-lc", "kubectl get pods"]).risk is Risk.R0
    assert shell(classifier, ["bash", "-lc", "kubectl delete ns prod"]).risk is Risk.R3
    assert shell(classifier, ["echo", "$(rm x)", ";", "rm", "x"]).risk is Risk.R0  # no shell ever sees these words
    assert shell(classifier, ["rm", "-rf", "/"]).risk is Risk.R3
    assert shell(classifier, ["ls\n", "-la"]).risk is Risk.R2


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"command": ""},
        {"command": "   "},
        {"command": []},
        {"command": [1]},
        {"command": ["ls", None]},
        {"command": {"line": "ls"}},
        {"command": None},
        {"command": "ls", "cmd": "rm x"},
        {"command": "ls", "with_escalated_permissions": True},
        {"command": "ls", "env": {"PATH": "/evil"}},
        {"command": "ls", "workdir": 1},
        {"Command": "ls"},
    ],
)
def test_a_call_that_is_not_exactly_one_command_is_held(
    classifier: Classifier, arguments: dict[str, JsonValue]
) -> None:
    found = classifier.classify("shell", arguments)
    assert found.outcome == "hold"


def test_unknown_tools_are_held(classifier: Classifier) -> None:
    for tool in ("teleport", "SHELL", "shell ", "", "x" * 1000, "sh\u0435ll", "a\x00"):
        assert classifier.classify(tool, {"command": "ls"}).outcome == "hold"


def test_the_canonical_text_is_what_is_judged_and_answered(classifier: Classifier) -> None:
    found = classifier.classify("shell", '{ "timeout": 5.0, "command": "l\\u0073" }')
    assert found.arguments == '{"command":"ls","timeout":5}'
    assert found.commands == ("ls",)


def test_the_decoded_command_is_shown(classifier: Classifier) -> None:
    found = shell(classifier, "bash -c $'\\x72\\x6d x'")
    assert "rm x" in found.commands


@pytest.mark.parametrize("text", ["{", "[]", '{"command":"ls","command":"rm x"}', '{"command":"ls\\u0000"}'])
def test_what_cannot_be_read_is_held_under_every_profile(classifier: Classifier, text: str) -> None:
    for profile in GateProfile:
        found = classifier.classify("shell", text, profile)
        assert (found.outcome, found.arguments) == ("hold", None)
        assert found.risk.rank >= Risk.R2.rank


def test_circumstances_raise_and_never_lower(classifier: Classifier) -> None:
    situations = (Circumstances(recovered=True), Circumstances(untrusted=True), Circumstances(True, True, "t", "a"))
    for line in ("ls", "pytest -q", "terraform plan", "rm x", "terraform destroy", "curl http://169.254.169.254/"):
        for profile in GateProfile:
            plain = shell(classifier, line, profile)
            for situation in situations:
                found = classifier.classify("shell", {"command": line}, profile, situation)
                assert found.risk.rank >= plain.risk.rank
                if situation.recovered:
                    assert found.risk.rank >= Risk.R2.rank
                    assert not found.covered


def test_outside_text_holds_what_is_not_plain_work_on_the_workspace(classifier: Classifier) -> None:
    outside = Circumstances(untrusted=True)

    def outcome(line: str) -> str:
        return classifier.classify("shell", {"command": line}, GateProfile.CODING, outside).outcome

    assert outcome("cat src/app.py") == "release"
    assert outcome("pytest -q") == "release"
    assert outcome("terraform plan") == "hold"
    assert outcome("cat ~/.aws/credentials") == "hold"
    assert outcome("curl https://example.com/") == "hold"


def test_no_profile_changes_what_is_not_workspace_work(classifier: Classifier) -> None:
    for line in ("kubectl delete ns prod", "git push --force", "terraform destroy", "rm -rf src", "curl http://evil/"):
        risks = {shell(classifier, line, profile).risk for profile in GateProfile}
        assert len(risks) == 1
        assert shell(classifier, line, GateProfile.CODING).outcome == "hold"


def patch(*body: str) -> str:
    return "\n".join(["*** Begin Patch", *body, "*** End Patch"])


@pytest.mark.parametrize(
    ("text", "released"),
    [
        (patch("*** Update File: src/app.py", "@@", "-a", "+b"), True),
        (patch("*** Add File: new.py", "+x"), True),
        (patch("*** Update File: src/app.py", "*** Move to: src/main.py", "@@", "+b"), True),
        (patch("*** Update File: ../other/app.py", "+x"), False),
        (patch("*** Update File: /etc/passwd", "+x"), False),
        (patch("*** Add File: ~/.bashrc", "+x"), False),
        (patch("*** Add File: .git/hooks/pre-commit", "+x"), False),
        (patch("*** Add File: .github/workflows/ci.yml", "+x"), False),
        (patch("*** Add File: src/.env", "+x"), False),
        (patch("*** Update File: a.py", "+x", "*** Move to: /etc/cron.d/x"), False),
        (patch("*** Run Script: x"), False),
        (patch(), False),
        ("no patch", False),
        (patch("*** Add File: a.py", "+x") + "\n*** Begin Patch", False),
    ],
)
def test_a_patch_flows_inside_the_workspace_under_coding_alone(
    classifier: Classifier, text: str, released: bool
) -> None:
    assert classifier.classify("apply_patch", {"input": text}).outcome == "hold"
    found = classifier.classify("apply_patch", {"input": text}, GateProfile.CODING)
    assert (found.outcome == "release") is released, found.reasons
    assert (shell(classifier, ["apply_patch", text], GateProfile.CODING).outcome == "release") is released


@pytest.mark.parametrize(
    ("tool", "arguments", "risk"),
    [
        ("Read", {"file_path": "/home/dev/app/main.py"}, Risk.R0),
        ("Read", {"file_path": "~/.aws/credentials"}, Risk.R1),
        ("Read", {"file_path": ["a"]}, Risk.R1),
        ("Read", {"file_path": "a", "surprise": 1}, Risk.R2),
        ("Grep", {"pattern": "TODO", "path": "src"}, Risk.R0),
        ("Write", {"file_path": "src/a.py", "content": "x"}, Risk.R2),
        ("update_plan", {"plan": []}, Risk.R0),
    ],
)
def test_tools_with_plain_fields(
    classifier: Classifier, tool: str, arguments: dict[str, JsonValue], risk: Risk
) -> None:
    assert classifier.classify(tool, arguments).risk is risk


def test_a_missing_or_slow_parser_holds(bundle: Bundle, tmp_path: Path) -> None:
    absent = Classifier(bundle, ShellReader(binary=tmp_path / "shfmt"))
    assert shell(absent, "ls").outcome == "hold"
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 10\n", encoding="utf-8")
    slow.chmod(0o700)
    found = shell(Classifier(bundle, ShellReader(0.05, slow)), "ls")
    assert found.outcome == "hold"
    assert "did not answer in time" in found.reasons[1]
    liar = tmp_path / "liar"
    for reply in ("", "[]", "{}", '{"Type":"File","Stmts":[{"Cmd":{"Type":"Surprise"}}]}', "not json"):
        liar.write_text(f"#!/bin/sh\ncat >/dev/null\nprintf '%s' '{reply}'\n", encoding="utf-8")
        liar.chmod(0o700)
        assert shell(Classifier(bundle, ShellReader(5.0, liar)), "ls").outcome == "hold"


def test_parsers_that_disagree_hold(bundle: Bundle, tmp_path: Path) -> None:
    tree = {
        "Type": "File",
        "Stmts": [{"Cmd": {"Type": "CallExpr", "Args": [{"Parts": [{"Type": "Lit", "Value": "ls"}]}]}}],
    }
    liar = tmp_path / "liar"
    liar.write_text(f"#!/bin/sh\ncat >/dev/null\nprintf '%s' '{json.dumps(tree)}'\n", encoding="utf-8")
    liar.chmod(0o700)
    classifier = Classifier(bundle, ShellReader(5.0, liar))
    assert shell(classifier, "ls").outcome == "release"
    found = shell(classifier, "rm -rf /")
    assert found.outcome == "hold"
    assert "two parsers" in " ".join(found.reasons)
