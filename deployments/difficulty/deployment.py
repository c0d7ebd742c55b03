"""The difficulty router as a Serve deployment: session memory before and after a pure decision."""

import asyncio
import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from deployments.clock import Clock, SystemClock
from deployments.difficulty.budgets import Budgets
from deployments.difficulty.facts import facts_of, is_capped, load_of, may_rise
from deployments.difficulty.feedback import FeedbackDesk
from deployments.difficulty.learned import LearnedSources
from deployments.difficulty.memory import Decided, Evidence, RouteMemory, SessionMemory
from deployments.difficulty.policies import PolicySource
from deployments.difficulty.sessions import Sessions
from deployments.difficulty.settings import DifficultySettings
from deployments.difficulty.store import Explained, RouteRows
from deployments.difficulty.targets import Targets
from deployments.errors import NotFound, PartUnavailable
from deployments.ports import (
    Attempt,
    AttemptOutcome,
    Detail,
    Feedback,
    Hold,
    Risk,
    RouteAsk,
    RouteDecision,
    RouteExplanation,
    RouteId,
    SessionId,
    TenantId,
    Tier,
)
from deployments.store import open_store
from deployments.tasks import Opening, Rounds
from router.explain import explain
from router.policy import Policy, Unmet
from router.route import Trace, fallback, trace
from router.snapshot import Snapshot
from router.tenants import TenantRouting, bounded, without
from router.types import Decision, Load, RouteRequest, StateView, Surroundings

_log = logging.getLogger("gatehouse.router")
_DAY_MS: Final = 86_400_000


