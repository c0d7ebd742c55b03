"""Bundles that are hostile, damaged or mistaken: a clear error, and never a traceback, a hang or a crash."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from deployments.gate.grammar import BundleError
from deployments.gate.policy import read_policy
from deployments.gate.source import MAX_BYTES, read_source
from serve_app.cli.policy import app
from tests.unit.gate.tiny import tiny, write

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE = {
    "empty": ("", "holds no mapping"),
    "only a comment": ("# nothing", "holds no mapping"),
    "a list": ("- a\n- b", "holds no mapping"),
    "text": ("hello", "holds no mapping"),
    "two documents": ("a: 1\n---\nb: 2", "not readable YAML"),
    "not UTF-8": (b"name: \xff\xfe", "not UTF-8"),
    "UTF-16": ("name: x".encode("utf-16"), "not UTF-8"),
    "a NUL": (b"name: a\x00b", "not readable YAML"),
    "a tab": ("a:\n\t- b", "not readable YAML"),
    "no end": ("a: [1, 2", "not readable YAML"),
    "deep lists": ("a: " + "[" * 100_000, "nested deeper|not readable"),
    "deep maps": ("a: " + "{a: " * 5_000, "nested deeper|not readable"),
    "deep blocks": ("- " * 200_000, "nested deeper|not readable"),
    "deep and closed": ("a: " + "[" * 40 + "]" * 40, "nested deeper"),
    "a bomb of aliases": (BOMB, "its aliases written out"),
    "an alias of itself": ("a: &a [*a]", "contains itself"),
    "an alias of itself in a map": ("a: &a {b: {c: *a}}", "contains itself"),
    "an alias of nothing": ("a: *b", "not readable YAML"),
    "a merge of a list": ("x: &x {a: 1}\ny: {<<: [*x, *x]}", "line 2 merges something else"),
    "a merge of text": ("y: {<<: hello}", "merges something else"),
    "two merges": ("x: &x {a: 1}\ny: {<<: *x, <<: *x}", "given twice"),
    "a merge as value": ("x: <<", "not readable|would be read as"),
    "a key twice": ("name: a\nname: b", "line 2: the key 'name' is given twice"),
    "a key twice, deeper": ("a:\n  b: 1\n  'b': 2", "line 3: the key 'b' is given twice"),
    "a number as key": ("programs: {1: {}}", "key that is not text"),
    "a norwegian key": ("programs: {no: {}}", "key that is not text"),
    "a null key": ("{~: 1}", "key that is not text"),
    "a list as key": ("{[a, b]: 1}", "key that is not text"),
    "a map as key": ("? {a: 1}\n: 2", "key that is not text"),
    "a date": ("name: 2026-01-01", "'timestamp'"),
    "binary": ("name: !!binary aGVsbG8=", "'binary'"),
    "a set": ("name: !!set {a, b}", "'set'"),
    "an object": ("name: !!python/object/apply:os.system ['true']", "would be read as"),
    "a tag": ("name: !mine x", "would be read as"),
    "not a number": ("version: .nan\nname: x", "a number that is none"),
    "infinite": ("version: .inf\nname: x", "a number that is none"),
    "a huge number": ("version: " + "9" * 5_000 + "\nname: x", "version|not readable|integer"),
    "a huge exponent": ("version: 1e999\nname: x", "version|number"),
    "sexagesimal": ("version: 1:30\nname: x", "version"),
    "unknown fields": ("version: 1\nname: x\nbackdoor: true", "backdoor"),
    "text for a list": ("version: 1\nname: x\nsinks: /dev/null", "sinks"),
    "null for a list": ("version: 1\nname: x\nsinks:", "sinks"),
    "a bool for text": ("version: 1\nname: yes", "name"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_a_clear_error(tmp_path: Path, case: str) -> None:
    text, why = HOSTILE[case]
    path = tmp_path / "hostile.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError, match=why) as found:
        read_policy(path)
    assert len(str(found.value)) < 4_000
    said = CliRunner().invoke(app, ["test", str(path)])
    assert said.exit_code == 1
    assert "Traceback" not in said.output


def test_too_large_a_file_is_not_even_parsed(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"a: " + b"x" * MAX_BYTES)
    with pytest.raises(BundleError, match="larger than"):
        read_source(path)


def test_deep_nesting_does_not_crash_the_process(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text("a: " + "[" * 1_000_000)
    code = "import sys; from pathlib import Path; from deployments.gate.source import read_source\n"
    code += "try: read_source(Path(sys.argv[1]))\nexcept Exception as error: print(type(error).__name__)"
    found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.strip()) == (0, "BundleError")


def test_what_is_no_file_is_a_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(BundleError, match="no bundle file"):
            read_source(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"words": {"name": "("}}, "not a regular expression"),
        ({"words": {"name": "a{99999999999999}"}}, "not a regular expression"),
        ({"words": {"name": "(" * 200 + ")" * 200}}, None),
        ({"rules": [{"id": "a.b", "commands": [""], "class": "R0", "reason": "why", "match": ["x"]}]}, "names ''"),
        ({"rules": [{"id": "a.b", "commands": [" "], "class": "R0", "reason": "why", "match": ["x"]}]}, "names ' '"),
        ({"rules": [{"id": "a.b", "commands": ["ls"], "class": "R0|R1|R2", "reason": "why", "match": ["x"]}]}, "class"),
        ({"programs": {"": {}}}, "is no name"),
        ({"programs": {"a, ": {}}}, "is no name"),
        ({"programs": {"a": {"sub": {"b, b": {}}}}}, "'a b' is specified twice"),
        ({"programs": {"a": {"flags": [""]}}}, "not readable|no valid name"),
        ({"programs": {"a": {"flags": ["@nothing"]}}}, "nothing"),
        ({"include": ["tiny.yaml"]}, "version|specified twice"),
        ({"include": ["/etc/passwd"]}, "below the bundle"),
        ({"include": ["a/../../b.yaml"]}, "below the bundle"),
        ({"include": [""]}, "no bundle file"),
        ({"include": ["part.yaml", "part.yaml"]}, "included twice"),
        ({"table": {}}, "no cell"),
        ({"profiles": {}}, "no outcome"),
        ({"profiles": {"root": {"outcomes": {}}}}, "profiles"),
        ({"targets": {"host": [{"match": []}]}}, "match"),
    ],
)
def test_a_mistaken_bundle_is_a_clear_error(tmp_path: Path, change: dict[str, object], why: str | None) -> None:
    (tmp_path / "part.yaml").write_text("sinks: [/dev/stdout]\n")
    path = write(tmp_path, tiny() | change)
    if why is None:
        read_policy(path)
        return
    with pytest.raises(BundleError, match=why):
        read_policy(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_damaged_bundles_load_or_are_refused(tmp_path: Path, seed: int) -> None:
    """Bytes of a sound bundle removed, doubled and replaced: whatever comes out, only `BundleError` is raised."""
    chance = random.Random(seed)
    text = yaml.safe_dump(tiny(), sort_keys=False)
    for _ in range(chance.randint(1, 4)):
        at, size = chance.randrange(len(text)), chance.randint(0, 30)
        instead = chance.choice(["", text[at : at + size] * 2, chance.choice("[]{}:,&*!|>'\"%@`-?#~\n\t ")])
        text = text[:at] + instead + text[at + size :]
    path = tmp_path / "damaged.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        read_policy(path)
    except BundleError as error:
        assert str(error)  # noqa: PT017
