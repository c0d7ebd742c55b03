"""The verified cascade: an answer of the smaller tier is checked before its first byte, and a failed one asked again.

    hear -> verify -> may it rise? -> admit -> ask the larger tier -> say which one was sent

Rules that hold whatever is asked for:
- The checks see the reply before the filter and the gate do. A reply that calls a tool is never asked for again, so
  no call of an abandoned attempt is ever judged, held or approved: nobody but the audit record learns of the attempt.
- One escalation, one size up; never for a model that was named, inside a tool loop, to a model that is cold, or against
  policy, egress, the key's models or its budget. Then the first answer is sent, and the headers say why.
- When the larger tier fails, the first answer is sent, marked. Streams that may not be held back are checked at their
  end: the verdict serves the next turn.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from deployments.errors import BudgetExceeded, EngineFailed, GatehouseError, QuotaExceeded
from deployments.ingress.admitting import Admitting
from deployments.ingress.course import Attempted, Course, Why, Wish, Word, evidence_of
from deployments.ingress.dialects.values import Asked
from deployments.ingress.egress import may_reach
from deployments.ingress.evidence import results_of
from deployments.ingress.hearing import Heard, Replay, Said, hear, transcribe
from deployments.ingress.opening import Opening
from deployments.ingress.prompting import Prompts
from deployments.ingress.settings import CascadeSettings
from deployments.ingress.turn import RoutedModel, Turn, charge, named, revised, with_known
from deployments.ingress.verifying import Reader, task_of, verdict_of
from deployments.ingress.window import Window
from deployments.ports import (
    AttemptOutcome,
    Dialect,
    Difficulty,
    Effort,
    Engine,
    Grant,
    ModelId,
    RequestId,
    RouteAsk,
    RouteDecision,
    Tier,
)
from router.types import TaskType
from router.verify.values import Status, Verdict

_log = logging.getLogger("gatehouse.ingress")
REASON: Final = "cascade_escalated"
_VERIFIED: Final = frozenset({Dialect.CHAT, Dialect.COMPLETIONS, Dialect.RESPONSES, Dialect.MESSAGES})
_NEEDS_EFFORT: Final = frozenset({TaskType.MATHEMATICS, TaskType.CODE_GENERATION, TaskType.CODE_REVIEW})

Open = Callable[[Turn], Awaitable[Opening]]
"""Asks the engine of the turn's decision."""


