import pickle
import shutil
import stat
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.gate import bundle as bundle_module
from deployments.gate.bundle import BUNDLE_DIRECTORY, check_examples, count_examples, load_bundle
from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError
from deployments.gate.marks import code_digest, is_marked, mark
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.specs import compile_flag
from deployments.gate.tables import SHIPPED_A, SHIPPED_B
from deployments.ports import GateProfile
from tests.unit.gate.tiny import tiny, write

ROWS = ["R0", "R1", "R2", "R1", "R1", "R2"]


def changed(path: str, value: Any) -> dict[str, Any]:
    """The small bundle with one value replaced, or added where `path` ends in `+`."""
    said = deepcopy(tiny())
    *places, last = path.removesuffix("+").split("/")
    inside: Any = said
    for place in places:
        inside = inside[int(place) if isinstance(inside, list) else place]
    last = int(last) if isinstance(inside, list) else last
    if path.endswith("+"):
        inside[last].append(value)
    else:
        inside[last] = value
    return said


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("table/R0/nonprod", ["R0", "R0", *ROWS[2:]], "below the shipped"),
        ("table/R0/nonprod", ROWS[:5], "no cell"),
        ("table/R0/nonprod", ["R0", "R1", "R3", *ROWS[3:]], "falls from"),
        ("table/R0/nonprod", ["R9", *ROWS[1:]], "table A"),
        ("profiles/ops/outcomes/R2", "release", "table B"),
        ("profiles/ops/outcomes/R2", "perhaps", "table B"),
        ("version", "1", "version"),
        ("version", 2, "version"),
        ("name", "No Name", "name"),
        ("tools/1/names", ["shell"], "registered twice"),
        ("tools/1/fields", {"path": "nonsense"}, "no role"),
        ("words/name", "(", "regular expression"),
        ("rules/0/class", "R9", "not a class"),
        ("rules/4/class", "R3|R2", "milder in production"),
        ("rules/1/commands+", "remove", "no program specifies"),
        ("rules/1/commands+", "ls", "can never decide"),
        ("rules/1/id", "file.list", "given twice"),
        ("rules/1/match", [], "match"),
        ("programs/ls/flags+", "-x @surprise", "nothing defines"),
        ("programs/ls/flags+", "-x=cube", "nothing defines"),
        ("programs/ls/flags+", "e", "no valid name"),
        ("programs/ls/args", ["file*", "file"], "not its last"),
        ("programs/ls/requires", ["-Z"], "which it lacks"),
        ("programs/ship/targets", ["galaxy"], "unknown kind"),
    ],
)
def test_a_bad_bundle_is_refused(tmp_path: Path, path: str, value: object, why: str) -> None:
    with pytest.raises(BundleError, match=why):
        read_policy(write(tmp_path, changed(path, value)))


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("rules/0/match+", "ls .env", "file.list should make 'ls .env' R0, it is R1"),
        ("rules/0/match+", "rm x", "file.list should make 'rm x' R0, it is R2"),
        ("rules/0/match+", "unknown", "file.list should make 'unknown' R0"),
        ("rules/0/not_match+", "ls src", "file.list should not let 'ls src' pass"),
        ("rules/1/not_covered", ["rm x"], "file.delete should not let a standing plan cover 'rm x'"),
        ("rules/1/class", "R0", "file.delete should not let 'rm y' pass"),
        ("targets/place/0/match", ["lab"], "ship.go should make 'ship web' R2, it is R3"),
    ],
)
def test_one_failing_example_refuses_the_bundle(tmp_path: Path, path: str, value: object, rule: str) -> None:
    said = changed(path, value)
    if path == "rules/1/class":
        said["rules"][1]["not_match"] = ["rm y"]
    with pytest.raises(BundleError, match=rule):
        load_bundle(write(tmp_path, said))


def test_files_are_put_together_and_say_nothing_twice(tmp_path: Path) -> None:
    said = tiny()
    part = {name: said.pop(name) for name in ("programs", "rules")} | {"sinks": ["/dev/stdout"]}
    (tmp_path / "part.yaml").write_text(yaml.safe_dump(part))
    whole = read_policy(write(tmp_path, said | {"include": ["part.yaml"]}))
    assert whole.sinks == {"/dev/null", "/dev/stdout"}
    assert set(whole.parts.programs) == {"ls", "rm", "curl", "ship"}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({"words": {"name": "x"}}))
    with pytest.raises(BundleError, match="specified twice: name"):
        read_policy(write(tmp_path, said | {"include": ["part.yaml", "again.yaml"]}))
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({"tools": [tiny()["tools"][0]]}))
    with pytest.raises(BundleError, match="registered twice: shell"):
        read_policy(write(tmp_path, said | {"include": ["part.yaml", "again.yaml"]}))
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({"include": ["part.yaml"]}))
    with pytest.raises(BundleError, match="may not include others"):
        read_policy(write(tmp_path, said | {"include": ["again.yaml"]}))


def test_who_approves_may_stand_in_a_pack(tmp_path: Path) -> None:
    (tmp_path / "pack.yaml").write_text(yaml.safe_dump({"approvers": {"R3": ["security"]}}))
    found = read_policy(write(tmp_path, tiny() | {"include": ["pack.yaml"]}))
    assert {risk.value: roles for risk, roles in found.approvers.items()} == {"R3": ("security",)}


