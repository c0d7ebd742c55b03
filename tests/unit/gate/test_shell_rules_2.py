"""The smaller parts of what reads the shell, each alone: patterns of `${...}`, fields of trees, what is remembered."""

import os
import subprocess
from pathlib import Path

import pytest

from deployments.gate import globs
from deployments.gate.shell import expand, reader
from deployments.gate.shell.atoms import Unprovable
from deployments.gate.shell.names import may_set
from deployments.gate.shell.portable import check_portable
from deployments.gate.shell.reader import ShellReader
from deployments.gate.shell.tree import Node, children, fields, last_is_call, literal, names_set, text_of
from deployments.ports import JsonValue

# A value, an expansion of it as in `${x...}`, and what it makes: None where that is not said.
EXPANSIONS: list[tuple[str, str, str | None]] = [
    ("abc", "%c", "ab"),
    ("abc", "%b", "abc"),
    ("abcbc", "%b*", "abc"),
    ("abcbc", "%%b*", "a"),
    ("abcbc", "#*b", "cbc"),
    ("abcbc", "##*b", "c"),
    ("abc", "%?", "ab"),
    ("abc", "#??", "c"),
    ("abc", "#????", "abc"),
    ("abc", "%[bc]", "ab"),
    ("abc", "%[!c]", "abc"),
    ("abd", "%[^c]", "ab"),
    ("ab5", "%[0-9]", "ab"),
    ("a.b", "%.b", "a"),
    ("axb", "%.b", "axb"),
    ("a+b", "#a+", "b"),
    ("a*b", "%\\*b", "a"),
    ("axb", "%\\*b", "axb"),
    ("a?b", "#a\\?", "b"),
    ("abc", "%\\c", "ab"),
    ("abc", '%"c"', "ab"),
    ("abc", "%'bc'", "a"),
    ("a*b", '#"a*"', "b"),
    ("axb", '#"a*"', "axb"),
    ("abc", "#''a", "bc"),
    ("abc", '%""', "abc"),
    ("abcd", "#'a'b\"c\"", "d"),
    ("abc", "%", "abc"),
    ("a\nb", "%?b", "a"),
    ("a\nb", "#*b", ""),
    ("é", "%?", None),
    ("abc", "%(", None),
    ("abc", "%[", None),
    ("abc", "%[[:alpha:]]", None),
    ("abc", "%~", None),
    ("abc", "%{", None),
    ("abc", "%|", None),
    ("abcabc", "/b/X", "aXcabc"),
    ("abcabc", "//b/X", "aXcaXc"),
    ("abcabc", "/b", "acabc"),
    ("abcabc", "//b", "acac"),
    ("abcabc", "/b*/X", "aX"),
    ("abcabc", "//?/X", "XXXXXX"),
    ("abcabc", "/x/y", "abcabc"),
    ("a\nb", "/a?b/c", "c"),
    ("a.b", "/./x", "axb"),
    ("abc", "/'b'/X", "aXc"),
    ("abc", '//"b"/X', "aXc"),
    ("abc", "/#a/X", None),
    ("abc", "/%c/X", None),
    ("#bc", "/'#b'/X", None),
    ("abc", "/b/&", None),
    ("abc", "/*/X", None),
    ("abc", "//*", None),
    ("é", "/x/y", None),
    ("", "/x/y", ""),
    ("aBc", "^", "ABc"),
    ("aBc", "^^", "ABC"),
    ("ABc", ",", "aBc"),
    ("ABc", ",,", "abc"),
    ("", "^", ""),
    ("é", "^^", None),
    ("hello", ":0", "hello"),
    ("hello", ":1", "ello"),
    ("hello", ":5", ""),
    ("hello", ":6", ""),
    ("hello", ": -2", "lo"),
    ("hello", ": -5", "hello"),
    ("hello", ": -6", ""),
    ("hello", ":1:2", "el"),
    ("hello", ":1:0", ""),
    ("hello", ":1:9", "ello"),
    ("hello", ":1:-1", "ell"),
    ("hello", ":1:-4", ""),
    ("hello", ":1:-5", None),
    ("hello", ":0:0", ""),
    ("hello", ":08", None),
    ("hello", ":1:08", None),
    ("hello", ":x", None),
    ("hello", ":1:x", None),
    ("hello", ":1 ", None),
]


