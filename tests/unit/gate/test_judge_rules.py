"""How one command is read: each rule of it alone, on a small grammar of made-up programs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml

from deployments.gate.feeds import Read
from deployments.gate.findings import Facts, Finding
from deployments.gate.grammar import ClassOf
from deployments.gate.judge import MAX_GUESSED, MAX_GUESSES, Judge
from deployments.gate.operands import fits_anywhere, handed, harmless_test
from deployments.gate.paths import UNREGISTERED
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shell.atoms import MAX_DEPTH, MAX_RUNS, PIPED, Atom, Cut, Redirect, Source, Word, source_of
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import Rule, Target
from deployments.gate.tables import Base, Sensitivity
from deployments.ports import GateProfile, Risk
from tests.unit.gate.tiny import tiny, write

GRAMMAR = """
words: {count: "[0-9]+", name: "[a-z0-9-]+"}
environment: [LANG, PAGER=cat]
sinks: [/dev/null]
program_directories: [/usr/bin]
programs:
  look: {args: [count, "file*"], flags: [-a, -b, "-n=count", "-o[=count]", "-t=text", "-f=file", --all, "--num=count",
         "--opt[=count]", "--text=text", "--pair=name+count", "--free=name+text", "-x @R3", "-y @R3 !-b", "-z=text @R3",
         "("]}
  one: {args: [count], flags: [-a, "-m=count"]}
  open: {args: [count, "file*"], any_words: true}
  none: {flags: [-a]}
  free: {args: [text], any_words: true, flags: [-a, "-n=count"]}
  pair: {args: [count, file]}
  bare-names: {args: ["file*"], any_names: true, flags: [-a, "-f=file", "--file=file"]}
  dotted: {args: ["file*"], dotted_names: true, flags: [-a]}
  ends: {args: [name, "text*"], operands_end_flags: true, flags: [-a]}
  single: {args: [count, "file*"], style: single, flags: [-long, "-num=count", "-txt=text"]}
  only: {args: [count], style: single, flags: ["-num=count"]}
  spare: {style: single, flags: ["-num=count"]}
  say: {args: ["text*"], style: words, flags: [-n, "-w @R3"]}
  signs: {args: ["file*"], flags: ["(", "! @R3"]}
  top: {args: ["file*"], flags: ["-#", -q, "-n=count", "-z @R3", "-1 @R3"]}
  tree: {inherited: ["-C=directory", -v], flags: ["-c=count"], sub: {log: {args: ["file*"], flags: [-p]},
         grow: {args: ["file*"]}, deep: {sub: {end: {args: [name]}}}, lost: {}}}
  wrap: {args: [count, command], flags: [-a, "-n=count"]}
  just: {args: [command], flags: [-a]}
  set: {args: ["assignment*", command], flags: [-i]}
  both: {args: ["assignment*", name, command]}
  ended: {args: [name, command], operands_end_flags: true, flags: [-a]}
  watch: {args: [script], flags: [-a]}
  each: {args: [command], appends: true, flags: ["-I=placeholder", "-n=count", "-0", "-L=count", "--max-args=count"]}
  seek: {args: ["file*"], style: single, flags: ["-exec=exec", "-name=name-regex", "("], lists: ["*"]}
  sh: {args: ["text*"], flags: ["-c=shell", -e]}
  run-checked: {args: ["file*"], requires: [--check], flags: [--check]}
  asks: {args: ["file*"], needs: [-e, -k], flags: ["-e=text", "-#", -k]}
  least: {args: ["text*"], least: 1}
  search: {args: [text, "file*"], here: [-r], drops_first: [-e], flags: [-r, "-e=text"]}
  always: {args: [text, "file*"], here: ["*"], drops_first: [-e], flags: ["-e=text", --files]}
  objects: {args: [k8s-objects]}
  "test, [": {args: ["count*"]}
  cd, pushd: {args: ["directory*"]}
  mixed: {args: ["file*"], sub: {go: {args: ["file*"]}}}
  counts: {prints: [{kind: number}]}
  rm: {args: ["file*"]}
  wipe: {args: ["file*"]}
  ban: {args: ["file*"]}
  work: {args: ["file*"], flags: ["-t=text", "--text=text"]}
  bare: {args: [name]}
  runs: {args: [command], flags: [-a]}
  unruled: {args: [name]}
  "<, >": {}
rules:
  - {id: a.read, class: R0, reason: reads, match: [look], commands: [look, one, none, free, pair, bare-names, dotted,
     ends, single, only, spare, say, signs, top, tree, tree log, tree grow, tree deep end, wrap, just, set, both, ended,
     watch, each, seek, sh, run-checked, asks, least, search, always, counts, mixed, open, objects, test, "[", cd,
     pushd, "<"]}
  - {id: a.write, class: R1, reason: writes, standing: true, match: [work], commands: [work, ">"]}
  - {id: a.delete, class: R2, reason: deletes, match: [rm], commands: [rm]}
  - {id: a.wipe, class: R3, reason: wipes, match: [wipe], commands: [wipe]}
  - {id: a.ban, class: FORBIDDEN, reason: never, match: [ban], commands: [ban]}
  - {id: a.alone, class: R0, reason: alone, bare: true, match: [bare], commands: [bare, runs]}
  - {id: a.named, class: R1, reason: named, bare: false, match: [bare], commands: [bare, runs]}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    said: dict[str, Any] = tiny()
    said |= yaml.safe_load(GRAMMAR)
    said["tools"] = []
    said["targets"]["path"] = [
        {"match": ["*/.env", "*/id_rsa"], "env": "prod", "sensitivity": "sensitive"},
        {"match": [".", "./*"], "env": "nonprod", "workspace": True},
        {"match": ["/[!o]*", "~", "~/*"], "env": "prod"},
    ]
    said["targets"]["written"] = [{"match": ["*/hooks/*"], "class": "R3"}]
    said["targets"]["resource"] = [{"match": ["pods"]}]
    return read_policy(write(tmp_path_factory.mktemp("small"), said))


READER = ShellReader(timeout_s=20.0)


