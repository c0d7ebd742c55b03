"""What was used and what it cost: values that cross the ledger's port.

Times are milliseconds since the epoch, UTC. Money is integer millionths ("micros") of the currency of the price table.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Protocol


class Dimension(StrEnum):
    """What totals can be split by. `MODEL` is the name that was asked for, `SERVED_MODEL` the one that did the work."""

    TENANT = "tenant"
    TEAM = "team"
    KEY = "key"
    MODEL = "model"
    SERVED_MODEL = "served_model"
    TIER = "tier"
    REASON = "reason"
    OUTCOME = "outcome"


class Bucket(StrEnum):
    """A stretch of time that totals can be split by; both begin where UTC has a whole one."""

    HOUR = "hour"
    DAY = "day"

    @property
    def ms(self) -> int:
        """Its length."""
        return 3_600_000 if self is Bucket.HOUR else 86_400_000


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which settled requests: those of a tenant (None: of all) that were admitted in `from_ms <= t < to_ms`.

    None leaves an end open. A row of an earlier version, which does not know when it was admitted, counts when it was
    settled.
    """

    tenant: str | None
    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Sums over settled requests, each 0 or more. `cached_tokens` are part of the input, reasoning of the output.

    A request that was answered in two attempts (a cascade) was settled twice.
    """

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int = 0

    def __add__(self, other: "UsageSum") -> "UsageSum":
        return UsageSum(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True, slots=True)
class UsageLine:
    """One group. `group` has a value for each of the dimensions asked for; None where a row has none.

    `start_ms` is where the bucket begins, None without buckets. `estimated` is the part of `sum` that the engine never
    confirmed.
    """

    group: tuple[str | None, ...]
    start_ms: int | None
    sum: UsageSum
    estimated: UsageSum


@dataclass(frozen=True, slots=True)
class Saving:
    """What routing has probably saved, against a house that sends every routed request to `compared_with`.

    `saved_micros = would_have_cost_micros - cost_micros - thrown_away_micros`, and can be negative. The first two are
    of the `requests` that the base tier answered by the router's choice; `thrown_away_micros` is what attempts of
    cascades cost that no client got. `left_out` counts routed requests whose tokens were estimated or had no price.
    """

    compared_with: str
    requests: int
    cost_micros: int
    would_have_cost_micros: int
    thrown_away_micros: int
    left_out: int

    @property
    def saved_micros(self) -> int:
        """The estimate."""
        return self.would_have_cost_micros - self.cost_micros - self.thrown_away_micros


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Totals of a query, all of one moment. `lines` are ordered by bucket, then by group, and add up to `total`.

    `unpriced_models` were used without a price, or are needed for the estimate and have none. `saving` None: there is
    no strong tier, or it has no price.
    """

    currency: str
    lines: tuple[UsageLine, ...]
    total: UsageSum
    estimated: UsageSum
    unpriced_models: tuple[str, ...]
    saving: Saving | None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One settlement. None: the row is of an earlier version, or there is no such thing (`team`, `tier`)."""

    settled_ms: int
    grant_id: str
    tenant: str
    team: str | None
    key_id: str
    request_id: str
    model: str
    served_model: str | None
    tier: str | None
    reason: str | None
    outcome: str | None
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: bool
    admitted_ms: int | None
    cost_micros: int | None


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in the order of settlements: after the row of this id, or before all rows of `settled_ms` without one."""

    settled_ms: int
    grant_id: str = ""


@dataclass(frozen=True, slots=True)
class UsagePage:
    """Rows in the order of their places. `more`: there is at least one more behind them.

    All rows that were settled before `complete_ms` are there to be read, and none of them comes later: whoever has read
    to the end goes on from `Place(complete_ms)` and misses nothing.
    """

    rows: tuple[UsageRow, ...]
    complete_ms: int
    more: bool


class UsageBooks(Protocol):
    """What the ledger's books say of usage."""

    async def usage_report(
        self, query: UsageQuery, by: tuple[Dimension, ...] = (), bucket: Bucket | None = None
    ) -> UsageReport:
        """Totals; `InvalidRequest` when there would be too many lines."""
        ...

    async def usage_rows(
        self, query: UsageQuery, after: Place | None = None, complete_ms: int | None = None, limit: int = 500
    ) -> UsagePage:
        """At most `limit` rows after a place. `complete_ms` is that of the first page, so that all pages end alike."""
        ...