def made(value: str, written: str) -> str | None:
    """What the reader makes of `${x...}`."""
    if written.startswith(":"):
        offset, _, length = written[1:].partition(":")
        return expand.sliced(value, offset, length if ":" in written[1:] else None)
    if written.startswith("/"):
        everywhere = written.startswith("//")
        raw, _, by = written.lstrip("/").partition("/")
        return expand.replaced(value, raw, by, everywhere)
    if written[0] in "^,":
        return expand.cased(value, written)
    operator = written[:2] if written[:2] in {"%%", "##"} else written[0]
    return expand.trimmed(value, operator, written.removeprefix(operator))


@pytest.mark.parametrize(("value", "written", "found"), EXPANSIONS)
def test_what_an_expansion_makes(value: str, written: str, found: str | None) -> None:
    assert made(value, written) == found


def test_bash_makes_the_same() -> None:
    known = [(value, written, found) for value, written, found in EXPANSIONS if found is not None]
    lines = [f'x=$1; shift; printf "%s\\0" "${{x{written}}}"' for _, written, _ in known]
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines), "_", *(value for value, _, _ in known)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )
    assert done.stdout.split("\0")[:-1] == [found for _, _, found in known]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ("", ""),
        ("a", "a"),
        ("a\\", None),
        ("a\\\nb", None),
        ("\\a", "a"),
        ('"a', None),
        ("'a", None),
        ('"a\\b"', None),
        ('"$a"', None),
        ("'$a'", "\\$a"),
        ("$a", None),
        ("`a`", None),
        ("[a", None),
        ("[]", None),
        ("[b-a]", None),
        ("[a]b", "[a]b"),
        ("[!a]b", "[^a]b"),
        ("[a]]", None),
        ("a)", None),
        ("a}", None),
        ("*?", ".*."),
    ],
)
def test_the_regular_expression_of_a_pattern(raw: str, found: str | None) -> None:
    assert expand.pattern(raw) == found


def lit(text: str) -> Node:
    return {"Parts": [{"Type": "Lit", "Value": text}]}


def call(*words: str) -> Node:
    return {"Cmd": {"Type": "CallExpr", "Args": [lit(word) for word in words]}}


def joined(operator: str, left: JsonValue, right: JsonValue) -> Node:
    return {"Cmd": {"Type": "BinaryCmd", "Op": operator, "X": left, "Y": right}}


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ({}, False),
        (call("ls"), True),
        (joined("|", {}, call("ls")), True),
        (joined("|&", {}, call("ls")), True),
        (joined("&&", {}, call("ls")), False),
        (joined("|", call("ls"), {}), False),
        ({"Cmd": {"Type": "Block", "Op": "|", "X": {}, "Y": call("ls")}}, False),
        ({"Cmd": {"Type": "Subshell"}}, False),
    ],
)
def test_whether_the_last_command_prints_all(statement: Node, found: bool) -> None:
    assert last_is_call(statement) is found


SUM: Node = {"Type": "ArithmExp", "X": lit("1")}


def assign(**more: JsonValue) -> Node:
    return {"Name": {"Value": "a"}, "Value": {"Parts": [SUM]}, **more}