class Noting(Judge):
    """A judge that remembers the facts and the rule of each finding, as `explain` does."""

    def __init__(self, bundle: Bundle, reader: ShellReader = READER) -> None:
        super().__init__(bundle, reader, bundle.standing.get(GateProfile.CODING))
        self.noted: list[tuple[Facts, Rule | None]] = []

    def _settled(self, facts: Facts, rule: Rule | None, shown: str) -> Finding:
        if not self.guessing:
            self.noted.append((facts, rule))
        return super()._settled(facts, rule, shown)

    def told(self) -> list[str]:
        """Each finding in words, inner commands first: its rule, its classes, its targets, `wide`."""
        return [told(*each) for each in self.noted]


def told(facts: Facts, rule: Rule | None) -> str:
    said = ["-" if rule is None else rule.id, *sorted({each.prod.value for each in facts.classes})]
    said += [place(target) for target in facts.targets]
    return " ".join([*said, *(["wide"] if facts.wide else [])])


def place(target: Target) -> str:
    if target == UNREGISTERED:
        return "nobody"
    if target.sensitivity is Sensitivity.SENSITIVE:
        return "secret"
    if target.class_of is not None:
        return "obeyed"
    return "here" if target.workspace else str(target.env.value if target.env else "any")


def words(argv: Sequence[str | Word]) -> tuple[Word, ...]:
    return tuple(Word(word) if isinstance(word, str) else word for word in argv)


def run(small: Bundle, *argv: str | Word, **rest: Any) -> list[str]:
    judge = Noting(small)
    judge.atom(Atom(words(argv), **rest), 0)
    return judge.told()


