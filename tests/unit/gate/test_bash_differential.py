"""What the gate reads in a line against what a real bash starts: every program, with every word.

A sample of the lines that bash can be given; with GATEHOUSE_GATE_WHOLE=1 all of them, 18,000 and more.
"""

from pathlib import Path

import pytest

from deployments.gate.policy import Bundle
from deployments.gate.shell.atoms import Unprovable, Word
from deployments.gate.shell.reader import MAX_REMEMBERED, ShellReader
from tests.gate import bash_oracle, mutate
from tests.gate.together import WHOLE
from tests.unit.gate.test_lines import HARMLESS, HOSTILE

SAMPLE = 400
LEAST_WHOLE = 18_000
SPELLINGS = r"""
echo a'b'"c"d\ e
ls $'a\x62\143' "$HOME" ~ ~/x "~" '~'
x=a; echo "$x" $x ${x} "${x}b" '$x'
x=a; y=$x; ls $y
x='a b'; ls "$x"
x=-l && ls $x
a=1; b=2; echo $a$b "$a-$b"
false && x=b; ls a
x=a; (x=b; ls $x)
x=a; if true; then ls $x; else cat $x; fi
for i in a b c; do ls "$i" x$i; done
for i in {1..4}; do echo $i; done
for i in a b; do for j in c d; do ls $i$j; done; done
ls {a,b} {1..3} x{a,b}y{c,d} {a,b
echo {a,b}{c,d} {3..1} {-1..1}
echo $((1+2*3)) ${#HOME} "${HOME%/*}" ${x:-d}
cat a && ls b || pwd; git status | head -3
[ -n "$HOME" ] && echo yes
if [ -z "" ]; then ls; fi
! ls a
{ ls a; ls b; } | wc -l
( ls a; ls b )
echo "$(ls a)" `ls b`
diff <(ls a) <(ls b)
[[ -n "$HOME" && a == a ]] && ls
[[ -z a ]] || ls x
ls a\
b
ls \
 -l
ls '' "" a""b
case x in x) ls;; esac
echo \{a,b\} '{a,b}' "{a,b}" {a} {}
echo a{b,c}'d' "x"{a,b}
x=*; ls "$x"
echo $? $#
ls a#b # c
ls "a
b"
find . -name '*.py' -exec ls {} \;
ls -- -x
echo "a\$b" 'a\$b' "a\\b" 'a\\b' "a\b"
echo "`ls "a b"`"
ls $'\'' "'" '"'
x=.; ls $x/a "$x"/b
""".strip("\n")


def lines() -> list[str]:
    """Own spellings, the corpora, and mutants of them."""
    found = [*SPELLINGS.split("\n"), *HARMLESS, *HOSTILE, *(line.command for line in mutate.corpus())]
    found += [mutant.text for mutant in mutate.mutants(mutate.corpus(), 30_000 if WHOLE else 20_000)]
    return list(dict.fromkeys(line for line in found if bash_oracle.can_be_run(line)))


def differences(bundle: Bundle, directory: Path, chosen: list[str]) -> tuple[int, list[str]]:
    """How many lines both could read, and those where bash ran what the gate did not see."""
    oracle = bash_oracle.Oracle(directory, {*bundle.parts.programs, *bash_oracle.BUILTINS, "frobnicate"} - {":"})
    reader = ShellReader(20.0)
    understood: list[tuple[str, list[tuple[bash_oracle.Expected, ...]]]] = []
    for start in range(0, len(chosen), MAX_REMEMBERED // 2):
        part = chosen[start : start + MAX_REMEMBERED // 2]
        reader.learn(part)
        for line in part:
            try:
                atoms = reader.read(line)
            except Unprovable:
                continue  # held, whatever bash makes of it
            numbers = [word for atom in atoms for word in atom.numbers]
            if not all(word.kind in {"number", "integer"} or (word.text or "").isdecimal() for word in numbers):
                continue  # so is arithmetic with anything else, whose text bash would evaluate
            seen = [tuple(map(bash_oracle.expected, atom.argv)) for atom in atoms if atom.argv]
            # The builtin that runs the rest of its words has no recorder, however it is spelled.
            seen += [words[1:] for words in seen if words[0].texts == {"command"}]
            understood.append((line, seen))
    faults = [
        f"{line!r}: bash ran {run.argv}"
        for (line, seen), runs in zip(understood, oracle.runs_of_each([line for line, _ in understood]), strict=True)
        for run in runs
        if not bash_oracle.explained(run, seen)
    ]
    return len(understood), faults


@pytest.mark.parametrize("seed", [0])
def test_bash_starts_nothing_that_the_gate_did_not_see(bundle: Bundle, tmp_path: Path, seed: int) -> None:
    every = lines()
    step = 1 if WHOLE else max(1, len(every) // SAMPLE)
    read, faults = differences(bundle, tmp_path, [*SPELLINGS.split("\n"), *every[seed::step]])
    assert faults == []
    assert read >= (LEAST_WHOLE if WHOLE else 100)


def test_only_harmless_acts_are_given_to_bash() -> None:
    for line in ("ls > x", "./x", "/bin/ls", "cat < x", "exec ls", "kill 1", "ls; . x", "cd /; ls", "ls &", "sleep 9"):
        assert not bash_oracle.can_be_run(line)


@pytest.mark.parametrize(
    ("word", "argv", "fits"),
    [
        (Word("a"), ["a"], True),
        (Word("a"), ["b"], False),
        (Word("a"), [], False),
        (Word("a"), ["a", "a"], False),
        (Word("./a"), ["/x/a"], False),
        (Word("~/a"), [f"{bash_oracle.HOME}/a"], True),
        (Word("~/a"), ["~/a"], True),
        (Word("~/a"), ["/root/a"], False),
        (Word(None), ["x"], True),
        (Word(None), [], False),
        (Word(None), ["x", "y"], False),
        (Word(None, loose=True), [], True),
        (Word(None, loose=True), ["x", "y"], True),
        (Word("*", glob=True), ["x", "y"], True),
        (Word("*", glob=True), [], False),
    ],
)
def test_what_the_oracle_takes_for_the_same(word: Word, argv: list[str], fits: bool) -> None:
    seen = [(bash_oracle.expected(Word("ls")), bash_oracle.expected(word), bash_oracle.expected(Word("z")))]
    assert bash_oracle.explained(bash_oracle.Run(("ls", *argv, "z")), seen) is fits


def test_the_oracle_sees_every_line_alone(tmp_path: Path) -> None:
    oracle = bash_oracle.Oracle(tmp_path, ["ls", "cat", "echo"])
    lines = ["ls 'a  b' ''", "x=1; ls $x", "ls $x", "'", "echo é\\\nls", "(ls; cat) | cat", "true; frobnicate"]
    found = [[run.argv for run in runs] for runs in oracle.runs_of_each(lines)]
    assert found[:4] == [[("ls", "a  b", "")], [("ls", "1")], [("ls",)], []]
    assert found[4] == [("echo", "éls")]
    assert sorted(found[5]) == [("cat",), ("cat",), ("ls",)]
    assert found[6] == []
