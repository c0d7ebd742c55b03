"""Arguments that are not those of the tool: for every adapter, none of them is repaired, guessed or let through."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.gate.classify import Classifier
from deployments.ports import GateProfile, JsonValue, Risk

# One call per adapter that `coding` releases; each is then spoilt.
GOOD: dict[str, dict[str, JsonValue]] = {
    "exec_command": {"cmd": "ls -la", "workdir": "/workspace/app", "yield_time_ms": 1000, "login": True},
    "Bash": {"command": "git status", "description": "Look", "timeout": 1000, "run_in_background": False},
    "write_stdin": {"session_id": 1, "chars": ""},
    "Read": {"file_path": "src/a.py", "offset": 1},
    "Grep": {"pattern": "x", "path": "src", "-n": True},
    "Write": {"file_path": "src/a.py", "content": "x"},
    "Edit": {"file_path": "src/a.py", "old_string": "a", "new_string": "b"},
    "MultiEdit": {"file_path": "src/a.py", "edits": [{"old_string": "a", "new_string": "b"}]},
    "str_replace_editor": {"command": "str_replace", "path": "src/a.py", "old_str": "a", "new_str": "b"},
    "delete_file": {"target_file": "src/a.py"},
    "apply_patch": {"input": "*** Begin Patch\n*** Add File: a.py\n+x\n*** End Patch"},
    "WebFetch": {"url": "http://localhost:8000/", "prompt": "x"},
    "http_request": {"url": "http://localhost:8000/", "method": "GET", "headers": {"Accept": "a"}},
    "update_plan": {"plan": [], "explanation": "x"},
    "Agent": {"description": "x", "prompt": "y"},
    "KillShell": {"shell_id": "b1"},
}
VALUES: list[JsonValue] = [1, -1, 0.5, True, [], {}, ["a"], [["a"]], {"a": "b"}, [None], "", "\u202e", "x" * 11_000]


@pytest.mark.parametrize("tool", GOOD)
def test_spoilt_arguments_are_never_released(classifier: Classifier, tool: str) -> None:
    good = GOOD[tool]
    assert classifier.classify(tool, good, GateProfile.CODING).outcome == "release"
    text = json.dumps(good)
    first = next(iter(good))
    pair = f"{json.dumps(first)}: {json.dumps(good[first])}"
    spoilt = [
        f"{text[:-1]}, {pair}}}",
        f"{text[:-1]}, {pair.replace(first, first.replace(first[0], chr(92) + f'u{ord(first[0]):04x}', 1), 1)}}}",
        text + "x",
        text + text,
        text[:-1],
        f"[{text}]",
        json.dumps(text),
        f"\ufeff{text}",
        f'{text[:-1]}, "surprise": 1}}',
        f'{text[:-1]}, "": ""}}',
        f'{text[:-1]}, "__proto__": {{}}}}',
        f'{text[:-1]}, "{first.upper()}": "x"}}',
        f'{text[:-1]}, "{first} ": "x"}}',
        f'{text[:-1]}, "x": NaN}}',
        f'{text[:-1]}, "x": 1e999}}',
        f'{text[:-1]}, "x": 99999999999999999999}}',
        f'{text[:-1]}, "x": "\\u0000"}}',
        f'{text[:-1]}, "x": "\\ud800"}}',
        f'{text[:-1]}, "x": {"[" * 40}{"]" * 40}}}',
        f'{text[:-1]}, "x": "{"a" * 300_000}"}}',
        text.replace("{", "{/**/", 1),
        text.replace('"', "'"),
        "null",
        "",
    ]
    for each in spoilt:
        for profile in (GateProfile.CODING, GateProfile.OPS):
            found = classifier.classify(tool, each, profile)
            assert found.outcome == "hold", (each[:200], found.reasons)
            assert found.risk.rank >= Risk.R2.rank
            assert "classifier.error" not in found.rules


@pytest.mark.parametrize("tool", GOOD)
def test_no_value_of_any_type_breaks_an_adapter(classifier: Classifier, tool: str) -> None:
    for name in GOOD[tool]:
        for value in VALUES:
            found = classifier.classify(tool, {**GOOD[tool], name: value}, GateProfile.CODING)
            assert "classifier.error" not in found.rules, (name, value)


# An argument that names what is done, and has another type than text.
NAMING = {"exec_command": "cmd", "Bash": "command", "Read": "file_path", "Write": "file_path", "Edit": "file_path",
          "MultiEdit": "file_path", "str_replace_editor": "path", "delete_file": "target_file", "apply_patch": "input",
          "WebFetch": "url", "http_request": "url", "write_stdin": "chars"}  # fmt: skip


@pytest.mark.parametrize("tool", NAMING)
@pytest.mark.parametrize("value", [1, True, [], {}, [["ls"]], {"path": "a"}, [1], [None]])
def test_what_names_the_deed_is_text(classifier: Classifier, tool: str, value: JsonValue) -> None:
    found = classifier.classify(tool, {**GOOD[tool], NAMING[tool]: value}, GateProfile.CODING)
    assert found.outcome != "release", found.reasons


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_NAMES = sorted({name for arguments in GOOD.values() for name in arguments} | {"env", "path", "new_path", "edits"})


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(tool=st.sampled_from(sorted(GOOD)), values=st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=4))
def test_any_arguments_at_all_have_an_answer(classifier: Classifier, tool: str, values: dict[str, JsonValue]) -> None:
    found = classifier.classify(tool, values, GateProfile.CODING)
    assert "classifier.error" not in found.rules
    if found.outcome == "release":
        assert found.risk is Risk.R0 or found.covered
    if found.preview is not None:
        assert all(char == "\n" or char.isprintable() for char in found.preview)


def test_null_is_an_argument_that_is_left_out(classifier: Classifier) -> None:
    found = classifier.classify("exec_command", {"cmd": "ls", "workdir": None, "sandbox_permissions": None})
    assert found.outcome == "release"
    assert classifier.classify("exec_command", {"cmd": None}).outcome == "hold"


@pytest.mark.parametrize(
    ("tool", "extra"),
    [
        ("exec_command", {"sandbox_permissions": "require_escalated"}),
        ("exec_command", {"sandbox_permissions": "with_additional_permissions", "additional_permissions": {}}),
        ("exec_command", {"sandbox_permissions": True}),
        ("exec_command", {"with_escalated_permissions": True}),
        ("exec_command", {"with_escalated_permissions": 1}),
        ("exec_command", {"with_escalated_permissions": 0}),
        ("exec_command", {"with_escalated_permissions": "true"}),
        ("exec_command", {"prefix_rule": ["ls"]}),
        ("exec_command", {"prefix_rule": []}),
        ("exec_command", {"tty": True}),
        ("exec_command", {"shell": "/srv/bash"}),
        ("exec_command", {"shell": "zsh"}),
        ("exec_command", {"workdir": "$(id)"}),
        ("Bash", {"dangerouslyDisableSandbox": True}),
        ("Bash", {"dangerouslyDisableSandbox": "false"}),
        ("Bash", {"restart": True}),
        ("execute_bash", {"is_input": "true"}),
        ("Agent", {"mode": "bypassPermissions"}),
        ("Agent", {"mode": "acceptEdits"}),
        ("Agent", {"isolation": "remote"}),
        ("ExitPlanMode", {"allowedPrompts": []}),
        ("Skill", {"args": "x"}),
    ],
)
def test_a_call_that_asks_for_more_rights_is_held(
    classifier: Classifier, tool: str, extra: dict[str, JsonValue]
) -> None:
    good: dict[str, dict[str, JsonValue]] = {
        **GOOD, "execute_bash": {"command": "ls"}, "ExitPlanMode": {"plan": "x"}, "Skill": {"skill": "review"},
    }  # fmt: skip
    assert classifier.classify(tool, good[tool], GateProfile.CODING).outcome == "release"
    found = classifier.classify(tool, {**good[tool], **extra}, GateProfile.CODING)
    assert found.outcome == "hold", found.reasons
    assert found.risk.rank >= Risk.R2.rank


def test_two_names_for_one_thing_are_held(classifier: Classifier) -> None:
    for tool, arguments in (
        ("Read", {"file_path": "a.py", "path": "b.py"}),
        ("Write", {"file_path": "a.py", "path": "a.py", "content": "x"}),
        ("exec_command", {"cmd": "ls", "command": "ls"}),
        ("exec_command", {"cmd": "ls", "workdir": ".", "cwd": "."}),
        ("apply_patch", {"input": GOOD["apply_patch"]["input"], "patch": GOOD["apply_patch"]["input"]}),
        ("http_request", {"url": "http://localhost/", "method": "GET", "body": {"x": 1}}),
    ):
        assert classifier.classify(tool, arguments, GateProfile.CODING).outcome == "hold", tool


def test_where_a_command_runs_decides_what_its_paths_are(classifier: Classifier) -> None:
    def outcome(workdir: str) -> str:
        arguments: dict[str, JsonValue] = {"cmd": "touch x", "workdir": workdir}
        return classifier.classify("exec_command", arguments, GateProfile.CODING).outcome

    assert outcome("/workspace/app") == "release"
    assert outcome("src") == "release"
    # What names no path is about the directory that it runs in.
    found = classifier.classify("exec_command", {"cmd": "rg KEY", "workdir": "/root/.ssh"})
    assert found.risk is Risk.R1
    for workdir in (
        "/",
        "/etc",
        "~",
        "..",
        "src/../..",
        "/workspace/..",
        "",
        " ",
        "$HOME",
        "/workspace/app/.git/hooks",
    ):
        assert outcome(workdir) == "hold", workdir


def test_what_is_typed_into_a_program_is_opaque(classifier: Classifier) -> None:
    def risk(chars: str) -> Risk:
        return classifier.classify("write_stdin", {"session_id": 1, "chars": chars}, GateProfile.CODING).risk

    assert risk("") is Risk.R0
    assert risk("\x03") is Risk.R1
    for chars in ("\n", " ", "y\n", "q", "!ls\n", ":!sh\n", "\x04", "\x03\x03rm x\n", "\x1b[A\n", "exit\n"):
        assert risk(chars).rank >= Risk.R2.rank, chars
    assert risk("rm -rf ~\n") is Risk.R3


def test_the_preview_of_an_edit_is_all_of_it(classifier: Classifier) -> None:
    def preview(tool: str, arguments: dict[str, JsonValue]) -> str | None:
        return classifier.classify(tool, arguments).preview

    # A line that looks like the header of a difference is a line like any other.
    old, new = "-- drop\n++ x\nkept", "-- keep\nkept"
    assert preview("Edit", {"file_path": "a.sql", "old_string": old, "new_string": new}) == (
        "in file a.sql\n  --- drop\n  -++ x\n  +-- keep\n   kept"
    )
    long = "\n".join(str(number) for number in range(3_000))
    shown = preview("Write", {"file_path": "a.txt", "content": long})
    assert shown is not None
    assert shown.split("\n")[1:] == [f"  +{number}" for number in range(3_000)]
    shown = preview("MultiEdit", {"file_path": "a", "edits": [
        {"old_string": "a\u202e", "new_string": "b"}, {"old_string": "c", "new_string": ""}]})  # fmt: skip
    assert shown == "in file a (edit 1)\n  -a\\u202e\n  +b\nin file a (edit 2)\n  -c\n  +"
    many = "\n".join("a" for _ in range(1_000))
    shown = preview("Edit", {"file_path": "a", "old_string": many, "new_string": f"{many}\nb"})
    assert shown is not None
    assert sorted(shown.split("\n")[1:]) == sorted(["  -a"] * 1_000 + ["  +a"] * 1_000 + ["  +b"])
    assert preview("delete_file", {"target_file": "a"}) == "delete file a"
    assert preview("move_file", {"source": "a", "destination": "b"}) == "move a\nto   b"
    assert preview("replace_in_file", {"path": "a", "diff": "x\ny"}) == "in file a\n  diff:\n    x\n    y"