GLOB, SOME = Word("*.py", glob=True), Word("a*", glob=True)
ANY = Word(None)
LOOSE = Word(None, loose=True)
NUMBER = Word(None, kind="number", dashless=True)
LOOSE_NUMBER = Word(None, kind="number", dashless=True, loose=True)
NAME = Word(None, kind="name", dashless=True)
KNOWN, UNKNOWN, OPAQUE = "a.read", "a.read UNKNOWN", "a.read OPAQUE"


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        # flags
        ("look", KNOWN),
        ("look -a", KNOWN),
        ("look -ab", KNOWN),
        ("look --all", KNOWN),
        ("look -c", UNKNOWN),
        ("look -ac", UNKNOWN),
        ("look -a-", UNKNOWN),
        ("look --none", UNKNOWN),
        ("look --all=3", UNKNOWN),
        ("look -n 3", KNOWN),
        ("look -n3", KNOWN),
        ("look -n=3", KNOWN),
        ("look -an 3", KNOWN),
        ("look -an3", KNOWN),
        ("look -n x", UNKNOWN),
        ("look -nx", UNKNOWN),
        ("look -n", UNKNOWN),
        ("look -na", UNKNOWN),
        ("look -n -a", UNKNOWN),
        ("look --num 3", KNOWN),
        ("look --num=3", KNOWN),
        ("look --num=x", UNKNOWN),
        ("look --num=", UNKNOWN),
        ("look --num", UNKNOWN),
        ("look -o", KNOWN),
        ("look -o3", KNOWN),
        ("look -ox", UNKNOWN),
        ("look -o x", UNKNOWN),
        ("look -o 3", KNOWN),
        ("look --opt", KNOWN),
        ("look --opt=3", KNOWN),
        ("look --opt=x", UNKNOWN),
        ("look --opt x", UNKNOWN),
        ("look (", KNOWN),
        ("single -- 3 -x", "a.read UNKNOWN here"),
        ("single -- 3 -long", "a.read UNKNOWN here"),
        ("single -- 3", KNOWN),
        ("single -- 3 a", "a.read here"),
        ("look -- 3 -x", "a.read here"),
        ("look 3 (", KNOWN),
        ("look -t x", KNOWN),
        ("look -f a", "a.read here"),
        ("look -fa", "a.read here"),
        ("look -f=.env", "a.read secret"),
        ("look --pair a 3", KNOWN),
        ("look --pair a 3 4", KNOWN),
        ("look --pair a 3 x", UNKNOWN),
        ("look --pair a x", UNKNOWN),
        ("look --pair A 3", UNKNOWN),
        ("look --pair a", UNKNOWN),
        ("look --pair=a 3", UNKNOWN),
        ("look --pair", UNKNOWN),
        # effects
        ("look -x", "a.read R3 any wide"),
        ("look -ax", "a.read R3 any wide"),
        ("look -z a", "a.read R3 any wide"),
        ("look -y", "a.read R3 any wide"),
        ("look -y -b", KNOWN),
        ("look -b -y", KNOWN),
        ("look -by", KNOWN),
        ("look -x -- 3", "a.read R3 any wide"),
        ("look -y -n 3", "a.read R3 any wide"),
        # positional words
        ("look 3", KNOWN),
        ("look x", UNKNOWN),
        ("look 3 a", "a.read here"),
        ("look 3 a .env", "a.read here secret"),
        ("look -", UNKNOWN),
        ("look 3 -", "a.read here"),
        ("look 3 -a a", "a.read here"),
        ("look 3 -- -a a", "a.read here here"),
        ("look -- 3", KNOWN),
        ("look -- -a", UNKNOWN),
        ("one 3", KNOWN),
        ("one 3 4", UNKNOWN),
        ("one -- 3 4", UNKNOWN),
        ("none", KNOWN),
        ("none 3", UNKNOWN),
        ("none -a", KNOWN),
        ("pair 3 a", "a.read here"),
        ("pair 3 a b", "a.read UNKNOWN here here"),
        ("ends a -a -c", KNOWN),
        ("ends -a a", KNOWN),
        ("ends -c a", UNKNOWN),
        ("ends a -- b", KNOWN),
        ("single -long", KNOWN),
        ("single -num 3", KNOWN),
        ("single -num=3", KNOWN),
        ("single -l", UNKNOWN),
        ("single -num3", UNKNOWN),
        ("say -n a", KNOWN),
        ("say -x --y -- a", KNOWN),
        ("say a -n", KNOWN),
        ("say -w a", "a.read R3 any wide"),
        ("signs ( a", "a.read here"),
        ("signs ! a", "a.read R3 any here wide"),
        ("top -1", "a.read R3 any wide"),
        ("ends a b @.env", "a.read secret"),
        ("mixed x go", "a.read here here"),
        ("runs --", "a.alone"),
        ("asks -ex a", "a.read here"),
        ("asks -5k a", "a.read here"),
        ("top -5", KNOWN),
        ("top -5q", KNOWN),
        ("top -5n", UNKNOWN),
        ("top -5c", UNKNOWN),
        ("top -5z", "a.read R3 any wide"),
        ("top -5qz", "a.read R3 any wide"),
        ("top -5 a", "a.read here"),
        ("top -n 3", KNOWN),
        ("top -q", KNOWN),
        ("top -", "a.read here"),
        ("look -5", UNKNOWN),
        # subcommands
        ("tree", KNOWN),
        ("tree log a", "a.read here"),
        ("tree -v log -p", KNOWN),
        ("tree log -v", KNOWN),
        ("tree -C /x log a", "a.read prod prod"),
        ("tree -c 3 log", KNOWN),
        ("tree log -c 3", "a.read UNKNOWN here"),
        ("tree other", UNKNOWN),
        ("tree deep end a", KNOWN),
        ("tree deep end end", KNOWN),
        ("tree log log", "a.read here"),
        ("tree deep", "- UNKNOWN"),
        ("tree lost", "- UNKNOWN"),
        ("tree -p log", UNKNOWN),
        # programs
        ("/usr/bin/look", KNOWN),
        ("/opt/look", "- OPAQUE"),
        ("./look", "- OPAQUE"),
        ("/look", "- OPAQUE"),
        ("nothing", "- UNKNOWN"),
        ("unruled a", "- UNKNOWN"),
        # what a program needs
        ("run-checked --check a", "a.read here"),
        ("run-checked a --check", "a.read OPAQUE here"),
        ("run-checked", OPAQUE),
        ("run-checked --check", KNOWN),
        ("asks a -e x", "a.read here"),
        ("asks a", "a.read OPAQUE here"),
        ("asks", OPAQUE),
        ("least a", KNOWN),
        ("least", OPAQUE),
        ("search -r x", "a.read here here"),
        ("search -r x .env", "a.read secret"),
        ("search x", KNOWN),
        ("search x .env", "a.read secret"),
        ("search -r -e x", "a.read here here"),
        ("search -r -e x .env", "a.read secret"),
        ("search -e x .env", "a.read secret"),
        ("search -r", "a.read here here"),
        ("always x", "a.read here here"),
        ("always x .env", "a.read secret"),
        ("always -e x", "a.read here here"),
        ("always -e x .env", "a.read secret"),
        ("objects pods a", "a.read any"),
        ("objects pods/a b/c", "a.read any secret"),
        # the rule
        ("bare", "a.alone"),
        ("bare a", "a.named"),
        ("runs -a", "a.alone"),
    ],
)
def test_words_that_are_known(small: Bundle, argv: str, found: str) -> None:
    assert run(small, *argv.split()) == [found]


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        (["look", "3", GLOB], "a.read UNKNOWN here"),
        (["look", "3", SOME], "a.read here"),
        (["look", "3", Word("[a]", glob=True)], "a.read UNKNOWN here"),
        (["look", "3", Word("?a", glob=True)], "a.read UNKNOWN here"),
        (["look", "3", Word("-a*", glob=True)], "a.read UNKNOWN"),
        (["look", "3", Word("./*", glob=True)], "a.read here"),
        (["look", "3", Word("a*", glob=True, loose=True)], "a.read UNKNOWN here"),
        (["look", "3", Word("a", loose=True)], "a.read UNKNOWN here"),
        (["look", "3", "--", GLOB], "a.read here"),
        (["look", SOME], "a.read UNKNOWN here"),
        (["pair", SOME], "a.read UNKNOWN here"),
        (["bare-names", GLOB], "a.read here"),
        (["bare-names", Word("a*", glob=True, loose=True)], "a.read here"),
        (["dotted", GLOB], "a.read here"),
        (["dotted", Word("*", glob=True)], "a.read UNKNOWN here"),
        (["dotted", Word("*.py", glob=True, loose=True)], "a.read UNKNOWN here"),
        (["free", Word("a", loose=True)], KNOWN),
        (["tree", Word("log*", glob=True)], UNKNOWN),
        (["tree", Word("log", glob=True)], UNKNOWN),
        ([Word("look", glob=True)], "- OPAQUE"),
        ([ANY], "- OPAQUE"),
        (["one", Word("3*", glob=True, several=True)], UNKNOWN),
        (["one", Word("3", several=True)], UNKNOWN),
        (["free", Word("a", several=True)], KNOWN),
        (["bare-names", Word("a", several=True)], "a.read here"),
        # words that are not known
        (["look", ANY], "a.read UNKNOWN nobody wide"),
        (["look", LOOSE], "a.read UNKNOWN nobody wide"),
        (["look", NUMBER], "a.read here here"),
        (["look", NAME], "a.read UNKNOWN wide"),
        (["look", "3", NUMBER], "a.read here here"),
        (["look", "3", Word(None, starts="a")], "a.read nobody wide"),
        (["look", "3", Word(None, starts="-a")], "a.read UNKNOWN nobody wide"),
        (["look", "3", Word(None, starts="a", loose=True)], "a.read UNKNOWN nobody wide"),
        (["look", "3", Word(None, kind="path", below=(".env",), dashless=True)], "a.read UNKNOWN secret wide"),
        (["look", "3", Word(None, kind="path", below=(".env",), dashless=True, starts="./")], "a.read secret wide"),
        (["pair", "3", Word(None, kind="path", below=(".env",), dashless=True)], "a.read secret wide"),
        (["look", "3", Word(None, kind="path", below=(".env",))], "a.read UNKNOWN secret wide"),
        (["bare-names", Word(None, kind="path", below=(".env",))], "a.read secret wide"),
        (["bare-names", ANY], "a.read UNKNOWN nobody wide"),
        (["free", ANY], "a.read wide"),
        (["free", LOOSE], "a.read wide"),
        (["tree", Word(None, starts="a")], "a.read UNKNOWN wide"),
        (["tree", "log", Word(None, starts="a")], "a.read nobody wide"),
        (["tree", NUMBER], UNKNOWN),
        (["tree", "log", NUMBER], "a.read here here"),
        (["tree", NAME], "a.read UNKNOWN wide"),
        (["tree", Word(None, kind="name", dashless=True, loose=True)], "a.read UNKNOWN wide"),
        (["tree", LOOSE_NUMBER], UNKNOWN),
        (["look", "--", ANY], "a.read UNKNOWN nobody wide"),
        (["one", Word(None, starts="3")], "a.read UNKNOWN wide"),
        (["mixed", Word(None, starts="a")], "a.read UNKNOWN nobody wide"),
        (["mixed", "x", Word(None, starts="a")], "a.read here nobody wide"),
        (["mixed", NUMBER], "a.read here here"),
        (["mixed", NAME], "a.read UNKNOWN wide"),
        (["mixed", LOOSE_NUMBER], "a.read UNKNOWN here here"),
        (["mixed", "x", LOOSE_NUMBER], "a.read here here here"),
        (["open", ANY], "a.read UNKNOWN wide"),
        (["open", LOOSE], "a.read UNKNOWN nobody wide"),
        (["open", Word(None, several=True)], "a.read UNKNOWN nobody wide"),
        (["open", "3", ANY], "a.read nobody wide"),
        (["open", Word("3*", glob=True)], "a.read UNKNOWN here"),
        (["one", "-m", Word("3", several=True)], UNKNOWN),
        (["single", "-txt", Word("*.3", glob=True, several=True)], "a.read here"),
        (["single", "-txt", Word("*a", glob=True, several=True)], UNKNOWN),
        (["single", "-txt", Word("a", several=True, loose=True)], UNKNOWN),
        (["look", "-t", Word(None, starts="a-")], "a.read wide"),
        (["look", "-x", "3", NUMBER], "a.read R3 any here here wide"),
        (["look", "--", NUMBER], "a.read UNKNOWN here here"),
        (["free", "--", ANY], "a.read wide"),
        (["none", ANY], "a.read UNKNOWN wide"),
        (["wrap", ANY], "a.read UNKNOWN wide"),
        (["wrap", NUMBER], UNKNOWN),
        # values of flags that are not known
        (["look", "-n", ANY], "a.read UNKNOWN wide"),
        (["look", "-n", NUMBER], KNOWN),
        (["look", "-n", LOOSE_NUMBER], KNOWN),
        (["look", "-n", LOOSE_NUMBER, "3"], UNKNOWN),
        (["look", "-n", LOOSE], "a.read UNKNOWN wide"),
        (["look", "-n", Word(None, kind="number", loose=True)], UNKNOWN),
        (["look", "-n", Word(None, kind="number", dashless=True, several=True)], UNKNOWN),
        (["look", "-t", Word(None, starts="a")], "a.read wide"),
        (["look", "-t", Word(None, starts="-")], "a.read UNKNOWN wide"),
        (["look", "-t", ANY], "a.read UNKNOWN wide"),
        (["look", "-n", Word(None, starts="3")], "a.read UNKNOWN wide"),
        (["look", "-z", NUMBER], "a.read R3 UNKNOWN any wide"),
        (["look", "--pair", "a", NUMBER], "a.read UNKNOWN here here"),
        (["look", "--pair", "a", Word("3", loose=True)], UNKNOWN),
        (["look", "--pair", "a", Word("3", several=True)], UNKNOWN),
        (["look", "--free", "a", ANY], KNOWN),
        (["look", "--free", "a", LOOSE], "a.read UNKNOWN nobody wide"),
        (["look", "-n", Word("3*", glob=True, several=True)], "a.read UNKNOWN here"),
        (["look", "-t", Word("a*", glob=True, several=True)], "a.read here"),
        (["look", "-t", Word("*a", glob=True, several=True)], UNKNOWN),
        (["look", "-t", Word("*.3", glob=True, several=True)], UNKNOWN),
        (["look", "-t", Word("-a", several=True)], UNKNOWN),
        (["look", "-t", Word("?", several=True)], UNKNOWN),
        (["look", "-t", Word("[", several=True)], UNKNOWN),
        (["look", "-t", Word("", several=True)], UNKNOWN),
        (["look", "-t", Word("a", several=True, loose=True)], UNKNOWN),
        (["single", "-num", Word("3", several=True)], "a.read here"),
        (["single", "-num", Word("*.3", glob=True, several=True)], "a.read UNKNOWN here"),
        (["only", "-num", Word("3", several=True)], KNOWN),
        (["spare", "-num", Word("3", several=True)], KNOWN),
        (["one", "-a", Word("3", several=True)], UNKNOWN),
        (["free", "-n", Word("3", several=True)], KNOWN),
        (["free", "-n", Word(None, kind="number", dashless=True, several=True)], UNKNOWN),
        (["look", "--text=*.py"], KNOWN),
        (["look", Word("--num=3", glob=True)], UNKNOWN),
        (["look", Word("--text=a*", glob=True)], UNKNOWN),
        (["bare-names", Word("--file=b/.e*", glob=True)], "a.read nobody"),
        (["bare-names", Word("-fb/.e*", glob=True)], "a.read nobody"),
        (["bare-names", Word("--file=b/.e*")], "a.read here"),
        (["bare-names", Word("-fb/.e*")], "a.read here"),
        (["look", Word("-n3", symbolic=True)], UNKNOWN),
        (["look", Word("--num=3", symbolic=True)], UNKNOWN),
        # searches
        (["search", "-r", "x", Word("a", loose=True)], "a.read UNKNOWN here here here"),
        (["search", "-r", "x", "a", Word("b", loose=True)], "a.read UNKNOWN here here"),
    ],
)
def test_words_that_the_shell_makes(small: Bundle, argv: list[str | Word], found: str) -> None:
    assert run(small, *argv) == [found]


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ("wrap 3 rm a", ["a.delete here", KNOWN]),
        ("wrap 3 rm -x", ["a.delete UNKNOWN", KNOWN]),
        ("wrap rm a", ["- UNKNOWN", UNKNOWN]),
        ("wrap 3", [KNOWN]),
        ("wrap 3=4 rm", ["a.delete", UNKNOWN]),
        ("wrap -a -n 3 3 rm", ["a.delete", KNOWN]),
        ("wrap 3 -a rm a", ["a.delete here", KNOWN]),
        ("wrap 3 -- rm a", ["a.delete here", KNOWN]),
        ("wrap -- 3 rm", ["- UNKNOWN", KNOWN]),
        ("wrap --", [KNOWN]),
        ("wrap -c 3 rm", ["a.delete", UNKNOWN]),
        ("just rm a", ["a.delete here", KNOWN]),
        ("just just rm a", ["a.delete here", KNOWN, KNOWN]),
        ("just -a rm a", ["a.delete here", KNOWN]),
        ("runs rm a", ["a.delete here", "a.named"]),
        ("runs -- rm a", ["a.delete here", "a.named"]),
        ("set rm a", ["a.delete here", KNOWN]),
        ("set LANG=C rm a", ["a.delete here", KNOWN]),
        ("set A=1 rm", ["a.delete", OPAQUE]),
        ("set PAGER=cat rm", ["a.delete", KNOWN]),
        ("set PAGER=less rm", ["a.delete", OPAQUE]),
        ("set -i A=1", [OPAQUE]),
        ("set -i LANG=1", [KNOWN]),
        ("set =x rm", ["a.delete", OPAQUE]),
        ("just A=1 rm", ["- UNKNOWN", KNOWN]),
        ("both x LANG=C rm a", ["a.delete here", KNOWN]),
        ("both X rm a", ["a.delete here", UNKNOWN]),
        ("both x A=1 rm", ["a.delete", OPAQUE]),
        ("ended x rm a", ["a.delete here", KNOWN]),
        ("watch rm a", ["a.delete here", KNOWN]),
        ("watch -a rm a", ["a.delete here", KNOWN]),
        ("watch -- rm a", ["a.delete here", KNOWN]),
        ("watch nothing", ["- UNKNOWN", KNOWN]),
        ("sh -c wipe", ["a.wipe", KNOWN]),
        ("sh -e -c wipe a", ["a.wipe", KNOWN]),
        ("sh -ecwipe", ["a.wipe", KNOWN]),
        ("seek . -exec rm {} ;", ["a.delete here here wide", "a.read here here"]),
        ("seek . -exec rm {} +", ["a.delete here here wide", "a.read here here"]),
        ("seek -exec rm {} +", ["a.delete here here wide", KNOWN]),
        ("seek /etc -exec rm {} ;", ["a.delete prod wide", "a.read prod"]),
        ("seek /etc -name .env -exec rm {} ;", ["a.delete prod secret wide", "a.read prod"]),
        ("seek -exec rm a ; b", ["a.delete here", "a.read here"]),
        ("seek -exec rm a{} ;", ["a.delete UNKNOWN nobody wide", KNOWN]),
        ("seek -exec rm a ; -exec wipe a ;", ["a.delete here", "a.wipe here", KNOWN]),
        ("seek -exec rm + ;", ["a.delete here", KNOWN]),
        ("seek -exec rm {}", [UNKNOWN]),
        ("seek -exec rm +", [UNKNOWN]),
        ("seek -exec rm {} .env ;", ["a.delete here here secret wide", KNOWN]),
        ("seek -exec + ; {}", ["- UNKNOWN", "a.read here"]),
        ("seek -exec ;", [UNKNOWN]),
        ("seek -exec", [UNKNOWN]),
        ("just - look 3", [KNOWN, UNKNOWN]),
        ("each rm", ["a.delete UNKNOWN nobody wide", KNOWN]),
        ("each -I {} rm a", ["a.delete here", KNOWN]),
        ("each -I {} rm {}", ["a.delete UNKNOWN nobody wide", KNOWN]),
        ("each -I {} rm a{}", ["a.delete nobody wide", KNOWN]),
        ("each -I {} rm -{}", ["a.delete UNKNOWN nobody wide", KNOWN]),
        ("each -I x rm a", ["a.delete here", UNKNOWN]),
        ("each -Ix rm a", ["a.delete here", UNKNOWN]),
        ("each always x", ["a.read UNKNOWN nobody here here wide", KNOWN]),
    ],
)
def test_commands_that_run_others(small: Bundle, argv: str, found: list[str]) -> None:
    assert run(small, *argv.split()) == found


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        (["wrap", "3", ANY], [UNKNOWN + " wide"]),
        (["wrap", Word("3", several=True), "rm"], ["a.delete", UNKNOWN]),
        (["set", Word("LANG=a", several=True), "rm"], ["a.delete", UNKNOWN]),
        (["set", Word("PAGER=cat", glob=True), "rm"], ["a.delete", OPAQUE]),
        (["set", Word(None, starts="LANG="), "rm"], ["a.delete", UNKNOWN + " wide"]),
        (["watch", "rm", "a; wipe b"], ["a.delete here", "a.wipe here", KNOWN]),
        (["watch", "rm", ANY], ["- OPAQUE", KNOWN]),
        (["watch", "rm", Word("a*", glob=True)], ["- OPAQUE", KNOWN]),
        (["watch", Word("rm", symbolic=True)], ["- OPAQUE", KNOWN]),
        (["sh", "-c", ANY], [OPAQUE]),
        (["sh", "-c", Word("rm", glob=True)], [OPAQUE]),
        (["sh", "-c", Word("rm", symbolic=True)], [OPAQUE]),
        (["sh", "-c", 'look 3 "$1"', "x", "a"], ["a.read here", KNOWN]),
        (["sh", "-c", 'look 3 "$1"'], ["a.read UNKNOWN nobody wide", KNOWN]),
        (["seek", ANY, "-exec", "rm", "{}", ";"], ["a.delete UNKNOWN nobody wide", "a.read UNKNOWN nobody wide"]),
        (["each", "-I", ANY, "rm", "a"], ["a.delete UNKNOWN here nobody wide", UNKNOWN]),
        (["each", "-I", "", "rm", "a"], ["a.delete UNKNOWN here nobody wide", UNKNOWN]),
        (["seek", "-exec", "rm", ANY, ";"], ["a.delete UNKNOWN nobody wide", KNOWN]),
        (["each", "-I", "{}", "rm", ANY], ["a.delete UNKNOWN nobody wide", KNOWN]),
    ],
)
def test_commands_that_run_what_the_shell_makes(small: Bundle, argv: list[str | Word], found: list[str]) -> None:
    assert run(small, *argv) == found


