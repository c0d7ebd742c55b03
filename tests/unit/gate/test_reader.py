"""Reading many lines at once gives what reading each alone gives, or nothing."""

import pytest

from deployments.gate.shell.atoms import Atom, Unprovable
from deployments.gate.shell.parse import shfmt_binary, statements_of_each
from deployments.gate.shell.reader import ShellReader
from tests.gate.mutate import corpus, mutants
from tests.gate.together import WHOLE

ODD = [
    "ls \\",
    "cat <<EOF",
    "cat <<EOF\nx\nEOF",
    "echo 'open",
    'echo "open',
    "ls |",
    "ls &&",
    "{ ls",
    "}",
    "if true",
    "fi",
    "then ls",
    "case x in",
    "esac",
    "x=(",
    "f()",
    "{ rm x; }",
    "for i in a",
    "do rm x; done",
    "function f",
    "! ",
    "time",
    "# only a comment",
    "",
    " ",
    "ls # comment",
    "ls \\\n-l",
    "[[ a",
    "((",
    "$(",
    "`",
    "ls;",
    "ls &",
    "a; b",
    "ls\nrm x",
    "ls\x00",
    "ls \u2028 x",
    "echo \u00e9\u00fc\u4e2d",
    "ls \ud800",
    "x=1",
    "echo $x",
    "alias ls=rm",
]


def alone(text: str) -> tuple[Atom, ...] | str:
    try:
        return ShellReader(20.0).read(text)
    except Unprovable as error:
        return str(error)


def lines() -> list[str]:
    found = [line.command for line in corpus()]
    found += [mutant.text for mutant in mutants(corpus(), 4_000 if WHOLE else 600)]
    chosen = found if WHOLE else found[:: max(1, len(found) // 350)]
    return [text for place, each in enumerate(chosen) for text in (each, ODD[place % len(ODD)])]


def test_together_is_as_alone() -> None:
    wanted = list(dict.fromkeys(lines()))
    reader = ShellReader(20.0)
    for start in range(0, len(wanted), 1_000):
        part = wanted[start : start + 1_000]
        reader.learn(part)
        remembered = {text: reader._remembered.get(_key(text)) for text in part}
        assert sum(found is not None for found in remembered.values()) > len(part) // 4
        for text, found in remembered.items():
            if found is not None:
                assert found == alone(text), text


def _key(text: str) -> bytes:
    from deployments.gate.shell import reader

    return reader._key(text)


@pytest.mark.parametrize("odd", ODD)
def test_no_line_reaches_into_another(odd: str) -> None:
    reader = ShellReader(20.0)
    reader.learn(["ls a", odd, "ls b", odd, "rm c"])
    for text in ("ls a", "ls b", "rm c", odd):
        try:
            found: tuple[Atom, ...] | str = reader.read(text)
        except Unprovable as error:
            found = str(error)
        assert found == alone(text)


def test_what_reaches_beyond_its_end_is_read_alone() -> None:
    whole, found = statements_of_each(["ls", "cat <<E", "x", "E", "ls"], shfmt_binary(), 20.0)
    assert whole == "ls\ncat <<E\nx\nE\nls\n"
    assert [len(each) for each in found] == [1, 0, 0, 0, 1]
    _, found = statements_of_each(["ls |", "wc", "ls; ls"], shfmt_binary(), 20.0)
    assert [len(each) for each in found] == [0, 0, 2]
    with pytest.raises(Unprovable):
        statements_of_each(["ls", "fi"], shfmt_binary(), 20.0)
    with pytest.raises(Unprovable, match="not installed"):
        statements_of_each(["ls"], None, 20.0)


def test_many_lines_take_few_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.gate.shell import parse

    real, count = parse.syntax_tree, 0

    def counted(*given: object) -> object:
        nonlocal count
        count += 1
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(parse, "syntax_tree", counted)
    reader = ShellReader(20.0)
    reader.learn([f"ls {number}" for number in range(500)])
    assert count == 8
    reader.learn([f"ls {number}" for number in range(500)])
    assert count == 8
