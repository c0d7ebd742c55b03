"""Limits per minute, by the generic cell rate algorithm (ITU-T I.371): one number each, no list of past requests.

A limit of N a minute lets N through at once after a quiet minute, and N a minute for as long as one asks; no minute
sees more than twice N. Pure: times come in as nanoseconds of a clock that never goes back.
"""

from dataclasses import dataclass

MINUTE_NS = 60 * 10**9


@dataclass(slots=True)
class Rate:
    """One limit, of `per_minute` >= 1 units; `free_ns` is when nothing of what was taken counts any more."""

    per_minute: int
    free_ns: int = 0

    def wait_ns(self, amount: int, now_ns: int) -> int:
        """How long until `amount` units fit; 0: now.

        An amount beyond the whole limit fits when nothing else counts, and keeps later ones waiting for as long as it
        is worth: otherwise it would wait for ever.
        """
        behind = self._behind(now_ns)
        return min(behind, max(0, behind + self._worth(amount) - MINUTE_NS))

    def take(self, amount: int, now_ns: int) -> None:
        """Count `amount` units."""
        self.free_ns = max(self.free_ns, now_ns) + self._worth(amount)

    def give_back(self, amount: int) -> None:
        """Count `amount` units less: they were taken and not used. Below 0: more were used than taken."""
        self.free_ns -= self._worth(amount)

    def remaining(self, now_ns: int) -> int:
        """How many units fit now."""
        return max(0, MINUTE_NS - self._behind(now_ns)) * self.per_minute // MINUTE_NS

    def reset_s(self, now_ns: int) -> int:
        """Seconds until all units fit again, rounded up."""
        return -(-self._behind(now_ns) // 10**9)

    def _behind(self, now_ns: int) -> int:
        return max(0, self.free_ns - now_ns)

    def _worth(self, amount: int) -> int:
        return amount * MINUTE_NS // self.per_minute
