"""What a tool's result says about how the call ended. Decisions without I/O.

Only what is clearly said counts: a client's own header, a field of a JSON object whose name leaves no doubt, or the
flag that a dialect has for it. A word in the output is no evidence, because the output is the tool's and may say
anything. Everything else is `unknown`.
"""

import json
import re
from dataclasses import dataclass
from typing import cast

from deployments.ports import ActionOutcome, JsonValue

MAX_JSON_CHARS = 262_144
MAX_EXIT_CODE = 2**31 - 1
_HEADER_LINES = 8
_EXIT_FIELDS = ("exit_code", "exitCode", "exit_status", "returncode", "return_code")
_ERROR_FIELDS = ("is_error", "isError")
# Codex's shell and unified exec, Claude Code's failed Bash (its dialect writes "Error: " before it), mini-swe-agent.
_FIRST_LINE = re.compile(r"(?:Error: )?Exit code:? (-?\d{1,10})\s*|<returncode>(-?\d{1,10})</returncode>.*")
_HEADER_LINE = re.compile(r"Process exited with code (-?\d{1,10})\s*")
_OUTPUT = "Output:"  # Codex's header ends here


@dataclass(frozen=True, slots=True)
class Said:
    """How a call ended. `exit_code` is None where none is said; negative: the signal that ended the process."""

    outcome: ActionOutcome
    exit_code: int | None = None


UNKNOWN = Said(ActionOutcome.UNKNOWN)


def said(content: str, failed: bool | None = None) -> Said:
    """What a result says: by its text, or where that says nothing by the client's own flag."""
    found = _of_text(content.lstrip())
    if found.outcome is not ActionOutcome.UNKNOWN or failed is None:
        return found
    return Said(ActionOutcome.FAILED if failed else ActionOutcome.SUCCEEDED)


def _of_text(text: str) -> Said:
    if text.startswith("{"):
        return _of_json(text) if len(text) <= MAX_JSON_CHARS else UNKNOWN
    return _of_header(text)


def _of_header(text: str) -> Said:
    lines = text[: _HEADER_LINES * 256].split("\n", _HEADER_LINES)[:_HEADER_LINES]
    first = _FIRST_LINE.fullmatch(lines[0])
    if first is not None:
        return _exited(int(first[1] or first[2]))
    for line in lines:
        if line.startswith(_OUTPUT):
            break
        found = _HEADER_LINE.fullmatch(line)
        if found is not None and any(each.startswith(_OUTPUT) for each in lines):
            return _exited(int(found[1]))
    return UNKNOWN


def _of_json(text: str) -> Said:
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        return UNKNOWN
    if not isinstance(value, dict):
        return UNKNOWN
    inner = value.get("metadata")
    for fields in (value, inner if isinstance(inner, dict) else {}):
        code = next((fields[name] for name in _EXIT_FIELDS if name in fields), None)
        if isinstance(code, int) and not isinstance(code, bool):
            return _exited(code)
    flags = [value[name] for name in _ERROR_FIELDS if isinstance(value.get(name), bool)]
    if flags:
        return Said(ActionOutcome.FAILED if cast(bool, flags[0]) else ActionOutcome.SUCCEEDED)
    return UNKNOWN


def _exited(code: int) -> Said:
    if code == 0:
        return Said(ActionOutcome.SUCCEEDED, 0)
    return Said(ActionOutcome.FAILED, code if abs(code) <= MAX_EXIT_CODE else None)
