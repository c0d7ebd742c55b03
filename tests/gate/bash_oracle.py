"""What bash itself would run: a line, given to a real bash whose PATH holds nothing but recorders.

Every program of the line is a recorder that writes down its arguments and exits; nothing else can be executed: PATH is
one directory of them, the rest of the machine is not named by any line here, the working directory is empty and
thrown away, and processor time, processes and file sizes are limited. Only lines without redirects to files, without
absolute program paths and without builtins that act (`kill`, `exec`, `cd` to real places) are given to it.
"""

import os
import re
import resource
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

RECORDER = """#!/bin/bash -p
IFS= read -r -t 0 || true
printf '%s\\0' "${0##*/}" "$@" $'\\x01' >> "$RECORD"
"""
BASH = "/bin/bash"
# Builtins that have no recorder, and acts that a recorder cannot stand in for.
UNSAFE = re.compile(
    r"\b(exec|kill|wait|ulimit|source|eval|trap|read|coproc|while|until|sleep|suspend|enable|builtin|hash|cd|pushd|popd"
    r"|command|time|fg|bg|disown|set|unset|export|declare|mapfile|shopt|alias|history|logout|exit|return|umask)\b"
    r"|[<>]|/dev/|&\s*$|&[^&>]|^\s*\.|(^|[;&|(]\s*)[./~]|\$!|\$PPID|\$RANDOM|\$SECONDS|\$\$|\$BASHPID|\$LINENO"
)
BUILTINS = frozenset({"echo", "printf", "test", "[", "true", "false", ":", "pwd", "type", "dirs", "jobs", "let"})


@dataclass(frozen=True)
class Run:
    """One program that bash started, with its words."""

    argv: tuple[str, ...]


def can_be_run(line: str) -> bool:
    """True for lines whose whole effect in bash is to start recorders."""
    return len(line) < 2_000 and not UNSAFE.search(line) and "\x00" not in line


class Oracle:
    """A bash among recorders, in a directory of its own."""

    def __init__(self, directory: Path, programs: Iterable[str]) -> None:
        self._bin, self._home = directory / "bin", directory / "home"
        self._bin.mkdir()
        self._home.mkdir()
        self._record = directory / "record"
        recorder = self._bin / ".recorder"
        recorder.write_text(RECORDER, encoding="utf-8")
        recorder.chmod(0o700)
        for program in programs:
            if re.fullmatch(r"[A-Za-z0-9_.+-]+", program) and program not in {".", ".."}:
                (self._bin / program).symlink_to(recorder)

    def run(self, line: str) -> list[Run]:
        """The recorders that the line starts, in the order they wrote."""
        self._record.write_bytes(b"")
        # Builtins are turned off, so that their recorders run: what they were given counts as well.
        prelude = "enable -n " + " ".join(sorted(BUILTINS - {":", "let"})) + " 2>/dev/null\n"
        subprocess.run(
            [BASH, "--noprofile", "--norc", "-c", prelude + line],
            env={"PATH": str(self._bin), "HOME": "/nowhere/home", "RECORD": str(self._record), "LC_ALL": "C.UTF-8"},
            cwd=self._home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
            preexec_fn=_limits,
        )
        return _runs(self._record.read_bytes())


def _runs(data: bytes) -> list[Run]:
    found: list[Run] = []
    words: list[str] = []
    for piece in data.split(b"\0"):
        if piece == b"\x01":
            found.append(Run(tuple(words)))
            words = []
        else:
            words.append(piece.decode("utf-8", "surrogateescape"))
    return found


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (3, 3))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    os.setsid()


def explained(run: Run, seen: Sequence[tuple[str | None, ...]]) -> bool:
    """True when one of the commands that the gate saw is this one; a word that it did not know stands for any words."""
    return any(_fits(run.argv, words) for words in seen)


def _fits(argv: tuple[str, ...], words: tuple[str | None, ...]) -> bool:
    if not words:
        return not argv
    if words[0] is None:
        return any(_fits(argv[count:], words[1:]) for count in range(len(argv) + 1))
    return bool(argv) and argv[0] == words[0] and _fits(argv[1:], words[1:])
