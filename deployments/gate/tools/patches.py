"""Patches in the `*** Begin Patch` form, read so that no reader of the format can find another file in them.

The programs that apply such patches differ in what they forgive: blanks around markers, markers in context lines, odd
line ends. Where they could differ about which files a patch names, there is no reading here, and the call is held.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

MAX_FILES = 200
BEGIN, END, END_OF_FILE = "*** Begin Patch", "*** End Patch", "*** End of File"
_MOVE = "*** Move to: "
# A line that some reader takes for a marker, however it is spaced or cased.
_LIKE_MARKER = re.compile(r"\*{3}\s*(begin|end|add|update|delete|move|rename|environment)\b", re.IGNORECASE)
# What ends a line for one reader and not for the next.
_ODD_BREAKS = re.compile("[\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]|\r(?!\n)")


class Change(StrEnum):
    """What a patch does to a file."""

    ADD = "add"
    UPDATE = "update"
    DELETE = "delete"


_HEADERS = {"*** Add File: ": Change.ADD, "*** Update File: ": Change.UPDATE, "*** Delete File: ": Change.DELETE}


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of a patch: `lines` are its lines as written, `moved` where the file goes, if it goes anywhere."""

    change: Change
    path: str
    lines: tuple[str, ...] = ()
    moved: str | None = None


class Unreadable(Exception):
    """The patch may mean different things to different readers; the text says what stands in the way."""


def read_patch(text: str) -> tuple[FileChange, ...]:
    """The files of a patch in order, or `Unreadable`. `text` begins and ends with the markers of the format."""
    if _ODD_BREAKS.search(text):
        raise Unreadable("it holds a line break that not everybody reads as one")
    lines = text.strip("\r\n").split("\n")
    if lines[0].rstrip("\r") != BEGIN or lines[-1].rstrip("\r") != END or len(lines) < 3:
        raise Unreadable("it does not begin and end as a patch does")
    files: list[FileChange] = []
    for line in lines[1:-1]:
        header = next((prefix for prefix in _HEADERS if line.startswith(prefix)), None)
        if header is not None:
            files.append(FileChange(_HEADERS[header], _path(line.removeprefix(header))))
            continue
        if not files:
            raise Unreadable("it has lines before its first file")
        files[-1] = _with(files[-1], line)
    if len(files) > MAX_FILES:
        raise Unreadable(f"it names more than {MAX_FILES} files")
    for each in files:
        if each.change is Change.UPDATE and not each.lines and each.moved is None:
            raise Unreadable("it updates a file without a change")
    return tuple(files)


def _with(file: FileChange, line: str) -> FileChange:
    """The file with one more line of its section."""
    if line.startswith(_MOVE):
        if file.change is not Change.UPDATE or file.lines or file.moved is not None:
            raise Unreadable("it moves a file in an unusual place")
        return FileChange(file.change, file.path, (), _path(line.removeprefix(_MOVE)))
    plain = line.rstrip("\r")
    ends = plain == END_OF_FILE and file.change is Change.UPDATE
    if not ends and not line.startswith(("+", "-")) and _LIKE_MARKER.match(line.strip()):
        raise Unreadable("it holds a line that may be read as a marker")
    match file.change:
        case Change.DELETE:
            known = False
        case Change.ADD:
            known = line.startswith("+")
        case Change.UPDATE:
            known = ends or not plain or plain[0] in " +-" or plain == "@@" or plain.startswith("@@ ")
    if not known:
        raise Unreadable("it holds a line that is not of the format")
    return FileChange(file.change, file.path, (*file.lines, line), file.moved)


def _path(text: str) -> str:
    if not text or text != text.strip() or "\r" in text:
        raise Unreadable("it names a file with blanks around its name")
    return text
