"""What a line that cannot be read might do: words torn out of quotes and code, for a guess that can only raise."""

import re
import shlex
from collections.abc import Container, Iterator
from itertools import takewhile

from deployments.gate.shell.atoms import Unprovable, ansi_c

MAX_COMMON_WORD = 8


def undone(text: str) -> str:
    """`text` with the usual disguises taken off: quotes, escapes, `$(echo X)`, `${x:-X}`, `$IFS`."""
    text = re.sub(r"\$'((?:[^'\\]|\\.)*)'", lambda found: _spelled(found[1]), text)
    text = re.sub(r"\$(?=[\"'])", "", text)
    for name, value in re.findall(r"\b([A-Za-z_]\w*)=([^\s;&|'\"$]+)", text)[:8]:
        text = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", lambda _, value=value: value, text)
    for _ in range(3):
        text = re.sub(r"\$\((?:echo|printf(?: %s)?)\s+([^()`$]*)\)|`(?:echo|printf(?: %s)?)\s+([^`]*)`", r"\1\2", text)
    text = re.sub(r"\$\{\w+:?[-=+]([^{}]*)\}", r"\1", text)
    text = re.sub(r"\$\{IFS\}|\$IFS(\$9)?", " ", text)
    text = re.sub(r"\$\{\w+[,^@]*\w?\}|\$[@*0-9]|\$[a-z_]\w*", "", text)
    return re.sub(r"\\\n|[\\\"']", "", text)


def _spelled(text: str) -> str:
    try:
        return ansi_c(text)
    except Unprovable:
        return text


def torn(text: str, programs: Container[str]) -> Iterator[list[str]]:
    """Words of what looks like commands anywhere in `text`: with quotes as the shell reads them, and without."""
    for found in re.finditer(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", text):
        if found[0] not in programs:
            continue
        rest = text[found.start() :]
        before = text[: found.start()]
        # A lone short word late in a command (`python manage.py init`) is a word like any other. Each command of a list
        # begins anew, so that a list is worth no less than its commands.
        alone = len(re.split(r"[;&|\n]", before)[-1].split()) < 2 or len(found[0]) > MAX_COMMON_WORD
        quotes = [mark for mark in "'\"" if mark in before and mark in rest]
        for whole in [rest, *(rest[: rest.rfind(mark)] for mark in quotes)]:
            lexer = shlex.shlex(whole, posix=True, punctuation_chars=True)
            lexer.whitespace_split, lexer.commenters = True, ""
            try:
                words = list(takewhile(lambda word: not word or not set(word) <= set(";|&()<>"), lexer))
            except ValueError:
                continue
            if len(words) > 1 or alone:
                yield words
            break
        plain = re.split(r"[;&|\n(){}`$<>,\[\]]", re.sub(r"\\\n|[\\\"']", "", rest), maxsplit=1)[0].split()
        if len(plain) > 1 or alone:
            yield plain