@pytest.mark.parametrize(
    ("program", "word", "first", "later"),
    [
        ("just", NUMBER, False, False),
        ("mixed", NUMBER, True, True),
        ("mixed", NAME, False, True),
        ("mixed", LOOSE_NUMBER, False, True),
        ("mixed", Word(None, starts="a"), False, True),
        ("signs", NUMBER, True, True),
        ("signs", Word(None, kind="path", below=("a",), dashless=True), False, False),
        ("one", Word(None, kind="path", below=("a",), dashless=True), True, True),
        ("one", LOOSE_NUMBER, True, True),
        ("one", ANY, False, False),
        ("one", Word(None, starts="-"), False, False),
        ("one", Word(None, starts="a", loose=True), False, False),
        ("free", ANY, True, True),
        ("bare-names", ANY, False, False),
        ("bare-names", Word(None, below=("a",)), True, True),
        ("look", Word(None, kind="path", below=("a",), dashless=True), False, False),
        ("look", Word(None, kind="path", below=("a",), dashless=True, starts="./"), True, True),
    ],
)
def test_where_a_word_that_nobody_knows_may_stand(
    small: Bundle, program: str, word: Word, first: bool, later: bool
) -> None:
    node = small.parts.programs[program]
    assert (fits_anywhere(node, word, False), fits_anywhere(node, word, True)) == (first, later)


