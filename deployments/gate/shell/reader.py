"""A command line read once, by both parsers, and remembered: the only way from text to commands."""

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

from deployments.gate.shell.agree import check_agreement
from deployments.gate.shell.atoms import Atom, Unprovable, check_characters
from deployments.gate.shell.parse import shfmt_binary, syntax_tree
from deployments.gate.shell.reduce import reduce

MAX_REMEMBERED = 4096


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
        """The simple commands of `text`, or `Unprovable`."""
        check_characters(text)
        digest = hashlib.sha256(text.encode("utf-8")).digest()
        with self._lock:
            known = self._remembered.get(digest)
            if known is not None:
                self._remembered.move_to_end(digest)
                return known
        reading = reduce(syntax_tree(text, self._binary, self._timeout_s), text)
        if not reading.shapes:
            raise Unprovable("there is no command in it")
        check_agreement(text, reading.shapes)
        atoms = reading.atoms
        with self._lock:
            self._remembered[digest] = atoms
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return atoms
