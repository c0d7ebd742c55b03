"""The type of a word that is only known when it runs: each rule of it alone, on a small grammar of made-up programs."""

import json

import pytest
import yaml

from deployments.gate import outputs
from deployments.gate.shell.atoms import MAX_WEIGHT, Atom, Cut, Source, Unprovable, Word, source_of
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import Node, NodeSpec, compile_node

GRAMMAR = """
count: {flags: [-q, -a, "-n=text", "-o=text"], args: ["text*"], prints: [{kind: number, with: [-q], only: [-a],
  most: 1, single: [-a]}, {kind: hash, values: {-n: "[0-9]+"}, only: [-o], operand: "x[0-9]"}]}
one: {flags: [-a, "-x=text"], args: ["text*"], prints: [{kind: number, single: ["*"], only: [-a]}]}
many: {prints: [{kind: number}]}
hashes: {prints: [{kind: hash}]}
refs: {prints: [{kind: ref}]}
names: {prints: [{kind: name}]}
kube: {args: ["text*"], prints: [{kind: kube-name, most: 2}]}
kinds: {args: ["text*"], prints: [{kind: kube-object, most: 2}]}
cut: {args: ["text*"], flags: ["-d=text"], prints: [{kind: kube-name, from: kube-object, values: {-d: "/"}},
  {kind: number, from: numbered}]}
numbered: {prints: [{kind: numbered}]}
root: {prints: [{kind: top}]}
clock: {prints: [{kind: clock, single: ["*"]}]}
stamp: {prints: [{kind: stamp, single: ["*"]}]}
wordy: {prints: [{kind: number, words: true, single: ["*"]}]}
head: {flags: ["-n=text", "--lines=text", "-#", -q], args: ["file*"], passes: ["-n", "--lines", "-#", -q]}
tail: {flags: ["-n=text"], args: ["file*"], passes: ["-n"]}
sort: {flags: [-r, "-k=text", -o], args: ["file*"], passes: [-r, -k]}
grep: {flags: [-i, -r, "-e=text"], args: [text, "file*"], passes: [-i, -e], drops_first: [-e]}
words: {args: ["text*"], passes: []}
find: {args: ["file*"], style: single, flags: ["-name=name-regex", -print0, "("], lists: ["*"]}
list: {args: ["file*"], flags: [-l, -r, "-e=name-extension"], lists: [-l], lists_not: [-r]}
files: {args: ["file*"], lists: ["*"], bare_names: true}
finder: {args: [text, "file*"], lists: ["*"]}
fd: {args: [name-regex, "file*"], lists: ["*"]}
opts: {args: ["text*"], flags: ["-o[=text]", --long, "--pair=text+text", "-n=text", -a, -b],
  prints: [{kind: number, only: [-o, --long, --pair, -n, -a, -b], operand: "[a-z]+"}]}
tree: {inherited: [-v], sub: {log: {flags: [-q], args: ["text*"], prints: [{kind: hash, only: [-q, -v]}]}, grow: {}}}
at: {args: ["text*"]}
sh: {args: ["text*"]}
bare: {lists: ["*"]}
star: {args: ["text*"], prints: [{kind: number, operand: "[a-z]*"}]}
pick: {args: [text], passes: []}
"""
# A line, and below it what its last word, or words, are.
LINES = r"""
at $(many)
  -> ? number dashless loose several
at "$(many)"
  -> ? number dashless
at $(count -q)
  -> ? number dashless loose several
at $(count)
  -> ? loose several
at $(count -qa)
  -> ? number dashless loose
at $(count -q -a x)
  -> ? number dashless loose
at $(count -q x y)
  -> ? loose several
at $(count -q -n 3)
  -> ? loose several
at $(count -n 3 x1)
  -> ? hash dashless loose several
at $(count -n3 x1)
  -> ? hash dashless loose several
at $(count -n 3)
  -> ? loose several
at $(count -n 3 y)
  -> ? loose several
at $(count -n x x1)
  -> ? loose several
at $(count -n 3 -o y x1)
  -> ? hash dashless loose several
at $(count -n 3 -a x1)
  -> ? loose several
at $(count -o 3 x1)
  -> ? loose several
at $(count -z)
  -> ? loose several
at $(nothing)
  -> ? loose several
at $(many; many)
  -> ? loose several
at $(many > f)
  -> ? loose several
at $(many > /dev/null)
  -> ? number dashless loose several
at $(many 2>/dev/null)
  -> ? number dashless loose several
at $(many &>/dev/null)
  -> ? number dashless loose several
at $(many >> /dev/null)
  -> ? number dashless loose several
at $(many 2>&1)
  -> ? loose several
at $(many < f)
  -> ? number dashless loose several
at $(x=1 many)
  -> ? number dashless loose several
at $(many $x)
  -> ? loose several
at $(one $(many))
  -> ? loose several
at $(one *)
  -> ? loose several
at $(one $x)
  -> ? loose several
at $(one "$x")
  -> ? loose several
at $(one -a)
  -> ? number dashless loose
at $(one -x 1)
  -> ? loose several
at $(many | head -1)
  -> ? number dashless loose
at $(many | head -n 1)
  -> ? number dashless loose
at $(many | head -n1)
  -> ? number dashless loose
at $(many | head --lines=1)
  -> ? number dashless loose
at $(many | head -n 2)
  -> ? number dashless loose several
at $(many | head)
  -> ? number dashless loose several
at $(many | head -1 | sort)
  -> ? number dashless loose
at $(many | sort | head -1)
  -> ? number dashless loose
at $(many | head -n 1 | head -n 2)
  -> ? number dashless loose
at $(many | tail -n 1)
  -> ? number dashless loose
at $(many | sort -r)
  -> ? number dashless loose several
at $(many | sort -k 1)
  -> ? number dashless loose several
at $(many | sort -o)
  -> ? loose several
at $(many | sort f)
  -> ? loose several
at $(many | grep x)
  -> ? number dashless loose several
at $(many | grep -i x)
  -> ? number dashless loose several
at $(many | grep x f)
  -> ? loose several
at $(many | grep -e x)
  -> ? number dashless loose several
at $(many | grep -e x y)
  -> ? loose several
at $(many | grep -r x)
  -> ? loose several
at $(many | words)
  -> ? loose several
at $(many | cut)
  -> ? loose several
at $(many | at)
  -> ? loose several
at $(many | head < f)
  -> ? loose several
at $(many | head <<< f)
  -> ? loose several
at $(cat f | head)
  -> ? loose several
at $(many | head | head | head | head | head | head | head)
  -> ? number dashless loose several
at $(many | head | head | head | head | head | head | head | head)
  -> ? loose several
at $(kinds pods | cut -d /)
  -> ? kube-name of 'pods' dashless loose several
at $(kinds pods | cut -d x)
  -> ? loose several
at $(kinds pods,svc a | cut -d /)
  -> ? kube-name of 'pods svc' dashless loose several
at $(numbered | cut)
  -> ? number dashless loose several
at $(numbered)
  -> ? loose several
at $(kube pods)
  -> ? kube-name of 'pods' dashless loose several
at $(kube pods,svc x)
  -> ? kube-name of 'pods svc' dashless loose several
at $(kube)
  -> ? kube-name dashless loose several
at $(refs)
  -> ? ref loose several
at "$(refs)"
  -> ? ref
at $(names)
  -> ? name dashless loose several
at $(root)
  -> ? path of 'top' below . loose several
at "$(root)"
  -> ? path of 'top' below . dashless
at "$(root)/a"
  -> ? path below ./a /a dashless
at "$(root)"/a/$(many)
  -> ? loose several
at "$(root)a"
  -> ?
at "$(root)/.env"
  -> ? path below ./.env /.env dashless
at x"$(root)/a"
  -> ?
at $(root)/a
  -> ? path below ./a /a loose several
at $(clock)
  -> ? loose several
at "$(clock)"
  -> ? clock dashless
at x$(clock)
  -> ? loose several
at "x$(clock)"
  -> ? made of 'x2026-01-31 10:20:30 x2026-01-31 x10:20 x' dashless
at $(stamp)
  -> ? stamp dashless loose
at "$(stamp)"
  -> ? stamp dashless
at "x$(stamp)"
  -> ? made of 'x2026-01-31 x20260131 x7_5.1 x' dashless
at $(wordy)
  -> ? number dashless loose
at "$(wordy)"
  -> ?
x=$(wordy); at $x "$x"
  -> ? number dashless loose; ?
for i in $(wordy); do at $i "$i"; done
  -> ? number dashless; ? number dashless
for i in $(many); do at $i; done
  -> ? number dashless
for i in $(many); do at "$i"; done
  -> ? number dashless
for i in "$(many)"; do at $i; done
  -> ? number dashless loose several
many | while read x; do at $x; done
  -> ? number dashless
many | while read x; do at "$x"; done
  -> ? number dashless
many | while read x y; do at "$x"; done
  -> ? number dashless
many | while read x y; do at $x; done
  -> ? number dashless loose
many | while read -r -d '' x; do at "$x"; done
  -> ? number dashless
clock | while read x; do at "$x"; done
  -> ?
find | while read x; do at "$x"; done
  -> ? path below .
find | while read -r -d '' x; do at "$x"; done
  -> ? path below . dashless
find | while read -r -d '' x; do at $x; done
  -> ? path below . loose several
find . -print0 | while read -r -d '' x; do at "$x"; done
  -> ? path below . dashless
find - | while read -r -d '' x; do at "$x"; done
  -> ?
find a /b | while read -r -d '' x; do at "$x"; done
  -> ? path below a /b dashless
find ~ | while read -r -d '' x; do at "$x"; done
  -> ? path below ~
find $x | while read -r -d '' x; do at "$x"; done
  -> !! the variable $x, whose value is not known
find "$PWD" | while read -r -d '' x; do at "$x"; done
  -> ? path below . dashless
find a | head | while read -r -d '' x; do at "$x"; done
  -> ? path below a dashless
files | while read -r -d '' x; do at "$x"; done
  -> ? path below . .
files a | while read -r -d '' x; do at "$x"; done
  -> ? path below a .
list -l | while read -r -d '' x; do at "$x"; done
  -> ? path below .
list -l a | while read -r -d '' x; do at "$x"; done
  -> ? path below a dashless
list a | while read -r -d '' x; do at "$x"; done
  -> ?
list -l -r a | while read -r -d '' x; do at "$x"; done
  -> ?
list -l -e pem a | while read -r -d '' x; do at "$x"; done
  -> ? path below a a/*.pem dashless
finder x a | while read -r -d '' x; do at "$x"; done
  -> ? path below a dashless
finder a | while read -r -d '' x; do at "$x"; done
  -> ? path below .
fd x a | while read -r -d '' x; do at "$x"; done
  -> ? path below a a/*x* dashless
fd | while read -r -d '' x; do at "$x"; done
  -> ? path below .
at $(find)
  -> ? path below . loose several
at "$(find)"
  -> ? path below .
for i in $(find a b); do at "$i" $i; done
  -> ? path below a b; ? path below a b loose several
at $(find a -name .env)
  -> ? path below a a/.env loose several
at $(opts -o)
  -> ? loose several
at $(opts -o3)
  -> ? loose several
at $(opts -o=3)
  -> ? loose several
at $(opts -o x)
  -> ? number dashless loose several
at $(opts --long x)
  -> ? number dashless loose several
at $(opts --long=3 x)
  -> ? number dashless loose several
at $(opts --pair a b x)
  -> ? number dashless loose several
at $(opts --pair a)
  -> ? loose several
at $(opts --pair)
  -> ? loose several
at $(opts -n)
  -> ? loose several
at $(opts -n x y)
  -> ? number dashless loose several
at $(opts -ab x)
  -> ? number dashless loose several
at $(opts -abn x y)
  -> ? number dashless loose several
at $(opts -an3 y)
  -> ? loose several
at $(opts -na y)
  -> ? number dashless loose several
at $(opts -n=3 y)
  -> ? number dashless loose several
at $(opts -z y)
  -> ? loose several
at $(opts --none y)
  -> ? loose several
at $(opts 1)
  -> ? loose several
at $(opts "$(many)" x)
  -> ? loose several
at $(opts $(many))
  -> ? loose several
at $(opts "$(refs)")
  -> ? loose several
at $(opts x*)
  -> ? loose several
at $(tree log)
  -> ? hash dashless loose several
at $(tree log -q x)
  -> ? hash dashless loose several
at $(tree -v log -q)
  -> ? hash dashless loose several
at $(tree x log)
  -> ? loose several
at $(tree grow)
  -> ? loose several
at $(tree log log)
  -> ? hash dashless loose several
at $(tree "$(many)")
  -> ? loose several
at $(tree $(many))
  -> ? loose several
at $$
  -> ? number dashless
at $?
  -> ? number dashless
at $RANDOM
  -> ? number dashless
at "$#"
  -> ? number dashless
at $((x+1))
  -> !! arithmetic with a value that is not known
x=1; at $((x*$?))
  -> ? integer
at a$(many)
  -> ? made of 'a7 a4242 a a7\n7' dashless loose several
at "a$(many)"
  -> ? made of 'a7 a4242 a a7\n7' dashless
at a$(one)
  -> ? made of 'a7 a4242 a' dashless
at "a$(one)b"
  -> ? made of 'a7b a4242b ab' dashless
at -$(one)
  -> ? made of '-7 -4242 -'
at $(one)a
  -> ? made of '7a 4242a a' dashless
at $(one)$(one)
  -> ? made of '77 74242 7 42427 42424242 4242 ' loose
at "$(one)$(one)"
  -> ? made of '77 74242 7 42427 42424242 4242 '
at "$(one)$(one)$(one)$(one)"
  -> ? made of '7777 7774242 777 7742427 7742424242 774242 77 7424277 7424274242 742427 7424242427 7424242424242 742424242 74242 7 4242777 4242774242 424277 4242742427 4242742424242 424274242 42427 4242424277 4242424274242 424242427 4242424242427 4242424242424242 424242424242 42424242 4242 '
at "$(one)$(one)$(one)$(one)$(one)$(one)"
  -> ?
at "$(one)$(one)$(one)"
  -> ? made of '777 774242 77 742427 742424242 74242 7 424277 424274242 42427 424242427 424242424242 42424242 4242 '
at "$(one)-$(refs)"
  -> ?
at "$(one)..main"
  -> ? made of '7..main 4242..main ..main' dashless
at "main..$(refs)"
  -> ? made of 'main..topic main..fix/a-1 main.. main..7\n7' dashless
at main..$(refs)
  -> ? made of 'main..topic main..fix/a-1 main.. main..7\n7' dashless loose several
at "main/..$(refs)"
  -> ?
at "main../..$(refs)"
  -> ?
at "/.$(refs).."
  -> ? made of '/.topic.. /.fix/a-1.. /... /.7\n7..' dashless
at "$(hashes):a"
  -> ? made of '0a1b2c3d:a 1234567:a deadbeefdeadbeefdeadbeefdeadbeefdeadbeef:a :a 7\n7:a' dashless
at "$(refs):a"
  -> ?
at "$(names)a"
  -> ?
at "deploy/$(kube pods)"
  -> ?
at deploy/$(kube pods)
  -> ? loose several
at "x deploy/$(kube pods)"
  -> ?
at "deploy/$(kube pods)/x"
  -> ?
at "Deploy/$(kube pods)"
  -> ?
at "deploy/$(names)"
  -> ?
at "/$(kube pods)"
  -> ?
at "deploy$(kube pods)"
  -> ?
for i in $(kube pods); do at deploy/$i; done
  -> ? kube-object of 'deploy' dashless
for i in $(kube pods); do at a/b/$i; done
  -> ? loose several
for i in $(kube pods); do at deploy/$i/x; done
  -> ? loose several
for i in $(kube pods); do at $i/x; done
  -> ? loose several
for i in $(kube pods); do at $i; done
  -> ? kube-name of 'pods' dashless
at a"/b$(root)"
  -> ?
at "$(root)/a$(root)"
  -> ?
at "$(root)"/a"b"
  -> ? path below ./ab /ab dashless
at "a$(cat f)"
  -> ?
at "$(cat f)$(one)"
  -> ?
at a$?
  -> ? made of 'a7 a4242' dashless
at a$((x+1))b
  -> !! arithmetic with a value that is not known
at $((x+1))
  -> !! arithmetic with a value that is not known
for i in $(many); do at a$i; done
  -> ? made of 'a7 a4242' dashless
many | while read x; do at a$x "b$x"; done
  -> ? made of 'a7 a4242' dashless; ? made of 'b7 b4242' dashless
many | while read x y; do at "a$x"; done
  -> ? made of 'a7 a4242 a' dashless
at a[0]
  -> ? made of 'a[0] a0' dashless
at -a[0]
  -> '-a[0]' glob several
at a[*]
  -> ? made of 'a[*] a*' dashless
at "$(one)"[0]
  -> ? several
at $(star)
  -> ? loose several
at $(star a)
  -> ? number dashless loose several
at $(star "$(names)")
  -> ? loose several
at $(one a b*)
  -> ? loose several
at $(one "$(names)" "$(names)")
  -> ? number dashless loose
at $(at | cut)
  -> ? loose several
at $(at | cut -d /)
  -> ? loose several
at $(> /dev/null)
  -> !! the second parser meets file_redirect
at $(< f)
  -> !! the second parser meets file_redirect
bare | while read -r -d '' x; do at "$x"; done
  -> ? path below .
find a-b | while read -r -d '' x; do at "$x"; done
  -> ? path below a-b dashless
find ./a | while read -r -d '' x; do at "$x"; done
  -> ? path below ./a dashless
find /a | while read -r -d '' x; do at "$x"; done
  -> ? path below /a dashless
find .-a | while read -r -d '' x; do at "$x"; done
  -> ? path below .-a dashless
find '*a' | while read -r -d '' x; do at "$x"; done
  -> ? path below *a
find a _b | while read -r -d '' x; do at "$x"; done
  -> ? path below a _b
x=b*; at $(one "$x")
  -> ? number dashless loose
find a | pick x | while read -r -d '' x; do at "$x"; done
  -> ? path below a ./*x* dashless
find a | sort -r -k 1 | while read -r -d '' x; do at "$x"; done
  -> ? path below a ./*1* dashless
"""  # noqa: E501
# A script is given these words, and reads this line.
GIVEN = r"""
at a b | at "$1"
  -> 'b'
at a b | at $1
  -> 'b'
at a 'b c' | at "$1"
  -> 'b c'
at a 'b c' | at $1
  -> ? loose several
at a b | at "$2"
  -> ?
at a b | at "$0"
  -> 'a'
at a b | at x"$1"
  -> 'xb'
at a b | at x$1
  -> 'xb'
at a 'b*' | at $1
  -> ? loose several
at a b* | at "$1"
  -> ?
at a b | at "$@"
  -> ? loose several
at a b | at $@
  -> ? loose several
at a "$(many)" | at "$1"
  -> ? number dashless
at a "$(many)" | at $1
  -> ? number dashless loose several
at a $(many) | at "$1"
  -> ?
at a $(many) b | at "$2"
  -> ?
at a b $(many) | at "$1"
  -> 'b'
at a "$(many)" b | at "$2"
  -> 'b'
at a "$(many)" | at "x$1"
  -> ?
at a "$(find a)" | at "$1"
  -> ? path below a
at a "$(find a)" | at $1
  -> ? loose several
at a "$(cat f)" | at "$1"
  -> ?
at a "$(find a)" | at "$@"
  -> ? loose several
at a "$(find a)" "$(find b)" | at "$@"
  -> ? loose several
at a "$(find a)" | for i in "$@"; do at "$i" $i; done
  -> ? path below a; ? loose several
at a "$(find a)" b | at "$@"
  -> ? loose several
at a $(find a) | at "$@"
  -> ? loose several
at a $(find a) | for i in "$@"; do at "$i"; done
  -> ? path below a
at a | at "$@"
  -> ? loose several
at a "$(find a)" b | for i in "$@"; do at "$i"; done
  -> ?
at a b "$(find a)" | for i in "$@"; do at "$i"; done
  -> ?
at a b | for i in "$@"; do at "$i"; done
  -> ?
at a | for i in "$@"; do at "$i"; done
  -> ?
at a $(one) b | at "$2"
  -> ?
at a $(one) b | at "$0"
  -> 'a'
at a b* c | at "$2"
  -> ?
at a b* c | at "$0"
  -> 'a'
at a b | at "$(one "$1")"
  -> ?
"""
PROGRAMS: dict[str, Node] = {
    name: compile_node((name,), NodeSpec.model_validate_json(json.dumps(said)))
    for name, said in yaml.safe_load(GRAMMAR).items()
}