def test_what_a_script_is_given_is_forgotten_after_it(small: Bundle) -> None:
    judge = Noting(small)
    judge.atom(Atom(words(["sh", "-c", 'look 3 "$1"', "x", "a"])), 0)
    judge.script('look 3 "$1"')
    assert judge.told() == ["a.read here", KNOWN, "a.read UNKNOWN nobody wide"]
    assert judge.arguments == ()


LISTED, COUNTED = Atom(words(["seek", "/etc"])), Atom(words(["counts"]))


@pytest.mark.parametrize(
    ("argv", "feed", "found"),
    [
        ("each bare-names", LISTED, ["a.read prod wide", KNOWN]),
        ("just each bare-names", LISTED, ["a.read prod wide", KNOWN, KNOWN]),
        ("each -I {} bare-names {}", LISTED, ["a.read prod wide", KNOWN]),
        ("each one", COUNTED, [UNKNOWN, KNOWN]),
        ("each -n 1 one", COUNTED, [KNOWN, KNOWN]),
        ("each -n 2 -n 1 one", COUNTED, [KNOWN, KNOWN]),
        ("each -n 1 -n 2 one", COUNTED, [UNKNOWN, KNOWN]),
        ("each -n 1 -L 1 one", COUNTED, [UNKNOWN, KNOWN]),
        ("each -n1 --max-args=1 one", COUNTED, [UNKNOWN, KNOWN]),
        ("each one -n 1", COUNTED, [UNKNOWN, KNOWN]),
        ("each -L2 one", COUNTED, [UNKNOWN, KNOWN]),
        ("each -I {} -n 1 one {}", COUNTED, [KNOWN, UNKNOWN]),
        ("each -n 1 -I {} one {}", COUNTED, [KNOWN, KNOWN]),
        ("each -I {} -0 one {}", COUNTED, [KNOWN, KNOWN]),
        ("each -n1 one", COUNTED, [KNOWN, KNOWN]),
        ("each -L1 one", COUNTED, [KNOWN, KNOWN]),
        ("each --max-args=1 one", COUNTED, [KNOWN, KNOWN]),
        ("each -n 2 one", COUNTED, [UNKNOWN, KNOWN]),
        ("each -I {} one {}", COUNTED, [KNOWN, KNOWN]),
        ("each -I {} one 3{}", COUNTED, [KNOWN, KNOWN]),
        ("each -I {} one x{}", COUNTED, [UNKNOWN, KNOWN]),
        ("always x", LISTED, [KNOWN]),
        ("just always x", LISTED, [KNOWN, KNOWN]),
        ("search -r x", LISTED, ["a.read here here"]),
        ("each always x", LISTED, ["a.read UNKNOWN prod here here wide", KNOWN]),
        ("sh -c always", LISTED, ["a.read here here", KNOWN]),
    ],
)
def test_what_a_pipe_feeds(small: Bundle, argv: str, feed: Atom, found: list[str]) -> None:
    assert run(small, *argv.split(), feed=feed) == found


