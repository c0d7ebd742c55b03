"""Obfuscations of command lines, generated: every class of the gate reference's list, deterministic by a seed.

A mutant either runs what its seed runs (`same`), or hides it where no reader can follow; neither may be released. As a
script it makes all mutants of all corpora, classifies them and prints what broke a law:

    python -m tests.gate.mutate --count 20000
"""

import argparse
import base64
import json
import random
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CORPORA = Path(__file__).parent / "corpora"
PLAIN = re.compile(r"[A-Za-z0-9_./:=@%+,-]+( [A-Za-z0-9_./:=@%+,-]+)*")


@dataclass(frozen=True)
class Line:
    """A graded line of a corpus."""

    command: str
    risk: str
    why: str
    program: str


@dataclass(frozen=True)
class Mutant:
    """What became of a line. `same`: bash runs the same commands, and the text of them is still in it."""

    text: str
    seed: Line
    name: str
    same: bool


def corpus(name: str = "*") -> list[Line]:
    """The lines of one corpus, or of all."""
    return [
        Line(row["command"], row["risk"], row["why"], row["program"])
        for path in sorted(CORPORA.glob(f"{name}.jsonl"))
        # Not splitlines: a command may hold U+2028.
        for row in map(json.loads, path.read_text(encoding="utf-8").strip("\n").split("\n"))
    ]


Make = Callable[[str, random.Random], str | None]
CLASSES: dict[str, tuple[Make, bool]] = {}


