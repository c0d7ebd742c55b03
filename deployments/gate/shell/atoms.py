"""What a command line runs, as values: words, redirects, commands; and the quoting rules that both readers share."""

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import TypeAlias

MAX_CHARACTERS = 10_000
MAX_COMMANDS = 50
MAX_RUNS = 400  # loops over literal words are unrolled
MAX_DEPTH = 6
MAX_BRACES = 64
PIPED = ("/dev/stdin",)  # where the name of a process substitution leads

_NAMED_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "?": "?",
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
    "E": "\x1b",
    "f": "\f",
    "r": "\r",
    "v": "\v",
}
_ANSI_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|([0-7]{1,3})|(.))", re.S)


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command. `text` is its value, or None when it is not provable before running.

    `glob` marks unquoted `*`, `?` or `[` in `text`: the shell may replace the word by file names. `loose` says that
    the shell may split it into several words, or drop it; `several` that it may be replaced by more words than one, for
    this reason or by an unquoted glob in it. `form` is the word as both readers must see it, expansions marked, when it
    holds one. `starts` is what a word of unknown value surely begins with. `below` are paths (perhaps with globs) when
    the word is known to be the name of an existing file that one of them covers. `symbolic`: `.` in the text stands for
    the working directory, whose own letters are not known: a path, but no code and no name.

    `pieces` are the parts of a word of unknown value, in order: text that is known, and where the rest comes from. What
    that may be is for those to say who know the programs (`outputs.resolved`): then `kind` names what the whole word is
    (`outputs.KINDS`), and `of` the things that it names; `dashless` says that it, or any word of it, surely begins with
    no dash. `items` are the elements of an array. `exact` are the two texts that a glob may stand for whose brackets
    each match one character (`a[0]`): itself, and the only name that it can match.
    """

    text: str | None
    glob: bool = False
    loose: bool = False
    form: str | None = None
    starts: str = ""
    below: tuple[str, ...] = ()
    several: bool = False
    symbolic: bool = False
    pieces: "tuple[str | Source, ...]" = ()
    kind: str = ""
    of: tuple[str, ...] = ()
    dashless: bool = False
    items: "tuple[Word, ...] | None" = None
    exact: tuple[str, ...] = ()

    @property
    def shape(self) -> str:
        """What the two readers compare."""
        return self.form if self.form is not None else self.text or ""


class Cut(StrEnum):
    """How much of an output a value holds: all, a line, a record (up to NUL), a word, or a field that may be empty."""

    WHOLE = "whole"
    LINE = "line"
    RECORD = "record"
    WORD = "word"
    FIELD = "field"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a text comes from that is only known when it runs.

    The output of `atom`, the last command of a pipe, as `cut` has it; or, without one, the shell itself: `kind` says
    what it makes (`number`, `integer`), or which argument of the script it is (`$1`, `$@`). Nothing of all this: it is
    not known. `weight` counts the commands behind it.
    """

    atom: "Atom | None" = None
    cut: Cut = Cut.WHOLE
    kind: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirection: `operator` as written, `target` the file, descriptor or fed text."""

    operator: str
    target: Word


@dataclass(frozen=True, slots=True)
class Atom:
    """One simple command: what would be executed, with what set and what redirected.

    `scope` names the subshells it runs in, outermost first; `feed` is the command whose output it reads in a pipe.
    `numbers` are words that the shell calculates with: it evaluates their text, so they must be numbers.
    """

    argv: tuple[Word, ...]
    assignments: tuple[tuple[str, Word], ...] = ()
    redirects: tuple[Redirect, ...] = ()
    scope: tuple[int, ...] = ()
    feed: "Atom | None" = None
    numbers: tuple[Word, ...] = ()


MAX_WEIGHT = 32  # commands that have a say in one value


def source_of(atom: Atom | None, cut: Cut = Cut.WHOLE) -> Source:
    """The output of `atom`; not known where so many commands are behind it that to follow them is work without end."""
    weight, each = 1, atom
    while each is not None:
        words = [*each.argv, *(redirect.target for redirect in each.redirects)]
        weight += 1 + sum(piece.weight for word in words for piece in word.pieces if isinstance(piece, Source))
        each = each.feed
    return Source(atom, cut, weight=weight) if weight <= MAX_WEIGHT else Source()


Shape: TypeAlias = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]]


class Unprovable(Exception):
    """The text may run something that cannot be known beforehand; the message says what stands in the way."""


def check_characters(text: str) -> None:
    """Raise `Unprovable` for text that is too long, or that readers and terminals may show or split differently."""
    if len(text) > MAX_CHARACTERS:
        raise Unprovable(f"the command is longer than {MAX_CHARACTERS} characters")
    for char in text:
        if char in "\n\t" or " " <= char <= "~":
            continue
        category = unicodedata.category(char)
        if ord(char) < 0xA0 or category in {"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"}:
            raise Unprovable(f"the command holds an invisible or control character (U+{ord(char):04X})")


def bare(raw: str) -> tuple[str, bool]:
    """Value of an unquoted piece of a word, and whether it holds an active glob character.

    Backslash quotes the next character, backslash-newline vanishes.
    """
    out: list[str] = []
    glob = False
    chars = iter(raw)
    for char in chars:
        if char == "\\":
            following = next(chars, None)
            if following is None:
                raise Unprovable("a trailing backslash")
            if following != "\n":
                out.append(following)
        else:
            glob = glob or char in "*?["
            out.append(char)
    return "".join(out), glob


def exact(raw: str) -> tuple[str, ...]:
    """The texts that an unquoted glob may stand for if there are only two: itself, and one name; else none."""
    if not _EXACT.fullmatch(raw) or not _ONE_CHARACTER.search(raw):
        return ()
    return raw, _ONE_CHARACTER.sub(r"\1", raw)


def active(raw: str) -> str:
    """The characters of an unquoted piece that no backslash protects."""
    return re.sub(r"\\.", "", raw, flags=re.S)


def double_quoted(raw: str) -> str:
    """Value of literal text inside double quotes: backslash only quotes `$`, backquote, `"`, backslash and newline."""
    return re.sub(r'\\([$`"\\\n])', lambda found: "" if found[1] == "\n" else found[1], raw)


def ansi_c(raw: str) -> str:
    """Value of `$'...'` without its quotes, or `Unprovable` for what bash itself cuts or maps by locale."""

    def decode(found: re.Match[str]) -> str:
        hexadecimal = found[1] or found[2] or found[3]
        if hexadecimal is not None:
            return _character(int(hexadecimal, 16))
        if found[4] is not None:
            return _character(int(found[4], 8))
        if found[5] not in _NAMED_ESCAPES:
            raise Unprovable("an unusual escape in $'...'")
        return _NAMED_ESCAPES[found[5]]

    text = _ANSI_ESCAPE.sub(decode, raw)
    if any(char not in "\n\t" and ord(char) < 32 for char in text):
        raise Unprovable("a control character in $'...'")
    return text


def _character(code: int) -> str:
    if not 0 < code < 128:
        raise Unprovable("a character beyond ASCII in $'...'")
    return chr(code)


# Globs, and backslashes before them, are what they were without the braces.
_BRACED = re.compile(
    r"(?:[A-Za-z0-9_./:=@%+*?-]|(?<=[A-Za-z0-9])[~^]|\\[*?.])*"
    r"(?:\{[A-Za-z0-9_./:=@%+,*?-]*\}(?:[A-Za-z0-9_./:=@%+*?-]|\\[*?.])*)+"
)
_ONE_CHARACTER = re.compile(r"\[([A-Za-z0-9*])\]")
_EXACT = re.compile(rf"(?:[^\\*?\[\]~]|{_ONE_CHARACTER.pattern})+")
_BRACES = re.compile(r"\{([^{}]*)\}")
_SEQUENCE = re.compile(r"(-?[0-9]{1,4})\.\.(-?[0-9]{1,4})")
_LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")


def check_braces(active_text: str) -> None:
    """Raise `Unprovable` when the unquoted characters of a word may be a brace expansion."""
    opened, closed = active_text.find("{"), active_text.rfind("}")
    inside = active_text[opened : closed + 1] if closed > opened else active_text[opened:]
    if opened >= 0 and ("," in inside or ".." in inside):
        raise Unprovable("a brace expansion")


def braced(raw: str) -> list[str] | None:
    """The words that a plain, flat brace expansion stands for, unquoted as `bare` reads them; None when it is none.

    Only lists (`{a,b}`), counts (`{1..9}`, no leading zeros) and letters of one case (`{a..e}`) in words without
    quotes or expansions: bash makes exactly these words of them, before anything else happens.
    """
    if not _BRACED.fullmatch(raw):
        return None
    parts: list[list[str]] = []
    end = 0
    for found in _BRACES.finditer(raw):
        parts.append([raw[end : found.start()]])
        end = found.end()
        count = _SEQUENCE.fullmatch(found[1])
        if count is not None:
            first, last = int(count[1]), int(count[2])
            if {count[1], count[2]} != {str(first), str(last)} or abs(first - last) >= MAX_BRACES:
                return None
            step = 1 if last >= first else -1
            parts.append([str(number) for number in range(first, last + step, step)])
        elif (letters := _LETTERS.fullmatch(found[1])) is not None:
            first, last = ord(letters[1] or letters[3]), ord(letters[2] or letters[4])
            step = 1 if last >= first else -1
            parts.append([chr(code) for code in range(first, last + step, step)])
        elif "," in found[1] and ".." not in found[1]:
            parts.append(found[1].split(","))
        else:
            return None
    parts.append([raw[end:]])
    size = 1
    for part in parts:
        size *= len(part)
    if size > MAX_BRACES:
        return None
    words = ["".join(combination) for combination in product(*parts)]
    return words if all(words) else None
