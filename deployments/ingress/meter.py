"""What the journey reports to whoever counts; `serve_app/api/metrics.py` counts for Prometheus."""

from collections.abc import Sequence
from typing import Protocol

from deployments.ports import Dialect, ModelId, RouteDecision, Usage, Verdict


class Meter(Protocol):
    """Counts what happens to requests. Never sees a key, a session or any text."""

    def routed(self, decision: RouteDecision) -> None:
        """A turn was routed."""
        ...

    def judged(self, dialect: Dialect, verdicts: Sequence[Verdict]) -> None:
        """The gate gave its verdicts on the calls of one choice."""
        ...

    def waited(self, dialect: Dialect, seconds: float, verdicts: Sequence[Verdict]) -> None:
        """A stream has waited for an approval; `verdicts` are those that the wait has changed."""
        ...

    def withheld(self, dialect: Dialect, reasons: Sequence[str]) -> None:
        """What stayed of one reply, whatever the gate said: the words of `values.ReplyFilter.withheld`."""
        ...

    def repaired(self, notes: Sequence[str]) -> None:
        """The engine repaired malformed output."""
        ...

    def finished(
        self, dialect: Dialect, model: ModelId, outcome: str, duration_s: float, ttft_s: float | None, usage: Usage
    ) -> None:
        """A generation ended: `completed`, `failed` or `aborted`.

        `ttft_s`: until the first byte of a stream, waits for approvals left out; None where there was none.
        """
        ...

    def paced(self, model: ModelId, seconds: float) -> None:
        """A stream was answered to its end, with so many seconds between two of its tokens."""
        ...

    def took(self, dialect: Dialect, seconds: float) -> None:
        """A request was answered, and for so long no call of an engine was open for it."""
        ...

    def abandoned(self, model: ModelId, usage: Usage) -> None:
        """An attempt of a cascade was not sent; its tokens were used all the same."""
        ...