PATH = Word(None, kind="path", below=(".env",))


@pytest.mark.parametrize(
    ("operator", "target", "found"),
    [
        ("<<", ANY, []),
        ("<<-", ANY, []),
        ("<<<", ANY, []),
        (">&", Word("1"), []),
        ("<&", Word("-"), []),
        (">&", Word("12"), []),
        ("<&", Word("0"), []),
        (">", Word("1"), ["a.write here"]),
        (">&", Word("f"), ["a.write here"]),
        (">&", ANY, ["- OPAQUE"]),
        ("<&", Word("f"), ["a.read here"]),
        (">", Word("/dev/null"), []),
        ("<", Word("/dev/null"), []),
        (">", Word("/dev/null", glob=True), ["- OPAQUE"]),
        (">", Word("a"), ["a.write here"]),
        (">>", Word("a/hooks/b"), ["a.write here obeyed"]),
        ("<", Word("a/hooks/b"), ["a.read here"]),
        ("<", Word(".env"), ["a.read secret"]),
        ("<", Word("a*", glob=True), ["a.read here"]),
        (">", Word("a*", glob=True), ["- OPAQUE"]),
        ("<", ANY, ["- OPAQUE"]),
        (">", ANY, ["- OPAQUE"]),
        ("<", Word("/dev/tcp/a/80"), ["- OPAQUE"]),
        (">", Word("/dev/udp/a/80"), ["- OPAQUE"]),
        ("<", Word(None, below=PIPED), []),
        (">", Word(None, below=PIPED), ["- OPAQUE"]),
        ("<", PATH, ["a.read secret"]),
        (">", PATH, ["- OPAQUE"]),
        ("<", Word(None, kind="path", below=(".env",), several=True), ["- OPAQUE"]),
        ("<", NUMBER, ["- OPAQUE"]),
        ("<", Word(None, below=("a",)), ["- OPAQUE"]),
    ],
)
def test_where_a_redirect_leads(small: Bundle, operator: str, target: Word, found: list[str]) -> None:
    redirects = (Redirect(operator, target),)
    assert run(small, "one", redirects=redirects) == [*found, KNOWN]
    assert run(small, redirects=redirects) == found


def test_redirects_that_the_bundle_does_not_know(small: Bundle) -> None:
    redirects = (Redirect("<", Word("a")), Redirect("<", PATH))
    programs = {name: node for name, node in small.parts.programs.items() if name != "<"}
    assert run(replace(small, parts=replace(small.parts, programs=programs)), redirects=redirects) == ["- OPAQUE"] * 2
    rules = {path: found for path, found in small.parts.rules.items() if path != ("<",)}
    unruled = replace(small, parts=replace(small.parts, rules=rules))
    assert run(unruled, redirects=redirects) == ["- UNKNOWN here", "- secret"]