def test_the_shipped_bundle_says_the_shipped_tables(bundle: Bundle) -> None:
    assert (bundle.table_a, bundle.table_b) == (SHIPPED_A, SHIPPED_B)
    assert list(bundle.standing) == [GateProfile.CODING]
    assert count_examples(bundle) > 1_000


def test_the_digest_covers_the_included_files(tmp_path: Path, bundle: Bundle) -> None:
    shutil.copytree(BUNDLE_DIRECTORY, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "packs" / "coding.yaml"
    assert read_policy(tmp_path / "default.yaml").policy_digest == bundle.policy_digest
    file.write_text("# Another comment.\n" + file.read_text())
    assert read_policy(tmp_path / "default.yaml").policy_digest == bundle.policy_digest
    file.write_text(file.read_text().replace("are empty.", "are all empty."))
    assert read_policy(tmp_path / "default.yaml").policy_digest != bundle.policy_digest


def test_an_absent_bundle_is_refused() -> None:
    with pytest.raises(BundleError, match="no bundle file"):
        load_bundle("absent")


def test_a_classifier_travels_to_another_process(tmp_path: Path) -> None:
    base = write(tmp_path, tiny())
    own = write(tmp_path, {"version": 1, "name": "mine", "extends": "tiny"})
    for path in (base, own):
        moved: Classifier = pickle.loads(pickle.dumps(Classifier(read_policy(path))))
        assert moved.policy_digest == read_policy(path).policy_digest
        assert moved.classify("shell", {"command": "ls"}).risk == "R0"
        assert moved.classify("shell", {"command": "ls .env"}).risk == "R1"


def test_a_flag_line_is_read() -> None:
    short, long = compile_flag("-n, --lines[=number] @widen @R2")
    assert (short.name, long.name) == ("-n", "--lines")
    assert (long.value, long.role, long.effects) == ("optional", "number", ("widen", "R2"))


class TestMarks:
    """Examples run at load, unless they are known to have passed on this machine."""

    @pytest.fixture
    def ran(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names of the bundles whose examples ran."""
        found: list[str] = []

        def note(bundle: Bundle) -> None:
            found.append(bundle.name)
            check_examples(bundle)

        monkeypatch.setattr(bundle_module, "check_examples", note)
        return found

    def test_without_a_place_for_marks_they_run_each_time(self, tmp_path: Path, ran: list[str]) -> None:
        path = write(tmp_path, tiny())
        load_bundle(path)
        load_bundle(path)
        assert ran == ["tiny", "tiny"]

    def test_they_run_once_for_each_content(self, tmp_path: Path, ran: list[str]) -> None:
        marks = tmp_path / "state" / "marks"
        for reason in ("a", "a", "b", "b"):
            said = tiny()
            said["rules"][0]["reason"] = f"lists files, {reason}"
            load_bundle(write(tmp_path, said), marks)
        assert ran == ["tiny", "tiny"]
        assert stat.S_IMODE(marks.stat().st_mode) == 0o700

    def test_a_base_is_marked_by_itself(self, tmp_path: Path, ran: list[str]) -> None:
        marks, path = tmp_path / "marks", write(tmp_path, tiny())
        own = write(tmp_path, {"version": 1, "name": "mine", "extends": "tiny"})
        load_bundle(own, marks)
        load_bundle(path, marks)
        load_bundle(own, marks)
        assert ran == ["tiny", "mine"]

    def test_failing_examples_leave_no_mark(self, tmp_path: Path, ran: list[str]) -> None:
        marks, path = tmp_path / "marks", write(tmp_path, changed("rules/0/match+", "rm x"))
        for _ in range(2):
            with pytest.raises(BundleError):
                load_bundle(path, marks)
        assert ran == ["tiny", "tiny"]

    def test_laws_hold_with_a_mark_too(self, tmp_path: Path) -> None:
        marks, path = tmp_path / "marks", write(tmp_path, tiny())
        load_bundle(path, marks)
        write(tmp_path, changed("sinks", ["/etc/passwd"]))
        with pytest.raises(BundleError, match="may hold something"):
            load_bundle(path, marks)

    @pytest.mark.parametrize("damage", ["mode", "other code", "other bundle", "empty", "directory", "gone"])
    def test_a_mark_that_cannot_be_trusted_is_none(self, tmp_path: Path, damage: str, ran: list[str]) -> None:
        marks, path = tmp_path / "marks", write(tmp_path, tiny())
        digest = load_bundle(path, marks).policy_digest
        assert is_marked(marks, digest)
        [file] = marks.iterdir()
        match damage:
            case "mode":
                marks.chmod(0o777)
            case "other code":
                file.write_text(file.read_text().replace(code_digest()[:8], "00000000"))
            case "other bundle":
                file.write_text(file.read_text().replace(digest[:8], "00000000"))
            case "empty":
                file.write_text("")
            case "directory":
                file.unlink()
                file.mkdir()
            case _:
                file.unlink()
        assert not is_marked(marks, digest)
        load_bundle(path, marks)
        assert ran == ["tiny", "tiny"]

    def test_a_place_that_cannot_be_written_to_costs_time_alone(self, tmp_path: Path, ran: list[str]) -> None:
        (tmp_path / "file").write_text("")
        mark(tmp_path / "file" / "marks", "a" * 64)
        load_bundle(write(tmp_path, tiny()), tmp_path / "file" / "marks")
        assert ran == ["tiny"]
