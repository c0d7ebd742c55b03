"""What a canary of the cluster is made of: what the API server says, and what the driver remembers. Pure.

The memory lies in an annotation of the RayService, so that a step and the memory of it are one write. Times are
milliseconds since the epoch, UTC, by the clock of the API server.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deployments.rollouts import BOUNDS, Metric
from serve_app.api.rollouts import BoundBody, RulesBody

REST_INTERVAL_S: Final = 86_400
SURGE: Final = 25
"""Percent that the second generation's capacity grows by. Divides 100, and never changes while an upgrade runs."""

LEAST_INTERVAL_S: Final = 60
"""A shorter one lets the operator move again on a look from before its last change of capacity."""

MEASURED: Final = (Metric.ERROR, Metric.TTFT, Metric.E2E)
"""What Prometheus knows of a whole generation."""


OBJECTIVES_MS: Final = frozenset({250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000})
"""Bounds of the buckets of both histograms of seconds that the ingress exports, so that nothing is interpolated."""


class CanaryError(Exception):
    """Something cannot be done; the text is for the operator."""


class Unreachable(CanaryError):
    """The API server, Prometheus or Gatehouse does not answer, or not with anything that can be used."""


class Changed(CanaryError):
    """Somebody else has changed the RayService since it was read. Read it again."""


@dataclass(frozen=True, slots=True)
class Options:
    """`clusterUpgradeOptions`, without the gateway's class: percent, seconds, percent."""

    step: int
    interval_s: int
    surge: int = SURGE


REST: Final = Options(0, REST_INTERVAL_S)
"""Nothing moves. What stands in the manifest, and what the driver leaves behind wherever it dies."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A RayCluster of the RayService. `traffic` and `capacity` in percent; `well`: all its applications are RUNNING."""

    name: str
    traffic: int
    capacity: int
    well: bool
    moved_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The RayService and its route at one moment. `cluster`: digest of `rayClusterConfig` as it is stored.

    `route_problem`: why the Gateway does not divide requests as the status says; None when it does. `observed`: the
    operator has taken note of the newest specification.
    """

    at_ms: int
    version: str
    strategy: str
    options: Options
    cluster: str
    serve_config: str
    ready: bool
    observed: bool
    active: Generation | None
    pending: Generation | None
    route_problem: str | None
    memory: str | None


class Phase(StrEnum):
    """Where a canary is. `WARMING`: the second generation starts; `SLICE`: it has, or is to get, a share."""

    WARMING = "warming"
    SLICE = "slice"
    BACK = "back"
    FINISHED = "finished"
    ROLLED_BACK = "rolled_back"

    @property
    def final(self) -> bool:
        """True when nothing comes after it."""
        return self in {Phase.FINISHED, Phase.ROLLED_BACK}


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Value):
    """A share of the traffic in percent, and the shortest stay there in seconds."""

    share: Annotated[int, Field(ge=1, le=100)]
    min_s: Annotated[int, Field(ge=0, le=30 * 86_400)]


STAGES: Final = tuple(
    Stage(share=share, min_s=min_s)
    # Below the surge the old generation keeps all of its replicas, so the way back takes seconds; at 95 it is there.
    for share, min_s in ((5, 600), (24, 1800), (50, 600), (75, 600), (95, 3600), (100, 0))
)


def _rules() -> RulesBody:
    bounds = tuple(
        BoundBody(
            metric=each.metric, slack=each.slack, tolerance=each.tolerance, min_count=each.min_count, required=True
        )
        for each in BOUNDS
        if each.metric in MEASURED
    )
    return RulesBody(ttft_ms=5_000, e2e_ms=60_000, bounds=bounds)


class Terms(_Value):
    """What was agreed at the start. `unwell_s`: how long a generation with traffic may be other than RUNNING."""

    stages: tuple[Stage, ...] = STAGES
    rules: RulesBody = Field(default_factory=_rules)
    unwell_s: Annotated[int, Field(ge=10, le=86_400)] = 300

    @model_validator(mode="after")
    def _can_be_followed(self) -> "Terms":
        shares = [each.share for each in self.stages]
        if not shares or shares != sorted(set(shares)) or shares[-1] != 100:
            raise ValueError("the shares of the stages must grow, and the last one must be 100")
        bounds = self.rules.bounds or ()
        if not bounds or {each.metric for each in bounds} - set(MEASURED):
            raise ValueError(
                "rules.bounds must name some of error, ttft and e2e: Prometheus has no others of a cluster"
            )
        if self.rules.ttft_ms not in OBJECTIVES_MS or self.rules.e2e_ms not in OBJECTIVES_MS:
            raise ValueError(f"ttft_ms and e2e_ms must be bounds of a histogram: {sorted(OBJECTIVES_MS)}")
        return self


class Record(_Value):
    """A step that the audit log does not have yet. `event` as `/v1/rollouts/events` knows it."""

    number: int
    event: str
    share: int
    state: str
    reason: str
    change_id: str


class Shot(_Value):
    """A single step that the operator was asked for: the second generation's share before it, in percent."""

    before: int
    at_ms: int


