"""Every `gatehouse` command that a document shows exists, with the options that it is shown with."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.config import ROOT
from tests.unit.cli.commands import fault

_PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/adr").glob("*.md")]
)
_FENCE = re.compile(r"^( *)(```+)[^\n]*\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`+(gatehouse [^`]+)`+")
_CALL = re.compile(r"(?:^|[;|&(] *|/bin/|\w=\S+ |\bexec )gatehouse (?=[a-z-])(?P<rest>.*)")
_END = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>&1", "#"}
_NAMES = re.compile(r"[a-z0-9|,-]+")


def commands_of(text: str) -> Iterator[str]:
    """What stands behind `gatehouse` in a page: in code blocks a command a line, in running text what is in quotes."""
    for found in _FENCE.finditer(text):
        for line in re.sub(r"\\\n\s*", " ", found[3]).splitlines():
            shown = re.match(r"\s*(?:\$ |# )?(?=\S)(.*)", line)
            if shown is None or re.match(r"\s*gatehouse: ", line):
                continue
            if call := _CALL.search(shown[1]):
                yield call["rest"]
    for found in _INLINE.finditer(_FENCE.sub("", text)):
        yield " ".join(found[1].split()[1:])


def words_of(command: str) -> list[str]:
    """The arguments, also those in brackets, up to where the shell goes on with something else."""
    command = re.sub(r"\[(--[^\]]*)\]", r"\1", command)
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # an apostrophe of a sentence
        words = command.split()
    ends = [place for place, word in enumerate(words) if word in _END]
    return words[: ends[0]] if ends else words


def unknown(words: list[str]) -> str | None:
    """What of a command there is not, None: it is all there. `a|b` are two commands; a group alone may be spoken of."""
    choices = [word.split("|") if _NAMES.fullmatch(word) else [word] for word in words]
    for each in itertools.product(*choices):
        why = fault(["gatehouse", *(word for word in each if word != "...")])
        if why not in (None, "it is a group, not a command"):
            return f"{' '.join(each[:3])}: {why}"
    return None


def shown() -> list[tuple[str, str]]:
    return [(page.relative_to(ROOT).as_posix(), each) for page in _PAGES for each in commands_of(page.read_text())]


def test_documents_show_commands() -> None:
    pages = {page for page, _ in shown()}
    assert {"README.md", "docs/runbook.md", "docs/rollout.md", "docs/airgap.md", "docs/backup.md"} <= pages
    assert len(shown()) > 200


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in _PAGES])
def test_what_a_document_shows_exists(page: str) -> None:
    wrong = [f"{each}: {why}" for each in commands_of(Path(ROOT, page).read_text()) if (why := unknown(words_of(each)))]
    assert wrong == []


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("rollout start ro-1 --kind model", None),
        ("rollout begin ro-1", "rollout begin ro-1: there is no begin"),
        ("rollout start ro-1 --shares 5", "rollout start ro-1: it has no --shares"),
        ("rollout hold|resume|rollback ID", None),
        ("rollout hold|stop ID", "rollout stop ID: there is no stop"),
        ("backup --nothing | tee x --y", "backup --nothing: it has no --nothing"),
        ("status | grep --color x", None),
    ],
)
def test_what_there_is_not_is_found(command: str, why: str | None) -> None:
    assert unknown(words_of(command)) == why
