"""What bash itself would run: a line, given to a real bash whose PATH holds nothing but recorders.

Every program of the line is a recorder that writes down its arguments and exits; nothing else can be executed: PATH is
one directory of them, the rest of the machine is not named by any line here, the working directory is empty and
thrown away, and processor time, processes and file sizes are limited. Only lines without redirects to files, without
absolute program paths and without builtins that act (`kill`, `exec`, `cd` to real places) are given to it.

So that loops over input run, some recorders print what is in `SAYS`, and that of `printf` what it is told if no slash
can come of it: nothing that is printed here names a program outside of PATH.
"""

import os
import re
import resource
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.gate.shell.atoms import Word

RECORDER = """#!/bin/sh
name=${0##*/}
printf '%s\\0' "$name" "$@" '\x01' >> "$RECORD"
if [ "$name" = printf ]; then
  case "$*" in
    */* | *\\\\[!n0]* | *\\\\0[0-7]* | *%[!s]*) ;;
    *) printf "$@" ;;
  esac
elif [ -f "$SAYS/$name" ]; then
  case "$*" in
    *-print0*) end='\\0' ;;
    *) end='\\n' ;;
  esac
  while IFS= read -r line; do printf "%s$end" "$line"; done < "$SAYS/$name"
fi
"""
# Lines of the kinds that are promised of these programs, and names of files with a blank in them.
SAYS = {
    "cut": "default\nshop\n",
    "docker": "web-1\n0a1b2c3d4e5f\n",
    "find": "a b.py\nc.md\n",
    "gh": "12\n7\n",
    "git": "0a1b2c3\n1234567\n",
    "kubectl": "default\nshop\n",
    "ls": "a\nb c\n",
    "pgrep": "7\n42\n",
}
NEXT = "@next"
# Each line in a subshell of its own, so that nothing of it is left for those after it. Its output is read to the end:
# by then all that it started, process substitutions too, has written what it was given.
LOOP = """
while IFS= read -r -d '' _zz_line <&9; do
  _zz_end=$( ( eval -- "$_zz_line" ) 9<&- 2>&1 )
  @next
done
"""
PROCESSOR_S = 60
TOGETHER = 200
BASH = "/bin/bash"
HOME = "/nowhere/home"
# Builtins that have no recorder, and acts that a recorder cannot stand in for.
UNSAFE = re.compile(
    r"\b(exec|kill|wait|ulimit|source|eval|trap|read|coproc|while|until|sleep|suspend|enable|builtin|hash|cd|pushd|popd"
    r"|command|time|fg|bg|disown|set|unset|export|declare|mapfile|shopt|alias|history|logout|compgen|exit|return|umask)\b"
    r"|\bHOME=|[<>]|/dev/|&\s*$|&[^&>]|^\s*\.|(^|[;&|(]\s*)[./~]|\$!|\$PPID|\$RANDOM|\$SECONDS|\$\$|\$BASHPID|\$LINENO"
)
# What is harmless of that: `read` of plain names, from pipes, here-documents and process substitutions; `2>&1`. Of a
# here-document only the operator is: its lines must be harmless themselves, for it may be none.
HARMLESS = re.compile(
    r"(?:\bwhile +)?(?:\bIFS=[^\s;&|<>()$`'\"\\]* +)?\bread(?: -r)?(?: -d '')?(?: [a-z][a-z0-9_]*)+(?= ?<<|;|$)"
    r"|(?<!<)<<-?(?P<quote>['\"]?)[A-Z]+(?P=quote)(?=$)|(?<![<>])(?:< )?<(?=\()|\b2>&1(?![^\s;|)])",
    re.MULTILINE,
)
BUILTINS = frozenset({"echo", "printf", "test", "[", "true", "false", ":", "pwd", "type", "dirs", "jobs", "let"})


@dataclass(frozen=True)
class Run:
    """One program that bash started, with its words."""

    argv: tuple[str, ...]


def can_be_run(line: str) -> bool:
    """True for lines whose whole effect in bash is to start recorders."""
    return (
        len(line) < 2_000
        and not any(UNSAFE.search(HARMLESS.sub(" ", text)) for text in (line, line.replace("\\", "")))
        and "\x00" not in line
    )


