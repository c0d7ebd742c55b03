"""The command of a shell-like call, whatever the tool and its arguments are called.

An agent asks for `mcp__gatehouse__run {"command": ...}`, another one for `Bash {"command": ..., "description": ...}`,
and a runner gets the same words on its command line. They are one call: what was approved under one spelling may be
executed under another. Only tools that are known to run a command are read like this; any other call is only ever
equal to itself.
"""

import hashlib
import json
import posixpath
from dataclasses import dataclass
from typing import TypeAlias, cast

from deployments.ports import JsonValue

RUN_TOOL = "run"
"""The tool's name when a runner proposes a command itself."""

RUN_TOOLS = frozenset({
    RUN_TOOL, "mcp__gatehouse__run", "gatehouse_run", "gatehouse.run", "gatehouse__run",
    "shell", "local_shell", "container.exec", "exec_command", "shell_command",  # Codex
    "Bash",  # Claude Code
    "bash",  # opencode
    "run_shell_command", "execute_command", "builtin_run_terminal_command",
})  # fmt: skip
_COMMAND = ("command", "cmd")
_CWD = ("cwd", "workdir")
_NEUTRAL = frozenset({"timeout_s", "timeout", "timeout_ms", "description", "yield_time_ms", "max_output_tokens"})
_SHELLS = frozenset({"bash", "/bin/bash", "/usr/bin/bash"})
_TEXT_FLAGS = frozenset({"-c", "-lc"})  # a runner reads no login files either way

Command: TypeAlias = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A command: text for bash, or the words of one program. `cwd` is as the call names it; None: where the runner is.

    `timeout_s` is how long the call asks to be waited for, where it says so in seconds.
    """

    command: Command
    cwd: str | None = None
    timeout_s: int | None = None


def run_of(tool: str, arguments: str) -> Run | None:
    """The command of a call with canonical `arguments`; None when the call is not plainly one command."""
    if tool not in RUN_TOOLS:
        return None
    try:
        found = cast(JsonValue, json.loads(arguments))
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    commands = [found[name] for name in _COMMAND if name in found]
    directories = [found[name] for name in _CWD if name in found]
    strange = found.keys() - {*_COMMAND, *_CWD, *_NEUTRAL}
    if len(commands) != 1 or len(directories) > 1 or strange:
        return None
    command = _command(commands[0])
    cwd = directories[0] if directories else None
    if command is None or not (cwd is None or isinstance(cwd, str)):
        return None
    timeout_s = found.get("timeout_s")
    if not isinstance(timeout_s, int) or isinstance(timeout_s, bool):
        timeout_s = None
    return Run(command, _normal(cwd), timeout_s)


def claim_key(tenant: str, key_id: str, tool: str, arguments: str) -> str:
    """SHA-256 hex of whose call this is and what it would execute."""
    run = run_of(tool, arguments)
    what: list[JsonValue]
    if run is None:
        what = ["exact", tool, arguments]
    else:
        command = run.command if isinstance(run.command, str) else list[JsonValue](run.command)
        what = ["run", command, run.cwd]
    return hashlib.sha256(json.dumps([tenant, key_id, *what]).encode("ascii")).hexdigest()


def _command(value: JsonValue) -> Command | None:
    if isinstance(value, str):
        return value or None
    if not isinstance(value, list) or not value:
        return None
    words = tuple(word for word in value if isinstance(word, str))
    if len(words) != len(value):
        return None
    if len(words) == 3 and words[0] in _SHELLS and words[1] in _TEXT_FLAGS:
        return words[2] or None
    return words


def _normal(cwd: str | None) -> str | None:
    found = posixpath.normpath(cwd) if cwd else "."
    return None if found == "." else found