def told(word: Word) -> str:
    said = ["?" if word.text is None else repr(word.text)]
    said += [word.kind] if word.kind else []
    said += [f"of {' '.join(word.of)!r}"] if word.of else []
    said += [f"below {' '.join(word.below)}"] if word.below else []
    marks = ("dashless", "glob", "loose", "several", "symbolic")
    return " ".join([*said, *(name for name in marks if getattr(word, name))])


def table(said: str) -> list[tuple[str, str]]:
    lines = said.strip("\n").split("\n")
    return [(line, found.removeprefix("  -> ")) for line, found in zip(lines[::2], lines[1::2], strict=True)]


@pytest.fixture(scope="module")
def reader() -> ShellReader:
    made = ShellReader(timeout_s=20.0)
    made.learn(line for line, _ in table(LINES))
    return made


def last(reader: ShellReader, line: str) -> tuple[Word, ...]:
    return [atom.argv for atom in reader.read(line) if atom.argv and atom.argv[0].text == "at"][-1][1:]


def typed(reader: ShellReader, line: str, arguments: tuple[Word, ...] = ()) -> str:
    try:
        return "; ".join(told(outputs.resolved(PROGRAMS, word, arguments)) for word in last(reader, line))
    except Unprovable as error:
        return f"!! {error}"


