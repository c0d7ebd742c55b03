"""Patches in an answer: is a unified diff well-formed, and does it apply to the files that the conversation shows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from router.verify.codes import blocks
from router.verify.values import Answer, Check, Finding, Status, Task

_MOST_HUNKS: Final = 256
_MOST_LINES: Final = 20_000
_HUNK: Final = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_NUMBERED: Final = re.compile(r"^\s{0,8}\d{1,7}(?:\u2192|\t|\||: ?| {2,})", re.MULTILINE)
_MARKED: Final = re.compile(r"^[ +-]", re.MULTILINE)
_MOST_LOST: Final = 3
_SHOWN_SHARE: Final = 0.5  # of a hunk's old lines: then its file is in sight


@dataclass(frozen=True, slots=True)
class Hunk:
    """One hunk: the lines it expects to find, and whether its header counts what follows it."""

    path: str
    old: tuple[str, ...]
    counted: bool


class _Malformed(Exception):
    """This does not follow the format."""


def patches(answer: Answer, task: Task, material: str) -> Finding | None:
    """Whether the diffs of the answer's fenced blocks are whole and fit what `material` shows; None without a diff.

    A hunk whose file is not in sight is unknown. A sketch (`-old`, `+new` without any `@@`) is no patch.
    """
    found: list[Hunk] = []
    try:
        for block in blocks(answer.text):
            if block.language in ("diff", "patch", "") and re.search(r"^@@ -", block.text, re.MULTILINE):
                found.extend(_hunks(block.text.split("\n")))
    except _Malformed:
        return Finding(Check.PATCH, Status.FAIL, "malformed_diff")
    if not found:
        return None
    miscounted = sum(1 for hunk in found if not hunk.counted)
    if miscounted:
        return Finding(Check.PATCH, Status.FAIL, "hunk_counts", miscounted)
    applied = _apply(found[:_MOST_HUNKS], material)
    if False in applied:
        status = Status.UNKNOWN if task.cut else Status.FAIL
        return Finding(Check.PATCH, status, "context_not_found", applied.count(False))
    if None in applied:
        return Finding(Check.PATCH, Status.UNKNOWN, "file_not_shown", applied.count(None))
    return Finding(Check.PATCH, Status.PASS, "applies", len(applied))


def _hunks(lines: Sequence[str]) -> Iterator[Hunk]:
    """The hunks of one diff. Raises `_Malformed` for a line that cannot be where it stands."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    if len(lines) > _MOST_LINES:
        return
    path, at = "", 0
    while at < len(lines):
        line = lines[at]
        header = _HUNK.match(line)
        if header is None:
            if line.startswith("+++ "):
                path = line[4:].split("\t")[0].removeprefix("b/")
            elif line.startswith("@@"):
                raise _Malformed
            at += 1
            continue
        end = at + 1
        while end < len(lines) and not _leaves(lines, end):
            end += 1
        yield _hunk(path, header, lines[at + 1 : end])
        at = end


def _leaves(lines: Sequence[str], at: int) -> bool:
    """Whether the line at `at` begins another hunk or file."""
    line = lines[at]
    following = lines[at + 1] if at + 1 < len(lines) else ""
    return line.startswith(("@@", "diff --git ")) or (line.startswith("--- ") and following.startswith("+++ "))


def _hunk(path: str, header: re.Match[str], body: Sequence[str]) -> Hunk:
    old: list[str] = []
    removed = added = 0
    for line in body:
        match line[:1]:
            case "+":
                added += 1
            case "-":
                removed += 1
                old.append(line[1:].rstrip())
            case " " | "":  # an empty context line often loses its blank
                old.append(line[1:].rstrip())
            case "\\":
                continue
            case _:
                raise _Malformed
    said_old, said_new = int(header[2] or "1"), int(header[4] or "1")
    lost = said_old - len(old)  # blank context at the end of a block is often lost on the way
    counted = 0 <= lost <= _MOST_LOST and len(old) - removed + added + lost == said_new
    return Hunk(path, tuple(old), counted)


def _apply(hunks: Sequence[Hunk], material: str) -> list[bool | None]:
    plain = "\n".join(line.rstrip() for line in material.split("\n"))
    # As it is, behind line numbers, and inside of a diff: as the code looked before, and after.
    views = [plain, _NUMBERED.sub("", plain)]
    if "\n@@ -" in plain:
        kept = [line for line in plain.split("\n") if not line.startswith("-")]
        gone = [line for line in plain.split("\n") if not line.startswith("+")]
        views += [_MARKED.sub("", "\n".join(kept)), _MARKED.sub("", "\n".join(gone))]
    views = [f"\n{view}\n" for view in views]
    known = frozenset(line for view in views for line in view.split("\n"))
    return [_fits(hunk, views, known) for hunk in hunks]


def _fits(hunk: Hunk, views: Sequence[str], known: frozenset[str]) -> bool | None:
    worded = [line for line in hunk.old if any(map(str.isalnum, line))]
    if not worded:
        return None  # a new file, or nothing to hold on to
    wanted = "\n" + "\n".join(hunk.old) + "\n"
    if any(wanted in view for view in views):
        return True
    seen = sum(1 for line in worded if line in known)
    return False if seen >= _SHOWN_SHARE * len(worded) else None
