"""What a pipe names, and what a command is given to read: each rule alone, on the programs of the outputs' tests."""

import pytest

from deployments.gate import feeds
from deployments.gate.outputs import resolved
from deployments.gate.shell.atoms import Word
from deployments.gate.shell.reader import ShellReader
from tests.unit.gate.test_output_rules import PROGRAMS, table

# A line, and the paths below which the last command but one names files; `-`: they may be anywhere.
LISTED = r"""
find | at
  -> .
find . | at
  -> .
find a b | at
  -> a b
find a -name .env | at
  -> a a/.env
find a -name /x | at
  -> a /x
find a -name '~x' | at
  -> a ~x
find A -name B | at
  -> A a/b A/B
find '(' a ')' | at
  -> a )
find ! | at
  -> !
find - a | at
  -> -
find '' | at
  -> -
find "$x" | at
  -> -
find "$(many)" | at
  -> -
find $(many) | at
  -> -
find a > f | at
  -> -
find a > /dev/null | at
  -> a
find a 2>/dev/null | at
  -> a
find a 2>&1 | at
  -> -
find a < f | at
  -> -
find a | head | at
  -> a
find a | head -n 3 | at
  -> a ./*3*
find a | head -3 | at
  -> a
find a | head f | at
  -> -
find a | tail | at
  -> a
find a | sort -r | at
  -> a
find a | sort -o | at
  -> -
find a | sort -k 2 | at
  -> a ./*2*
find a | grep x | at
  -> a ./*x*
find a | grep '\.env$' | at
  -> a ./*.env*
find a | grep -e x -e y | at
  -> a ./*x* ./*y*
find a | grep -e x y | at
  -> -
find a | grep x y | at
  -> -
find a | grep -r x | at
  -> -
find a | grep -i X | at
  -> a ./*X*
find a | grep x | grep 'y|z' | at
  -> a ./*y* ./*z* ./*x*
find a | words | at
  -> -
find a | words x | at
  -> -
find a | cut | at
  -> -
find a | at | at
  -> -
find a | nothing | at
  -> -
find a | head | head | head | head | head | head | head | at
  -> a
find a | head | head | head | head | head | head | head | head | at
  -> -
head | at
  -> -
list | at
  -> -
list a | at
  -> -
list -l a | at
  -> a
list -l -r a | at
  -> -
list -r a | at
  -> -
list -l -e pem a | at
  -> a a/*.pem
list -l -e .pem a | at
  -> a a/*.pem
list -lr a | at
  -> -
list -le pem a | at
  -> a a/*.pem
list --none a | at
  -> -
list -z a | at
  -> -
list -l a b c | at
  -> a b c
files | at
  -> . .
files a | at
  -> a .
finder x | at
  -> .
finder x a b | at
  -> a b
fd | at
  -> .
fd x | at
  -> . ./*x*
fd 'x|y' a | at
  -> a a/*x* a/*y*
fd X a | at
  -> a a/*x* a/*X*
tree log | at
  -> -
at
  -> -
find a | pick x | at
  -> a ./*x*
find a | pick | at
  -> a
find a | sort -r -k 1 | at
  -> a ./*1*
find a | head -n 1 --lines=2 -q -3 | at
  -> a ./*1* ./*2*
bare | at
  -> .
bare a | at
  -> a
bare '(' a ')' ! , ';' + '{}' | at
  -> a
bare '(' | at
  -> .
find a '' | at
  -> -
find '' -name x | at
  -> -
find a-b | at
  -> a-b
"""


@pytest.fixture(scope="module")
def reader() -> ShellReader:
    made = ShellReader(timeout_s=20.0)
    made.learn([*(line for line, _ in table(LISTED)), *GIVEN])
    return made


@pytest.mark.parametrize(("line", "found"), table(LISTED))
def test_where_the_files_lie_that_a_pipe_names(reader: ShellReader, line: str, found: str) -> None:
    feed = reader.read(line)[-1].feed
    assert (" ".join(path or "''" for path in feeds.listed(PROGRAMS, feed)) or "-") == found


