"""What the gate reads in a line against what a real bash starts: every program, with every word."""

from pathlib import Path

import pytest

from deployments.gate.policy import Bundle
from deployments.gate.shell.atoms import Unprovable
from deployments.gate.shell.reader import ShellReader
from tests.gate import bash_oracle, mutate
from tests.unit.gate.test_lines import HARMLESS, HOSTILE

SAMPLE = 400
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
    found += [mutant.text for mutant in mutate.mutants(mutate.dangerous(mutate.corpus()) or [], 20_000)]
    return list(dict.fromkeys(line for line in found if bash_oracle.can_be_run(line)))


def differences(bundle: Bundle, directory: Path, chosen: list[str]) -> tuple[int, list[str]]:
    """How many lines both could read, and those where bash ran what the gate did not see."""
    oracle = bash_oracle.Oracle(directory, {*bundle.parts.programs, *bash_oracle.BUILTINS, "frobnicate"} - {":"})
    reader = ShellReader(20.0)
    read = 0
    faults: list[str] = []
    for line in chosen:
        try:
            atoms = reader.read(line)
        except Unprovable:
            continue  # held, whatever bash makes of it
        seen = [tuple(_value(word.text) for word in atom.argv) for atom in atoms if atom.argv]
        read += 1
        runs = oracle.run(line)
        faults += [f"{line!r}: bash ran {run.argv}" for run in runs if not bash_oracle.explained(run, seen)]
    return read, faults


def _value(text: str | None) -> str | None:
    """The gate's word as bash has it: `~` is the home directory there."""
    if text is not None and (text == "~" or text.startswith("~/")):
        return None
    return None if text is not None and text.startswith(".") else text


@pytest.mark.parametrize("seed", [0])
def test_bash_starts_nothing_that_the_gate_did_not_see(bundle: Bundle, tmp_path: Path, seed: int) -> None:
    every = lines()
    step = max(1, len(every) // SAMPLE)
    read, faults = differences(bundle, tmp_path, [*SPELLINGS.split("\n"), *every[seed::step]])
    assert faults == []
    assert read >= 100


def test_only_harmless_acts_are_given_to_bash() -> None:
    for line in ("ls > x", "./x", "/bin/ls", "cat < x", "exec ls", "kill 1", "ls; . x", "cd /; ls", "ls &", "sleep 9"):
        assert not bash_oracle.can_be_run(line)
