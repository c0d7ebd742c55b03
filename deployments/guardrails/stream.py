"""A text that arrives in pieces, masked as if it had come whole.

What is known to be no part of a match goes on at once; the rest waits for the next cut (`segments.py`), which in prose
is the next word. So at most `WINDOW` characters wait, and what goes on does not depend on how the text was cut.
"""

import re
from typing import Final

from deployments.guardrails.look import Look
from deployments.guardrails.rules import LONGEST
from deployments.guardrails.scan import Piece, apply
from deployments.guardrails.segments import AHEAD, keys_of, last_cut
from deployments.guardrails.values import Span

WINDOW: Final = 2 * LONGEST
"""Characters without a cut that are waited for; then all goes on that no match can reach any more."""

_CONTEXT: Final = 64  # characters that have gone on and are still looked at
_PLAIN: Final = re.compile(r"[0-9@=:_]|[-.][0-9A-Za-z-]|[A-Z]{12}")  # each match of every rule holds one of these


class TextScreen:
    """One text. `blocked` from the piece on in which something stands that must not be said."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._buffer = ""
        self._from = 0  # where in the buffer the part begins that has not gone on
        self._searched = 0  # up to here there is no cut in it
        self.blocked = False

    @property
    def held(self) -> int:
        """Characters that wait."""
        return len(self._buffer) - self._from

    def feed(self, piece: str) -> str:
        """The next piece; answers what may go on. `GuardrailUnavailable` as `Look` says."""
        if self.blocked:
            return ""
        self._buffer += piece
        return self._go(whole=False)

    def end(self) -> str:
        """The text has ended; answers what has waited. Another text may follow."""
        out = "" if self.blocked else self._go(whole=True)
        self._buffer, self._from, self._searched = "", 0, 0
        return out

    def _go(self, whole: bool) -> str:
        text, out = self._buffer, list[str]()
        keys = keys_of(text, self._from, whole)
        safe = at = self._from  # up to `safe` it is cut; from `at` on nothing has been looked at
        while not self.blocked:
            begin = safe if keys else max(safe, min(self._searched - AHEAD, safe + WINDOW))
            cut = last_cut(text, begin, safe + WINDOW, keys)
            if cut is not None:
                safe = cut
            elif len(text) - safe >= WINDOW + AHEAD:
                out.append(self._pass(text, at, safe))
                at = safe = self._force(text, safe, out)
            else:
                break
        if whole:
            safe = len(text)
        out.append(self._pass(text, at, safe))
        keep = max(0, safe - _CONTEXT)
        self._buffer, self._from = text[keep:], safe - keep
        self._searched = 0 if keys else len(self._buffer)
        return "".join(out)

    def _pass(self, text: str, begin: int, end: int) -> str:
        """A part that ends at a cut."""
        if begin >= end or self.blocked:
            return ""
        if _PLAIN.search(text, begin, end) is None:
            return text[begin:end]
        return self._apply(text, begin, end, self._look.spans(text, begin, end))

    def _force(self, text: str, begin: int, out: list[str]) -> int:
        """Let the first half of a part without a cut go on, and the matches that begin in it; where the rest begins."""
        middle = begin + WINDOW - LONGEST
        spans: list[Span] = []
        for span in self._look.spans(text, begin, begin + WINDOW):
            if span.start < middle:
                spans.append(span)
                middle = max(middle, span.end) if span.end > middle else middle
        out.append(self._apply(text, begin, middle, spans))
        return middle

    def _apply(self, text: str, begin: int, end: int, spans: list[Span]) -> str:
        piece: Piece = apply(text, begin, end, spans, self._look.actions, self._look.tally)
        self.blocked = piece.blocked
        return piece.text
