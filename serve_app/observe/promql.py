"""The names in a PromQL expression. No parser: Prometheus' own promtool says whether an expression is one."""

import re
from collections.abc import Set
from typing import Final

_STRINGS: Final = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_RANGES: Final = re.compile(r"\[[^\]]*\]")
_GROUPINGS: Final = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTORS: Final = re.compile(r"\{([^}]*)\}")
_NAMES: Final = re.compile(r"(?<![\w.])[A-Za-z_:][\w:]*")
_LABELS: Final = re.compile(r"([A-Za-z_]\w*)\s*(?:=~|!~|!=|=)")
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})


def metrics(expression: str) -> Set[str]:
    """Every metric that the expression reads. Grafana's variables (`$__range`) are taken as part of a range."""
    bare = _SELECTORS.sub(" ", _GROUPINGS.sub(" ", _RANGES.sub(" ", _STRINGS.sub('""', expression))))
    found = set[str]()
    for match in _NAMES.finditer(bare):
        called = bare[match.end() :].lstrip().startswith("(")
        word = match.group()
        # An aggregation whose grouping stood before its bracket is followed by the bracket now, too.
        if not called and word.lower() not in _WORDS:
            found.add(word)
    return found


def labels(expression: str) -> Set[str]:
    """Every label that it selects or groups by."""
    bare = _STRINGS.sub('""', expression)
    grouped = {name.strip() for _, names in _GROUPINGS.findall(bare) for name in names.split(",")}
    selected = {name for inside in _SELECTORS.findall(bare) for name in _LABELS.findall(inside)}
    return {name for name in grouped | selected if name}
