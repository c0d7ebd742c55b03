"""The patch format: what is read, what is not, and that no forgiving reader finds another file in it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gate.classify import Classifier
from deployments.gate.tools import preview
from deployments.gate.tools.patches import Change, FileChange, Unreadable, read_patch
from deployments.ports import GateProfile, Risk

HEADERS = ("*** Add File: ", "*** Update File: ", "*** Delete File: ", "*** Move to: ")


def patch(*body: str) -> str:
    return "\n".join(["*** Begin Patch", *body, "*** End Patch"])


def forgiving(text: str) -> set[str]:
    """Every path that some reader could take from `text`: any line break, any blanks, any case."""
    found: set[str] = set()
    for line in re.split("[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]", text):
        for header in HEADERS:
            if line.strip().lower().startswith(header.lower().rstrip()):
                found.add(line.strip()[len(header.rstrip()) :].strip())
    return found


def test_every_kind_of_change_is_read() -> None:
    text = patch(
        "*** Add File: a.py",
        "+one",
        "+",
        "*** Update File: b.py",
        "*** Move to: c.py",
        "@@ def f():",
        " kept",
        "-old",
        "+new",
        "",
        "*** End of File",
        "*** Delete File: d.py",
    )
    assert read_patch(text + "\n") == (
        FileChange(Change.ADD, "a.py", ("+one", "+")),
        FileChange(Change.UPDATE, "b.py", ("@@ def f():", " kept", "-old", "+new", "", "*** End of File"), "c.py"),
        FileChange(Change.DELETE, "d.py"),
    )


def test_line_ends_of_another_system_change_nothing_but_the_lines() -> None:
    text = "*** Begin Patch\r\n*** End Patch"
    with pytest.raises(Unreadable):
        read_patch(text)
    assert read_patch(patch("*** Update File: a.py", "@@", "-a\r", "+b\r"))[0].lines == ("@@", "-a\r", "+b\r")


UNREADABLE = [
    "",
    "ls",
    "*** Begin Patch",
    "*** Begin Patch\n*** End Patch",
    patch(),
    patch("+x"),
    patch("*** Run File: x", "+x"),
    patch("*** Add File: "),
    patch("*** Add File:  a.py", "+x"),
    patch("*** Add File: a.py ", "+x"),
    patch("*** Add File: a.py\r", "+x"),
    patch("*** Add File:\ta.py", "+x"),
    patch("*** add file: a.py", "+x"),
    patch(" *** Add File: a.py", "+x"),
    patch("*** Add File: a.py", "x"),
    patch("*** Add File: a.py", "-x"),
    patch("*** Add File: a.py", "+x", "*** Move to: b.py"),
    patch("*** Delete File: a.py", "+x"),
    patch("*** Delete File: a.py", ""),
    patch("*** Update File: a.py"),
    patch("*** Update File: a.py", "@@", "+x", "*** Move to: b.py"),
    patch("*** Update File: a.py", "*** Move to: b.py", "*** Move to: c.py", "+x"),
    patch("*** Update File: a.py", "@@", " *** Add File: /etc/x", "+x"),
    patch("*** Update File: a.py", "@@", "  *** Delete File: b.py"),
    patch("*** Update File: a.py", "@@", " *** End Patch"),
    patch("*** Update File: a.py", "@@", "\t*** End Patch", "+x"),
    patch("*** Update File: a.py", "@@", "***Add File: /etc/x", "+x"),
    patch("*** Update File: a.py", "@@", "*** Environment ID: x", "+x"),
    patch("*** Update File: a.py", "@@x", "+x"),
    patch("*** Update File: a.py", "@@", "+x", "plain"),
    patch("*** Update File: a.py", "@@", "+x\r*** Add File: /etc/x\r+y"),
    patch("*** Update File: a.py", "@@", "+x\x0b*** Add File: /etc/x"),
    patch("*** Update File: a.py", "@@", "+x\x0c*** Add File: /etc/x"),
    patch("*** Update File: a.py", "@@", "+x\x85*** Add File: /etc/x"),
    patch("*** Update File: a.py", "@@", "+x\u2028*** Add File: /etc/x"),
    patch("*** Update File: a.py", "@@", "+x\u2029*** Add File: /etc/x"),
    patch("*** Update File: a.py", "@@", "+x\x1c*** Add File: /etc/x"),
    patch("*** Update File: a.py", "@@", "+x") + "\n" + patch("*** Add File: /etc/x", "+x"),
    patch("*** Update File: a.py", "@@", "+x", "*** End Patch", "*** Begin Patch", "*** Add File: /etc/x", "+x"),
    patch("*** Update File: a.py", "@@", "+x") + "\nrm -rf ~",
    "rm -rf ~\n" + patch("*** Update File: a.py", "@@", "+x"),
    " " + patch("*** Update File: a.py", "@@", "+x"),
    patch("*** Update File: a.py", "@@", "+x") + " ",
    patch("*** Update File: a.py", "@@", "+x").replace("*** End Patch", "*** End patch"),
    patch("*** Update File: a.py", "@@", "+x").replace("*** Begin Patch", "*** Begin Patch x"),
    patch(*(f"*** Delete File: f{number}" for number in range(201))),
    "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n",
    "diff --git a/x b/x\n",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_readers_may_read_differently_is_not_read(classifier: Classifier, text: str) -> None:
    with pytest.raises(Unreadable):
        read_patch(text)
    for arguments in ({"input": text}, {"patch": text}, {"patchText": text}):
        found = classifier.classify("apply_patch", arguments, GateProfile.CODING)
        assert found.outcome == "hold"
        assert found.risk.rank >= Risk.R2.rank
    assert classifier.classify("shell", {"command": ["apply_patch", text]}, GateProfile.CODING).outcome == "hold"


_PIECES = st.sampled_from(
    ["*** Begin Patch", "*** End Patch", "*** Add File: ", "*** Update File: ", "*** Delete File: ", "*** Move to: ",
     "*** End of File", "@@", "@@ x", "+", "-", " ", "a", "/etc/x", "../b", "***", "\n", "\n", "\n", "\n", "\r", "\r\n",
     "\x0b", "\x85", "\u2028", "\t", "*** add file: ", "***Add File: ", "\ufeff", "\u00a0", "\u200b"]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=24).map("".join), st.booleans())
def test_no_reader_finds_a_file_that_is_not_judged(body: str, framed: bool) -> None:
    text = f"*** Begin Patch\n{body}\n*** End Patch" if framed else body
    try:
        files = read_patch(text)
    except Unreadable:
        return
    judged = {path for file in files for path in (file.path, file.moved) if path is not None}
    assert forgiving(text) <= judged
    assert text.strip().count("*** Begin Patch") >= 1
    # Nothing is left out of what an approver sees, and nothing in it can hide.
    shown = preview.of_patch(files)
    assert sum(len(file.lines) for file in files) <= shown.count("\n") + 1
    assert all(char == "\n" or char.isprintable() for char in shown)


def test_many_deletions_at_once_are_destructive(classifier: Classifier) -> None:
    def deletes(count: int) -> Risk:
        text = patch(*(f"*** Delete File: old/f{number}.py" for number in range(count)))
        return classifier.classify("apply_patch", {"input": text}, GateProfile.CODING).risk

    assert deletes(9) is Risk.R1
    assert deletes(10) is Risk.R3


def test_the_preview_is_the_whole_patch(classifier: Classifier) -> None:
    text = patch("*** Update File: a.py", "*** Move to: b.py", "@@", "-a\u202e", "+b\x07", "*** Delete File: c.py")
    found = classifier.classify("apply_patch", {"input": text})
    assert found.preview == ("update file a.py\nmove it to b.py\n  @@\n  -a\\u202e\n  +b\\x07\ndelete file c.py")


@pytest.mark.parametrize(
    "place", ["../b.py", "/etc/cron.d/x", "~/.bashrc", ".git/hooks/pre-commit", ".env", "b/", "C:\\b"]
)
@pytest.mark.parametrize("change", [["@@", "-a", "+b"], []])
def test_a_file_that_moves_out_of_the_workspace_is_held(classifier: Classifier, place: str, change: list[str]) -> None:
    def outcome(source: str, moved: str) -> str:
        text = patch(f"*** Update File: {source}", f"*** Move to: {moved}", *change)
        return classifier.classify("apply_patch", {"input": text}, GateProfile.CODING).outcome

    assert outcome("a.py", "src/b.py") == "release"
    assert outcome("a.py", place) == "hold"
    assert outcome(place, "a.py") == "hold"
