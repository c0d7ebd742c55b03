"""The `Ingress` deployment: ports over handles, the journey over ports, and an HTTP app over the journey.

The class builds no HTTP itself: it is given the factory, and the tests give the same factory their fakes.
"""

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol, cast

from deployments._local import take_over_port
from deployments.clients import (
    ApprovalsClient,
    AuditClient,
    ColdWatch,
    DifficultyClient,
    EngineClient,
    LedgerClient,
    PermitsClient,
    ResponsesClient,
    RolloutsClient,
)
from deployments.clock import SystemClock
from deployments.guardrails.guard import Guardrails
from deployments.ingress.acting import Acting
from deployments.ingress.advice import Advisor
from deployments.ingress.egress import Reach
from deployments.ingress.informed import InformedDifficulty
from deployments.ingress.inquiry import Inquiries
from deployments.ingress.journey import Journey, RoutedModel
from deployments.ingress.prompting import Prompts
from deployments.ingress.revisions import RevisedEngine, Revisions
from deployments.ingress.screening import Screening
from deployments.ingress.settling import Settler
from deployments.ingress.shadowing import Shadows
from deployments.ingress.surface import AsgiApp, Parts, Surface
from deployments.ingress.tiers import Tiers
from deployments.ingress.trail import Recorder
from deployments.ingress.window import Window
from deployments.ports import SYSTEM_TENANT, AuditEvent, Engine, ModelId, Tier
from deployments.rollouts import Rollouts
from deployments.tasks import Rounds


class _Judging(Protocol):
    """What the record of a start says of the classifier."""

    @property
    def policy_digest(self) -> str: ...


