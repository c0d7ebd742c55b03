"""What is known of a running Gatehouse at one moment. Whatever nobody could see is an `Unseen`, with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unseen:
    """Not seen, and why: a scope that the key lacks, a part that is not configured, an answer that did not come."""

    why: str


Maybe: TypeAlias = T | Unseen


@dataclass(frozen=True, slots=True)
class Replica:
    """An engine as `/v1/admin/engines` shows it."""

    model: str
    state: str
    revision: str
    kind: str
    running: int
    queued_tokens: int


@dataclass(frozen=True, slots=True)
class TierFacts:
    """A tier as one ingress replica sees it. `pressure`: its queue over its limit."""

    up: bool
    cold: bool
    full: bool
    pressure: float
    in_flight: int


@dataclass(frozen=True, slots=True)
class Served:
    """Requests since the ingress replica started. `failed`: those that ended by a failure of ours.

    `slow` of `begun` answers took longer than five seconds to begin; `p95_s` is None while there are none.
    """

    asked: float
    failed: float
    begun: float
    slow: float
    p95_s: float | None


@dataclass(frozen=True, slots=True)
class Burn:
    """Shares of failed and of slow requests over the last hour and the last three days, from Prometheus; or None."""

    failed_1h: float | None
    failed_3d: float | None
    slow_1h: float | None
    slow_3d: float | None


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """The approval queue. `oldest_s` None: nobody waits."""

    up: bool
    waiting: int
    oldest_s: float | None
    unreported: int
    frozen: int
    notices_oldest_s: float | None


@dataclass(frozen=True, slots=True)
class CanaryFacts:
    """The newest synthetic R2 call. `at_s` is seconds since the epoch, 0 for never."""

    held: bool
    escaped: bool
    at_s: float


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """The audit log. Ages in seconds; None for what is not configured or never happened.

    `exported` False: the export has not succeeded since the sink's start, which was `export_age_s` ago.
    """

    up: bool
    records: int
    backlog: int
    dropped: int
    unsealed: int
    checkpoint_late_s: float
    disk_free_bytes: int
    witnesses: int
    witness_age_s: float | None
    witness_stale: bool
    export_age_s: float | None
    problems: Sequence[str] = ()
    exported: bool = True


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """A rollout that is under way."""

    rollout_id: str
    target: str
    state: str
    share_percent: int
    held: bool
    going_back: bool


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert that fires."""

    name: str
    severity: str
    incident: str | None
    summary: str


@dataclass(frozen=True, slots=True)
class Running:
    """What answers, as its last start recorded it. Digests are SHA-256 in hex."""

    version: str
    profile: str
    config_digest: str
    policy_digest: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The newest backup, or the newest drill of a restore. `good`: everything in it verified."""

    at_ms: int
    where: str
    good: bool


@dataclass(frozen=True, slots=True)
class Budgets:
    """Budgets of tenants and teams, by how much of them is used."""

    near: int
    spent: int
    spent_hard: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it. `parts` are those of `/readyz`, "ready" or "down".

    `odd`: the status of `/healthz` where something answers that is not well, or not Gatehouse.
    """

    url: str
    now_ms: int
    alive: bool
    parts: Maybe[Mapping[str, str]]
    engines: Maybe[Sequence[Replica]]
    tiers: Maybe[Mapping[str, TierFacts]]
    served: Maybe[Served]
    burn: Maybe[Burn]
    budgets: Maybe[Budgets]
    queue: Maybe[QueueFacts]
    canary: Maybe[CanaryFacts]
    audit: Maybe[AuditFacts]
    rollouts: Maybe[Sequence[RolloutFacts]]
    alerts: Maybe[Sequence[Firing]]
    running: Maybe[Running]
    backup: Maybe[Kept]
    restored: Maybe[Kept]
    odd: int | None = None