class DifficultyRouter:
    """Serves `ports.Difficulty`. Opens its tables on the first health check, which Serve makes before any traffic.

    Replicas share nothing but the database: any number on PostgreSQL, one on a SQLite file. While the store does not
    answer, turns are routed by what the replica remembers itself.
    """

    def __init__(
        self,
        settings: DifficultySettings,
        policy: Mapping[str, object],
        tiers: Mapping[Tier, tuple[str, str]],
        store_url: str,
        policy_path: str | None = None,
        snapshot: bytes | None = None,
        windows: Mapping[Tier, int] | None = None,
        tenants: Mapping[str, TenantRouting] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`tiers` names the model and the revision of every served tier, `windows` their contexts in tokens.

        `policy_path` is watched for a newer policy. `snapshot` is the shipped difficulty signal, in use where the
        settings name no file. `tenants` is what the settings change of the policy for single tenants. Raises
        `PolicyError` for a bad `policy` document and for an overlay that contradicts it, `SnapshotError` for a bad
        snapshot, `ValueError` for tiers that are empty or ambiguous.
        """
        self._policies = PolicySource(policy, None if policy_path is None else Path(policy_path), tenants)
        self._learned = LearnedSources(settings.learned, snapshot)
        self._targets = Targets(tiers, settings.auto_models)
        windows = windows or {}
        self._load = Load(
            strong_served=Tier.STRONG in tiers,
            base_window=windows.get(Tier.BASE),
            strong_window=windows.get(Tier.STRONG),
        )
        self._settings = settings
        self._clock = clock or SystemClock()
        self._rows = RouteRows(open_store(store_url))
        idle_ms = settings.idle_release_s * 1_000
        self._sessions = Sessions(
            self._rows, SessionMemory(settings.sessions, idle_ms), self._clock, idle_ms, settings.read_timeout_s
        )
        self._desk = FeedbackDesk(
            self._rows, self._sessions, self._clock, settings.feedback_per_minute, settings.explained_days
        )
        self._budgets = Budgets(self._rows, f"replica_{secrets.token_hex(8)}")
        self._routes = RouteMemory(settings.explained_routes)
        self._opening = Opening(self._open)
        self._rounds = Rounds()

    async def route(self, ask: RouteAsk) -> RouteDecision:
        """Model and effort for a turn. `UnknownModel` for a wish that is not served. A dry run leaves no trace."""
        policy = without(self._policies.current.for_tenant(ask.tenant), ask.usable)
        wish = self._targets.wished(ask.model)
        request = ask.request if wish is None else replace(ask.request, requested_tier=wish)
        state = await self._sessions.view(ask.tenant, ask.session, keep=not ask.dry_run)
        now_ms, token = self._clock.now_ms(), secrets.randbits(96)
        learned = self._learned.of(ask.snapshot)
        around = Surroundings(
            mode=learned.mode(ask.tenant, ask.session),
            budget=self._budgets.view(ask.tenant, policy.budget, now_ms),
            load=load_of(self._load, ask.tiers, ask.left_ms, self._settings.spill_up),
            draw=1.0 if ask.dry_run else token / 2**96,  # a question is nothing to learn from
        )
        decision, found = self._decide(ask, request, state, policy, around, learned.current)
        served = self._targets.served(decision)
        target = self._targets.target(served.tier)
        detail = None if found is None else explain(found, policy, state)
        answer = RouteDecision(
            route_id=RouteId(f"route_{token:024x}"),
            model=target.model,
            tier=served.tier,
            effort=served.effort,
            revision=ask.revisions.get(target.model, target.revision),
            reason=served.reason,
            reasons=served.reasons,
            difficulty=served.difficulty,
            policy_digest=served.policy_digest,
            watched=self._sessions.has_failures(ask.tenant, ask.session)
            or (is_capped(policy) and served.tier is Tier.STRONG),
            mode=served.mode,
            confidence=0.5 if detail is None else detail.confidence,
            snapshot_digest=served.snapshot_digest,
            propensity=served.propensity,
            explored=served.explored,
            eligible=served.eligible,
            hand_over=served.hand_over,
            hold=served.hold,
            facts=facts_of(found, policy, self._refused()),
            cascade=policy.cascade,
            may_rise=may_rise(found, policy, served.effort),
            router_revision=ask.snapshot,
            prompt_revision=ask.prompts.get(target.model, ""),
            policy_revision=ask.policy,
        )
        if not ask.dry_run:
            self._remember(ask, answer, request, found, detail, now_ms)
            if found is not None and served.eligible:
                self._budgets.decided(ask.tenant, policy.budget, found.proposal.hit)
        return replace(answer, detail=detail) if ask.dry_run or ask.explained else answer

    async def observe(self, attempt: Attempt) -> None:
        """Remember how an attempt ended; the same event twice counts once. `PartUnavailable` when it is not written."""
        await self._opening.done()
        if attempt.tier is Tier.STRONG:
            budget = self._policies.current.for_tenant(attempt.tenant).budget
            self._budgets.spent(attempt.tenant, budget, attempt.ms, self._clock.now_ms())
        if attempt.outcome is not AttemptOutcome.ABORTED:
            await self._sessions.observe(
                Evidence(
                    event_id=attempt.event_id,
                    tenant=attempt.tenant,
                    session=attempt.session,
                    tier=attempt.tier,
                    weight=0.0
                    if attempt.outcome is AttemptOutcome.OK
                    else 1.0,  # whatever else went wrong is a hard failure
                )
            )
        if attempt.cascade is not None:
            await self._rows.add_cascade(attempt.tenant, attempt.cascade, self._clock.now_ms())

    async def feedback(self, said: Feedback) -> None:
        """Take a verdict on a turn of the last days."""
        await self._opening.done()
        await self._desk.take(said)

    async def flush(self) -> None:
        """Return when all that was decided so far is written, or raise `PartUnavailable`."""
        await self._opening.done()
        await self._sessions.flush()

    async def explain(self, tenant: TenantId, route_id: RouteId) -> RouteExplanation:
        """Why a turn of the last days was routed as it was; `NotFound` when forgotten, unknown or another tenant's.

        `PartUnavailable` while the store does not answer: the decision alone could be half of the story.
        """
        await self._opening.done()
        found = self._routes.find(tenant, route_id)
        if found is None:
            stored = await self._rows.decision(tenant, route_id)
            if stored is None:
                raise NotFound("There is no such route decision, or it is too old to be explained.")
            found = stored.explanation
        return replace(found, cascade=await self._rows.cascade(tenant, route_id))

    async def ready(self) -> bool:
        """True when the store answers. A replica without a valid policy does not start."""
        await self._opening.done()
        return await self._rows.ready()

    async def check_health(self) -> None:
        """Raise when the tables could not be opened, or a task that must run for ever has ended."""
        await self._opening.done()
        self._rounds.check()

    async def close(self) -> None:
        """Write what waits and close the store."""
        await self._opening.close()
        await self._rounds.close()
        try:
            await self._sessions.flush()
        except PartUnavailable:
            _log.error("the router stops, and what it had not written is lost")
        await self._sessions.close()
        await self._rows.close()

    def _refused(self) -> tuple[str, ...]:
        """The watched files whose newest version is not in force."""
        watched = (("policy", self._policies.refused), ("snapshot", self._learned.configured.refused))
        return tuple(name for name, why in watched if why is not None)

    async def _open(self) -> None:
        await self._rows.open()
        self._rounds.begin(self._sessions.write, self._sessions.wake)
        self._rounds.begin(self._sweep)
        self._rounds.begin(self._watch)

    async def _sweep(self) -> float:
        now_ms = self._clock.now_ms()
        with suppress(PartUnavailable):  # said in the log where it failed; the next round tries again
            await self._rows.sweep(
                now_ms - self._settings.idle_release_s * 1_000, now_ms - self._settings.explained_days * _DAY_MS
            )
        return self._settings.sweep_s

    async def _watch(self) -> float:
        await asyncio.to_thread(self._policies.look)
        await asyncio.to_thread(self._learned.configured.look)
        with suppress(PartUnavailable):
            await self._budgets.meet(self._clock.now_ms())
        return self._settings.reload_s

    def _decide(
        self,
        ask: RouteAsk,
        request: RouteRequest,
        state: StateView,
        policy: Policy,
        around: Surroundings,
        learned: Snapshot | None,
    ) -> tuple[Decision, Trace | None]:
        try:
            found = trace(request, state, policy, learned, around)
        except Exception as error:
            # A broken router must not stop the traffic. The type only: an exception's text may quote the prompt.
            _log.error("router_error request_id=%s error=%s", ask.request_id, type(error).__name__)
            decision = bounded(fallback(request, state, policy.digest), policy)
            unmet = policy.without_strong.unserved_safety
            raised = decision.tier is Tier.STRONG and decision.reason == "router_error_raised"
            if raised and not self._load.strong_served and unmet is not Unmet.BASE:
                decision = replace(decision, hold=Hold(unmet.value))
            return decision, None
        return found.decision, found

    def _remember(
        self,
        ask: RouteAsk,
        answer: RouteDecision,
        request: RouteRequest,
        found: Trace | None,
        detail: Detail | None,
        now_ms: int,
    ) -> None:
        explanation = _explanation(ask, answer, request, found, detail, now_ms)
        turn = Decided(
            tenant=ask.tenant,
            session=SessionId("")
            if answer.hold is not None
            else ask.session,  # nothing is generated, so nothing is to be kept
            turn=answer.route_id,
            tier=answer.tier,
            effort=answer.effort,
            latch=found is not None and found.escalated and answer.tier is Tier.STRONG,
            size_step=found is not None and found.size_step,
            effort_step=found is not None and found.effort_step,
        )
        self._sessions.decided(turn, Explained(ask.tenant, ask.session, explanation))
        self._routes.remember(ask.tenant, explanation)


def _explanation(
    ask: RouteAsk,
    answer: RouteDecision,
    request: RouteRequest,
    found: Trace | None,
    detail: Detail | None,
    now_ms: int,
) -> RouteExplanation:
    if found is None:
        risk = request.trusted_risk or Risk.R0
        return RouteExplanation(answer, ask.request_id, now_ms, "unknown", risk, (), (), ())
    return RouteExplanation(
        decision=answer,
        request_id=ask.request_id,
        at_ms=now_ms,
        task=found.signals.task.value,
        risk=found.signals.risk,
        signals=tuple(sorted(found.signals.names)),
        rules=found.rules,
        contributions=found.score.contributions,
        detail=detail,
    )