@pytest.mark.parametrize(
    ("tree", "found", "uncounted"),
    [
        (assign(), {"a"}, set[str]()),
        (assign(Append=True), {"a"}, {"a"}),
        (assign(Index=lit("0")), {"a"}, {"a"}),
        (assign(Array={}), {"a"}, {"a"}),
        (assign(Value=lit("1")), {"a"}, {"a"}),
        (assign(Value={"Parts": [SUM, SUM]}), {"a"}, {"a"}),
        (assign(Value={"Parts": []}), {"a"}, {"a"}),
        (assign(Value=None), {"a"}, {"a"}),
        ([assign(), {"Name": {"Value": "b"}}], {"a", "b"}, {"b"}),
        ({"Name": "a"}, set[str](), set[str]()),
        ({"Name": {"Value": 1}}, set[str](), set[str]()),
        (call("read", "-r", "x", "y"), {"read", "-r", "x", "y"}, {"read", "-r", "x", "y"}),
        (call("command", "unset", "x"), {"command", "unset", "x"}, {"command", "unset", "x"}),
        (call("cat", "x"), set[str](), set[str]()),
        ({"Type": "Other", "Args": [lit("read"), lit("x")]}, set[str](), set[str]()),
        ({"Type": "BinaryArithm", "Op": "=", "X": lit("i"), "Y": lit("1")}, {"i"}, set[str]()),
        ({"Type": "BinaryArithm", "Op": "+=", "X": lit("i"), "Y": lit("1")}, {"i"}, set[str]()),
        ({"Type": "BinaryArithm", "Op": "+", "X": lit("i"), "Y": lit("1")}, set[str](), set[str]()),
        ({"Type": "UnaryArithm", "Op": "++", "X": lit("i")}, {"i"}, set[str]()),
        ({"Type": "UnaryArithm", "Op": "-", "X": lit("i")}, set[str](), set[str]()),
        ({"Type": "UnaryArithm", "Op": "++", "X": {"Parts": [SUM]}}, set[str](), set[str]()),
        ({"Type": "Other", "Op": "=", "X": lit("i")}, set[str](), set[str]()),
        ({"Param": {"Value": "a"}, "Exp": {"Op": ":="}}, {"a"}, {"a"}),
        ({"Param": {"Value": "a"}, "Exp": {"Op": "="}}, {"a"}, {"a"}),
        ({"Param": {"Value": "a"}, "Exp": {"Op": ":-"}}, set[str](), set[str]()),
        ({"Param": {"Value": "a"}, "Exp": "="}, set[str](), set[str]()),
        ({"Deep": [{"Deep": assign()}]}, {"a"}, set[str]()),
    ],
)
def test_which_names_are_set(tree: JsonValue, found: set[str], uncounted: set[str]) -> None:
    assert names_set(tree) == found
    assert names_set(tree, counting=False) == uncounted


@pytest.mark.parametrize(
    ("word", "found"),
    [
        (lit("a"), "a"),
        ({"Parts": [{"Type": "DblQuoted", "Parts": []}]}, None),
        ({"Parts": [{"Value": "a"}, {"Value": "b"}]}, None),
        ({"Parts": []}, None),
        ({"Parts": ["a"]}, None),
        ({"Parts": "a"}, None),
        ({}, None),
        ("a", None),
        (None, None),
    ],
)
def test_the_text_of_a_literal(word: JsonValue, found: str | None) -> None:
    assert literal(word) == found


def test_only_known_fields_are_read() -> None:
    place: Node = {"Offset": 0, "Line": 1, "Col": 1}
    node: Node = {"Type": "X", "Comments": [], "StmtsLast": [], "Pos": place, "End": place, "Cmd": {}}
    assert fields(node, "Cmd", "Other") == {"Cmd": {}}
    odds: list[JsonValue] = [{"Offset": "0"}, {"Offset": 0, "More": 1}, {"Line": 1}, 1]
    for odd in odds:
        with pytest.raises(Unprovable, match="the shell construct X with Odd"):
            fields({**node, "Odd": odd}, "Cmd")
    with pytest.raises(Unprovable, match="the shell construct statement with Odd"):
        fields({"Odd": 1})
    assert children({}, "a") == []
    assert children({"a": [node]}, "a") == [node]
    lists: list[JsonValue] = [{}, [1], [node, 1], None]
    for odd_list in lists:
        with pytest.raises(Unprovable):
            children({"a": odd_list}, "a")
    assert text_of({"a": "b"}, "a") == "b"
    with pytest.raises(Unprovable):
        text_of({"a": 1}, "a")


