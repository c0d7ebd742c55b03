"""The only place of `deployments/` that reads a clock.

Pure code takes `now` as an argument; a deployment takes a `Clock` in its constructor, and tests pass a `FixedClock`.
"""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Two clocks: wall time for records, monotonic time for deadlines."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean something."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds on the system's monotonic clock."""
        return time.monotonic()  # noqa: TID251 - this module is the place the ban points to


@dataclass(slots=True)
class FixedClock:
    """A clock that moves only when told to."""

    ms: int = 1_767_225_600_000

    def now_ms(self) -> int:
        """The time it was set to, in milliseconds."""
        return self.ms

    def monotonic_s(self) -> float:
        """The same time in seconds."""
        return self.ms / 1000

    def advance(self, ms: int) -> None:
        """Move forward by `ms` milliseconds."""
        self.ms += ms
