"""What a call would change, for an approver: old against new, all of it, and nothing in it that can hide."""

import difflib
from collections.abc import Sequence

from deployments.gate.display import escaped
from deployments.gate.tools.patches import Change, FileChange

MAX_COMPARED = 250_000
"""Lines times lines beyond which no lines are looked for that both texts have: all of the old, then all of the new."""


def of_patch(files: Sequence[FileChange]) -> str:
    """A patch by files; its lines are shown as they are, for they are a difference already."""
    out: list[str] = []
    for file in files:
        out.append(f"{file.change.value} file {escaped(file.path)}")
        if file.moved is not None:
            out.append(f"move it to {escaped(file.moved)}")
        out += [f"  {escaped(line)}" for line in file.lines]
    return "\n".join(out)


def of_move(path: str, moved: str) -> str:
    """A file that gets another place."""
    return f"move {escaped(path)}\nto   {escaped(moved)}"


def of_deletion(path: str) -> str:
    """A file that goes."""
    return f"{Change.DELETE.value} file {escaped(path)}"


def of_content(path: str, content: str) -> str:
    """A file that is written as a whole: every line of it is new."""
    return "\n".join([f"write file {escaped(path)}", *(f"  +{line}" for line in _lines(content))])


def of_replacement(path: str, old: str, new: str, note: str = "") -> str:
    """A text in a file that another one replaces, line by line; `note` says more of where."""
    shown = [f"in file {escaped(path)}{f' ({escaped(note)})' if note else ''}"]
    before, after = _lines(old), _lines(new)
    if len(before) * len(after) > MAX_COMPARED:
        return "\n".join([*shown, *(f"  -{line}" for line in before), *(f"  +{line}" for line in after)])
    # With all lines of both texts as context there is one hunk: its three lines of header, and nothing left out.
    difference = list(difflib.unified_diff(before, after, lineterm="", n=max(len(before), len(after))))[3:]
    return "\n".join([*shown, *(f"  {line}" for line in difference or [f" {line}" for line in before])])


def of_values(path: str, values: Sequence[tuple[str, str]]) -> str:
    """What else an edit says of itself: name and text of each argument, in order."""
    out = [f"in file {escaped(path)}"]
    for name, text in values:
        out += [f"  {escaped(name)}:", *(f"    {line}" for line in _lines(text))]
    return "\n".join(out)


def of_text(what: str, text: str) -> str:
    """Any other text that says what is done: code, statements, objects."""
    return "\n".join([what, *(f"  {line}" for line in _lines(text))])


def _lines(text: str) -> list[str]:
    """Every line of a text, with all that does not print as itself escaped; a newline at the end is an empty line."""
    return [escaped(line) for line in text.split("\n")]
