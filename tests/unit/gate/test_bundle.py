import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.gate.bundle import BUNDLE_DIRECTORY, check_examples, load_bundle
from deployments.gate.classify import Classifier
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.specs import BundleError, compile_flag


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[str, str, str], Bundle]:
    """The shipped bundle with one text replaced in one of its files, read again."""

    def edit(file: str, old: str, new: str) -> Bundle:
        shutil.copytree(BUNDLE_DIRECTORY, tmp_path, dirs_exist_ok=True)
        path = tmp_path / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return read_policy(tmp_path / "default.yaml")

    return edit


SHELL, OPERATIONS, DEVELOPMENT = "programs/shell.yaml", "programs/operations.yaml", "programs/development.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("default.yaml", "nonprod: [R0, R1, R2, R1, R1, R2]", "nonprod: [R0, R0, R2, R1, R1, R2]", "below the shipped"),
        ("default.yaml", "nonprod: [R0, R1, R2, R1, R1, R2]", "nonprod: [R0, R1, R2, R1, R1]", "no cell"),
        ("default.yaml", "nonprod: [R0, R1, R2, R1, R1, R2]", "nonprod: [R0, R1, R3, R1, R1, R2]", "falls from"),
        ("default.yaml", "nonprod: [R0, R1, R2, R1, R1, R2]", "nonprod: [R9, R1, R2, R1, R1, R2]", "table A"),
        ("default.yaml", "R2: hold, R3: hold", "R2: release, R3: hold", "table B"),
        ("default.yaml", "name: default", "name: default\nsurprise: 1", "surprise"),
        ("default.yaml", "name: default", "name: default\nname: other", "given twice"),
        ("default.yaml", "version: 1", "version: '1'", "version"),
        ("default.yaml", "version: 1", "version: 2", "version"),
        ("default.yaml", "programs/shell.yaml", "../shell.yaml", "below the bundle"),
        ("default.yaml", "programs/shell.yaml", "programs/absent.yaml", "no bundle file"),
        ("default.yaml", "programs/shell.yaml", "programs/shell.yaml, programs/shell.yaml", "specified twice"),
        ("default.yaml", "names: [shell, exec_command", "names: [apply_patch, exec_command", "registered twice"),
        ("default.yaml", "fields: {plan: text", "fields: {plan: nonsense", "no role"),
        ("default.yaml", 'number: "', 'number: "(', "regular expression"),
        (
            OPERATIONS,
            "class: R0\n    reason: reads the cluster",
            "class: R9\n    reason: reads the cluster",
            "not a class",
        ),
        (OPERATIONS, 'class: "R2|R3"', 'class: "R3|R2"', "milder in production"),
        (
            OPERATIONS,
            "commands: [kubectl delete]",
            "commands: [kubectl delete, kubectl remove]",
            "no program specifies",
        ),
        (OPERATIONS, "commands: [kubectl delete]", "commands: [kubectl delete, kubectl get]", "can never decide"),
        (OPERATIONS, "id: k8s.delete", "id: k8s.read", "given twice"),
        (OPERATIONS, "@widen", "@surprise", "nothing defines"),
        (OPERATIONS, "=kube-output", "=cube-output", "nothing defines"),
        (OPERATIONS, "targets: [context, namespace]", "targets: [context, galaxy]", "unknown kind"),
        (SHELL, "requires: [-c]", "requires: [-Z]", "which it lacks"),
        (SHELL, 'args: [text, "file*"], drops_first', 'args: ["text*", file], drops_first', "not its last"),
        (SHELL, "flags: [-n, -e, -E]", "flags: [-n, e]", "no valid name"),
        (DEVELOPMENT, 'match: ["git branch"', 'examples: ["git branch"', "match"),
    ],
)
def test_a_bad_bundle_is_refused(
    edited: Callable[[str, str, str], Bundle], file: str, old: str, new: str, why: str
) -> None:
    with pytest.raises(BundleError, match=why.replace("(", "\\(")):
        edited(file, old, new)


@pytest.mark.parametrize(
    ("file", "old", "new", "rule"),
    [
        (OPERATIONS, '"kubectl get pods",', '"kubectl get secrets",', "k8s.read"),
        (OPERATIONS, '"kubectl get --raw /api",', '"kubectl get deploy",', "k8s.read"),
        (SHELL, "class: R2\n    reason: deletes files", "class: R0\n    reason: deletes files", "file.delete"),
        (SHELL, "-delete @R3", "-delete", "text.read"),
        (OPERATIONS, '"kubectl delete namespace staging",', '"kubectl delete namespace prod",', "k8s.delete"),
        ("default.yaml", '"@default", staging, dev', '"@default", dev', "k8s.delete"),
    ],
)
def test_one_failing_example_refuses_the_bundle(
    edited: Callable[[str, str, str], Bundle], file: str, old: str, new: str, rule: str
) -> None:
    with pytest.raises(BundleError, match=rule):
        check_examples(edited(file, old, new))


def test_the_digest_covers_the_included_files(edited: Callable[[str, str, str], Bundle], bundle: Bundle) -> None:
    same = edited("default.yaml", "# The default policy bundle.", "# A comment.")
    assert same.policy_digest == bundle.policy_digest
    other = edited(SHELL, "reason: deletes files", "reason: deletes some files")
    assert other.policy_digest != bundle.policy_digest


def test_an_absent_bundle_is_refused() -> None:
    with pytest.raises(BundleError, match="no bundle file"):
        load_bundle("absent")


def test_a_classifier_travels_to_another_process(classifier: Classifier) -> None:
    moved: Classifier = pickle.loads(pickle.dumps(classifier))
    assert moved.policy_digest == classifier.policy_digest
    assert moved.classify("shell", {"command": "ls"}).risk == "R0"


def test_a_flag_line_is_read() -> None:
    short, long = compile_flag("-n, --lines[=number] @widen @R2")
    assert (short.name, long.name) == ("-n", "--lines")
    assert (long.value, long.role, long.effects) == ("optional", "number", ("widen", "R2"))
