"""What the router remembers of a session: evidence of failure by tier, the latch of an escalation, the last turn's arm.

Attack fast, release slow: one hard failure escalates where a rule says so, and what was escalated stays there until the
session has been idle for long enough. Failures themselves are forgiven after two clean attempts, and evidence of an
attempt that is no longer the newest weighs nothing: what has recovered is not escalated.
"""

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final, cast

from deployments.ports import Effort, RouteExplanation, RouteId, SessionId, TenantId, Tier
from router.types import StateView

_EVENTS_PER_SESSION: Final = 64
_CLEAN_ATTEMPTS: Final = 2  # one good answer after a failure proves nothing yet
_MOST_WEIGHT: Final = 8.0  # more evidence than this changes nothing and must not grow without an end
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that was learned of an attempt on `tier`.

    `weight` in (0, 1] counts against it, 0 is a clean attempt. `event_id` makes it idempotent. `anchored` evidence,
    such as a late verdict, counts only while the turn it belongs to, `turn`, is the newest of its session.
    """

    event_id: str
    tenant: TenantId
    session: SessionId
    tier: Tier
    weight: float
    turn: str = ""
    anchored: bool = False
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Decided:
    """The arm that a turn was given. `latch` keeps the session on its tier.

    `size_step` and `effort_step`: this turn was raised because the one before had failed.
    """

    tenant: TenantId
    session: SessionId
    turn: str
    tier: Tier
    effort: Effort
    latch: bool = False
    size_step: bool = False
    effort_step: bool = False
    at_ms: int = 0


@dataclass(slots=True)
class Session:
    """One session. Times are milliseconds since the epoch."""

    last_seen_ms: int
    failures: dict[Tier, float] = field(default_factory=dict[Tier, float])
    clean: dict[Tier, int] = field(default_factory=dict[Tier, int])
    latched: Tier | None = None
    last_tier: Tier | None = None
    last_effort: Effort | None = None
    last_turn: str = ""
    size_steps: int = 0
    effort_steps: int = 0
    events: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])

    def view(self) -> StateView:
        """What the router may know of it."""
        return StateView(
            failures_on_base=self.failures.get(Tier.BASE, 0.0),
            failures_on_strong=self.failures.get(Tier.STRONG, 0.0),
            latched_tier=self.latched,
            last_tier=self.last_tier,
            last_effort=self.last_effort,
            size_steps=self.size_steps,
            effort_steps=self.effort_steps,
        )

    def decided(self, turn: Decided) -> None:
        """Note the arm of a turn."""
        self.last_tier, self.last_effort, self.last_turn = turn.tier, turn.effort, turn.turn
        self.size_steps += turn.size_step
        self.effort_steps += turn.effort_step
        if turn.latch:
            self.latched = turn.tier

    def observe(self, evidence: Evidence) -> bool:
        """Note how an attempt ended; False when that is known already, so that a retry is not a second failure."""
        if evidence.event_id in self.events:
            return False
        self.events[evidence.event_id] = None
        while len(self.events) > _EVENTS_PER_SESSION:
            self.events.popitem(last=False)
        if evidence.anchored and evidence.turn != self.last_turn:
            return True  # a newer turn has been answered since: it speaks for itself
        tier = evidence.tier
        if evidence.weight > 0:
            self.failures[tier] = min(self.failures.get(tier, 0.0) + evidence.weight, _MOST_WEIGHT)
            self.clean[tier] = 0
            return True
        self.clean[tier] = self.clean.get(tier, 0) + 1
        if self.clean[tier] >= _CLEAN_ATTEMPTS:
            self.failures[tier] = 0.0
        return True

    def change(self, change: "Decided | Evidence") -> None:
        """Note either, at its time."""
        self.last_seen_ms = max(self.last_seen_ms, change.at_ms)
        if isinstance(change, Evidence):
            self.observe(change)
        else:
            self.decided(change)

    def pack(self) -> str:
        """JSON of all but the time."""
        return json.dumps(
            {
                "format": _FORMAT,
                "failures": {tier.value: weight for tier, weight in self.failures.items()},
                "clean": {tier.value: count for tier, count in self.clean.items()},
                "latched": None if self.latched is None else self.latched.value,
                "last_tier": None if self.last_tier is None else self.last_tier.value,
                "last_effort": None if self.last_effort is None else self.last_effort.value,
                "last_turn": self.last_turn,
                "size_steps": self.size_steps,
                "effort_steps": self.effort_steps,
                "events": [*self.events],
            },
            separators=(",", ":"),
        )


def unpack(text: str, last_seen_ms: int) -> Session:
    """The session that `pack` wrote; `ValueError` for anything else, such as what a newer version has written."""
    try:
        read = cast(dict[str, Any], json.loads(text))
        if read["format"] != _FORMAT:
            raise ValueError("another version wrote this session")
        return Session(
            last_seen_ms=last_seen_ms,
            failures={Tier(tier): float(weight) for tier, weight in read["failures"].items()},
            clean={Tier(tier): int(count) for tier, count in read["clean"].items()},
            latched=None if read["latched"] is None else Tier(read["latched"]),
            last_tier=None if read["last_tier"] is None else Tier(read["last_tier"]),
            last_effort=None if read["last_effort"] is None else Effort(read["last_effort"]),
            last_turn=str(read["last_turn"]),
            size_steps=int(read["size_steps"]),
            effort_steps=int(read["effort_steps"]),
            events=OrderedDict.fromkeys(map(str, read["events"])),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("this is not a session") from error


class SessionMemory:
    """A bounded memory of sessions, keyed by tenant and session; the least recently used one is forgotten first.

    The empty session id stands for "no session": nothing is remembered for it.
    """

    def __init__(self, sessions: int, idle_release_ms: int) -> None:
        self._capacity = sessions
        self._idle_release_ms = idle_release_ms
        self._sessions: OrderedDict[tuple[TenantId, SessionId], Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, tenant: TenantId, session: SessionId, now_ms: int) -> Session | None:
        """A session, unless it is unknown or idle. Changes not even the order of forgetting: a dry run may look."""
        known = self._sessions.get((tenant, session))
        return None if known is None or self._is_idle(known, now_ms) else known

    def view(self, tenant: TenantId, session: SessionId, now_ms: int) -> StateView:
        """What the router may know of a session."""
        known = self.find(tenant, session, now_ms)
        return StateView() if known is None else known.view()

    def has_failures(self, tenant: TenantId, session: SessionId) -> bool:
        """True when a clean attempt would change what is remembered of a session."""
        known = self._sessions.get((tenant, session))
        return known is not None and any(known.failures.values())

    def decided(self, turn: Decided, now_ms: int) -> None:
        """Note the arm of a turn."""
        if turn.session:
            self.touch(turn.tenant, turn.session, now_ms).decided(turn)

    def observe(self, evidence: Evidence, now_ms: int) -> bool:
        """Note how an attempt ended; False when that is known already, or belongs to no session."""
        return bool(evidence.session) and self.touch(evidence.tenant, evidence.session, now_ms).observe(evidence)

    def touch(self, tenant: TenantId, session: SessionId, now_ms: int) -> Session:
        """A session to be changed: the known one, or a new one."""
        known = self.find(tenant, session, now_ms) or Session(last_seen_ms=now_ms)
        known.last_seen_ms = max(known.last_seen_ms, now_ms)
        self.put(tenant, session, known, now_ms)
        return known

    def put(self, tenant: TenantId, session: SessionId, known: Session, now_ms: int) -> None:
        """Remember a session as it was read from elsewhere."""
        self._sessions[tenant, session] = known
        self._sessions.move_to_end((tenant, session))
        self._forget(now_ms)

    def _forget(self, now_ms: int) -> None:
        """Drop the sessions that are too many, and those that have been idle for so long that they would start anew."""
        while self._sessions:
            oldest = next(iter(self._sessions))
            if len(self._sessions) <= self._capacity and not self._is_idle(self._sessions[oldest], now_ms):
                return
            del self._sessions[oldest]

    def _is_idle(self, known: Session, now_ms: int) -> bool:
        return now_ms - known.last_seen_ms >= self._idle_release_ms


class RouteMemory:
    """The last explanations, oldest forgotten first; an id answers only to the tenant it belongs to."""

    def __init__(self, routes: int) -> None:
        self._capacity = routes
        self._routes: OrderedDict[tuple[TenantId, RouteId], RouteExplanation] = OrderedDict()

    def remember(self, tenant: TenantId, explanation: RouteExplanation) -> None:
        """Keep one explanation."""
        self._routes[tenant, explanation.decision.route_id] = explanation
        while len(self._routes) > self._capacity:
            self._routes.popitem(last=False)

    def find(self, tenant: TenantId, route_id: RouteId) -> RouteExplanation | None:
        """The explanation of a route, or None: forgotten, unknown or another tenant's."""
        return self._routes.get((tenant, route_id))
