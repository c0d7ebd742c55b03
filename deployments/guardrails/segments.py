"""Where a text may be cut so that no match of any rule stands on both sides. Pure.

Matches hold no white space but for few gaps: one blank between groups of digits and capitals (cards, IBANs, telephone
numbers), blanks around the sign of an assignment, the one after `Bearer` or `--password`, and the lines of a private
key. Every other gap is a cut, and so is what stands behind a letter of a script that no rule knows.
"""

import re
from typing import Final

WIDE: Final = "\u2e80"
"""From here on: Chinese, Japanese, Korean, and everything that no match holds."""

PEM_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
PEM_END: Final = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
PEM_CHARS: Final = 8000
"""Of a private key, from the begin of its first line on."""

AHEAD: Final = 8
"""How many characters behind a place decide at most whether it is a cut."""

_MOST_BLANKS: Final = 3  # in a gap within a match
_MARK_CHARS: Final = 64
_GROUP_END: Final = frozenset("0123456789)")
_GROUP_BEGIN: Final = frozenset("0123456789(")
_LEADS: Final = re.compile(r"(?:earer|EARER|asic|ASIC|--[0-9A-Za-z_-]{1,48})\Z")
_LEAD_CHARS: Final = 52
_AFTER_QUOTE: Final = frozenset(",}")
_QUOTES: Final = frozenset("\"'")


def is_cut(text: str, at: int) -> bool:
    """Whether nothing can stand on both sides of `text[at - 1:at]`'s end; not within a private key (see `keys_of`).

    False also where it is not known yet, because the text ends there.
    """
    last = text[at - 1]
    if last == "\n" or last >= WIDE:
        return True
    if last in _AFTER_QUOTE:
        return at > 1 and text[at - 2] in _QUOTES
    if last not in " \t":
        return False
    if text[max(0, at - _MOST_BLANKS - 1) : at].isspace() and at > _MOST_BLANKS:
        return True
    if at >= len(text) or text[at] in " \t=:!":
        return False
    start = at - 1
    while start > 0 and text[start - 1] in " \t":
        start -= 1
    if start == 0:
        return True
    left, right = text[start - 1], text[at]
    if left in "=:>":
        return False
    groups = left in _GROUP_END or "A" <= left <= "Z", right in _GROUP_BEGIN or "A" <= right <= "Z"
    if all(groups):
        return False
    return _LEADS.search(text, max(0, start - _LEAD_CHARS), start) is None


def keys_of(text: str, begin: int, whole: bool) -> list[tuple[int, int]]:
    """Where private keys stand in `text[begin:]`. One that has not ended yet does so at the end, unless it is `whole`.

    A begin that is not followed by an end within `PEM_CHARS` is none.
    """
    found: list[tuple[int, int]] = []
    if text.find("-----", begin) < 0:
        return found
    match = PEM_BEGIN.search(text, begin)
    while match is not None:
        most = match.start() + PEM_CHARS
        end = PEM_END.search(text, match.end(), min(len(text), most))
        if end is not None:
            found.append((match.start(), end.end()))
        elif not whole and len(text) < most + _MARK_CHARS:
            found.append((match.start(), len(text) + 1))
            break
        match = PEM_BEGIN.search(text, match.end() if end is None else end.end())
    return found


def last_cut(text: str, begin: int, most: int, keys: list[tuple[int, int]]) -> int | None:
    """The last cut in `text` behind `begin` and not behind `most`; None when there is none."""
    at = min(most, len(text))
    while at > begin:
        inside = next(((start, end) for start, end in keys if start < at < end), None)
        if inside is not None:
            at = inside[0]
            continue
        if is_cut(text, at):
            return at
        at -= 1
    return None