GIVEN: dict[str, str | None] = {
    "at <<< a": "a",
    "at <<< 'a b'": "a b",
    "at <<< *": None,
    "at <<< ~": "~",
    "at <<E\na\nE": "a\n",
    "at <<'E'\n$a\nE": "$a\n",
    "at <<-E\na\nE": None,
    "at < a": None,
    "at <<< a < b": None,
    "at < a <<E\nb\nE": None,
    "at <<< a > b": "a",
    "echo a | at": "a",
    "echo 'a b' | at": "a b",
    "echo | at": None,
    "echo a b | at": None,
    "echo -n | at": None,
    "echo -e | at": None,
    'echo "$x" | at': None,
    "echo * | at": None,
    "echo $PWD | at": None,
    'echo "$PWD" | at': None,
    "echo a > f | at": None,
    "echo a 2>/dev/null | at": None,
    "say a | at": None,
    "echo a | at < f": None,
    "echo a | at <<< b": "b",
    "at": None,
    "x=a; at <<< $x": "a",
    "x='a b'; at <<< $x": None,
    'at <<< "$(ls)"': None,
    "echo a | head | at": None,
    'echo "" | at': "",
    'x=*; at <<< "$x"': None,
    "x=*; at <<< $x": None,
}
# A call, and how it is read: its node and its flags, operands, values, and the last value of each flag.
FLAGS = r"""
opts a b
  -> opts: of a b
opts -a b
  -> opts: -a; of b
opts -ab c
  -> opts: -a -b; of c
opts -abn 3 c
  -> opts: -a -b -n; of c; values ['3']; valued {'-n': '3'}
opts -an 3 c
  -> opts: -a -n; of c; values ['3']; valued {'-n': '3'}
opts -na c
  -> opts: -n; of c; values ['a']; valued {'-n': 'a'}
opts -n3 c
  -> opts: -n; of c; values ['3']; valued {'-n': '3'}
opts -n=3 c
  -> opts: -n; of c; values ['3']; valued {'-n': '3'}
opts -n
  -> -
opts -n ""
  -> opts: -n; values ['']; valued {'-n': ''}
opts -o c
  -> opts: -o; of c
opts -o=3 c
  -> opts: -o; of c; values ['3']; valued {'-o': '3'}
opts -o3 c
  -> opts: -o; of c; values ['3']; valued {'-o': '3'}
opts -ao c
  -> opts: -a -o; of c
opts -an3 c
  -> -
opts -a3 c
  -> -
opts -az c
  -> -
opts -z c
  -> -
opts -an
  -> -
opts --long c
  -> opts: --long; of c
opts --long=3 c
  -> opts: --long; of c
opts --pair a b c
  -> opts: --pair; of c; values ['a']; valued {'--pair': 'a'}
opts --pair=a b c
  -> opts: --pair; of c; values ['a']; valued {'--pair': 'a'}
opts --pair a
  -> opts: --pair; values ['a']; valued {'--pair': 'a'}
opts --pair
  -> -
opts -n 1 -n 2 c
  -> opts: -n; of c; values ['1', '2']; valued {'-n': '2'}
opts -n -a
  -> opts: -n; values ['-a']; valued {'-n': '-a'}
opts -n "$(many)" c
  -> -
opts "$(many)" -a
  -> opts: -a; of ?
opts $(many) -a
  -> -
opts "$(cat f)"
  -> -
opts -- c
  -> -
opts --none
  -> -
head -5
  -> head: valued {'-#': '5'}
head -5 -q a
  -> head: -q; of a; valued {'-#': '5'}
head -5q
  -> -
head -q5
  -> -
head -n5
  -> head: -n; values ['5']; valued {'-n': '5'}
head --lines=5 a
  -> head: --lines; of a; values ['5']; valued {'--lines': '5'}
head --lines 5 a
  -> head: --lines; of a; values ['5']; valued {'--lines': '5'}
opts -5 a
  -> -
tree log a
  -> tree log: of a
tree -v log -q a
  -> tree log: -q -v; of a
tree a log
  -> tree: of a log
tree log log
  -> tree log: of log
tree log -z
  -> -
tree "$(many)" log
  -> -
tree grow "$(many)"
  -> tree grow: of ?
list -e pem a
  -> list: -e; of a; values ['*.pem']; valued {'-e': 'pem'}
list -e .pem a
  -> list: -e; of a; values ['*.pem']; valued {'-e': '.pem'}
list -epem a
  -> list: -e; of a; values ['*.pem']; valued {'-e': 'pem'}
find a -name x
  -> find: -name; of a; values ['x']; valued {'-name': 'x'}
find a -print0
  -> find: -print0; of a
find a -nam x
  -> -
find a -name
  -> -
find ( a )
  -> find: (; of a )
find a -name=x
  -> find: -name; of a; values ['x']; valued {'-name': 'x'}
nothing a
  -> -
grep -e a -e b c
  -> grep: -e; of c; values ['a', 'b']; valued {'-e': 'b'}
grep -ie a b
  -> grep: -e -i; of b; values ['a']; valued {'-e': 'a'}
grep --e a
  -> -
bare -a
  -> -
"""


@pytest.mark.parametrize(("line", "text"), GIVEN.items())
def test_what_a_command_is_given_to_read(reader: ShellReader, line: str, text: str | None) -> None:
    assert feeds.given_text(reader.read(line)[-1]) == text


def called(read: feeds.Read) -> str:
    said = [" ".join(sorted(read.given))]
    said += (
        ["of " + " ".join("?" if word.text is None else word.text for word in read.operands)] if read.operands else []
    )
    said += [f"values {read.values}"] if read.values else []
    said += [f"valued {read.valued}"] if read.valued else []
    return f"{' '.join(read.node.path)}: {'; '.join(filter(None, said))}"


@pytest.mark.parametrize(("line", "found"), table(FLAGS))
def test_how_a_call_is_read(reader: ShellReader, line: str, found: str) -> None:
    argv = reader.read(line.replace("( a )", "'(' a ')'"))[-1].argv
    read = feeds.read_flags(PROGRAMS, [resolved(PROGRAMS, word) for word in argv])
    assert ("-" if read is None else called(read)) == found


def test_what_is_not_known_is_no_call_and_no_place() -> None:
    assert feeds.read_flags(PROGRAMS, [Word(None)]) is None
    assert feeds.below(PROGRAMS["find"], [Word(None)], []) == feeds.below(PROGRAMS["bare"], [Word(None)], []) == ()
    assert feeds.below(PROGRAMS["fd"], [Word(None), Word("a")], []) == ("a",)