class Oracle:
    """A bash among recorders, in a directory of its own."""

    def __init__(self, directory: Path, programs: Iterable[str]) -> None:
        self._bin, self._home = directory / "bin", directory / "home"
        self._says = directory / "says"
        for each in (self._bin, self._home, self._says):
            each.mkdir()
        for program, text in SAYS.items():
            (self._says / program).write_text(text, encoding="utf-8")
        self._record, self._lines = directory / "record", directory / "lines"
        recorder = self._bin / ".recorder"
        recorder.write_text(RECORDER, encoding="utf-8")
        recorder.chmod(0o700)
        for program in {*programs, NEXT}:
            if re.fullmatch(r"[A-Za-z0-9_.+@-]+", program) and program not in {".", ".."}:
                (self._bin / program).symlink_to(recorder)

    def runs_of_each(self, lines: Sequence[str]) -> Iterator[list[Run]]:
        """For every line the recorders that it starts, in the order they wrote; many lines to one bash."""
        for start in range(0, len(lines), TOGETHER):
            part = lines[start : start + TOGETHER]
            found = self._runs(part)
            if len(found) != len(part):
                raise RuntimeError(f"bash stopped after {len(found)} of {len(part)} lines, at {part[len(found)]!r}")
            yield from found

    def _runs(self, lines: Sequence[str]) -> list[list[Run]]:
        self._record.write_bytes(b"")
        self._lines.write_bytes(b"".join(line.encode("utf-8", "surrogateescape") + b"\0" for line in lines))
        # Builtins are turned off, so that their recorders run: what they were given counts as well.
        prelude = "enable -n " + " ".join(sorted(BUILTINS - {":", "let"})) + " 2>/dev/null\n"
        subprocess.run(
            [BASH, "--noprofile", "--norc", "-c", f"exec 9<'{self._lines}'\n{prelude}{LOOP}"],
            env={
                "PATH": str(self._bin),
                "HOME": HOME,
                "RECORD": str(self._record),
                "SAYS": str(self._says),
                "LC_ALL": "C.UTF-8",
            },
            cwd=self._home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=10 * PROCESSOR_S,
            check=False,
            preexec_fn=_limits,
        )
        found: list[list[Run]] = []
        runs: list[Run] = []
        for run in _recorded(self._record.read_bytes()):
            if run.argv == (NEXT,):
                found.append(runs)
                runs = []
            else:
                runs.append(run)
        return found


def _recorded(data: bytes) -> Iterator[Run]:
    words: list[str] = []
    for piece in data.split(b"\0"):
        if piece == b"\x01":
            yield Run(tuple(words))
            words = []
        else:
            words.append(piece.decode("utf-8", "surrogateescape"))


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, 1 << 22))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    os.setsid()


@dataclass(frozen=True)
class Expected:
    """What the gate made of a word: one of `texts`, or any (None), in `least` words or more, in one if not `many`."""

    texts: frozenset[str] | None
    least: int = 1
    many: bool = False


def expected(word: Word) -> Expected:
    """The gate's word as bash may have it, no wider than what the gate says of it."""
    if word.text is None or word.glob or word.symbolic:
        return Expected(None, 0 if word.loose else 1, word.several or word.loose or word.glob)
    # A tilde in the gate's word is a home, or it was quoted.
    texts = {word.text}
    if word.text.startswith("~"):
        named = word.text != "~" and not word.text.startswith("~/")
        texts.add(os.path.expanduser(word.text) if named else HOME + word.text[1:])
    # What looks like an assignment has its tilde expanded wherever it stands: `busybox d=~/x`.
    if assigned := re.fullmatch(r"([A-Za-z_]\w*=)~(/.*)?", word.text, re.DOTALL):
        texts.add(f"{assigned[1]}{HOME}{assigned[2] or ''}")
    return Expected(frozenset(texts), 0 if word.loose else 1, word.loose)


def explained(run: Run, seen: Sequence[tuple[Expected, ...]]) -> bool:
    """True when one of the commands that the gate saw is this one, word by word."""
    return any(_fits(run.argv, words) for words in seen)


def _fits(argv: tuple[str, ...], words: tuple[Expected, ...]) -> bool:
    if not words:
        return not argv
    first, rest = words[0], words[1:]
    if first.least == 0 and _fits(argv, rest):
        return True
    if not argv or (first.texts is not None and argv[0] not in first.texts):
        return False
    if _fits(argv[1:], rest):
        return True
    return first.many and first.texts is None and any(_fits(argv[count:], rest) for count in range(2, len(argv) + 1))
