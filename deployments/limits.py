"""How much may be asked for, and where somebody stands: values that ports and errors both carry."""

from dataclasses import dataclass
from enum import StrEnum


class LimitKind(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Limit:
    """Where a key stands against one of its limits, this request included; `reset_s` 0: no fixed moment."""

    kind: LimitKind
    limit: int
    remaining: int
    reset_s: int


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What may be asked for in a minute, and how many requests may be open at once; None: no such limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None


class Priority(StrEnum):
    """How urgent a tenant's requests are where models are saturated. None starves: see `Share`."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Share:
    """What a tenant gets of a saturated model: tokens in proportion to `weight` (1 to 1000), among those who wait.

    `priority` orders whoever is owed alike, and is a larger or smaller part of the model, never all or nothing of it.
    """

    weight: int = 100
    priority: Priority = Priority.NORMAL


class Unit(StrEnum):
    """What a budget counts: tokens, input and output together, or millionths of the price table's currency."""

    TOKENS = "tokens"
    MICROS = "micros"


class Window(StrEnum):
    """How long a budget lasts before it is full again. Calendar windows are UTC, weeks begin on Monday.

    `fixed`: one window after the other, each `every_s` long, the first from `anchor_ms`. `total`: it never is again.
    """

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    FIXED = "fixed"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tenant, one of its teams, or a key may use in a window: `amount` >= 1 units.

    `team` and `key_id` both None: it is the whole tenant's. A request is charged to the window in which it was
    admitted. `alerts` are percentages of `amount` at which somebody is told, once a window. Not `hard`: it only tells.
    """

    budget_id: str
    tenant: str
    team: str | None
    key_id: str | None
    unit: Unit
    amount: int
    window: Window
    anchor_ms: int = 0
    every_s: int | None = None
    alerts: tuple[int, ...] = (50, 80, 100)
    hard: bool = True
    created_ms: int = 0

    @property
    def bearer(self) -> str:
        """Whoever it belongs to, as limits call it: `key key_1`, `team acme/web`, `tenant acme`."""
        if self.key_id is not None:
            return f"key {self.key_id}"
        return f"tenant {self.tenant}" if self.team is None else f"team {self.tenant}/{self.team}"


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget in its present window: what was used, what is set aside for open requests. `end_ms` None: no end.

    `currency`: of what micros are millionths. `told`: percentages that somebody was told of in this window.
    """

    budget: Budget
    start_ms: int
    end_ms: int | None
    used: int
    reserved: int
    told: tuple[int, ...] = ()
    currency: str = "USD"

    @property
    def remaining(self) -> int:
        """What the next request may set aside."""
        return max(0, self.budget.amount - self.used - self.reserved)
