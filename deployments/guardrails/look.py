"""One look at the texts of a request in one direction: what was found, and what happens when a detector cannot look."""

import logging
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

from deployments.guardrails.injection import attempts
from deployments.guardrails.scan import Actions, Piece, Scanner, apply
from deployments.guardrails.values import Detector, DetectorFailed, Direction, GuardrailUnavailable, Span, Tally

_log: Final = logging.getLogger("gatehouse.guardrails")
_WORTH_CHARS: Final = 512  # of a text that is worth remembering: conversations are sent again with every turn
_MOST_KNOWN: Final = 4096  # texts, of each tenant


class Look:
    """Fails closed where it is `required`; else the others go on without the detector that failed, which is told."""

    def __init__(
        self,
        scanner: Scanner,
        required: bool,
        direction: Direction,
        late: Callable[[], bool] | None = None,
        known: dict[bytes, tuple[Span, ...]] | None = None,
    ) -> None:
        """`late` says when the time is over. `known` holds what was found in texts before, by their digests."""
        self.tally = Tally()
        self.direction = direction
        self._scanner = scanner
        self._required = required
        self._late = late
        self._known = known

    @property
    def actions(self) -> Actions:
        """What is done about findings."""
        return self._scanner.actions

    @property
    def alters(self) -> bool:
        """Whether a text may leave otherwise than it came."""
        return self._scanner.alters

    def spans(self, text: str, begin: int = 0, end: int | None = None) -> list[Span]:
        """What the rules find. `GuardrailUnavailable` when one cannot look and had to."""
        while True:
            try:
                return self._scanner.spans(text, begin, end, self._late)
            except DetectorFailed as failure:
                self.failed(failure)

    def failed(self, failure: DetectorFailed) -> None:
        """A detector cannot look: `GuardrailUnavailable` where it had to, else it is left out from now on."""
        if self.tally.failed(failure):
            _log.error("guardrail %s cannot look at the %s: %s", failure.detector, self.direction, failure.why)
        if self._required:
            raise GuardrailUnavailable from None
        self._scanner = self._scanner.without(failure.detector)

    def screen(self, text: str) -> Piece:
        """A whole text as it may go on."""
        spans = self._remembered(text, b"spans", lambda: self.spans(text))
        return apply(text, 0, len(text), spans, self.actions, self.tally)

    def orders(self, text: str) -> Sequence[str]:
        """The kinds of signs that other people's text gives orders; see `injection.py`."""
        return [span.kind for span in self._remembered(text, b"orders", lambda: self._orders(text))]

    def _orders(self, text: str) -> list[Span]:
        try:
            if self._late is not None and self._late():
                raise DetectorFailed(Detector.INJECTION, "timeout")
            return [Span(0, len(text), Detector.INJECTION, kind) for kind in attempts(text)]
        except DetectorFailed as failure:
            self.failed(failure)
        except Exception as error:  # its text may hold what was looked at
            self.failed(DetectorFailed(Detector.INJECTION, type(error).__name__))
        return []

    def _remembered(self, text: str, what: bytes, find: Callable[[], Sequence[Span]]) -> Sequence[Span]:
        """What was found in this very text before, by its digest; nothing is remembered when not all could look."""
        if self._known is None or len(text) < _WORTH_CHARS:
            return find()
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32, person=what).digest()
        before = self._known.get(digest)
        if before is not None:
            return before
        found = find()
        if not self.tally.failures:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[digest] = tuple(found)
        return found