class Ingress:
    """Serve class; see `journey.py` for what it does."""

    def __init__(
        self,
        parts: Parts,
        engines: Mapping[tuple[str, str], Any],
        difficulty: Any,
        approvals: Any,
        audit: Any,
        ledger: Any,
        responses: Any,
        rollouts: Any,
    ) -> None:
        """`engines` are handles by model and revision."""
        take_over_port()
        parts.set_up()
        settings, clock = parts.settings, SystemClock()
        counters = parts.make_counters()
        classifier = parts.make_classifier()
        sink = AuditClient(audit, settings.audit_timeout_s)
        desk = ApprovalsClient(approvals, settings.call_timeout_s)
        keys = LedgerClient(ledger, settings.call_timeout_s)
        kept = ResponsesClient(responses, settings.call_timeout_s)
        self._cold = ColdWatch()
        driver = RolloutsClient(rollouts, settings.call_timeout_s)
        replicas, candidates, revisions = self._engines(parts, engines, driver)
        meter, tracing = parts.make_meter(), parts.make_tracing()
        recorder = Recorder(sink, clock, settings.audit_timeout_s)
        windows = {served.model: Window(served.max_model_len, counters.get(served.model)) for served in parts.models}
        models = [
            RoutedModel(
                None if served.tier is None else Tier(served.tier),
                served.model,
                served.revision,
                served.local,
                served.dialects,
            )
            for served in parts.models
        ]
        ranked = [(each.tier, each.model) for each in models if each.tier is not None]
        states, route_meter = Tiers(replicas, ranked, settings.load, clock), parts.make_route_meter(meter)
        route_meter.watch(states.view)
        asked = DifficultyClient(difficulty, settings.call_timeout_s)
        router = InformedDifficulty(asked, states.view, route_meter, clock)
        gate = parts.make_gate(classifier, desk, sink, clock)
        tiers = [(each.tier, Reach(each.model, each.local)) for each in models if each.tier is not None]
        guardrails, guard_meter = Guardrails(parts.guardrails), parts.make_guard_meter(meter)
        screening = Screening(guardrails, recorder, guard_meter, clock)
        prompts = Prompts(parts.prompts)
        books = tracing.ledger(keys)
        settler = Settler(books, clock)
        advisor = Advisor(replicas, tiers, keys, desk, clock, settings.advice, screening, settler)
        journey = Journey(
            ledger=books,
            difficulty=tracing.difficulty(router),
            engines={model: tracing.engine(model, replica) for model, replica in replicas.items()},
            gate=tracing.gate(gate),
            approvals=desk,
            recorder=tracing.recorder(recorder),
            codecs=parts.codecs,
            readers=parts.readers,
            windows=windows,
            meter=meter,
            settings=settings,
            clock=clock,
            models=models,
            keeps_bodies=parts.keeps_bodies,
            advisor=advisor,
            tiers=states,
            route_meter=route_meter,
            guardrails=guardrails,
            guard_meter=guard_meter,
            revisions=revisions,
            shadows=None if revisions is None else Shadows(candidates, revisions, clock),
            acting=Acting(settings.act_as),
            settler=settler,
            prompts=prompts,
        )
        self._watching: asyncio.Task[None] | None = None
        self._surface = Surface(
            journey,
            Inquiries(keys, settler, replicas, windows, models, prompts),
            keys,
            router,
            desk,
            sink,
            kept,
            parts.codecs,
            replicas,
            parts.models,
            parts.readers,
            recorder,
            meter,
            settings,
            clock,
            classifier,
            gate,
            PermitsClient(approvals, settings.call_timeout_s),
            advisor,
            parts.make_canary(gate, desk, clock),
            driver,
            parts.keeps_bodies,
            candidates,
            revisions,
        )
        self._parts, self._tracing = parts, tracing
        self._rounds = Rounds()

    def _engines(
        self, parts: Parts, engines: Mapping[tuple[str, str], Any], rollouts: Rollouts
    ) -> tuple[dict[ModelId, Engine], dict[ModelId, Engine], Revisions | None]:
        """Who answers for each model, the second engines of models, and what chooses between them."""
        answering: dict[ModelId, Engine] = {}
        candidates: dict[ModelId, Engine] = {}
        for served in parts.models:
            handle = engines[served.model, served.revision]
            cold = [self._cold.watch(handle)] if served.may_be_cold else []
            answering[served.model] = EngineClient(handle, parts.engine_timeout_s, served.cold_start_s, *cold)
            if served.candidate is not None:
                handle = engines[served.model, served.candidate]
                candidates[served.model] = other = EngineClient(handle, parts.engine_timeout_s, served.cold_start_s)
                both = {served.revision: answering[served.model], served.candidate: other}
                answering[served.model] = RevisedEngine(both, served.revision)
        if not candidates and not parts.several:
            return answering, {}, None
        deployed = {each.model: each.revisions for each in parts.models if each.candidate is not None}
        stale_s, look_s = parts.settings.rollout_stale_s, parts.settings.rollout_look_s
        revisions = Revisions(rollouts, deployed, SystemClock(), stale_s, look_s, parts.several)
        return answering, candidates, revisions

    async def __serve_build_asgi_app__(self) -> AsgiApp:
        """The app of this replica; Serve calls this once, after the constructor."""
        self._cold.start()
        if self._surface.revisions is not None:
            # Before the first request: a session stays with its revision over a restart.
            await self._surface.revisions.look()
            self._rounds.begin(self._surface.revisions.round)
        await self._surface.recorder.record(self._config_loaded())
        self._watching = asyncio.create_task(self._surface.canary.run())
        return self._tracing.app(self._parts.make_api(self._surface))

    async def __del__(self) -> None:
        """Serve awaits this when it stops the replica, after its last request: usage and records must not be lost."""
        surface = getattr(self, "_surface", None)
        if surface is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._parts.settings.call_timeout_s):
                    if self._watching is not None:
                        self._watching.cancel()
                    await surface.advisor.close()
                    await surface.journey.drain()
                    await surface.recorder.drain()
                    await surface.journey.settled()
                    await self._rounds.close()
                    if surface.revisions is not None:
                        await surface.revisions.look()  # what the last requests showed
                    await asyncio.to_thread(self._tracing.close)

    def _config_loaded(self) -> AuditEvent:
        """Which configuration answers from now on: what a later reader of the log holds decisions against."""
        loaded = self._parts.loaded
        return AuditEvent(
            event_id=f"config.loaded:{uuid.uuid4().hex}",
            name="config.loaded",
            at_ms=self._surface.clock.now_ms(),
            tenant=SYSTEM_TENANT,
            principal="system",
            data={
                "config_digest": loaded.digest,
                "profile": loaded.profile,
                "version": loaded.code_version,
                "policy_digest": cast(_Judging, self._surface.classifier).policy_digest,
                "models": [f"{each.model}:{of}" for each in self._parts.models for of in each.revisions],
            },
        )