@pytest.mark.parametrize(
    ("redirect", "found"),
    [
        (Redirect(">", Word("/dev/null")), [KNOWN]),
        (Redirect("<", Word("/dev/null")), ["a.read here here"]),
        (Redirect("<<<", Word("a")), ["a.read here here"]),
    ],
)
def test_what_is_redirected_into_a_command_takes_the_place_of_the_pipe(
    small: Bundle, redirect: Redirect, found: list[str]
) -> None:
    assert run(small, "always", "x", feed=LISTED, redirects=(redirect,)) == found


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("LANG", Word("C"), []),
        ("LANG", ANY, []),
        ("A", Word("1"), ["- OPAQUE"]),
        ("PAGER", Word("cat"), []),
        ("PAGER", Word("cat", glob=True), ["- OPAQUE"]),
        ("PAGER", Word("less"), ["- OPAQUE"]),
        ("PAGER", ANY, ["- OPAQUE"]),
    ],
)
def test_which_variables_may_be_set(small: Bundle, name: str, value: Word, found: list[str]) -> None:
    assert run(small, assignments=((name, value),)) == found
    assert run(small, "one", assignments=((name, value),)) == [*found, KNOWN]


@pytest.mark.parametrize(
    ("word", "fits"),
    [
        (Word("3"), True),
        (Word("a"), False),
        (Word("-3"), False),
        (ANY, False),
        (Word(None, kind="number"), True),
        (Word(None, kind="integer"), True),
        (Word(None, kind="name"), False),
        (Word(None, pieces=(Source(kind="number"),)), True),
    ],
)
def test_the_shell_calculates_with_numbers_alone(small: Bundle, word: Word, fits: bool) -> None:
    assert run(small, numbers=(word,)) == ([] if fits else ["- OPAQUE"])
    assert run(small, "one", numbers=(word,)) == ([KNOWN] if fits else ["- OPAQUE", KNOWN])


@pytest.mark.parametrize(
    ("argv", "harmless"),
    [
        (["test", "x"], True),
        (["test", ANY], True),
        (["test"], False),
        (["test", "-n", ANY], True),
        (["test", "-v", ANY], False),
        (["test", Word("-n", form="$x"), ANY], False),
        (["test", ANY, ANY], False),
        (["test", ANY, "=", ANY], True),
        (["test", ANY, "-eq", "3"], True),
        (["test", ANY, "-a", ANY], False),
        (["test", ANY, Word("=", form="$x"), ANY], False),
        (["test", "!", ANY], True),
        (["test", "!"], True),
        (["test", "!", "-n", ANY], True),
        (["test", "!", ANY, "=", ANY], True),
        (["test", "a", "b", "=", "c"], False),
        (["test", "-n", LOOSE], False),
        (["test", "-n", Word(None, kind="path", below=("a",), loose=True)], False),
        (["test", "-n", LOOSE_NUMBER], True),
        (["test", "-n", Word("a*", glob=True)], False),
        (["[", ANY, "]"], True),
        (["[", ANY], False),
        (["["], False),
        (["[", "]"], False),
        (["[", "-n", ANY, "]"], True),
    ],
)
def test_a_test_is_harmless_with_a_literal_operator(argv: list[str | Word], harmless: bool) -> None:
    assert harmless_test(words(argv)) is harmless


def test_only_a_test_is_read_as_one(small: Bundle) -> None:
    assert run(small, "test", "-n", "x") == run(small, "[", "-n", "x", "]") == [KNOWN]
    assert run(small, "test", "-v", "x") == run(small, "one", "-n", "x") == [UNKNOWN]


def test_depth_and_count_are_bounded(small: Bundle) -> None:
    for depth, found in [(MAX_DEPTH, ["- OPAQUE", KNOWN]), (MAX_DEPTH - 1, ["a.delete", KNOWN])]:
        judge = Noting(small)
        judge.atom(Atom(words(["just", "rm"])), depth)
        assert judge.told() == found
        judge = Noting(small)
        judge.atom(Atom(words(["sh", "-c", "rm"])), depth)
        assert judge.told() == found
        judge = Noting(small)
        judge.atom(Atom(words(["watch", "rm"])), depth)
        assert judge.told() == found
        judge = Noting(small)
        judge.atom(Atom(words(["seek", "-exec", "just", "rm", ";"])), depth - 1)
        assert judge.told() == [*found, KNOWN]
    for argv in (["just", "just", "rm"], ["watch", "watch rm"]):
        for depth, inner in [(MAX_DEPTH - 1, "- OPAQUE"), (MAX_DEPTH - 2, "a.delete")]:
            judge = Noting(small)
            judge.atom(Atom(words(argv)), depth)
            assert judge.told() == [inner, KNOWN, KNOWN]
    for count, found in [(MAX_RUNS, "- OPAQUE"), (MAX_RUNS - 1, KNOWN)]:
        judge = Noting(small)
        judge.count = count
        judge.atom(Atom(words(["one"])), 0)
        assert judge.told() == [found]
    judge = Noting(small)
    judge.atom(Atom(words(["just", "just", "one"])), 0)
    assert judge.count == 3


def script(small: Bundle, text: str) -> list[str]:
    judge = Noting(small)
    judge.script(text)
    return judge.told()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rm a; wipe b", ["a.delete here", "a.wipe here"]),
        ("cd /x; rm a", ["a.read prod", "a.delete here prod"]),
        ("(cd /x; rm a); rm b", ["a.read prod", "a.delete here prod", "a.delete here"]),
        ("(cd /x; (cd /y; rm a); rm b); rm c",
         ["a.read prod", "a.read prod prod", "a.delete here prod prod", "a.delete here prod", "a.delete here"]),
        ("(cd /x); (rm a)", ["a.read prod", "a.delete here"]),
        ("( (cd /x) ); rm a", ["a.read prod", "a.delete here"]),
        ("cd b; (cd /x; (rm a))", ["a.read here", "a.read prod prod", "a.delete here here prod"]),
        ("cd b; (rm; (cd /x); rm a)", ["a.read here", "a.delete", "a.read prod prod", "a.delete here here"]),
        ("LANG=C", ["shell.test R0"]),
        ("LANG=C; LANG=D", ["shell.test R0"]),
        ("rm $(", ["- OPAQUE"]),
    ],
)  # fmt: skip
def test_the_commands_of_a_text(small: Bundle, text: str, found: list[str]) -> None:
    assert [each.removesuffix(" R0") for each in script(small, text)] == [each.removesuffix(" R0") for each in found]


