"""What an ingress replica is made of, and what it shows to an HTTP app. Needs neither Ray nor a web framework."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from deployments.clock import Clock
from deployments.guardrails.meter import GuardMeter
from deployments.guardrails.meter import Uncounted as GuardUncounted
from deployments.guardrails.settings import GuardrailSettings
from deployments.ingress.advice import Advisor
from deployments.ingress.dialects.values import Codec
from deployments.ingress.inquiry import Inquiries
from deployments.ingress.journey import Journey, Reader
from deployments.ingress.meter import Meter
from deployments.ingress.prompting import Prompt
from deployments.ingress.revisions import Revisions
from deployments.ingress.route_meter import RouteMeter, Uncounted
from deployments.ingress.settings import IngressSettings
from deployments.ingress.tracing import Tracing, Untraced
from deployments.ingress.trail import Recorder
from deployments.ingress.turn import GENERATING
from deployments.ports import (
    Approvals,
    Audit,
    Dialect,
    Difficulty,
    Engine,
    Gate,
    Keeps,
    Ledger,
    ModelId,
    Permits,
    Responses,
    keeps_nothing,
)
from deployments.rollouts import Rollouts, Target

AsgiApp = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What clients are told of a model, and how the ingress reaches it. `created` is in seconds since the epoch.

    `local`: prompts stay on the operator's premises. `may_be_cold`: its policy scales to zero; a first replica is then
    waited for up to `cold_start_s`. `dialects`: what it can answer. `fim`: it has
    tokens for filling in the middle. `tier` is None for a model that is reached by name
    alone. `candidate`: the revision of its second engine, None: it has one.
    """

    model: ModelId
    tier: str | None
    kind: str
    revision: str
    max_model_len: int
    demonstration: bool
    created: int
    local: bool = True
    may_be_cold: bool = False
    cold_start_s: float = 300.0
    dialects: frozenset[Dialect] = GENERATING
    fim: bool = False
    candidate: str | None = None

    @property
    def revisions(self) -> tuple[str, ...]:
        """Of all its engines, the configured one first."""
        return (self.revision,) if self.candidate is None else (self.revision, self.candidate)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration a replica was started with, for its `config.loaded` record. `digest` is SHA-256 hex."""

    digest: str
    profile: str
    code_version: str


class Watch(Protocol):
    """Something that looks after the gate for as long as the replica lives."""

    async def run(self) -> None:
        """Until it is cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class Surface:
    """Everything an HTTP app may touch. `candidates` are the second engines of models, by model.

    `revisions` chooses between revisions of whatever has several, and counts; None: nothing has.
    """

    journey: Journey
    inquiries: Inquiries
    ledger: Ledger
    difficulty: Difficulty
    approvals: Approvals
    audit: Audit
    responses: Responses
    codecs: Mapping[Dialect, Codec]
    engines: Mapping[ModelId, Engine]
    models: tuple[ServedModel, ...]
    readers: Mapping[Dialect, Reader]
    recorder: Recorder
    meter: Meter
    settings: IngressSettings
    clock: Clock
    classifier: object
    gate: Gate
    permits: Permits
    advisor: Advisor
    canary: Watch
    rollouts: Rollouts
    keeps_bodies: Keeps = keeps_nothing
    candidates: Mapping[ModelId, Engine] = field(default_factory=dict[ModelId, Engine])
    revisions: Revisions | None = None


def uncounted(meter: Meter) -> RouteMeter:
    """Routing is not counted."""
    del meter
    return Uncounted()


def unguarded(meter: Meter) -> GuardMeter:
    """Guardrails are not counted."""
    del meter
    return GuardUncounted()


def nothing() -> None:
    """The process is as it should be."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What `serve_app/app.py` puts into an ingress replica; picklable by reference.

    `make_classifier` loads the policy bundle; `make_gate` builds the in-process gate from its answer, the approval
    store and the audit sink, and only these two and the HTTP app know what a classifier is. `make_canary` builds what
    tries the gate, of which the same is true. `make_api` builds the
    HTTP app; `make_counters` answers one token counter per model that has a local tokenizer. `keeps_bodies`: whose
    prompts and outputs go to the audit sink, which encrypts them. `make_route_meter` adds what is counted of routing to
    what `make_meter` made, `make_guard_meter` what is counted of `guardrails`.
    `set_up` is called first, on the replica; `make_tracing` makes what traces its requests. `prompts` are the
    operator's instructions for models, the configured ones first; `several` has the revisions of all but engines of
    which there is more than one, the configured one first.
    """

    make_api: Callable[[Surface], AsgiApp]
    make_classifier: Callable[[], object]
    make_gate: Callable[[object, Approvals, Audit, Clock], Gate]
    make_canary: Callable[[Gate, Approvals, Clock], Watch]
    make_counters: Callable[[], Mapping[ModelId, Callable[[str], int]]]
    codecs: Mapping[Dialect, Codec]
    readers: Mapping[Dialect, Reader]
    models: tuple[ServedModel, ...]
    make_meter: Callable[[], Meter]
    settings: IngressSettings
    loaded: Loaded
    engine_timeout_s: float
    keeps_bodies: Keeps = keeps_nothing
    make_route_meter: Callable[[Meter], RouteMeter] = uncounted
    guardrails: GuardrailSettings = GuardrailSettings()
    make_guard_meter: Callable[[Meter], GuardMeter] = unguarded
    make_tracing: Callable[[], Tracing] = Untraced
    set_up: Callable[[], None] = nothing
    prompts: Mapping[ModelId, tuple[Prompt, ...]] = field(default_factory=dict[ModelId, tuple[Prompt, ...]])
    several: Mapping[Target, tuple[str, ...]] = field(default_factory=dict[Target, tuple[str, ...]])
