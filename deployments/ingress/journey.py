"""READ FIRST: the path of a request, top to bottom.

    authenticate -> admit -> route -> generate -> gate -> audit -> settle

One stage, one line, in `Journey.answer`. Everything it calls is a port (`deployments/ports.py`); what the client's
dialect looks like is in `dialects/`; statuses and error bodies are in `serve_app/api/errors.py`.
"""

import asyncio
import hashlib
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from typing import Any, TypeVar, assert_never

from deployments.clock import Clock
from deployments.errors import (
    ContextTooLong,
    EngineFailed,
    Forbidden,
    GatehouseError,
    InvalidRequest,
    Unauthenticated,
    UnknownModel,
)
from deployments.guardrails.guard import Guardrails
from deployments.guardrails.meter import GuardMeter
from deployments.guardrails.meter import Uncounted as GuardUncounted
from deployments.ingress import records
from deployments.ingress.acting import Acting
from deployments.ingress.admitting import Admitting
from deployments.ingress.advice import Advisor
from deployments.ingress.cascade import Cascade
from deployments.ingress.closing import Closing
from deployments.ingress.course import Word, wish_of
from deployments.ingress.deadline import patience_s
from deployments.ingress.dialects.values import Asked, Codec, Emit, Framing, Judge, ReplyFilter
from deployments.ingress.egress import Reach, check, may_reach, usable_tiers, wish
from deployments.ingress.evidence import Spoken, change_of, prompt_body, results_of
from deployments.ingress.hearing import Replay
from deployments.ingress.holding import Holder
from deployments.ingress.leasing import Leases
from deployments.ingress.meter import Meter
from deployments.ingress.opening import Opening
from deployments.ingress.principals import Principals
from deployments.ingress.prompting import PROMPTED, Prompts
from deployments.ingress.provenance import Outside, said
from deployments.ingress.reserving import Reserves
from deployments.ingress.revisions import Choices, Revisions
from deployments.ingress.route_meter import RouteMeter, Uncounted
from deployments.ingress.screening import Question, Screening, Watch, Words
from deployments.ingress.session import cache_salt_of, session_of
from deployments.ingress.settings import IngressSettings
from deployments.ingress.settling import Settler
from deployments.ingress.shadowing import Shadows
from deployments.ingress.telling import context_of, headers_of, may_see_more, refuse_held, worth_another_attempt
from deployments.ingress.tiers import Tiers
from deployments.ingress.trail import Recorder
from deployments.ingress.turn import Ask, RoutedModel, Turn, named, revised, total, with_known
from deployments.ingress.verifying import Reader
from deployments.ingress.window import Window, without_max_tokens
from deployments.ports import (
    Approvals,
    Dialect,
    Difficulty,
    Effort,
    Engine,
    EngineCall,
    EngineStart,
    Gate,
    Grant,
    Held,
    JsonValue,
    Keeps,
    Ledger,
    Limit,
    ModelId,
    Principal,
    Receipt,
    Repaired,
    ReplyItem,
    RequestId,
    Risk,
    RouteAsk,
    RouteDecision,
    RouteId,
    Scope,
    SessionId,
    TenantId,
    Tier,
    ToolResult,
    Usage,
    Verdict,
    keeps_nothing,
)
from deployments.tasks import Tasks

_log = logging.getLogger("gatehouse.ingress")
T = TypeVar("T")
_WITH_HEADS = frozenset({Dialect.MESSAGES, Dialect.RESPONSES})  # a stream's first event names the model
_MOST_KEPT_BYTES = 4 * 2**20  # of a body that is kept; a larger one is its digest alone


@dataclass(frozen=True, slots=True)
class Head:
    """First item of every answer: the status is 200, `headers` say who answers and why.

    `reply` answers the filter that writes the reply now: the edge asks it for keepalives, for the last event of a
    stream that breaks off, and for what is to be stored.
    """

    headers: Mapping[str, str]
    stream: bool
    limits: tuple[Limit, ...]
    reply: Callable[[], ReplyFilter]


