"""What is counted of guardrails; `serve_app/api/guard_metrics.py` does so for Prometheus. No tenant, key or text."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from deployments.guardrails.values import Detector, Direction, Found


class GuardMeter(Protocol):
    """Counts findings and failures."""

    def looked(self, direction: Direction, seconds: float) -> None:
        """The texts of a request were looked at, which took so long."""
        ...

    def found(self, direction: Direction, found: Sequence[Found]) -> None:
        """What was found in one request or answer."""
        ...

    def failed(self, direction: Direction, failures: Mapping[Detector, str], refused: bool) -> None:
        """Detectors could not look, and why; `refused`: nothing was let by."""
        ...


class Uncounted:
    """Counts nothing. Implements `GuardMeter`."""

    def looked(self, direction: Direction, seconds: float) -> None:
        """Nothing."""

    def found(self, direction: Direction, found: Sequence[Found]) -> None:
        """Nothing."""

    def failed(self, direction: Direction, failures: Mapping[Detector, str], refused: bool) -> None:
        """Nothing."""
