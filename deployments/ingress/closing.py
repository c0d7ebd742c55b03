"""The end of a request: settle, record, count, and tell the router what there is to learn. Nobody waits for it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from deployments.clock import Clock
from deployments.errors import GatehouseError
from deployments.guardrails.values import GuardrailUnavailable
from deployments.ingress import records
from deployments.ingress.cascade import Cascade
from deployments.ingress.course import report_of
from deployments.ingress.figures import figures
from deployments.ingress.meter import Meter
from deployments.ingress.reserving import Reserves
from deployments.ingress.revisions import Revisions
from deployments.ingress.route_meter import RouteMeter
from deployments.ingress.screening import Screening
from deployments.ingress.settling import Settler
from deployments.ingress.trail import Recorder
from deployments.ingress.turn import Turn, outcome_of, used_by, worked_ms
from deployments.ports import (
    Attempt,
    AttemptOutcome,
    AuditEvent,
    CascadeReport,
    Difficulty,
    ModelId,
    RouteDecision,
    Served,
    TenantId,
    Tier,
    Usage,
)

_log = logging.getLogger("gatehouse.ingress")


class Closing:
    """Ends requests. Holds no state of any."""

    def __init__(
        self,
        settler: Settler,
        difficulty: Difficulty,
        cascade: Cascade,
        recorder: Recorder,
        meter: Meter,
        route_meter: RouteMeter,
        reserves: Reserves,
        clock: Clock,
        routed: frozenset[ModelId],
        record_delay_s: float,
        most_kept: Callable[[TenantId], int],
        screening: Screening,
        revisions: Revisions | None = None,
    ) -> None:
        """`routed` are the models of the tiers; `most_kept` bytes of each body of a tenant go to the audit sink.

        `revisions` counts how those that are rolled out do, where there are any.
        """
        self._settler = settler
        self._difficulty = difficulty
        self._cascade = cascade
        self._recorder = recorder
        self._meter = meter
        self._route_meter = route_meter
        self._reserves = reserves
        self._clock = clock
        self._routed = routed
        self._record_delay_s = record_delay_s
        self._most_kept = most_kept
        self._screening = screening
        self._revisions = revisions
        self._draining = asyncio.Event()

    def hurry(self) -> None:
        """From now on no record waits for a better moment."""
        self._draining.set()

    async def finish(self, turn: Turn) -> None:
        """Settle and record, also after a hang-up or a dead engine."""
        ended_s = self._clock.monotonic_s()
        usage, course = used_by(turn), turn.course
        own = (course.grant or turn.grant, usage, self._served(turn.decision, records.end_of(turn)))
        others = [(each.grant, each.usage, self._served(each.decision, "abandoned")) for each in course.others]
        for grant, used, served in (own, *others):  # at once: it frees a place for the next request
            await self._settler.settle(grant, used, served)
        if turn.error is None:
            await self._later()
        if turn.recording is not None:
            await turn.recording  # the order of the log is the order of events
        await self._cascade.listen(turn)
        for each in course.others:
            self._meter.abandoned(each.decision.model, each.usage)
            guarded = turn.watch is not None and turn.watch.guard.output is not None
            most_kept = 0 if guarded else self._most_kept(turn.principal.tenant)  # no guardrail has seen it
            await self._recorder.record(records.abandoned(turn, each, most_kept, self._clock.now_ms()))
        await self._recorder.record(self._finished(turn, usage, ended_s))
        if turn.watch is not None:
            refused = isinstance(turn.error, GuardrailUnavailable)
            await self._screening.answered(
                turn.watch,
                turn.principal,
                turn.ask.request_id,
                turn.session,
                turn.asked,
                turn.decision.route_id,
                refused,
            )
        if self._revisions is not None:
            for choice, seen in figures(turn):
                self._revisions.count(choice, seen)
        report = report_of(course, turn.decision)
        if course.word is not None:
            self._route_meter.cascaded(course.word.value, None if course.why is None else course.why.value, report)
        for each in course.others:
            ms, event_id = worked_ms(turn, each.attempt), f"{each.decision.route_id}-{each.attempt}"
            await self._remember(turn, each.decision, each.outcome, event_id, ms, report)
            report = None  # once is enough
        await self._remember(turn, turn.decision, outcome_of(turn), turn.decision.route_id, worked_ms(turn), report)

    async def _remember(
        self,
        turn: Turn,
        decision: RouteDecision,
        outcome: AttemptOutcome | None,
        event_id: str,
        ms: int,
        report: CascadeReport | None,
    ) -> None:
        """Tell the session memory, which is about tiers, how an attempt ended, and the budget how long it took."""
        if decision.model not in self._routed:
            return
        spent = decision.tier is Tier.STRONG and decision.facts is not None and decision.facts.capped
        says = outcome is not None and (decision.watched or outcome is not AttemptOutcome.OK)
        if spent or says or report is not None:
            attempt = Attempt(
                event_id=event_id,
                tenant=turn.principal.tenant,
                session=turn.session,
                tier=decision.tier,
                outcome=outcome or AttemptOutcome.ABORTED,
                ms=ms,
                cascade=report,
            )
            await quiet("observe", self._difficulty.observe(attempt))

    def _served(self, decision: RouteDecision, outcome: str) -> Served:
        tier = decision.tier if decision.model in self._routed else None
        return Served(decision.model, tier, decision.reason, outcome)

    async def _later(self) -> None:
        """A moment in which the next turn of an agent, which comes at once, has the machine for its first token."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._record_delay_s):
                await self._draining.wait()

    def _finished(self, turn: Turn, usage: Usage, ended_s: float) -> AuditEvent:
        duration_s = ended_s - turn.started_s
        ttft_s = None if turn.first_byte_s is None else turn.first_byte_s - turn.started_s
        outcome = records.end_of(turn)
        # A reply that is no stream begins with its last token, and people decide when they decide: neither is slowness.
        begun_s = None if ttft_s is None or not turn.asked.stream else ttft_s - turn.unbegun_s
        self._meter.finished(turn.ask.dialect, turn.decision.model, outcome, duration_s, begun_s, usage)
        paced = turn.completed and turn.asked.stream and usage.output_tokens > 1 and not usage.estimated
        if paced and ttft_s is not None:
            self._meter.paced(turn.decision.model, (duration_s - ttft_s) / (usage.output_tokens - 1))
        waits = turn.principal.hold_s > 0 and turn.tool_calls > 0  # for humans, perhaps, after the engine's end
        if turn.completed and turn.calls and not waits:
            working_s = sum(call.seconds for _, call in turn.calls)
            self._meter.took(turn.ask.dialect, max(0.0, duration_s - working_s))
        self._meter.withheld(turn.ask.dialect, turn.reply.withheld)
        if turn.completed and turn.asked.max_tokens is None and not usage.estimated and turn.asked.choices == 1:
            self._reserves.add(turn.asked.effort, usage.output_tokens)
        return records.finished(turn, usage, ended_s, self._clock.now_ms())


async def quiet(what: str, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`; its failure is logged and must not hide the outcome of the request it closes."""
    try:
        await work
    except GatehouseError as error:
        _log.error("%s failed: %s", what, error.code)