def test_a_subshell_leaves_no_directory_behind(small: Bundle) -> None:
    for text, found in [("(cd /x)", ["."]), ("(cd /x; (cd /y))", ["."]), ("cd /x", [".", "/x"])]:
        judge = Noting(small)
        judge.script(text)
        assert judge.directories == found


@pytest.mark.parametrize(
    ("text", "risk"),
    [
        ("nothing 'rm a'", Risk.R2),
        ("nothing 'wipe a'", Risk.R3),
        ("nothing 'ban a'", Risk.FORBIDDEN),
        ("nothing 'ban a; wipe a'", Risk.FORBIDDEN),
        ("nothing 'wipe a; ban a'", Risk.FORBIDDEN),
        ("nothing 'just wipe a'", Risk.R3),
        ("rm a 'wipe b'", Risk.R3),
        ("rm $( 'wipe a'", Risk.R3),
        ("work 'wipe b'", Risk.R1),
        ("say 'wipe b'", Risk.R0),
    ],
)
def test_what_is_held_is_searched_for_worse(small: Bundle, text: str, risk: Risk) -> None:
    judge = Noting(small)
    found = judge.script(text)
    assert max(found, key=lambda each: each.risk.rank).risk is risk
    assert judge.guessing is False


def test_only_the_whole_text_is_searched(small: Bundle) -> None:
    found = Noting(small).script("nothing 'wipe a'", 1)
    assert [each.risk for each in found] == [Risk.R2]
    found = Noting(small).script("nothing; nothing 'wipe a'")
    assert [each.risk for each in found] == [Risk.R2, Risk.R2, Risk.R3]


@pytest.mark.parametrize(("before", "risk"), [(MAX_GUESSES - 1, Risk.R3), (MAX_GUESSES, Risk.R2)])
def test_so_many_guesses_are_made(small: Bundle, before: int, risk: Risk) -> None:
    twice = [f"look {number}" for number in range(before) for _ in range(2)]
    assert Noting(small).opaque("; ".join([*twice, "wipe a"]), "it is long").risk is risk


def test_a_guess_made_before_uses_nothing_up(small: Bundle) -> None:
    text = "just a; " * MAX_RUNS + "just wipe"
    assert len(text) < MAX_GUESSED
    assert Noting(small).opaque(text, "it is long").risk is Risk.R3


def test_a_call_of_plain_fields(small: Bundle) -> None:
    r2 = ClassOf(Base.R2, Base.R2)
    for standing, path, expected in [
        (True, "a", (Risk.R1, True)),
        (False, "a", (Risk.R2, False)),
        (True, "/x", (Risk.R2, False)),
        (True, "/x/.env", (Risk.R3, False)),
    ]:
        found = Noting(small).fields([("file", Word(path))], r2, "writes", standing)
        assert (found.risk, found.covered, found.rule) == (*expected, "tool")
    found = Noting(small).fields([("file", Word("a")), ("count", Word("x"))], r2, "writes", True)
    assert (found.risk, found.covered) == (Risk.R2, False)
    assert Judge(small, READER, None).fields([("file", Word("a"))], r2, "writes", True).covered is False


@pytest.mark.parametrize(
    ("argv", "covered"),
    [
        (["work", "a"], True),
        (["work", NUMBER], True),
        (["work", PATH], False),
        (["work", "-t", Word(None, starts="a")], False),
        (["work", "--", "a"], True),
        (["work", "--", ANY], False),
        (["work", "a*"], True),
    ],
)
def test_a_plan_covers_no_word_that_nobody_knows(small: Bundle, argv: list[str | Word], covered: bool) -> None:
    [found] = Noting(small).atom(Atom(words(argv)), 0)
    assert found.covered is covered


def test_later_commands_run_where_a_directory_was_changed_to(small: Bundle) -> None:
    judge = Noting(small)
    judge.atom(Atom(words(["cd", "src"])), 0)
    assert judge.directories == [".", "./src"]
    judge.atom(Atom(words(["wrap", "3", "cd", "/x"])), 0)
    assert judge.directories == [".", "./src", "/x"]


def test_a_call_of_many_commands_leaves_its_guesses_a_count(small: Bundle) -> None:
    loops = [f"for i in {' '.join(f'{a}{b}' for b in range(50))}; do just one $i; done" for a in range(6)]
    found = Noting(small).script("; ".join([*loops, "just wipe"]))
    assert max(found, key=lambda each: each.risk.rank).risk is Risk.R3


@pytest.mark.parametrize(
    ("valued", "several", "cut"),
    [
        ({}, True, Cut.WHOLE),
        ({"-P": "1"}, True, Cut.WHOLE),
        ({"-n": "1"}, False, Cut.FIELD),
        ({"--max-args": "1"}, False, Cut.FIELD),
        ({"-n": "2"}, True, Cut.WHOLE),
        ({"-n": "1", "--max-args": "2"}, True, Cut.WHOLE),
        ({"-n": "1", "-L": "1"}, True, Cut.WHOLE),
        ({"-L": "1"}, True, Cut.LINE),
        ({"--max-lines": "1"}, True, Cut.LINE),
        ({"-n": "1", "-d": "\\n"}, False, Cut.FIELD),
        ({"-n": "1", "-d": "\n", "--delimiter": "\\0"}, False, Cut.FIELD),
        ({"-n": "1", "-d": "a"}, True, None),
        ({"-n": "1", "-d": ""}, True, None),
        ({"-n": "1", "--delimiter": "a"}, True, None),
        ({"-n": "1", "-d": "\\n", "--delimiter": "a"}, True, None),
        (None, True, None),
    ],
)
def test_the_words_that_are_handed_on(
    small: Bundle, valued: dict[str, str] | None, several: bool, cut: Cut | None
) -> None:
    own = None if valued is None else Read(small.parts.programs["each"], valued=valued)
    source = Source() if cut is None else source_of(COUNTED, cut)
    assert handed(own, COUNTED) == Word(None, loose=True, several=several, pieces=(source,))