class Cascade:
    """Runs the cascade of one request after another; holds no state of any."""

    def __init__(
        self,
        admitting: Admitting,
        difficulty: Difficulty,
        engines: Mapping[ModelId, Engine],
        readers: Mapping[Dialect, Reader],
        windows: Mapping[ModelId, Window],
        larger: Mapping[Tier, Sequence[tuple[Tier, RoutedModel]]],
        settings: CascadeSettings,
        prompts: Prompts,
    ) -> None:
        """`larger` has the models above each tier, the next one first; `prompts` what their engines read first."""
        self._admitting = admitting
        self._difficulty = difficulty
        self._engines = engines
        self._readers = readers
        self._windows = windows
        self._larger = larger
        self._settings = settings
        self._prompts = prompts

    def begin(self, wish: Wish, asked: Asked, routed: bool, allowed: bool = True) -> Course:
        """What will be done for a request. `routed`: its model belongs to a tier; `allowed`: by its tenant's policy."""
        course = Course(wish)
        checked = routed and asked.choices == 1 and asked.dialect in _VERIFIED
        course.listens = checked and self._settings.verify_all
        if not wish.cascade:
            return course
        course.word = Word.UNVERIFIED
        if not (self._settings.allowed and allowed):
            course.word, course.why = Word.REFUSED, Why.NOT_ALLOWED
        elif not checked:
            course.why = Why.CHOICES if asked.choices > 1 else Why.DIALECT
        elif asked.stream and not wish.buffer:
            course.why, course.listens = Why.STREAM, True
        else:
            course.holds, course.listens = True, False
        return course

    async def run(self, turn: Turn, opening: Opening, reopen: Open) -> Replay:
        """The reply to send: the one of `opening`, or that of the larger model, which `reopen` asks.

        In the latter case `turn` has the new decision, and its reply is to be framed again. Raises what the first
        engine raises; no failure of anything else costs the client the first answer.
        """
        course = turn.course
        course.holds = False
        heard = await hear(opening, turn.asked.stream, self._settings.max_answer_bytes)
        said = heard.said()
        if said is None:
            course.why = Why.TOO_LONG if heard.rest is not None else Why.UNREADABLE
            return heard.replay()
        if said.calls:
            course.why = Why.TOOL_CALLS
            return heard.replay()
        course.verdict = await self._verdict(turn, said)
        if course.verdict is None:
            course.why = Why.UNREADABLE
            return heard.replay()
        if course.verdict.status is not Status.FAIL:
            course.word = Word.KEPT
            return heard.replay()
        return await self._rise(turn, heard, said, course.verdict, reopen)

    async def listen(self, turn: Turn) -> None:
        """The verdict on a reply that has streamed by, for the next turn."""
        course = turn.course
        if not course.listens or not turn.completed or not course.heard:
            return
        said = transcribe(bytes(course.heard), turn.asked.stream)
        course.heard.clear()
        if said is not None and not said.calls:
            course.verdict = await self._verdict(turn, said)

    async def _verdict(self, turn: Turn, said: Said) -> Verdict | None:
        request = self._readers[turn.ask.dialect](turn.asked.body)
        return await verdict_of(said, task_of(turn.asked, request))

    async def _rise(self, turn: Turn, heard: Heard, said: Said, verdict: Verdict, reopen: Open) -> Replay:
        course, first = turn.course, turn.decision
        found = await self._target(turn)
        if isinstance(found, Why):
            course.word, course.why = Word.REFUSED, found
            return heard.replay()
        decision, grant = found
        abandoned = Attempted(
            decision=first,
            grant=turn.grant,
            attempt=turn.attempts,
            usage=said.usage or charge(turn.grant, None, opening=turn.opening),
            verdict=verdict,
            outcome=evidence_of(verdict),
            finish=said.finish,
            said=heard.data,
        )
        # From here on the larger attempt is the turn's own: whoever hangs up now hangs up on it.
        course.others.append(abandoned)
        course.grant, course.verdict = grant, None
        first_opening, turn.opening = turn.opening, None
        turn.decision = decision
        turn.attempts += 1
        try:
            again = await hear(await reopen(turn), turn.asked.stream, self._settings.max_answer_bytes)
            better = again.said()
            if better is None and again.rest is None:
                raise EngineFailed("The model's answer could not be read.")
        except GatehouseError as error:
            _log.warning("cascade: %s failed (%s), the first answer is sent", decision.model, error.code)
            failed = replace(
                abandoned,
                decision=decision,
                grant=grant,
                attempt=turn.attempts,
                usage=charge(grant, error, opening=turn.opening),
                verdict=None,
                outcome=AttemptOutcome.FAILED if isinstance(error, EngineFailed) else None,
                error_code=error.code,
                finish="",
                said=b"",
            )
            course.others[:] = [failed]
            course.grant, course.verdict = None, verdict
            course.word, course.why = Word.REFUSED, Why.ENGINE
            turn.decision, turn.opening = first, first_opening
            return heard.replay()
        course.word = Word.ESCALATED
        if better is not None:
            course.verdict = None if better.calls else await self._verdict(turn, better)
            if better.usage is not None:
                course.added = abandoned.usage
                again = again.with_usage(abandoned.usage)
        return again.replay()

    async def _target(self, turn: Turn) -> tuple[RouteDecision, Grant] | Why:
        """The decision for the larger model and the grant for it, or why there is none."""
        asked, principal = turn.asked, turn.principal
        if asked.model is not None:
            return Why.PINNED
        if results_of(asked.body):
            return Why.TOOL_LOOP
        above = self._larger.get(turn.decision.tier, ())
        if not above:
            return Why.LARGEST if turn.decision.tier is not Tier.BASE else Why.ABSENT
        tier, model = above[0]
        if asked.dialect not in model.dialects:
            return Why.ABSENT
        if not principal.may_use(model.model) or not may_reach(model.model, model.local, principal.egress):
            return Why.FORBIDDEN
        if self._engines[model.model].cold():
            return Why.COLD
        if turn.course.late(model.model):
            return Why.DEADLINE
        try:
            prompt = named(turn.choices.prompts.get(model.model))
            await self._windows[model.model].check(self._prompts.before(asked, model.model, prompt))
        except GatehouseError:
            return Why.WINDOW
        effort = await self._effort(turn, model.model)
        if effort is None:
            return Why.POLICY
        try:
            second = RequestId(f"{turn.ask.request_id[:120]}-2")
            grant = await self._admitting.admit(principal, second, model.model, turn.grant.reserved_tokens)
        except (QuotaExceeded, BudgetExceeded):
            return Why.BUDGET
        except GatehouseError as error:
            _log.error("cascade: no grant: %s", error.code)
            return Why.BUDGET
        decision = replace(
            turn.decision,
            model=model.model,
            tier=tier,
            effort=effort,
            revision=model.revision,
            reason=REASON,
            reasons=(REASON, *turn.decision.reasons),
        )
        return revised(decision, turn.choices), grant

    async def _effort(self, turn: Turn, model: ModelId) -> Effort | None:
        """The effort that the policy gives the larger model for this request, or None when it does not give the model.

        Asked as a dry run, as if the client had named the model: floors, ceilings and denials of the tenant hold.
        """
        request = self._readers[turn.ask.dialect](turn.asked.body)
        asked, before = turn.asked, turn.decision.effort
        if asked.effort is None:
            needs = task_of(asked, request).type in _NEEDS_EFFORT
            wished = Effort.HIGH if needs or before is Effort.HIGH else Effort.MEDIUM
        else:
            wished = asked.effort
        known = with_known(request, turn.ask.risk, asked, turn.untrusted)
        try:
            decision = await self._difficulty.route(
                RouteAsk(
                    request_id=turn.ask.request_id,
                    tenant=turn.principal.tenant,
                    session=turn.session,
                    request=replace(known, requested_effort=wished),
                    model=model,
                    dry_run=True,
                    snapshot=named(turn.choices.router),
                )
            )
        except GatehouseError as error:
            _log.error("cascade: no route: %s", error.code)
            return None
        return decision.effort if decision.model == model and decision.hold is None else None