class _Malformed(Exception):
    """The reply holds a tool call that had to be repaired, and nothing of it has left yet."""


class Journey:
    """Answers requests. One per ingress replica; holds no state of a request between calls."""

    def __init__(
        self,
        ledger: Ledger,
        difficulty: Difficulty,
        engines: Mapping[ModelId, Engine],
        gate: Gate,
        approvals: Approvals,
        recorder: Recorder,
        codecs: Mapping[Dialect, Codec],
        readers: Mapping[Dialect, Reader],
        windows: Mapping[ModelId, Window],
        meter: Meter,
        settings: IngressSettings,
        clock: Clock,
        models: Sequence[RoutedModel],
        keeps_bodies: Keeps = keeps_nothing,
        kept_bytes: int = _MOST_KEPT_BYTES,
        advisor: Advisor | None = None,
        tiers: Tiers | None = None,
        route_meter: RouteMeter | None = None,
        guardrails: Guardrails | None = None,
        guard_meter: GuardMeter | None = None,
        revisions: Revisions | None = None,
        shadows: Shadows | None = None,
        acting: Acting | None = None,
        settler: Settler | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        """`models` names every model that is served, with its tier and the dialects it can answer.

        `keeps_bodies`: whether the words of a tenant's requests go to the audit sink, which encrypts them; each prompt
        and answer of at most `kept_bytes`. `advisor` reviews held calls where that is wanted. `tiers` sees how calls of
        engines go, `route_meter` counts cascades. `guardrails` look at what goes to models and comes from them,
        `guard_meter` counts what they find. `revisions` chooses where a model has several; None: none has.
        `shadows` ask candidates beside the revision that answers. `acting` reads for whom a key of a front end asks.
        `settler` hands in what is settled, for all of the ingress; None: one of its own. `prompts` are the operator's
        instructions, which engines read before what clients say.
        """
        self._models = {each.model: each for each in models}
        ranked = [(each.tier, each) for each in models if each.tier is not None]
        # The router chooses among the tiers; what has none is reached by name alone.
        self._ranked = [(tier, Reach(each.model, each.local)) for tier, each in ranked]
        self._reaches = [reach for _, reach in self._ranked]
        self._larger = {
            tier: tuple((rank, other) for rank, other in ranked if rank.rank > tier.rank) for tier, _ in ranked
        }
        named = [(tier, each.model) for tier, each in ranked]
        self._tier_states = tiers or Tiers(engines, named, settings.load, clock)
        self._revisions = revisions
        self._prompts = prompts or Prompts({})
        self._shadows = shadows
        self._settler = settler or Settler(ledger, clock)
        admitting = Admitting(ledger, self._settler)
        self._cascade = Cascade(
            admitting, difficulty, engines, readers, windows, self._larger, settings.cascade, self._prompts
        )
        self._reserves = Reserves(settings.answer_tokens)
        self._screening = Screening(guardrails, recorder, guard_meter or GuardUncounted(), clock)
        self._closing = Closing(
            self._settler,
            difficulty,
            self._cascade,
            recorder,
            meter,
            route_meter or Uncounted(),
            self._reserves,
            clock,
            frozenset(each.model for _, each in ranked),
            settings.record_delay_s,
            self._most_kept,
            self._screening,
            revisions,
        )
        self._acting = acting or Acting()
        self._principals = Principals(ledger, clock, settings.principal_ttl_s)
        self._leases = Leases(ledger, admitting, clock, settings.leased_grants)
        self._difficulty = difficulty
        self._engines = engines
        self._gate = gate
        self._outside = Outside(settings.outside_tools, settings.inside_tools)
        self._holder = Holder(gate, approvals, clock, settings.hold_poll_s)
        self._recorder = recorder
        self._codecs = codecs
        self._readers = readers
        self._windows = windows
        self._widest = max(window.limit for window in windows.values())
        self._meter = meter
        self._settings = settings
        self._clock = clock
        self._keeps_bodies = keeps_bodies
        self._kept_bytes = kept_bytes
        self._advisor = advisor
        self._tasks = Tasks()

    async def answer(self, ask: Ask) -> AsyncGenerator[Head | bytes, None]:
        """The answer to a request: a `Head`, then bytes.

        Raises a `GatehouseError` before the `Head` when there is no answer, and after it when the answer broke off:
        whatever came until then must then not look complete. Closing the generator early aborts the generation.
        """
        started_s = self._clock.monotonic_s()
        principal = self._acting.whose(await self.authenticate(ask.key, Scope.INFERENCE), ask.headers)
        change_id = change_of(ask.headers)
        wanted, body = wish_of(ask.headers, ask.body)
        asked = self._codecs[ask.dialect].read(body)
        untrusted = self._outside.untrusted(asked, ask.headers)
        session = session_of(principal, ask.headers, ask.body, asked.body)
        words = await self._screening.request(principal, ask.request_id, session, asked, untrusted, said(ask.headers))
        principal, asked, untrusted, watch = words.principal, words.asked, words.untrusted, words.watch
        choices = self._choices(principal.tenant, session, asked.dialect, asked.model)
        # While the ledger admits.
        routing = self._own(self._route(principal, session, ask, asked, untrusted, started_s, choices))
        try:
            grant = await self._admit(principal, ask, asked)
        except BaseException:
            await _drop(routing)
            raise
        turn: Turn | None = None
        try:
            decision = await routing
            reply = self._filter(ask, asked, decision, watch)
            output = Spoken(self._most_kept(principal.tenant))
            course = self._cascade.begin(wanted, asked, self._models[decision.model].tier is not None, decision.cascade)
            course.late = lambda model: self._late(ask, asked, started_s, model)
            turn = Turn(
                ask, principal, session, asked, decision, grant, reply, started_s, change_id, untrusted, output, course,
                watch, choices=choices,
            )  # fmt: skip
            async with aclosing(self._generate(turn)) as released:
                async for item in released:
                    if isinstance(item, bytes):
                        output.add(item)
                    yield item
            turn.completed = True
        except BaseException as error:
            if turn is not None:
                turn.error = error
            raise
        finally:
            routing.cancel()
            # Nobody waits for it: the last bytes of an answer need no disk, and `drain` sees to it at the end.
            end = self._closing.finish(turn) if turn else self._settler.settle(grant, Usage())
            self._own(end, apart=True)

    async def drain(self) -> None:
        """Return when everything that ended requests still owe, settlements and records, has been handed over."""
        self._closing.hurry()
        if self._shadows is not None:
            await self._shadows.close()
        await self._tasks.drain()
        await self._leases.close()

    async def settled(self) -> None:
        """Return when the ledger has taken all settlements; while it is away that may be never."""
        await self._settler.drain()

    async def authenticate(self, key: str, scope: Scope) -> Principal:
        """The principal behind `key` if it has `scope`, else `Unauthenticated` or `Forbidden`."""
        principal = await self._principals.authenticate(key)
        if scope not in principal.scopes:
            raise Forbidden(f"This key does not have the scope '{scope.value}'.")
        return principal

    def choices_of(
        self,
        principal: Principal,
        headers: Mapping[str, str],
        body: Mapping[str, JsonValue],
        internal: Mapping[str, JsonValue],
        dialect: Dialect,
        model: ModelId | None,
    ) -> Choices:
        """What the session of a question would get, were it asked for an answer; nobody is asked for it here.

        `body` is what the client sent, `internal` the same as chat.
        """
        with suppress(Unauthenticated):  # a name that does not hold gets no answer, and so no revision either
            principal = self._acting.whose(principal, headers)
        return self._choices(principal.tenant, session_of(principal, headers, body, internal), dialect, model)

    def _choices(self, tenant: TenantId, session: SessionId, dialect: Dialect, model: ModelId | None) -> Choices:
        """What the session gets of all that has several revisions and a part in this request."""
        if self._revisions is None:
            return Choices()
        found = self._revisions.choices(tenant, session)
        if dialect not in PROMPTED:
            found = replace(found, prompts={})
        wanted = None if model is None else self._models.get(model)
        # Nobody routes to a model without a tier.
        return found if wanted is None or wanted.tier is not None else replace(found, router=None)

    async def _admit(self, principal: Principal, ask: Ask, asked: Asked) -> Grant:
        answer = self._reserves.tokens(asked.effort) if asked.max_tokens is None else asked.max_tokens
        answer = min(answer, self._widest)  # agents ask for more than exists
        chars = sum(len(text) for text in asked.prompt_texts) + self._prompts.most_chars(asked)
        prompt = max(asked.prompt_ids, asked.batch_ids) + chars // 4
        model = ModelId(asked.requested_model)
        tokens = prompt + asked.choices * answer
        return await self._leases.admit(principal, ask.request_id, model, tokens, prompt)

    async def screened(
        self, principal: Principal, request_id: RequestId, dialect: Dialect, body: Mapping[str, JsonValue]
    ) -> Question:
        """A question to which nothing is generated, behind its tenant's guardrails; raises as a request does."""
        return await self._screening.question(principal, request_id, SessionId(request_id), Words(dialect, body))

    async def _route(
        self,
        principal: Principal,
        session: SessionId,
        ask: Ask,
        asked: Asked,
        untrusted: bool,
        started_s: float,
        choices: Choices,
    ) -> RouteDecision:
        if asked.model is not None and not (asked.model in self._engines and principal.may_use(asked.model)):
            raise UnknownModel(asked.requested_model)
        if asked.model is not None and self._models[asked.model].tier is None:
            return await self._direct(self._models[asked.model], principal, asked, choices)
        usable = [each for each in self._reaches if principal.may_use(each.model)]
        wished = wish(asked.model, principal.egress, usable)
        tiers = usable_tiers(principal, self._ranked)
        request = self._readers[ask.dialect](asked.body)
        decision = await self._difficulty.route(
            RouteAsk(
                request_id=ask.request_id,
                tenant=principal.tenant,
                session=session,
                request=with_known(request, ask.risk, asked, untrusted),
                model=wished,
                explained=may_see_more(principal, ask),
                left_ms=self._left_ms(ask, asked, started_s),
                usable=tiers,
                revisions={model: each.revision for model, each in choices.engines.items()},
                snapshot=named(choices.router),
                prompts={model: each.revision for model, each in choices.prompts.items()},
                policy=named(choices.policy),
            )
        )
        refuse_held(decision)
        if decision.model not in self._engines or not principal.may_use(decision.model):
            raise UnknownModel(asked.requested_model)
        decision = self._warm(decision, asked, principal)
        check(decision.model, principal.egress, self._reaches)
        return await self._checked(decision, asked, choices)

    def _left_ms(self, ask: Ask, asked: Asked, started_s: float) -> int | None:
        """What is left of the time that the caller will wait; None when it did not say."""
        patience = patience_s(ask.headers, asked.stream)
        return None if patience is None else round((started_s + patience - self._clock.monotonic_s()) * 1000)

    def _late(self, ask: Ask, asked: Asked, started_s: float, model: ModelId) -> bool:
        """Whether a whole answer of a model would probably end after the caller has given up."""
        left_ms, usual_ms = self._left_ms(ask, asked, started_s), self._tier_states.usual_ms(model)
        return left_ms is not None and usual_ms is not None and usual_ms > left_ms

    async def _direct(self, model: RoutedModel, principal: Principal, asked: Asked, choices: Choices) -> RouteDecision:
        """The way to a model that no policy chooses: a small one for filling in the middle, or for embeddings."""
        check(model.model, principal.egress, [Reach(model.model, model.local)])
        decision = RouteDecision(
            route_id=RouteId(f"rt_{uuid.uuid4().hex}"),
            model=model.model,
            tier=Tier.BASE,
            effort=asked.effort or Effort.LOW,
            revision=model.revision,
            reason="model_without_tier",
            reasons=("model_without_tier",),
            difficulty=0.0,
            policy_digest="0" * 64,
            watched=False,
        )
        return await self._checked(decision, asked, choices)

    async def _checked(self, decision: RouteDecision, asked: Asked, choices: Choices) -> RouteDecision:
        """The decision, when its model can answer this dialect and the prompt fits its window."""
        if asked.dialect not in self._models[decision.model].dialects:
            raise InvalidRequest(
                f"The model '{decision.model}' does not serve {asked.dialect.value}.", "model", "unsupported_model"
            )
        decision = revised(decision, choices)
        whole = self._prompts.before(asked, decision.model, decision.prompt_revision)
        await self._windows[decision.model].check(whole)
        self._meter.routed(decision)
        return decision

    def _warm(self, decision: RouteDecision, asked: Asked, principal: Principal) -> RouteDecision:
        """The decision, moved to a larger tier while its own has no replica, where the settings allow that."""
        if not self._settings.cold_fallback or asked.model is not None or not self._engines[decision.model].cold():
            return decision
        if not decision.may_rise:  # the smaller model is waited for
            return decision
        for tier, target in self._larger.get(decision.tier, ()):
            reached = may_reach(target.model, target.local, principal.egress)
            if reached and principal.may_use(target.model) and not self._engines[target.model].cold():
                reason = "cold_tier_fallback"
                return replace(
                    decision,
                    model=target.model,
                    tier=tier,
                    revision=target.revision,
                    reason=reason,
                    reasons=(reason, *decision.reasons),
                )
        return decision

    async def _generate(self, turn: Turn) -> AsyncGenerator[Head | bytes, None]:
        """The engine's reply, gated. The routing record is written while the engine works."""
        turn.recording = self._own(self._record_decided(turn))
        results = results_of(turn.asked.body, turn.asked.failed)
        if results:
            self._own(self._observe(turn, results))
        while True:
            settling: asyncio.Task[Opening | Replay] | None = None
            try:
                if turn.course.holds and turn.asked.stream:
                    settling = asyncio.create_task(self._ready(turn))
                    if await self._lasts(settling):
                        turn.course.pending = True
                        yield self._head(turn, await asyncio.shield(turn.recording))
                async with aclosing(await (settling or self._ready(turn))) as items:
                    receipt = await asyncio.shield(turn.recording)
                    turn.reply.receipt(receipt)
                    if not turn.headed and not (turn.asked.stream and items.waiting):
                        yield self._head(turn, receipt)
                    async with aclosing(self._flow(turn, items)) as released:
                        async for data in released:
                            if not turn.headed:
                                yield self._head(turn, receipt)
                            if data:
                                yield data
            except _Malformed:
                self._begin_again(turn)
            else:
                return
            finally:
                if settling is not None:
                    await _undo(settling)

    async def _lasts(self, settling: asyncio.Task[Opening | Replay]) -> bool:
        """Whether a reply that is held back takes longer than a stream's status may wait.

        From then on the stream is kept alive like any other that has begun, and a failure can only be told inside it.
        """
        done, _ = await asyncio.wait({settling}, timeout=self._settings.first_byte_s)
        return not done

    async def _observe(self, turn: Turn, results: Sequence[ToolResult]) -> None:
        """Tell the gate what the client says became of earlier calls; no answer waits for that."""
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                await self._gate.observe(context_of(turn), results)
        except GatehouseError as error:
            _log.error("%d tool results are not recorded: %s", len(results), error.code)
        except Exception as error:  # its text may hold a result
            _log.error("%d tool results are not recorded: %s", len(results), type(error).__name__)

    def _most_kept(self, tenant: TenantId) -> int:
        """How many bytes of each body the audit sink gets."""
        return self._kept_bytes if self._keeps_bodies(tenant) else 0

    def _head(self, turn: Turn, receipt: Receipt | None) -> Head:
        turn.headed = True
        return Head(headers_of(turn, receipt), turn.asked.stream, turn.grant.limits, lambda: turn.reply)

    async def _ready(self, turn: Turn) -> Opening | Replay:
        """The reply to send: the engine's as it comes, or the one that a cascade has settled on."""
        opening = await self._open(turn)
        if not turn.course.holds:
            return opening
        settled = await self._cascade.run(turn, opening, self._open)
        if turn.course.word is Word.ESCALATED:
            # What keepalives have begun goes on, under the name it was begun with: two heads would be no stream.
            begun = turn.headed and turn.ask.dialect in _WITH_HEADS
            fresh = self._filter(turn.ask, turn.asked, turn.decision, turn.watch)
            turn.reply = turn.reply.again() if begun else fresh
        return settled

    async def _flow(self, turn: Turn, items: Opening | Replay) -> AsyncGenerator[bytes, None]:
        """What may leave. Empty bytes mean that all is well so far: until the first ones a failure becomes a status."""
        try:
            async for item in items:
                async for data in self._release(turn, item):
                    yield data
                if not turn.headed:
                    yield b""
            turn.reply.close()
            async for data in self._steps(turn):
                yield data
        except GatehouseError as error:
            if not turn.reply.ended:
                raise
            # The client has the whole answer, and an error after its end would take that back.
            _log.warning("engine of %s: %s after the end of its answer", turn.decision.model, error.code)

    def _begin_again(self, turn: Turn) -> None:
        """A second attempt in place of one that nobody has seen a byte of; the first one is paid for, too."""
        counted = None if turn.opening is None else turn.opening.counted
        turn.spent = total(turn.spent, turn.reply.usage or counted or Usage())
        turn.opening = None
        turn.attempts += 1
        turn.reply = turn.reply.again()

    async def _open(self, turn: Turn) -> Opening:
        """The chosen engine's reply, its status known to be good."""
        asked = self._windows[turn.decision.model].clamp(turn.asked)
        # Nobody but the engine sees it: what is read, screened, recorded and stored is the client's own.
        asked = self._prompts.before(asked, turn.decision.model, turn.decision.prompt_revision)
        try:
            return await self._call(turn, asked)
        except ContextTooLong:
            # The prompt may fit and only the answer's limit not: then the window is the limit (see Window.clamp).
            if not asked.max_tokens:
                raise
            return await self._call(turn, without_max_tokens(asked))

    async def _call(self, turn: Turn, asked: Asked) -> Opening:
        decision = turn.decision
        call = EngineCall(
            path=asked.engine_path,
            headers={"content-type": "application/json"},
            body=self._codecs[turn.ask.dialect].engine_body(asked, decision.model, decision.effort),
            # Unique, which a client's own request id need not be.
            request_id=RequestId(decision.route_id + ("" if turn.attempts == 1 else f"-{turn.attempts}")),
            session=turn.session,
            cache_salt=cache_salt_of(turn.principal.tenant),
            tenant=turn.principal.tenant,
            share=turn.principal.share,
            lane=turn.principal.key_id,
            patient=turn.ask.body.get("service_tier") == "flex",
            revision=decision.revision if decision.model in turn.choices.engines else "",
            counted=True,
        )
        choice = turn.choices.engines.get(decision.model)
        if self._shadows is not None and choice is not None:
            self._shadows.begin(decision.model, call, choice, _of_no_request())
        turn.engine_reached = True
        watched = self._tier_states.begin(decision.model, asked.stream)
        turn.calls.append((turn.attempts, watched))
        turn.opening = opening = Opening(self._engines[decision.model].call(call), watched)
        try:
            await opening.start(self._settings.first_byte_s if asked.stream else None)
        except BaseException:
            await opening.aclose()
            raise
        return opening

    async def _release(self, turn: Turn, item: ReplyItem) -> AsyncGenerator[bytes, None]:
        match item:
            case bytes():
                turn.course.hear(item, self._settings.cascade.max_answer_bytes)
                turn.reply.feed(item)
                async for data in self._steps(turn):
                    yield data
            case Repaired():
                turn.repairs.update(item.notes)
                self._meter.repaired(item.notes)
                turn.reply.repaired(item.notes)
            case EngineStart():
                raise EngineFailed("The model's answer started twice.")
            case _:
                assert_never(item)

    async def _steps(self, turn: Turn) -> AsyncGenerator[bytes, None]:
        while (step := turn.reply.step()) is not None:
            match step:
                case Emit():
                    if turn.first_byte_s is None:
                        turn.first_byte_s = self._clock.monotonic_s()
                    yield step.data
                case Judge():
                    if worth_another_attempt(turn, step):
                        raise _Malformed
                    turn.tool_calls += len(step.calls)
                    context = context_of(turn, step.calls)
                    verdicts = await self._gate.judge(context, step.calls)
                    self._meter.judged(turn.ask.dialect, verdicts)
                    self._have_reviewed(turn.principal, verdicts)
                    if turn.principal.hold_s and any(isinstance(verdict, Held) for verdict in verdicts):
                        yield b""  # what follows may take minutes
                        began_s = self._clock.monotonic_s()
                        try:
                            before, verdicts = verdicts, await self._holder.wait(context, step.calls, verdicts)
                        finally:
                            waited_s = self._clock.monotonic_s() - began_s
                            if turn.calls and not turn.calls[-1][1].ended:
                                turn.held_s += waited_s
                            if turn.first_byte_s is None:
                                turn.unbegun_s += waited_s
                        again = [new for old, new in zip(before, verdicts, strict=True) if new is not old]
                        self._meter.waited(turn.ask.dialect, self._clock.monotonic_s() - began_s, again)
                        self._meter.judged(turn.ask.dialect, again)
                    turn.reply.resolve(verdicts)
                case _:
                    assert_never(step)

    def _have_reviewed(self, principal: Principal, verdicts: Sequence[Verdict]) -> None:
        """What humans must decide about is reviewed meanwhile; nothing waits for it."""
        for verdict in verdicts:
            if self._advisor is not None and isinstance(verdict, Held) and verdict.risk.rank >= Risk.R2.rank:
                self._advisor.begin(principal, verdict.approval_id)

    def _own(self, work: Coroutine[Any, Any, T], apart: bool = False) -> asyncio.Task[T]:
        """A task that outlives the request it belongs to, and is not forgotten meanwhile.

        `apart`: it is no part of the request for Serve, which ends the calls of a request when its client hangs up.
        """
        return self._tasks.begin(work, _of_no_request() if apart else None)

    def _filter(self, ask: Ask, asked: Asked, decision: RouteDecision, watch: Watch | None) -> ReplyFilter:
        """The filter of an answer in the client's dialect, behind the tenant's guardrails."""
        reply = self._codecs[ask.dialect].filter(asked, self._framing(ask, decision))
        return reply if watch is None else watch.reply(reply, asked)

    def _framing(self, ask: Ask, decision: RouteDecision) -> Framing:
        reply_id = ask.reply_id or hashlib.sha256(decision.route_id.encode()).hexdigest()[:32]
        return Framing(reply_id, decision.model, self._clock.now_ms() // 1000, decision.effort)

    async def _record_decided(self, turn: Turn) -> Receipt | None:
        # What was masked for the model is not kept beside the log either; its digest is.
        most = 0 if turn.watch is not None and turn.watch.masks else self._most_kept(turn.principal.tenant)
        prompt = await prompt_body(turn.ask.body, turn.asked, most)
        return await self._recorder.record(records.decided(turn, prompt, self._clock.now_ms()))


def _of_no_request() -> Context:
    """This task's context with nothing in it but what belongs to traces: Serve finds its request in the rest."""
    context = Context()
    for variable, value in copy_context().items():
        if variable.name.startswith("gatehouse") or variable.name == "current_context":  # OpenTelemetry's
            context.run(variable.set, value)
    return context


async def _drop(task: asyncio.Task[Any]) -> None:
    """Cancel a task whose result nobody wants any more."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _undo(settling: asyncio.Task[Opening | Replay]) -> None:
    """End a reply that nobody takes: one that is still being settled, or was settled and not read."""
    await _drop(settling)
    if not settling.cancelled() and settling.exception() is None:
        await settling.result().aclose()