class Memory(_Value):
    """What the driver remembers between two looks. Written with whatever it changes, in one request.

    `revision` and `previous` are digests of `rayClusterConfig`: as it was handed in, and as it was stored before.
    `stored` is that of the new one once the API server has put its defaults in. `goal`: index of the stage, -1 before
    the first one. `reached_ms`: since when the share is there. `blind_ms`, `unwell_ms`: since when something is not
    to be seen, or not well. `well_at`: the capacity, in percent, at which the second generation was last seen well.
    `earlier`: names of the canaries before this one, none of which is begun again.
    """

    id: str
    change_id: str
    by: str
    revision: str
    previous: str
    old: str
    terms: Terms = Field(default_factory=Terms)
    phase: Phase = Phase.WARMING
    number: int = 1
    goal: int = -1
    since_ms: int
    new: str | None = None
    stored: str | None = None
    reached_ms: int | None = None
    shot: Shot | None = None
    held: str | None = None
    blind_ms: int | None = None
    unwell_ms: int | None = None
    well_at: int = 0
    why: str = ""
    outbox: tuple[Record, ...] = ()
    earlier: tuple[str, ...] = ()

    @property
    def share(self) -> int:
        """What the second generation is to have, in percent."""
        if self.phase in {Phase.BACK, Phase.ROLLED_BACK}:
            return 0
        return self.terms.stages[self.goal].share if self.goal >= 0 else 0

    def text(self) -> str:
        """As it is stored."""
        return self.model_dump_json()

    def with_record(self, event: str, reason: str, change_id: str | None = None) -> "Memory":
        """One step further, which is to be recorded."""
        number = self.number + 1
        record = Record(
            number=number,
            event=event,
            share=self.share,
            state=self.phase.value,
            reason=printable(reason),
            change_id=change_id or self.change_id,
        )
        return self.model_copy(update={"number": number, "outbox": (*self.outbox, record), "why": printable(reason)})


def remembered(text: str | None) -> Memory | None:
    """What is in the annotation; None without one. `CanaryError` when it is not ours to read."""
    if text is None:
        return None
    try:
        return Memory.model_validate_json(text)
    except ValidationError:
        raise CanaryError(
            "the annotation gatehouse/canary of the RayService cannot be read: it was written by another version or by "
            "hand. See docs/kuberay.md, by hand."
        ) from None


def printable(text: str) -> str:
    """One line that the audit log takes."""
    return "".join(each if each.isprintable() else " " for each in text)[:900] or "-"


@dataclass(frozen=True, slots=True)
class Sight:
    """What Prometheus shows. `figures`: (trials, bad) of generations by name and metric.

    `short`: what a generation lacks of the replicas that its share of the capacity asks for, by its name.
    """

    figures: dict[Metric, dict[str, tuple[float, float]]] = field(
        default_factory=dict[Metric, "dict[str, tuple[float, float]]"]
    )
    short: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Blind:
    """Why nothing can be seen."""

    reason: str
