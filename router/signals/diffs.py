"""A parser for unified diffs: which files they change, and by how many lines."""

import bisect
import itertools
import re
from dataclasses import dataclass
from typing import Final

MAX_DIFF_CHARS: Final = 200_000
"""Beyond, a diff counts as truncated, hence as broken."""

MAX_STEPS: Final = 500
"""Headers that are read, and lines that look like one. A diff with more counts as truncated: it is large anyhow."""

_HUNK: Final = re.compile(r"@@ -\d{1,9}(?:,(\d{1,9}))? \+\d{1,9}(?:,(\d{1,9}))? @@")
_GIT_HEADER: Final = re.compile(r'diff --git (?:"?a/(.*?)"?) (?:"?b/(.*?)"?)$')
_HUNK_LINES: Final = re.compile(r"[-+ \\]*")
_MAY_MATTER: Final = re.compile(r"[-+@dBGr\\]")  # how lines begin that mean something outside of a hunk


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of a diff. Lines are counted inside hunks only."""

    path: str
    added: int
    removed: int
    hunks: int
    deleted: bool
    binary: bool

    @property
    def changed(self) -> int:
        """Added plus removed lines."""
        return self.added + self.removed


@dataclass(frozen=True, slots=True)
class Diff:
    """A parsed diff. `broken` says that it was truncated or does not follow the format."""

    files: tuple[FileChange, ...]
    broken: bool

    @property
    def added(self) -> int:
        """Added lines of all files."""
        return sum(file.added for file in self.files)

    @property
    def removed(self) -> int:
        """Removed lines of all files."""
        return sum(file.removed for file in self.files)

    @property
    def hunks(self) -> int:
        """Hunks of all files."""
        return sum(file.hunks for file in self.files)


def parse_diff(text: str) -> Diff:
    """The files of every unified diff in `text`; prose and code fences around them are skipped.

    The counts of a hunk's header say which lines belong to it, so a removed line `-- x` (shown as `--- x`) is no file
    header. A hunk that ends early, or goes on for longer than it said, makes the diff `broken`; so do combined diffs
    and what is too long to be read.
    """
    state = _Parser(text[:MAX_DIFF_CHARS].split("\n"))
    complete = state.read()
    return Diff(files=tuple(state.files), broken=state.broken or not complete or len(text) > MAX_DIFF_CHARS)


class _Parser:
    """One pass over the lines of a diff.

    Most lines are those of a hunk. They are never looked at: `_marks` has the first sign of every line, and signs are
    counted. An empty line is one of context: editors strip its blank.
    """

    _OLD: Final = bytes(sign in b"- " for sign in range(256))
    _NEW: Final = bytes(sign in b"+ " for sign in range(256))

    def __init__(self, lines: list[str]) -> None:
        self.files: list[FileChange] = []
        self.broken = False
        self._lines = lines
        self._marks = "".join([line[:1] or " " for line in lines])
        self._sums: tuple[list[int], list[int]] | None = None
        self._path: str | None = None
        self._old_path = ""
        self._added = self._removed = self._hunks = 0
        self._deleted = self._binary = False
        self._old_left = self._new_left = 0
        self._just_ended = False
        self._steps_left = MAX_STEPS

    def read(self) -> bool:
        """Read all lines; False when there are more headers than are read."""
        lines, marks, last = self._lines, self._marks, len(self._lines)
        position = 0
        while self._steps_left > 0:
            self._steps_left -= 1
            found = _MAY_MATTER.search(marks, position)
            if found is None:
                position = last
                break
            start = found.start()
            if start > position:
                self._just_ended = False
            position = start + 1
            line = lines[start]
            if line.startswith("@@ "):
                position = self._take_hunks(start)
            elif line.startswith("diff --git "):
                position = self._begin_git(start)
            else:
                self._between_hunks(line)
            while (self._old_left > 0 or self._new_left > 0) and position < last:
                if not self._in_hunk(lines[position]):
                    self.broken = True  # cut off: fewer lines than the header promised
                    self._old_left = self._new_left = 0
                    break
                position += 1
        self._end_file()
        return position >= last

    def _take_hunks(self, start: int) -> int:
        """Take the hunk whose header is at `start`, and those right behind it; where what is still to be read begins.

        Of a hunk that does not have just the lines that its header promised, only the header is taken for sure.
        """
        marks, position, last = self._marks, start, len(self._lines)
        while position < last and marks[position] == "@" and self._steps_left >= 0:
            self._steps_left -= 1
            header = _HUNK.match(self._lines[position])
            if header is None:
                break  # whatever it is, it comes after a hunk, or is the first
            if self._path is None:
                self._path = self._old_path or "unknown"
            self._hunks += 1
            first = position + 1
            run = _HUNK_LINES.match(marks, first)
            end = first if run is None else run.end()
            added, removed, context = (
                marks.count("+", first, end),
                marks.count("-", first, end),
                marks.count(" ", first, end),
            )
            old, new = header.groups("1")
            self._old_left, self._new_left = int(old) - removed - context, int(new) - added - context
            if self._old_left or self._new_left:
                self._old_left, self._new_left = int(old), int(new)
                return first + self._take_odd_hunk(first, end)
            self._added += added
            self._removed += removed
            self._just_ended = True
            position = end
        if position == start:
            self._just_ended = False
            self.broken = True
            return start + 1
        return position

    def _take_odd_hunk(self, start: int, end: int) -> int:
        """Take the lines of a hunk whose lines are not followed by something else, or are not all there; how many.

        `end` is where what may be lines of a hunk ends. Takes what the header promised, or, where the diff is cut off,
        what there is. What does not add up is left to be read line by line.
        """
        marks = self._marks
        self._just_ended = False
        added, removed, context = (marks.count(sign, start, end) for sign in "+- ")
        if removed + context >= self._old_left and added + context >= self._new_left:
            end = self._end_of_hunk(start)
            added, removed, context = (marks.count(sign, start, end) for sign in "+- ")
        if removed + context > self._old_left or added + context > self._new_left:
            return 0
        self._added += added
        self._removed += removed
        self._old_left -= removed + context
        self._new_left -= added + context
        self._just_ended = self._old_left == 0 and self._new_left == 0
        return end - start

    def _end_of_hunk(self, start: int) -> int:
        """Where a hunk that begins at `start` has all the lines that it promised, if more lines may belong to it."""
        if self._sums is None:
            signs = self._marks.encode("latin-1", "replace")
            self._sums = (
                [0, *itertools.accumulate(signs.translate(self._OLD))],
                [0, *itertools.accumulate(signs.translate(self._NEW))],
            )
        before_old, before_new = self._sums
        old_end = bisect.bisect_left(before_old, before_old[start] + self._old_left, lo=start)
        new_end = bisect.bisect_left(before_new, before_new[start] + self._new_left, lo=start)
        return max(old_end, new_end)

    def _in_hunk(self, line: str) -> bool:
        mark = line[:1]
        if mark == "+" and self._new_left > 0:
            self._new_left -= 1
            self._added += 1
        elif mark == "-" and self._old_left > 0:
            self._old_left -= 1
            self._removed += 1
        elif mark in {" ", "", "\r"} and self._old_left > 0 and self._new_left > 0:
            self._old_left -= 1
            self._new_left -= 1
        elif mark != "\\":
            return False
        self._just_ended = self._old_left == 0 and self._new_left == 0
        return True

    def _between_hunks(self, line: str) -> None:
        just_ended, self._just_ended = self._just_ended, False
        mark = line[0]
        if mark == "d":
            if line.startswith(("diff --cc ", "diff --combined ")):
                self.broken = True
            elif line.startswith("deleted file mode"):
                self._deleted = True
        elif line.startswith("--- "):
            if just_ended:
                self._end_file()  # plain diffs have no `diff --git` line between two files
            self._old_path = _path(line[4:])
        elif line.startswith("+++ "):
            self._begin_new(_path(line[4:]))
        elif line.startswith("@@@"):
            self.broken = True
        elif line.startswith(("Binary files ", "GIT binary patch")):
            self._binary = True
        elif line.startswith("rename to "):
            self._path = line[10:].rstrip("\r")
        elif mark == "\\":
            self._just_ended = just_ended
        elif just_ended and mark in "+-" and line.rstrip() != "--":
            self.broken = True  # goes on for longer than the header promised ("-- " is a mail signature)

    def _begin_git(self, start: int) -> int:
        """Begin the file whose `diff --git` is at `start`; where what is still to be read begins."""
        self._just_ended = False
        self._end_file()
        if self._marks[start + 1 : start + 4] == "i-+":  # the usual header, which names the file once more
            index, old, new = self._lines[start + 1 : start + 4]
            if index.startswith("index ") and old.startswith("--- ") and new.startswith("+++ "):
                self._path = "unknown"
                self._old_path = _path(old[4:])
                self._begin_new(_path(new[4:]))
                return start + 4
        names = _GIT_HEADER.match(self._lines[start].rstrip("\r"))
        self._path = (names[2] if names else "") or "unknown"
        return start + 1

    def _begin_new(self, new_path: str) -> None:
        if new_path == "/dev/null":
            self._deleted = True
            new_path = self._old_path
        if self._path is None or (self._hunks and self._path != new_path):
            old_path = self._old_path
            deleted = self._deleted
            self._end_file()
            self._old_path, self._deleted = old_path, deleted
        self._path = new_path

    def _end_file(self) -> None:
        """Close the file at hand; also called once after the last line."""
        if self._old_left > 0 or self._new_left > 0:
            self.broken = True
            self._old_left = self._new_left = 0
        if self._path is not None:
            self.files.append(
                FileChange(self._path, self._added, self._removed, self._hunks, self._deleted, self._binary)
            )
        self._path = None
        self._added = self._removed = self._hunks = 0
        self._deleted = self._binary = False


def _path(field: str) -> str:
    name = field.split("\t", 1)[0].strip().strip('"')
    return name[2:] if name.startswith(("a/", "b/")) else name
