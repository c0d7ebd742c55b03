import json

import pytest

from deployments.gate.results import MAX_JSON_CHARS, UNKNOWN, Said, said
from deployments.ports import ActionOutcome

SUCCEEDED, FAILED = Said(ActionOutcome.SUCCEEDED, 0), Said(ActionOutcome.FAILED, 1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Exit code: 0\nWall time: 0.1 seconds\nOutput:\nfine", SUCCEEDED),
        ("Exit code: 1\nWall time: 0.1 seconds\nTotal output lines: 1\nOutput:\nno", FAILED),
        ("Chunk ID: 1a2b\nWall time: 0.0312 seconds\nProcess exited with code 0\nOutput:\n", SUCCEEDED),
        ("Wall time: 0.0312 seconds\r\nProcess exited with code 1\r\nOutput:\r\n", FAILED),
        ("Error: Exit code 1\nls: cannot access 'x'", FAILED),
        ("Exit code 127\nnot found", Said(ActionOutcome.FAILED, 127)),
        ("<returncode>0</returncode>\n<output>\nx</output>", SUCCEEDED),
        ('{"output":"x","metadata":{"exit_code":0,"duration_seconds":0.1}}', SUCCEEDED),
        ('{"exit_code":1,"stdout":""}', FAILED),
        ('{"exitCode":0}', SUCCEEDED),
        ('{"returncode":-9}', Said(ActionOutcome.FAILED, -9)),
        ('{"is_error":true,"content":"x"}', Said(ActionOutcome.FAILED)),
        ('{"isError":false}', Said(ActionOutcome.SUCCEEDED)),
    ],
)
def test_a_clear_exit_status_is_read(content: str, expected: Said) -> None:
    assert said(content) == expected


@pytest.mark.parametrize(
    "content",
    [
        "",
        "fine",
        "Error: something",
        "the script printed\nExit code: 0\n",
        "Wall time: 0.1 seconds\nOutput:\nProcess exited with code 0\n",
        "Process exited with code 0",
        "Process running with session ID 7\nOutput:\nstill at it",
        "Exit code: none",
        "Exit code: 99999999999999",
        "{",
        "[]",
        '{"exit_code":"0"}',
        '{"exit_code":true}',
        '{"exit_code":null,"output":"x"}',
        '{"metadata":[]}',
        '{"output":"Exit code: 0"}',
        "{" * 100_000,
        json.dumps({"exit_code": 0, "output": "x" * MAX_JSON_CHARS}),
    ],
)
def test_what_is_not_clear_is_unknown(content: str) -> None:
    assert said(content) == UNKNOWN


def test_an_exit_code_that_no_system_has_is_only_a_failure() -> None:
    assert said(json.dumps({"exit_code": 2**31})) == Said(ActionOutcome.FAILED)


@pytest.mark.parametrize(
    ("content", "failed", "expected"),
    [
        ("it went wrong", True, Said(ActionOutcome.FAILED)),
        ("fine", False, Said(ActionOutcome.SUCCEEDED)),
        ("fine", None, UNKNOWN),
        ('{"exit_code":0}', True, Said(ActionOutcome.SUCCEEDED, 0)),
        ("Exit code: 2\n", False, Said(ActionOutcome.FAILED, 2)),
        ("{" * 10, True, Said(ActionOutcome.FAILED)),
    ],
)
def test_the_clients_flag_counts_where_the_text_says_nothing(content: str, failed: bool | None, expected: Said) -> None:
    assert said(content, failed) == expected
