"""What `${name...}` makes of a value that is known: bash's own patterns, slices and changes of case, or not at all.

Only ASCII text and plain patterns; what depends on a locale, on options or on a second expansion is None: not known.
"""

import re

_CLASS = re.compile(r"\[([!^]?)([A-Za-z0-9_., @:+-]+)\]")
# Quotes take the meaning from what is in them, and are no part of the pattern; only such as hold no other quote.
_QUOTED = re.compile(r"'([^']*)'|\"([^\"\\$`]*)\"")
_NUMBER = re.compile(r" ?-?[0-9]{1,6}")


def pattern(raw: str) -> str | None:
    """A regular expression for the pattern `raw`, as it is written; None for all but letters, `*`, `?`, plain sets."""
    out: list[str] = []
    at = 0
    while at < len(raw):
        char = raw[at]
        if char == "*":
            out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "\\" and raw[at + 1 : at + 2] not in {"", "\n"}:
            at += 1
            out.append(re.escape(raw[at]))
        elif char in "'\"":
            quoted = _QUOTED.match(raw, at)
            if quoted is None:
                return None
            out.append(re.escape(quoted[1] or quoted[2] or ""))
            at = quoted.end() - 1
        elif char == "[":
            found = _CLASS.match(raw, at)
            if found is None:
                return None
            out.append(f"[{'^' if found[1] else ''}{found[2]}]")
            at = found.end() - 1
        elif char in "()|]{}~\\$`":
            return None
        else:
            out.append(re.escape(char))
        at += 1
    try:
        re.compile("".join(out))
    except re.error:
        return None
    return "".join(out)


def trimmed(value: str, operator: str, raw: str) -> str | None:
    """`${value%raw}` and its three brothers: the shortest or longest piece taken off one end, if one fits."""
    made = pattern(raw)
    if made is None or not value.isascii():
        return None
    ends = range(len(value), -1, -1) if operator in {"%", "##"} else range(len(value) + 1)
    for end in ends:
        piece, rest = (value[end:], value[:end]) if operator.startswith("%") else (value[:end], value[end:])
        if re.fullmatch(made, piece, re.S):
            return rest
    return value


def replaced(value: str, raw: str, by: str, everywhere: bool) -> str | None:
    """`${value/raw/by}`: the first, or every, longest piece that fits; None for anchors, and for `&` in `by`."""
    made = pattern(raw)
    # In quotes an anchor is none, but not in every bash.
    if made is None or not raw or raw.lstrip("'\"")[:1] in {"#", "%"} or set(by) & set("&\\") or not value.isascii():
        return None
    if re.fullmatch(made, ""):
        return None
    return re.sub(made, lambda _: by, value, count=0 if everywhere else 1, flags=re.S)


def cased(value: str, operator: str) -> str | None:
    """`${value^^}`, `,,`, `^`, `,`: upper or lower case, of all letters or the first one."""
    if not value.isascii():
        return None
    change = str.upper if operator.startswith("^") else str.lower
    return change(value) if len(operator) == 2 else change(value[:1]) + value[1:]


def sliced(value: str, offset: str, length: str | None) -> str | None:
    """`${value:offset:length}` with plain numbers; None where bash reports an error."""
    if not _NUMBER.fullmatch(offset) or (length is not None and not _NUMBER.fullmatch(length)):
        return None
    if any(re.fullmatch(r" ?-?0[0-9]+", number) for number in (offset, length or "0")):
        return None  # octal
    start = int(offset)
    if start < 0:
        start += len(value)
    if start < 0:
        return ""
    if length is None:
        return value[start:]
    count = int(length)
    end = start + count if count >= 0 else len(value) + count
    return None if end < start else value[start:end]