@pytest.mark.parametrize(
    ("text", "commands"),
    [("# a", 0), ("  # a\n\n\t# b\n", 0), ("# a\nls", 1), ("ls # a", 1), ("#", 0)],
)
def test_comments_run_nothing(text: str, commands: int) -> None:
    assert len(ShellReader(20.0).read(text)) == commands


@pytest.mark.parametrize("text", ["", " ", "\n", " \n\t\n"])
def test_a_text_without_a_command_is_held(text: str) -> None:
    with pytest.raises(Unprovable, match="there is no command in it"):
        ShellReader(20.0).read(text)


def test_a_reader_looks_for_its_parser_unless_it_is_given_one(tmp_path: Path) -> None:
    with pytest.raises(Unprovable, match="could not be run"):
        ShellReader(20.0, tmp_path / "none").read("ls")
    again, arguments = ShellReader(7.0, tmp_path / "none").__reduce__()
    assert again is ShellReader
    assert arguments == (7.0, None)
    assert ShellReader(20.0).read("ls")


class Counting:
    """Counts how often a text is parsed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        real = reader.syntax_tree

        def tree(text: str, binary: Path | None, timeout_s: float) -> Node:
            self.texts.append(text)
            return real(text, binary, timeout_s)

        monkeypatch.setattr(reader, "syntax_tree", tree)


def test_the_last_texts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_REMEMBERED", 2)
    parsed, shell = Counting(monkeypatch), ShellReader(20.0)
    for text in ["ls a", "ls b", "ls a", "ls c", "ls a", "ls b"]:
        assert [word.text for word in shell.read(text)[0].argv] == text.split()
    assert parsed.texts == ["ls a", "ls b", "ls c", "ls b"]


def test_what_bash_reads_is_not_what_any_shell_does(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed, shell = Counting(monkeypatch), ShellReader(20.0)
    assert shell.read("[[ a ]]; ls") == shell.read("[[ a ]]; ls")
    for _ in range(2):
        with pytest.raises(Unprovable, match="TestClause means something else"):
            shell.read_portable("[[ a ]]; ls")
    assert shell.read_portable("ls") == shell.read_portable("ls") == shell.read("ls")
    assert parsed.texts == ["[[ a ]]; ls", "[[ a ]]; ls", "[[ a ]]; ls", "ls", "ls"]


def test_lines_are_learnt_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be read, and one that is known, is left out; `read` says why."""
    many = [f"ls {number}" for number in range(reader._TOGETHER + 2)]
    parsed, shell = Counting(monkeypatch), ShellReader(20.0)
    shell.learn([*many, "ls 1", "ls $(", "# a", "ls \x07", "eval", "ls ${!x}"])
    assert parsed.texts == []
    for text in [*many, "eval"]:
        assert len(shell.read(text)) == 1
    assert parsed.texts == []
    for text in ["ls $(", "ls \x07", "ls ${!x}"]:
        with pytest.raises(Unprovable):
            shell.read(text)
    assert shell.read("# a") == ()


