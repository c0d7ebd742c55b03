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
