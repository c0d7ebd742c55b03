"""A command line read once, by both parsers, and remembered: the only way from text to commands."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

from deployments.gate.shell.agree import check_agreement
from deployments.gate.shell.atoms import Atom, Unprovable, check_characters
from deployments.gate.shell.parse import shfmt_binary, statements_of_each, syntax_tree
from deployments.gate.shell.portable import check_portable
from deployments.gate.shell.reduce import Node, reduce

MAX_REMEMBERED = 4096
_TOGETHER = 64


class ShellReader:
    """Reads command lines. Safe to use from several threads; every answer is a pure function of the text.

    Only readings are remembered, never a parser that was missing, slow or at odds with the other one.
    """

    def __init__(self, timeout_s: float = 0.25, binary: Path | None = None) -> None:
        self._timeout_s = timeout_s
        self._binary = binary or shfmt_binary()
        self._remembered: OrderedDict[bytes, tuple[Atom, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["ShellReader"], tuple[float, Path | None]]:
        """A reader travels without what it remembers; on another machine it looks for its own parser."""
        return ShellReader, (self._timeout_s, None)

    def read(self, text: str) -> tuple[Atom, ...]:
        """The simple commands of `text` to bash, or `Unprovable`."""
        return self._read(text, portable=False)

    def read_portable(self, text: str) -> tuple[Atom, ...]:
        """The simple commands of `text` to any shell of the family, or `Unprovable`."""
        return self._read(text, portable=True)

    def _read(self, text: str, portable: bool) -> tuple[Atom, ...]:
        check_characters(text)
        key = _key(text, portable)
        with self._lock:
            known = self._remembered.get(key)
            if known is not None:
                self._remembered.move_to_end(key)
                return known
        tree = syntax_tree(text, self._binary, self._timeout_s)
        if portable:
            check_portable(tree)
        return self._understood(key, tree, text, text)

    def learn(self, texts: Iterable[str]) -> None:
        """Read many lines with few processes, so that `read` finds them remembered; the answers are the same.

        A line that has to be read alone (`statements_of_each`), or cannot be read at all, is left to `read`.
        """
        wanted: dict[bytes, str] = {}
        for text in texts:
            if (key := _key(text)) not in self._remembered:
                wanted[key] = text
        lines = list(wanted.values())
        for start in range(0, len(lines), _TOGETHER):
            self._learn_together(lines[start : start + _TOGETHER])

    def _learn_together(self, lines: Sequence[str]) -> None:
        try:
            for text in lines:
                check_characters(text)
            whole, found = statements_of_each(lines, self._binary, self._timeout_s)
        except Unprovable:
            if len(lines) > 1:
                half = len(lines) // 2
                self._learn_together(lines[:half])
                self._learn_together(lines[half:])
            return
        for text, statements in zip(lines, found, strict=True):
            if statements:
                try:
                    self._understood(_key(text), {"Stmts": list(statements)}, text, whole)
                except Unprovable:
                    continue

    def _understood(self, key: bytes, tree: Node, text: str, whole: str) -> tuple[Atom, ...]:
        """What `tree` runs, if both parsers agree on it; its positions are those in `whole`, which holds `text`."""
        reading = reduce(tree, text, whole)
        if not reading.shapes and not _only_comments(text):
            raise Unprovable("there is no command in it")
        check_agreement(text, reading.shapes)
        with self._lock:
            self._remembered[key] = reading.atoms
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return reading.atoms


def _only_comments(text: str) -> bool:
    """True for a text of comments, and at least one of them: it runs nothing."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return bool(lines) and all(line.startswith("#") for line in lines)


def _key(text: str, portable: bool = False) -> bytes:
    # No text holds a NUL that comes as far as this.
    return hashlib.sha256((b"\0" if portable else b"") + text.encode("utf-8", "surrogatepass")).digest()