@pytest.mark.parametrize(("line", "found"), table(LINES))
def test_what_a_word_is(reader: ShellReader, line: str, found: str) -> None:
    assert typed(reader, line) == found


@pytest.mark.parametrize(("line", "found"), table(GIVEN))
def test_what_a_word_of_a_script_is(reader: ShellReader, line: str, found: str) -> None:
    outer, _, inner = line.partition(" | ")
    given = tuple(outputs.resolved(PROGRAMS, word) for word in last(reader, outer))
    assert typed(reader, inner, given) == found


def test_so_many_texts_stand_for_a_word(reader: ShellReader) -> None:
    """Three samples of a number that may be missing: four of them are 31 different texts, five are more than 64."""
    [four] = last(reader, 'at "$(one)$(one)$(one)$(one)"')
    assert len(outputs.resolved(PROGRAMS, four).of) == 31
    [five] = last(reader, 'at "$(one)$(one)$(one)$(one)$(one)"')
    assert len(outputs.resolved(PROGRAMS, five).of) == 63
    [six] = last(reader, 'at "$(one)$(one)$(one)$(one)$(one)$(one)"')
    assert outputs.resolved(PROGRAMS, six) is six


def test_samples_stand_for_typed_words_alone() -> None:
    assert outputs.samples(Word(None, kind="made", of=("a", "b"))) == ("a", "b")
    assert outputs.samples(Word(None, kind="number")) == outputs.SAMPLES["number"]
    assert outputs.samples(Word(None, kind="name")) == outputs.samples(Word(None)) == ()
    assert all(outputs.KINDS[kind].fullmatch(text) for kind, texts in outputs.SAMPLES.items() for text in texts)


def test_what_many_commands_have_a_say_in_is_not_known() -> None:
    atom = Atom((Word("a"),))
    for _ in range(MAX_WEIGHT - 2):
        atom = Atom((Word("a"),), feed=atom)
    assert source_of(atom, Cut.LINE) == Source(atom, Cut.LINE, weight=MAX_WEIGHT)
    assert source_of(Atom((Word("a"),), feed=atom)) == Source()
    inner = Word(None, pieces=("a", Source(atom, weight=MAX_WEIGHT - 2)))
    assert source_of(Atom((inner,))).weight == MAX_WEIGHT
    assert source_of(Atom((inner, Word("b")), feed=Atom((Word("c"),)))) == Source()
    assert source_of(None) == Source(None, weight=1)
