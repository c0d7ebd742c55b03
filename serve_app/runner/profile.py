"""The execution profile: what a command finds when it runs. Pure but for looking at the disk.

A read-only call is harmless only under these conditions: no terminal, no pager, no editor, no hooks, no start-up files,
nothing inherited from the caller's environment, programs from a fixed path, and no network for what the gate calls
local. It is not a sandbox: what a command may reach is decided by the account that the runner has.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.gate.commands import Command, Run
from serve_app.runner.settings import RunnerSettings

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = ("HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "TZ", "TMPDIR")
_QUIET: Mapping[str, str] = {
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "MANPAGER": "cat",
    "SYSTEMD_PAGER": "",
    "AWS_PAGER": "",
    "LESSSECURE": "1",
    "PYTHONSAFEPATH": "1",  # `python -m json.tool` must not run a json.py of the working directory
    "TERM": "dumb",
    "EDITOR": "false",
    "VISUAL": "false",
    "GIT_EDITOR": ":",
    "GIT_SEQUENCE_EDITOR": ":",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "false",
    "SSH_ASKPASS": "false",
    "SSH_ASKPASS_REQUIRE": "never",
    "DEBIAN_FRONTEND": "noninteractive",
}
_GIT = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.pager", "cat"),
    ("core.editor", ":"),
    ("core.askPass", "false"),
    ("interactive.diffFilter", "cat"),
    ("protocol.ext.allow", "never"),
)
# The limits are set by the shell that becomes the command: nothing of ours runs between fork and exec.
_LIMITS = 'ulimit -c 0; ulimit -t "$1" && ulimit -v "$2" && ulimit -f "$3" && shift 3 && exec "$@"'


class CannotRun(Exception):
    """The command cannot begin. `code` is the exit status that a shell has for it; the text holds no argument."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Prepared:
    """A command that can begin: absolute words, where it runs, and what it finds."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]


def prepare(run: Run, settings: RunnerSettings, environment: Mapping[str, str]) -> Prepared:
    """What to execute for a call; `CannotRun` when its program or its directory is not there."""
    cwd = working_directory(run.cwd, settings.root)
    path = ":".join((*settings.path, PATH))
    return Prepared(_argv(run.command, cwd, path), cwd, variables(settings, environment, path))


def working_directory(cwd: str | None, root: Path) -> Path:
    """The directory that a call names, links followed; it exists and lies in the runner's root."""
    inside = root.resolve()
    try:
        found = (inside / (cwd or ".")).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise CannotRun("the working directory does not exist", 66) from None
    if not found.is_relative_to(inside):
        raise CannotRun("the working directory is not in the runner's root", 66)
    if not found.is_dir():
        raise CannotRun("the working directory is none", 66)
    return found


def variables(settings: RunnerSettings, environment: Mapping[str, str], path: str) -> dict[str, str]:
    """The whole environment of a command."""
    kept = {name: environment[name] for name in (*_KEPT, *settings.pass_env) if name in environment}
    return {**kept, **_QUIET, **switches(()), "PATH": path}


def switches(more: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Git's settings as variables: they win over every file. `more` are further ones."""
    found = (*_GIT, *more)
    pairs = {f"GIT_CONFIG_KEY_{number}": name for number, (name, _) in enumerate(found)}
    pairs |= {f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in enumerate(found)}
    return {"GIT_CONFIG_COUNT": str(len(found)), **pairs}


def limited(argv: Sequence[str], settings: RunnerSettings) -> list[str]:
    """The command under its limits: processor seconds, address space, size of a file that it writes, no core dump."""
    kib = (settings.address_space_bytes // 1024, settings.file_bytes // 1024)
    shell = [bash(), "--noprofile", "--norc", "-c", _LIMITS, "gatehouse-run"]
    return [*shell, str(settings.cpu_s), str(kib[0]), str(kib[1]), *argv]


def bash() -> str:
    """The one shell that texts are judged for; `CannotRun` where there is none."""
    found = shutil.which("bash", path=PATH)
    if found is None:
        raise CannotRun("there is no bash on this machine", 127)
    return found


def _argv(command: Command, cwd: Path, path: str) -> tuple[str, ...]:
    if isinstance(command, str):
        return (bash(), "--noprofile", "--norc", "-c", command)
    name = command[0]
    if "\0" in "".join(command):
        raise CannotRun("the command holds a NUL", 126)
    found = os.path.join(cwd, name) if "/" in name else shutil.which(name, path=path)
    if found is None or not os.path.exists(found):
        raise CannotRun("there is no such program", 127)
    if not os.access(found, os.X_OK) or os.path.isdir(found):
        raise CannotRun("the program cannot be executed", 126)
    return (found, *command[1:])
