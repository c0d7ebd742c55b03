"""Verdicts on earlier turns: how far each is trusted, and what it does to the memory of its session."""

from collections.abc import Mapping
from typing import Final

from deployments.clock import Clock
from deployments.difficulty.memory import Evidence
from deployments.difficulty.sessions import Sessions
from deployments.difficulty.store import RouteRows
from deployments.errors import InvalidRequest, NotFound, QuotaExceeded
from deployments.ports import Feedback, FeedbackSource, FeedbackVerdict, Principal, Scope

VERIFIER_ROLE: Final = "verifier"
_WINDOW_MS: Final = 60_000
_DAY_MS: Final = 86_400_000
_TRUST: Final[Mapping[FeedbackSource, float]] = {
    FeedbackSource.VERIFIER: 1.0,
    FeedbackSource.HUMAN: 1.0,
    FeedbackSource.TOOL: 0.5,
    FeedbackSource.USER: 0.3,
}
_AGAINST: Final = frozenset({FeedbackVerdict.WRONG, FeedbackVerdict.UNDERPOWERED})


def trusted(principal: Principal, source: FeedbackSource) -> float:
    """How far a verdict is trusted, in (0, 1]: by the credential it came with, whatever it says of itself.

    A verifier's key has the role `verifier` or the scope `admin`, a human's is the key of a person who may approve.
    What merely says so is trusted as a tool, or as a user.
    """
    if source is FeedbackSource.VERIFIER and not (VERIFIER_ROLE in principal.roles or Scope.ADMIN in principal.scopes):
        source = FeedbackSource.TOOL
    if source is FeedbackSource.HUMAN and (principal.person is None or Scope.APPROVE not in principal.scopes):
        source = FeedbackSource.USER
    return _TRUST[source]


class FeedbackDesk:
    """Takes verdicts."""

    def __init__(self, rows: RouteRows, sessions: Sessions, clock: Clock, per_minute: int, days: int) -> None:
        self._rows = rows
        self._sessions = sessions
        self._clock = clock
        self._per_minute = per_minute
        self._days = days

    async def take(self, said: Feedback) -> None:
        """Take one verdict. The same event twice is one.

        `NotFound`, `InvalidRequest` or `QuotaExceeded` when it is not taken.
        """
        if await self._known(said):
            return
        now_ms = self._clock.now_ms()
        if await self._rows.feedback_since(said.key_id, now_ms - _WINDOW_MS) >= self._per_minute:
            raise QuotaExceeded(f"This key may give {self._per_minute} verdicts a minute.", _WINDOW_MS // 1_000)
        found = await self._rows.decision(said.tenant, said.route_id)
        if found is None or now_ms - found.explanation.at_ms > self._days * _DAY_MS:
            raise NotFound("There is no such route decision, or it is too old to be judged.")
        # The memory first: it knows the event by its id, so a crash between the two costs nothing when it is repeated.
        if said.verdict is not FeedbackVerdict.OVERKILL and found.session:
            cascade = await self._rows.cascade(said.tenant, said.route_id)
            answered = (cascade and cascade.sent) or found.explanation.decision  # a verdict is about what was sent
            await self._sessions.observe(
                Evidence(
                    event_id=f"feedback:{said.event_id}",
                    tenant=said.tenant,
                    session=found.session,
                    tier=answered.tier,
                    weight=said.weight if said.verdict in _AGAINST else 0.0,
                    turn=said.route_id,
                    anchored=True,
                )
            )
        if not await self._rows.add_feedback(said, now_ms):
            await self._known(said)  # somebody was faster: with the same, or with something else

    async def _known(self, said: Feedback) -> bool:
        before = await self._rows.feedback(said.tenant, said.event_id)
        if before is None:
            return False
        same = (before.route_id, before.verdict, before.source, before.score) == (
            said.route_id, said.verdict, said.source, said.score,
        )  # fmt: skip
        if not same:
            raise InvalidRequest("This event id was used for another verdict.", "event_id", "feedback_conflict")
        return True