# Each as bash reads it alone; `!!`: another shell reads it otherwise.
PORTABLE = r"""
ls -l "a b" 'c' a\ b *.py [!a] > f 2>&1 < g
x=a y="$b" ls; export A=1 B="$x"; local_x=1
f() { ls "$1" $2; }; f a
for i in a b; do ls; done; while ls; do ls; done; case a in b) ls ;; esac; if ls; then ls; fi
echo "{a,b}" '{1..3}' {} {a} "~+" $((1 + 2)) ${x:-a} ${x%.*} ${#x} $? $# $$ $! $PPID $x
! ls && ls || ls | ls; (ls); { ls; }; ls &
cat <<E⏎a⏎E
read -r x "y"; time ls; ls 2>f 1>&2 9>&1
export A="${x}b" B='$c' C
"""
OTHERWISE = r"""
[[ a ]]
((1))
let x=1
for ((i=0;;)); do ls; done
cat <(ls)
coproc ls
ls &>f
ls &>>f
ls |& cat
cat <<< a
function f { ls; }
function f() { ls; }
echo $'a'
echo $"a"
x+=y
x=(a)
x[0]=a
echo ${x[0]}
ls 10>f
ls $RANDOM
ls "$UID"
ls ${SECONDS}
export A=$x
export A=a B=$x C=c
local A=$(ls)
readonly A=a$((1))
read -d '' x
read -s x
command read -a x
cat {a,b}
cat a{1..3}
cat ~+/a
cat ~-
ls "$(x+=y)"
"""


def whole_tree(text: str) -> Node:
    shell = ShellReader(20.0)
    return reader.syntax_tree(text.replace("⏎", "\n"), shell._binary, 20.0)


@pytest.mark.parametrize("text", PORTABLE.strip().split("\n"))
def test_what_any_shell_reads_alike(text: str) -> None:
    check_portable(whole_tree(text))


@pytest.mark.parametrize("text", OTHERWISE.strip().split("\n"))
def test_what_another_shell_reads_otherwise(text: str) -> None:
    with pytest.raises(Unprovable, match="means something else to a shell that is not bash"):
        check_portable(whole_tree(text))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x", True),
        ("_x1", True),
        ("NS", True),
        ("VPC_ID", True),
        ("X_ID", False),
        ("VPC_IDX", False),
        ("_X", False),
        ("1x", False),
        ("x-y", False),
        ("http_proxy", False),
        ("path", False),
        ("PATH", False),
        ("IFS", False),
        ("__x", False),
        ("", False),
    ],
)
def test_which_names_a_line_may_use(name: str, found: bool) -> None:
    assert may_set(name) is found


@pytest.mark.parametrize(
    ("glob", "pattern", "found"),
    [
        ("a*", "./a/b*", False),
        ("./x*", "./*", False),
        ("./*", "*/secrets/*", False),
        ("/srv/a*", "/srv/*", True),
        ("/srv*", "/srv/*", False),
        ("/opt/a*", "/srv/*", False),
        ("~/*", "~/.aws/*", False),
        ("~/.a*", "~/.aws/*", False),
        ("~/.aws/*", "~/.aws/*", True),
        ("~/x*", "~/x/y", False),
        ("~/*/y", "~/x/y", True),
        ("./*", "x*", False),
        ("/*", "~", False),
        ("e*", "etc*", True),
        ("e*", "*etc", False),
    ],
)
def test_what_a_glob_may_be(glob: str, pattern: str, found: bool) -> None:
    assert globs.may_be(glob, pattern) is found


@pytest.mark.parametrize(
    ("glob", "pattern", "aims"),
    [
        ("/r?ot/x", "/root/*", True),
        ("/roo[st]/x/y", "/root/*", True),
        ("/*/x", "/root/*", True),
        ("/root?/x", "/root/*", False),
        ("/e*/hosts", "/etc/kubernetes/*", False),
        ("./a/secr?ts/x", "*/secrets/*", True),
        ("./s*/x", "*/secrets/*", False),
        ("./?ssh/x", "*/.ssh/*", False),
        ("/r?ot/x", "/root*", False),
        ("~/?env", "~/.env", False),
        ("~/.e?v", "~/.env", True),
        ("~/?.env", "~/x.env", True),
        ("a?b", "*/a?b", False),
        ("x/a?b", "*/a?b", True),
        ("x/a/b*", "*/a?b", False),
        ("/a*", "/ab*", True),
        ("/b?/x*", "/ab/x*", False),
    ],
)
def test_what_else_a_glob_was_made_for(glob: str, pattern: str, aims: bool) -> None:
    assert globs.aims_at(glob, pattern) is aims
