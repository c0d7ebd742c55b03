"""Where a request can be traced, for whoever wants to; `serve_app/tracing.py` does so with OpenTelemetry."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from deployments.ingress.trail import Recorder
from deployments.ports import Difficulty, Engine, Gate, Ledger, ModelId

_AsgiApp = Callable[..., Awaitable[None]]


class Tracing(Protocol):
    """Wraps parts of an ingress replica. Changes nothing of what they answer or raise, and never sees a text."""

    def difficulty(self, inner: Difficulty) -> Difficulty:
        """The router."""
        ...

    def engine(self, model: ModelId, inner: Engine) -> Engine:
        """An engine; it is told of the trace."""
        ...

    def gate(self, inner: Gate) -> Gate:
        """The gate."""
        ...

    def ledger(self, inner: Ledger) -> Ledger:
        """The ledger, whose settlements say what was used."""
        ...

    def recorder(self, inner: Recorder) -> Recorder:
        """The audit trail of requests."""
        ...

    def app(self, inner: _AsgiApp) -> _AsgiApp:
        """The HTTP app, where traces begin."""
        ...

    def close(self) -> None:
        """Send what waits, for a few seconds at most; blocks."""
        ...


class Untraced:
    """Everything stays as it is. Implements `Tracing`."""

    def difficulty(self, inner: Difficulty) -> Difficulty:
        """The same."""
        return inner

    def engine(self, model: ModelId, inner: Engine) -> Engine:
        """The same."""
        del model
        return inner

    def gate(self, inner: Gate) -> Gate:
        """The same."""
        return inner

    def ledger(self, inner: Ledger) -> Ledger:
        """The same."""
        return inner

    def recorder(self, inner: Recorder) -> Recorder:
        """The same."""
        return inner

    def app(self, inner: _AsgiApp) -> _AsgiApp:
        """The same."""
        return inner

    def close(self) -> None:
        """Nothing waits."""
