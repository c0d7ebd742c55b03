"""What a command line runs, as values: words, redirects, commands; and the quoting rules that both readers share."""

import re
import unicodedata
from dataclasses import dataclass

MAX_CHARACTERS = 10_000
MAX_COMMANDS = 50
MAX_DEPTH = 6

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

    `glob` marks unquoted `*`, `?` or `[` in `text`: the shell may replace the word by file names.
    """

    text: str | None
    glob: bool = False


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirection: `operator` as written, `target` the file, descriptor or fed text."""

    operator: str
    target: Word


@dataclass(frozen=True, slots=True)
class Atom:
    """One simple command: what would be executed, with what set and what redirected."""

    argv: tuple[Word, ...]
    assignments: tuple[tuple[str, Word], ...] = ()
    redirects: tuple[Redirect, ...] = ()


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


def check_braces(active_text: str) -> None:
    """Raise `Unprovable` when the unquoted characters of a word may be a brace expansion."""
    opened = active_text.find("{")
    if opened >= 0 and ("," in active_text[opened:] or ".." in active_text[opened:]):
        raise Unprovable("a brace expansion")