def _single(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _double(text: str) -> str:
    return '"' + re.sub(r'([$`"\\])', r"\\\1", text) + '"'


def _on_word(change: Callable[[str, random.Random], str], which: str = "any") -> Make:
    """Change one word of a line of plain words; `which` may be `program`."""

    def make(line: str, chance: random.Random) -> str | None:
        words = line.split(" ")
        if not PLAIN.fullmatch(line) or "=" in words[0]:
            return None
        place = 0 if which == "program" else chance.randrange(len(words))
        return " ".join([*words[:place], change(words[place], chance), *words[place + 1 :]])

    return make


def _plain(form: str, same: bool = True) -> Make:
    """`form` with `@` for the line; only for lines of plain words when `!` starts it."""

    def make(line: str, _: random.Random) -> str | None:
        if form.startswith("!") and not PLAIN.fullmatch(line):
            return None
        return form.removeprefix("!").replace("@", line)

    return make


def _cut(word: str, chance: random.Random) -> tuple[str, str]:
    place = chance.randrange(len(word) + 1)
    return word[:place], word[place:]


def _register(name: str, make: Make, same: bool) -> None:
    CLASSES[name] = (make, same)


def _words() -> None:
    spelled: dict[str, Callable[[str, random.Random], str]] = {
        "quote split": lambda w, r: "{}'{}'".format(*_cut(w, r)),
        "double quote split": lambda w, r: '{}"{}"'.format(*_cut(w, r)),
        "empty quotes": lambda w, r: "{}''{}".format(*_cut(w, r)),
        "empty double quotes": lambda w, r: '{}""{}'.format(*_cut(w, r)),
        "whole in quotes": lambda w, r: f"'{w}'",
        "whole in double quotes": lambda w, r: f'"{w}"',
        "in-word escape": lambda w, r: f"{w[:1]}\\{w[1:]}" if len(w) > 1 else f"\\{w}",
        "escape of every letter": lambda w, r: "".join(f"\\{c}" for c in w),
        "ANSI-C quotes": lambda w, r: f"$'{w}'",
        "ANSI-C hexadecimal": lambda w, r: "$'" + "".join(f"\\x{ord(c):02x}" for c in w) + "'",
        "ANSI-C octal": lambda w, r: "$'" + "".join(f"\\{ord(c):03o}" for c in w) + "'",
        "ANSI-C unicode": lambda w, r: "$'" + "".join(f"\\u{ord(c):04x}" for c in w) + "'",
        "ANSI-C in part": lambda w, r: w[:-1] + f"$'\\x{ord(w[-1]):02x}'",
        "locale quotes": lambda w, r: f'$"{w}"',
        "continuation in a word": lambda w, r: "{}\\\n{}".format(*_cut(w, r)),
        "parameter default": lambda w, r: f"${{unset_x:-{w}}}",
        "parameter default without colon": lambda w, r: f"${{unset_x-{w}}}",
        "parameter assigned": lambda w, r: f"${{unset_x:={w}}}",
        "parameter alternative": lambda w, r: f"${{HOME:+{w}}}",
        "command substitution as a word": lambda w, r: f"$(echo {w})",
        "backquotes as a word": lambda w, r: f"`echo {w}`",
        "substitution in double quotes": lambda w, r: f'"$(printf %s {w})"',
        "nested substitution": lambda w, r: f"$(echo $(echo {w}))",
        "IFS inside": lambda w, r: f"{w}${{IFS}}",
        "unset variable inside": lambda w, r: "{}${{unset_x}}{}".format(*_cut(w, r)),
        "positional inside": lambda w, r: "{}$@{}".format(*_cut(w, r)),
        "brace of one": lambda w, r: f"{{{w},{w}}}",
        "case by expansion": lambda w, r: f"${{unset_x,,}}{w}",
    }
    for name, change in spelled.items():
        _register(name, _on_word(change), name not in {"brace of one"})
    program: dict[str, Callable[[str, random.Random], str]] = {
        "glob for the program": lambda w, r: f"/bin/{w[:-1]}?",
        "bracket for the program": lambda w, r: f"/usr/bin/[{w[0]}]{w[1:]}",
        "relative program": lambda w, r: f"./{w}",
        "program from elsewhere": lambda w, r: f"/opt/x/{w}",
        "full-width letters": lambda w, r: "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in w),
        "look-alike letter": lambda w, r: w.translate(str.maketrans("aeopcyxs", "аеорсухѕ")),
        "zero-width space": lambda w, r: w[:1] + "\u200b" + w[1:],
        "right-to-left": lambda w, r: "\u202e" + w,
        "upper case": lambda w, r: w.upper(),
    }
    for name, change in program.items():
        _register(name, _on_word(change, "program"), False)


def _lines() -> None:
    wrapped = {
        "wrapper env": "env LANG=C @",
        "wrapper nice": "nice -n 5 @",
        "wrapper nohup": "nohup @",
        "wrapper timeout": "timeout 60 @",
        "wrapper stdbuf": "stdbuf -oL @",
        "wrapper setsid": "setsid @",
        "wrapper command": "command @",
        "wrapper chain": "nice timeout 9 env LANG=C command @",
        "wrapper sudo": "sudo @",
        "split string": "!env -S '@'",
        "builtin exec": "exec @",
        "builtin eval": "!eval '@'",
        "busybox": "busybox @",
        "time": "time @",
        "negation": "! @",
        "group": "{ @; }",
        "subshell": "( @ )",
        "background": "@ &",
        "if": "if true; then @; fi",
        "else": "if false; then ls; else @; fi",
        "while": "while true; do @; break; done",
        "for": "for i in 1 2; do @; done",
        "for over the program": "!for x in @; do $x; done",
        "case": "case x in x) @;; esac",
        "function": "f() { @; }; f",
        "alias": "!alias ls='@'; ls",
        "trap": "!trap '@' EXIT",
        "coproc": "coproc @",
        "after a list": "ls && @",
        "after a failure": "ls || @",
        "after a semicolon": "git status; @",
        "after a newline": "ls -la\n@",
        "after a background": "ls & @",
        "after a comment": "# read the files\n@",
        "comment at the end": "@ # dry run, harmless",
        "into a pipe": "@ | cat",
        "from a pipe": "echo yes | @",
        "inside echo": "echo $(@)",
        "inside quotes": 'echo "done: $(@)"',
        "inside backquotes": "!echo `@`",
        "inside a process substitution": "cat <(@)",
        "inside an output substitution": "ls > >(@)",
        "inside arithmetic": "!echo $((a[$(@)]))",
        "inside a test": "!test -v 'a[$(@)]'",
        "inside a condition": "[[ -n $(@) ]] && ls",
        "inside a default": "!echo ${HOME:-$(@)}",
        "inside an assignment": "x=$(@)",
        "inside a loop's words": "for x in $(@); do echo $x; done",
        "inside a here-document": "cat <<EOF\n$(@)\nEOF",
        "padding": "ls" + " " * 400 + "; @",
        "tabs": "ls;\t\t@",
        "blank lines": "\n\n\n@\n\n",
        "many commands": "ls; " * 55 + "@",
        "depth": "( " * 9 + "@" + " )" * 9,
        "quoted depth": "!bash -c 'bash -c \"@\"'",
        "bash -c": "!bash -c '@'",
        "sh -c in double quotes": '!sh -c "@"',
        "login shell": "!bash -lc '@'",
        "other shell": "!zsh -c '@'",
        "here-document to a shell": "bash <<EOF\n@\nEOF",
        "quoted here-document": "sh <<'EOF'\n@\nEOF",
        "here-string": "!bash <<< '@'",
        "echo to a shell": "!echo '@' | sh",
        "source of a substitution": "!source <(echo '@')",
        "arguments by xargs": "!echo x | xargs @",
        "xargs and a shell": "!echo x | xargs -I{} sh -c '@'",
        "find -exec": "!find . -maxdepth 0 -exec @ \\;",
        "watch": "!watch '@'",
        "parallel": "!parallel ::: '@'",
        "script -c": "!script -qc '@' /dev/null",
        "ssh": "!ssh localhost '@'",
        "python": "!python3 -c \"import os; os.system('@')\"",
        "perl": "!perl -e 'system(\"@\")'",
        "awk": "!awk 'BEGIN{system(\"@\")}'",
        "sed": "!sed '1e @' /etc/hostname",
        "vim": "!vim -c ':!@' -c q",
        "git alias": "!git -c alias.x='!@' x",
        "tar checkpoint": "!tar cf /dev/null --checkpoint-action=exec='@' x",
        "loader variable": "LD_PRELOAD=./x.so @",
        "path variable": "PATH=/tmp:$PATH @",
        "startup variable": "BASH_ENV=./x @",
        "pager variable": "GIT_PAGER=./x @",
        "splitting variable": "IFS=,; @",
        "odd redirect": "2>&1 @",
        "named descriptor": "{fd}>/dev/null @",
        "redirect first": "</dev/null @",
        "write redirect": "@ > ~/.bashrc",
        "carriage return": "ls\r@",
        "escape sequence": "ls \x1b[2K; @",
        "no-break space": "ls\u00a0; @",
        "line separator": "ls\u2028@",
        "read from a here-string": "!read -r x <<< '@'; $x",
    }
    hidden = {"splitting variable", "carriage return", "line separator", "alias", "parallel", "arguments by xargs"}
    for name, form in wrapped.items():
        _register(name, _plain(form), name not in hidden)

    def by_variable(line: str, chance: random.Random) -> str | None:
        first, _, rest = line.partition(" ")
        return f"x={first}; $x {rest}" if PLAIN.fullmatch(line) else None

    def by_two(line: str, chance: random.Random) -> str | None:
        first, _, rest = line.partition(" ")
        return f"a={first[:1]}; b={first[1:]}; $a$b {rest}" if PLAIN.fullmatch(line) else None

    def argument(line: str, _: random.Random) -> str | None:
        first, blank, rest = line.rpartition(" ")
        return f'x={rest}; {first} "$x"' if blank and PLAIN.fullmatch(line) else None

    def loop(line: str, _: random.Random) -> str | None:
        first, blank, rest = line.rpartition(" ")
        return f"for x in {rest}; do {first} $x; done" if blank and PLAIN.fullmatch(line) else None

    def encoded(line: str, _: random.Random) -> str | None:
        return f"echo {base64.b64encode(line.encode()).decode()} | base64 -d | sh"

    def turned(line: str, _: random.Random) -> str | None:
        return f"echo {_single(line[::-1])} | rev | bash"

    def translated(line: str, _: random.Random) -> str | None:
        return f"echo {_single(line.swapcase())} | tr 'A-Za-z' 'a-zA-Z' | sh"

    def hexadecimal(line: str, _: random.Random) -> str | None:
        return f"echo {line.encode().hex()} | xxd -r -p | sh"

    def printed(line: str, _: random.Random) -> str | None:
        return "printf '" + "".join(f"\\{ord(c):03o}" for c in line if ord(c) < 128) + "' | sh"

    def braces(line: str, _: random.Random) -> str | None:
        return (
            "{" + ",".join(line.split(" ")) + "}" if PLAIN.fullmatch(line) and "," not in line and " " in line else None
        )

    def separators(line: str, _: random.Random) -> str | None:
        return line.replace(" ", "${IFS}") if PLAIN.fullmatch(line) and " " in line else None

    def positional(line: str, _: random.Random) -> str | None:
        return f"set -- {line}; $@" if PLAIN.fullmatch(line) else None

    def indirect(line: str, chance: random.Random) -> str | None:
        first, _, rest = line.partition(" ")
        return f"x={first}; y=x; ${{!y}} {rest}" if PLAIN.fullmatch(line) else None

    def transformed(line: str, _: random.Random) -> str | None:
        return f"x={_single('$(' + line + ')')}; echo ${{x@P}}"

    def sliced(line: str, chance: random.Random) -> str | None:
        first, _, rest = line.partition(" ")
        return f"x=xx{first}; ${{x:2}} {rest}" if PLAIN.fullmatch(line) else None

    def continued(line: str, _: random.Random) -> str | None:
        return line.replace(" ", " \\\n ", 1) if PLAIN.fullmatch(line) and " " in line else None

    def spaced(line: str, _: random.Random) -> str | None:
        return line.replace(" ", "  \t ") if PLAIN.fullmatch(line) else None

    def array(line: str, _: random.Random) -> str | None:
        return f"x=({line}); " + '"${x[@]}"' if PLAIN.fullmatch(line) else None

    made: dict[str, tuple[Make, bool]] = {
        "program in a variable": (by_variable, True),
        "program in two variables": (by_two, False),
        "argument in a variable": (argument, True),
        "argument of a loop": (loop, True),
        "base64 to a shell": (encoded, False),
        "reversed to a shell": (turned, False),
        "translated to a shell": (translated, False),
        "hexadecimal to a shell": (hexadecimal, False),
        "printf to a shell": (printed, False),
        "brace expansion of the line": (braces, False),
        "IFS for blanks": (separators, False),
        "positional parameters": (positional, True),
        "indirection": (indirect, False),
        "prompt transform": (transformed, False),
        "slice": (sliced, False),
        "continuation between words": (continued, True),
        "odd blanks": (spaced, True),
        "array": (array, True),
    }
    CLASSES.update(made)


_words()
_lines()


def dangerous(lines: Sequence[Line]) -> list[Line]:
    """Lines to hide: not R0, short, and one line of plain ASCII."""
    return [
        line
        for line in lines
        if line.risk != "R0" and len(line.command) < 300 and re.fullmatch(r"[ -~]+", line.command)
    ]


def mutants(seeds: Sequence[Line], count: int, seed: int = 6) -> Iterator[Mutant]:
    """`count` mutants, every class in turn over seeds in an order that `seed` fixes; none equal to another."""
    chance = random.Random(seed)
    names = sorted(CLASSES)
    seen = {line.command for line in seeds}
    made = tried = 0
    while made < count and tried < count * 50:
        name = names[tried % len(names)]
        tried += 1
        line = seeds[chance.randrange(len(seeds))]
        make, same = CLASSES[name]
        text = make(line.command, random.Random(zlib.crc32(f"{name} {line.command} {tried}".encode())))
        if text is None or text in seen:
            continue
        seen.add(text)
        made += 1
        yield Mutant(text, line, name, same)


def main() -> int:
    from concurrent.futures import ThreadPoolExecutor

    from deployments.gate.bundle import load_bundle
    from deployments.gate.classify import Classifier
    from deployments.gate.shell.reader import ShellReader
    from deployments.ports import Risk

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--bundle", default="default")
    given = parser.parse_args()
    classifier = Classifier(load_bundle(given.bundle), ShellReader(20.0))
    found = list(mutants(dangerous(corpus()), given.count))

    def broken(mutant: Mutant) -> str | None:
        result = classifier.classify("shell", {"command": mutant.text})
        if result.outcome == "release":
            return "released"
        alone = classifier.classify("shell", {"command": mutant.seed.command}).risk
        return "milder" if mutant.same and result.risk.rank < Risk(alone).rank else None

    faults: Counter[tuple[str, str]] = Counter()
    with ThreadPoolExecutor(4) as pool:
        for mutant, fault in zip(found, pool.map(broken, found), strict=True):
            if fault is not None:
                faults[fault, mutant.name] += 1
                if fault == "released" or faults[fault, mutant.name] <= 3:
                    sys.stdout.write(
                        json.dumps([fault, mutant.name, mutant.seed.risk, mutant.seed.command, mutant.text]) + "\n"
                    )
    classes = len({mutant.name for mutant in found})
    sys.stdout.write(f"{len(found)} mutants of {classes} classes; broken: {dict(faults)}\n")
    return 1 if any(fault == "released" for fault, _ in faults) else 0


if __name__ == "__main__":
    raise SystemExit(main())
