"""Whether a file-name glob was made for a registered path: `.e*` for `*/.env`, `/etc/sh?dow` for `/etc/shadow*`.

`*.py` may match `my_secret.py` as well: such accidents are what reading a directory is, and that is judged by the
directory. What counts is that the letters of the glob itself spell a part of the pattern: two of them, or, for a
pattern with a fixed place, that nothing in the glob speaks against it.
"""

import re
from functools import lru_cache

_TOKEN = re.compile(r"\[[!^]?\]?[^]/]*\]|.", re.S)
_REGEX = re.compile(
    r"(?P<quoted>\\[^A-Za-z0-9])|(?P<any>\[\^?\]?[^\]]*\]|\\.|\.)|(?P<count>[*+?]|\{[0-9,]*\})|(?P<edge>[\^$])"
    r"|(?P<parts>[|()])|(?P<char>.)",
    re.S,
)
_NEVER = -(10**6)
EVIDENCE = 2


def _tokens(text: str) -> tuple[str, ...]:
    """Characters, with `*` for any number of them and `?` for one (a bracket expression is one)."""
    return tuple("?" if len(token) > 1 else token for token in _TOKEN.findall(re.sub(r"\*+", "*", text)))


def is_hidden(glob: str) -> bool:
    """True when a part of the path is a glob that names hidden files: `.e*`, `.[a-z]*/x`."""
    return any(part.startswith(".") and is_glob(part) for part in glob.split("/"))


def is_glob(text: str) -> bool:
    """True when the text has a wildcard of the shell."""
    return any(char in text for char in "*?[")


def of_regex(text: str) -> list[str]:
    """Globs for the file names that the regular expression `text` looks for, one per alternative.

    A bound for what it was made for, not a translation: what is optional or varies in it stands for any letters.
    """
    pieces: list[list[str]] = [[]]
    for token in _REGEX.finditer(text):
        piece = pieces[-1]
        match token.lastgroup:
            case "quoted" | "char":
                piece.append(token.group()[-1])
            case "any":
                piece.append("*")
            case "count":
                piece[-1:] = ["*"] if token.group() != "+" else [*piece[-1:], "*"]
            case "parts":
                pieces.append([])
            case _:
                continue  # an edge
    return [re.sub(r"\*+", "*", f"*{''.join(piece)}*") for piece in pieces if set(piece) - {"*"}]


@lru_cache(maxsize=8192)
def aims_at(glob: str, pattern: str) -> bool:
    """True when file names that `glob` covers match `pattern`, and the glob looks made for it.

    For all that lies in a directory (`/etc/kubernetes/*`) what counts is the directory: `/etc/k?bernetes/x` is made
    for it, whatever `x` is.
    """
    if _made_for(glob, pattern):
        return True
    if not pattern.endswith("/*"):
        return False
    places = (glob[:at] for at, char in enumerate(glob) if char == "/")
    return any(is_glob(place) and _made_for(place, pattern[:-2]) for place in places)


def _made_for(glob: str, pattern: str) -> bool:
    if "/." in pattern and "/." not in glob:
        return False  # no wildcard of the shell matches a leading dot
    fixed = pattern.split("*", 1)[0]
    literal = re.split(r"[*?\[]", glob, maxsplit=1)[0]
    if not (literal.startswith(fixed) or fixed.startswith(literal)):
        return False
    evidence, foreign = _overlap(_tokens(glob), _tokens(pattern))
    if evidence < 0:
        return False
    # What `*.json` shares with `*key.json` is a suffix that says nothing; what it shares with `*.pem` says all.
    suffix = re.search(r"\.[A-Za-z0-9]+$", glob)
    last = pattern.rpartition("/")[2].lstrip("*")
    if suffix is not None and pattern.endswith(suffix[0]) and not last.startswith("."):
        evidence -= len(suffix[0])
    return evidence >= EVIDENCE or (pattern.startswith(("/", "~")) and foreign == 0)


@lru_cache(maxsize=8192)
def may_be(glob: str, pattern: str) -> bool:
    """The same, more generously: true also when `pattern` names a place, and a name there may fit the glob."""
    place = pattern.split("*", 1)[0].removeprefix("./").strip("~/")
    if place and "/." not in pattern and _overlap(_tokens(glob), _tokens(pattern))[0] >= 0:
        return True
    return aims_at(glob, pattern)


def _overlap(glob: tuple[str, ...], pattern: tuple[str, ...]) -> tuple[int, int]:
    """The best common reading: how many letters of the last part of both agree, and how many the pattern's stars eat.

    (-1, 0) when no file name fits both.
    """
    last_glob = max((place for place, char in enumerate(glob) if char == "/"), default=-1)
    known: dict[tuple[int, int], tuple[int, int]] = {}

    def best(i: int, j: int) -> tuple[int, int]:
        if i == len(glob) and j == len(pattern):
            return (0, 0)
        if (i, j) in known:
            return known[i, j]
        known[i, j] = (_NEVER, 0)
        found = (_NEVER, 0)
        here = i > last_glob
        if i < len(glob) and glob[i] == "*":
            found = max(found, best(i + 1, j))
            starts = i == 0 or glob[i - 1] == "/"
            if j < len(pattern) and pattern[j] not in ({"*", "/", "."} if starts else {"*", "/"}):
                found = max(found, best(i, j + 1))
        if j < len(pattern) and pattern[j] == "*":
            found = max(found, best(i, j + 1))
            if i < len(glob) and glob[i] != "*":
                after = best(i + 1, j)
                found = max(found, (after[0], after[1] - (here and glob[i] != "?")))
        if i < len(glob) and j < len(pattern) and "*" not in (glob[i], pattern[j]):
            same = glob[i] == pattern[j]
            if same or (glob[i] == "?" and pattern[j] != "/") or pattern[j] == "?":
                after = best(i + 1, j + 1)
                found = max(found, (after[0] + (here and glob[i] != "/"), after[1]))
        known[i, j] = found
        return found

    evidence, foreign = best(0, 0)
    return (-1, 0) if evidence < 0 else (evidence, -foreign)
