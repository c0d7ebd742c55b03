"""Ports between features, and the frozen values that cross them. Read second, after `ingress/journey.py`.

A feature knows another one only as a `Protocol` of this module. Each port has two implementations from day one: the
client over a Serve handle (`clients.py`) and the fake of the tests (`tests/fakes.py`). What crosses a port is frozen
and picklable, carries no pydantic object, and is trusted: edges have parsed it.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType, Protocol, TypeAlias

from deployments.limits import Budget as Budget
from deployments.limits import BudgetState as BudgetState
from deployments.limits import Limit as Limit
from deployments.limits import LimitKind as LimitKind
from deployments.limits import Priority as Priority
from deployments.limits import RateLimits as RateLimits
from deployments.limits import Share as Share
from deployments.limits import Unit as Unit
from deployments.limits import Window as Window
from deployments.rights import ALL_EGRESS as ALL_EGRESS
from deployments.rights import NO_EGRESS as NO_EGRESS
from deployments.rights import Egress as Egress
from deployments.rights import TeamView as TeamView
from deployments.rights import TenantView as TenantView
from deployments.usage import UsageBooks
from router.types import Detail, Effort, Hold, Mode, Risk, Role, RouteRequest, Tier, Turn

# re-exported: ports speak the router's words
__all__ = ["Detail", "Effort", "Hold", "Mode", "Risk", "Role", "RouteRequest", "Tier", "Turn"]

TenantId = NewType("TenantId", str)
KeyId = NewType("KeyId", str)
RequestId = NewType("RequestId", str)
SessionId = NewType("SessionId", str)
ModelId = NewType("ModelId", str)
RouteId = NewType("RouteId", str)
ApprovalId = NewType("ApprovalId", str)

JsonValue: TypeAlias = "str | int | float | bool | None | list[JsonValue] | dict[str, JsonValue]"


EFFORTS: Mapping[str, Effort] = {
    "none": Effort.LOW,  # gpt-oss always reasons; low is the least it can do
    "minimal": Effort.LOW,
    "low": Effort.LOW,
    "medium": Effort.MEDIUM,
    "high": Effort.HIGH,
    "xhigh": Effort.HIGH,
    "max": Effort.HIGH,
}
"""The efforts that clients ask for, as far as gpt-oss has them."""


class Dialect(StrEnum):
    """The wire formats that clients speak."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"


class Scope(StrEnum):
    """What a key may do."""

    INFERENCE = "inference"
    APPROVE = "approve"
    ADMIN = "admin"
    AUDIT_READ = "audit-read"
    ACT_AS = "act-as"
    ROLLOUT_EVENTS = "rollout-events"


class GateProfile(StrEnum):
    """How strictly the gate treats the calls of a key (design section 7)."""

    OBSERVE = "observe"
    CODING = "coding"
    OPS = "ops"


# --- tenancy -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever presented a key. `person` names the human behind it (None: a service); `models` None means all.

    `models` and `gate_profile` are the key's own within what its tenant and its team allow. `egress`: to which models
    that are not on the premises prompts of the tenant may go. `hold_s`: how long a call
    that needs an approval waits for it inside the stream; 0 withholds it at once. `roles` are what the person may
    decide about: a policy can ask for approvers of one of them. `team`: the part of the tenant that the key belongs to.
    `limits` are the key's own; those of its team, its tenant and of a model hold beside them. `share` is the tenant's
    part of saturated models.
    """

    tenant: TenantId
    key_id: KeyId
    person: str | None
    scopes: frozenset[Scope]
    models: frozenset[ModelId] | None = None
    gate_profile: GateProfile = GateProfile.OPS
    egress: Egress = NO_EGRESS
    hold_s: int = 0
    roles: frozenset[str] = frozenset()
    team: str | None = None
    limits: RateLimits = RateLimits()
    share: Share = Share()

    def may_use(self, model: ModelId) -> bool:
        """True when the key is granted `model`."""
        return self.models is None or model in self.models


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one generation. `estimated` marks a charge that the engine never confirmed."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """Who did the work that is settled, and why: what costs are attributed to. `outcome` as in the audit log.

    `tier` is None for a model that no policy chooses. `reason` is the first reason of the route.
    """

    model: ModelId
    tier: Tier | None
    reason: str
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission to generate, with the tokens that were set aside for it. `grant_id` makes settling idempotent.

    `limits` holds the tightest limit of each kind, for the rate-limit headers; empty when nothing is limited.
    `reserved_micros`: what was set aside of budgets of money. `admitted_ms` says which windows of budgets are charged.
    """

    grant_id: str
    tenant: TenantId
    key_id: KeyId
    reserved_tokens: int
    request_id: RequestId
    model: ModelId
    limits: tuple[Limit, ...] = ()
    team: str | None = None
    reserved_micros: int = 0
    admitted_ms: int = 0


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is stored of a key: never the key itself. Times are milliseconds since the epoch.

    `budget_tokens` is what the key may use in all, input and output together; None: no such limit. `rotated_ms`: when
    its text was last replaced; `previous_until_ms`: until when the text before that is good, too.
    """

    key_id: KeyId
    tenant: TenantId
    name: str
    person: str | None
    scopes: frozenset[Scope]
    models: frozenset[ModelId] | None
    gate_profile: GateProfile
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    hold_s: int = 0
    budget_tokens: int | None = None
    roles: frozenset[str] = frozenset()
    team: str | None = None
    limits: RateLimits = RateLimits()
    rotated_ms: int | None = None
    previous_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A freshly created key: the only moment at which its text exists outside the client."""

    record: KeyRecord
    presented: str


@dataclass(frozen=True, slots=True)
class KeySpec:
    """What to create a key from. `ttl_s` None: no expiry."""

    tenant: TenantId
    name: str
    person: str | None = None
    scopes: frozenset[Scope] = frozenset({Scope.INFERENCE})
    models: frozenset[ModelId] | None = None
    gate_profile: GateProfile = GateProfile.OPS
    ttl_s: int | None = None
    hold_s: int = 0
    budget_tokens: int | None = None
    roles: frozenset[str] = frozenset()
    team: str | None = None
    limits: RateLimits = RateLimits()


class Ledger(UsageBooks, Protocol):
    """Keys, budgets, limits and usage."""

    async def authenticate(self, presented: str) -> Principal:
        """The principal behind a key, or `Unauthenticated`."""
        ...

    async def admit(
        self,
        principal: Principal,
        request_id: RequestId,
        model: ModelId,
        tokens: int,
        prompt_tokens: int = 0,
        grant_id: str | None = None,
    ) -> Grant:
        """Set `tokens` aside for one generation, or `QuotaExceeded` / `BudgetExceeded`.

        `prompt_tokens` of them are the prompt's, which costs less; 0 when that is not known. `grant_id` names the grant
        beforehand: whoever does not hear the answer can give it back (`returned`).
        """
        ...

    async def lease(
        self, principal: Principal, model: ModelId, tokens: int, prompt_tokens: int, count: int
    ) -> Sequence[Grant]:
        """At most `count` grants for requests that are still to come; fewer, or none, where limits are near.

        Each is good for `LEASE_S` seconds, is set aside like any other, and is given back by itself when nobody has
        said by then that it was opened.
        """
        ...

    async def opened(self, grants: Sequence[Grant]) -> None:
        """Grants of leases are in use now, with the ids of their requests. Settling says so, too."""
        ...

    async def returned(self, grants: Sequence[Grant]) -> None:
        """Grants that nobody will use: of leases, or named ones that nobody may have been given.

        Of the latter `grant_id`, `key_id`, `tenant`, `team` and `model` count. Nothing stays set aside, and a grant of
        such a name is not given any more.
        """
        ...

    async def settle(self, grant: Grant, usage: Usage, served: Served | None = None) -> None:
        """Replace the reservation by what was used. Idempotent per grant. `served` None: no engine was asked."""
        ...

    async def create_key(self, spec: KeySpec, actor: str = "system") -> NewKey:
        """Create a key; its text is in the answer and nowhere else. `actor` is who asked, for the audit record."""
        ...

    async def list_keys(self, tenant: TenantId | None) -> Sequence[KeyRecord]:
        """All keys of a tenant, or of everybody; revoked ones too."""
        ...

    async def holders(self, key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        """The principals of those of the keys that are good at this moment; the others are left out."""
        ...

    async def tenants(self) -> Sequence[TenantView]:
        """Every tenant that the settings name or that has a key, by name: what holds for it."""
        ...

    async def revoke_key(self, key_id: KeyId, actor: str = "system") -> KeyRecord:
        """Revoke; effective everywhere within 5 s. `NotFound` for an unknown id. `actor` is who asked."""
        ...

    async def rotate_key(self, key_id: KeyId, grace_s: int, actor: str = "system") -> NewKey:
        """Give a key a new text; the old one is good for `grace_s` seconds more. All else stays, usage and budget too.

        `NotFound` for an unknown id, `InvalidRequest` for a key that was revoked or has expired.
        """
        ...

    async def expire_key(self, key_id: KeyId, in_s: int | None, actor: str = "system") -> KeyRecord:
        """Let a key end `in_s` seconds from now (0: at once), or never (None); effective everywhere within 5 s.

        `NotFound` for an unknown id, `InvalidRequest` for a key that was revoked.
        """
        ...

    async def put_budget(self, budget: Budget, actor: str = "system") -> BudgetState:
        """Set a budget, in place of the one with its id; what was used in its window counts at once."""
        ...

    async def remove_budget(self, budget_id: str, actor: str = "system") -> None:
        """End a budget; `NotFound` for an unknown id."""
        ...

    async def budgets(self, tenant: TenantId | None) -> Sequence[BudgetState]:
        """Where the budgets of a tenant, or of everybody, stand: its own, those of teams, those of keys."""
        ...

    async def ready(self) -> bool:
        """True when the store answers."""
        ...


LEASE_S = 5.0
"""How long a ledger waits to hear that a grant of a lease was opened. Who holds it must stop using it well before."""


# --- difficulty --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TierState:
    """How a tier looks from where its calls are made, over the last minute.

    `up`: False after calls that failed one after the other, until the next one may find out. `cold`: it was scaled to
    zero. `full`: it has just refused a call, or its queue is at its bound; `pressure` is that queue over its bound.
    `in_flight` counts unfinished calls, `ms` is what a whole answer usually takes, None while too few were seen.
    """

    up: bool = True
    cold: bool = False
    full: bool = False
    pressure: float = 0.0
    in_flight: int = 0
    ms: int | None = None


@dataclass(frozen=True, slots=True)
class RouteAsk:
    """A routing question. `model` is an explicit wish (None: "auto"), honoured inside the safety floors.

    `explained`: the decision comes with its detail, as that of a dry run does. `tiers`: how the tiers are, as far as it
    is known. `left_ms` is what is left of the time that the caller will wait, None where that is unknown. `usable` are
    the tiers that may answer this caller, None: all; a turn that only another one may answer for its safety is held.
    `revisions`: which revision of a model the session gets, of those that have several. `snapshot`: which revision of
    the learned snapshot decides, "": the configured one. `prompts` and `policy` say the same of what the router has
    nothing to do with; it remembers them beside its decision.
    """

    request_id: RequestId
    tenant: TenantId
    session: SessionId
    request: RouteRequest
    model: ModelId | None = None
    dry_run: bool = False
    explained: bool = False
    tiers: Mapping[Tier, TierState] = field(default_factory=dict[Tier, TierState])
    left_ms: int | None = None
    usable: frozenset[Tier] | None = None
    revisions: Mapping[ModelId, str] = field(default_factory=dict[ModelId, str])
    snapshot: str = ""
    prompts: Mapping[ModelId, str] = field(default_factory=dict[ModelId, str])
    policy: str = ""


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """What is counted of a decision, in words of which there are few.

    `shadow` is the tier that the learned proposal would have led to where it only watches, `hit`: its score was above
    the threshold, `abstained` says in a word why there was none. `target` is the share of the larger tier that the
    budget aims at, for turns that it counts. `capped`: the larger tier's time is counted for this tenant. `refused`
    are the files that were changed and are not in force: `policy`, `snapshot`.
    """

    task: str
    shadow: Tier | None = None
    hit: bool = False
    abstained: str | None = None
    target: float | None = None
    capped: bool = False
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Where a turn goes and why. `reasons` lists every rule that fired, the deciding one first.

    `watched`: the router wants to hear of a good end as well as of a bad one, because the session has failures on
    record or the larger tier's time is counted.
    `confidence` in [0.5, 1] says how far the tier is from changing, `propensity` in (0, 1] how probable this one was.
    With a `hold` nothing may be generated: the arm is what the turn would need. `hand_over`: the strong tier failed,
    too, and a human should take over. `detail` is there for a dry run, and where it was asked for. `cascade`: the
    tenant's requests may ask for a verified cascade. `may_rise`: the policy lets the larger tier answer in the place of
    this one. `router_revision`, `prompt_revision` and `policy_revision` are there where the session could have got
    another one: of the snapshot that decided, of the model's prompt, of the gate's policy.
    """

    route_id: RouteId
    model: ModelId
    tier: Tier
    effort: Effort
    revision: str
    reason: str
    reasons: tuple[str, ...]
    difficulty: float
    policy_digest: str
    watched: bool = True
    mode: Mode = Mode.SHADOW
    confidence: float = 0.5
    snapshot_digest: str = ""
    propensity: float = 1.0
    explored: bool = False
    eligible: bool = False
    hand_over: bool = False
    hold: Hold | None = None
    detail: Detail | None = None
    facts: RouteFacts | None = None
    cascade: bool = True
    may_rise: bool = True
    router_revision: str = ""
    prompt_revision: str = ""
    policy_revision: str = ""


@dataclass(frozen=True, slots=True)
class CascadeReport:
    """What a verified cascade did after the decision `route_id`. Holds no word of an answer.

    `word` and `why` are those of the headers: `escalated` means that the second answer was sent. `verdict` is that of
    the checks on the first answer, with the `findings` that failed as `check:kind`, and `second_verdict` that on the
    second one. `second` is the decision for the larger model, None when it was not asked; `error_code` says why it
    gave no answer.
    """

    route_id: RouteId
    word: str
    why: str | None = None
    verdict: str | None = None
    findings: tuple[str, ...] = ()
    second: RouteDecision | None = None
    second_verdict: str | None = None
    error_code: str | None = None

    @property
    def sent(self) -> RouteDecision | None:
        """The decision whose answer was sent in the place of the first one's; None when that one was."""
        return self.second if self.word == "escalated" else None


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """Why a turn went where it went. Holds no word of the prompt.

    `signals` are the named signals that were true, `rules` every rule of the policy with its truth value, and the terms
    of `contributions` sum to the logit of the difficulty. All three are empty when the router had to fall back, and
    there is no `detail` then. `cascade` is there when the answer was checked and another one asked for.
    """

    decision: RouteDecision
    request_id: RequestId
    at_ms: int
    task: str
    risk: Risk
    signals: tuple[str, ...]
    rules: tuple[tuple[str, bool], ...]
    contributions: tuple[tuple[str, float], ...]
    detail: Detail | None = None
    cascade: CascadeReport | None = None


class AttemptOutcome(StrEnum):
    """How an attempt ended, as far as the gateway can see without asking a model.

    `ABORTED`: nobody waited for its end, or there was no room for it. It says nothing of the model; its time is spent.
    """

    OK = "ok"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    FAILED = "failed"
    VERIFIER_FAILED = "verifier_failed"
    PARSE_FAILED = "parse_failed"
    LOOPING = "looping"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Attempt:
    """Evidence for the session memory. `event_id` makes it idempotent: a client's retry is not a second failure.

    `ms` is how long the model was at work, from its first call to its last byte; the budget of the larger tier counts
    it. `cascade` is what became of the turn when its answer was checked, for whoever asks why.
    """

    event_id: str
    tenant: TenantId
    session: SessionId
    tier: Tier
    outcome: AttemptOutcome
    ms: int = 0
    cascade: CascadeReport | None = None


class FeedbackVerdict(StrEnum):
    """What somebody says of an answer: right, wrong, or given by more or less model than it needed."""

    OK = "ok"
    WRONG = "wrong"
    OVERKILL = "overkill"
    UNDERPOWERED = "underpowered"


class FeedbackSource(StrEnum):
    """Who or what judged."""

    VERIFIER = "verifier"
    TOOL = "tool"
    HUMAN = "human"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Feedback:
    """A verdict on an earlier turn. `weight` in (0, 1] is how far it is trusted, by the credential of who said it.

    `event_id` makes it idempotent within the tenant; `score` in [0, 1] is the judge's own measure, if it has one.
    """

    event_id: str
    tenant: TenantId
    key_id: KeyId
    route_id: RouteId
    verdict: FeedbackVerdict
    source: FeedbackSource
    weight: float
    score: float | None = None


class Difficulty(Protocol):
    """The difficulty router with its session memory."""

    async def route(self, ask: RouteAsk) -> RouteDecision:
        """Model and effort for a turn. `UnknownModel` for a wish that is not served."""
        ...

    async def observe(self, attempt: Attempt) -> None:
        """Remember how an attempt ended."""
        ...

    async def explain(self, tenant: TenantId, route_id: RouteId) -> RouteExplanation:
        """Why a recent turn was routed as it was; `NotFound` when forgotten, unknown or another tenant's."""
        ...

    async def feedback(self, said: Feedback) -> None:
        """Take a verdict on a turn of the last days. The same event twice is one verdict.

        `NotFound` for a turn that is unknown, too old or another tenant's; `InvalidRequest` when the event id was used
        for something else; `QuotaExceeded` when the key says too much.
        """
        ...

    async def ready(self) -> bool:
        """True when a policy is loaded."""
        ...


# --- engine ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One HTTP request for the engine's own API. Header names are lower case; keys of clients never travel here.

    `cache_salt`: prompts share cached prefixes only with prompts of the same salt; hex digits, or empty for none.
    `tenant` and `share` say whose turn it is where several wait. Within a tenant lanes take turns: `lane` is who of it
    asks, and what is `patient` waits apart, for a smaller part. `revision`: of the model's, where several are deployed;
    "" for the configured one. None of these reaches the engine's own API.
    `counted`: the reply tells with its bytes what it has cost so far (`Counted`), where the engine can say that.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    request_id: RequestId
    session: SessionId
    method: str = "POST"
    cache_salt: str = ""
    tenant: TenantId = TenantId("")
    share: Share = Share()
    lane: str = ""
    patient: bool = False
    revision: str = ""
    counted: bool = False


@dataclass(frozen=True, slots=True)
class EngineStart:
    """First item of a reply: status and headers (lower-case names)."""

    status: int
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Repaired:
    """Malformed model output was repaired; precedes the bytes it concerns. Each note says what was guessed."""

    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes of a reply, and what it has cost by the time they left: the engine's own count, never less than before.

    One item, because each one is a message. `data` is empty where the engine works and has nothing to say for a while;
    then it may come before the `EngineStart`, too.
    """

    data: bytes
    usage: Usage

    def __reduce__(self) -> tuple[Callable[..., "Counted"], tuple[bytes | int | bool, ...]]:
        """Flat: it crosses processes with every message, and a value inside a value takes twice the time."""
        of = self.usage
        return _counted, (
            self.data,
            of.input_tokens,
            of.cached_tokens,
            of.output_tokens,
            of.reasoning_tokens,
            of.estimated,
        )


def _counted(data: bytes, read: int, cached: int, written: int, reasoning: int, estimated: bool) -> Counted:
    return Counted(data, Usage(read, cached, written, reasoning, estimated))


ReplyItem: TypeAlias = EngineStart | Repaired | bytes
EngineItem: TypeAlias = ReplyItem | Counted


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a replica says of itself. `running` counts unfinished requests in the engine, queued ones included."""

    model: ModelId
    revision: str
    kind: str
    pid: int
    core_pids: tuple[int, ...]
    running: int
    queued_tokens: int
    max_model_len: int
    started_s: float


class Engine(Protocol):
    """One model at one revision."""

    def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        """The reply: `EngineStart` first, then bytes, in `Counted` where the call asks for that.

        Closing the generator aborts the generation. Raises `EngineOverloaded`, `EngineFailed` or `EngineTimeout`, at
        any step.
        """
        ...

    async def info(self) -> EngineInfo:
        """State of one replica."""
        ...

    def cold(self) -> bool:
        """True when the model was scaled to zero: a call now waits for its first replica."""
        ...


# --- gate --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call as the model wrote it. `arguments` is the raw text, not yet canonical.

    `defect` says why it must not leave, whatever its words are: its pieces contradict each other, it was written as
    text, or nobody knows its kind. It is judged for the record, and never `Released` or `Held`.
    """

    call_id: str
    choice: int
    index: int
    name: str
    arguments: str
    recovered: bool = False
    defect: str | None = None


@dataclass(frozen=True, slots=True)
class GateContext:
    """Who the calls belong to and under which decision they were generated.

    `agent` is the client software as it names itself; `untrusted`: text from outside (a web page, a mail, a server's
    answer) is in the conversation; `schemas` are the SHA-256 hex of the RFC 8785 form of each offered tool's JSON
    schema. All three can raise the class of a call and never lower it. `policy` is the revision of the policy that
    judges this session; "": the configured one. Where one is not deployed all that are judge, and the strictest counts.
    """

    request_id: RequestId
    principal: Principal
    session: SessionId
    model: ModelId
    route_id: RouteId
    offered_tools: frozenset[str]
    agent: str | None = None
    untrusted: bool = False
    schemas: Mapping[str, str] = field(default_factory=dict[str, str])
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A record's place in the audit log: dense 0-based index and RFC 6962 leaf hash (32 bytes)."""

    index: int
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class Released:
    """The call may go to the client, with exactly these canonical `arguments` (RFC 8785).

    `approval_id` is there for what humans approved, `change_id` and `rollback_digest` for every change.
    """

    call: ToolCall
    arguments: str
    risk: Risk
    reasons: tuple[str, ...]
    receipt: Receipt
    gate_call_id: str = ""
    action_digest: str = ""
    policy_digest: str = ""
    approval_id: ApprovalId | None = None
    change_id: str | None = None
    rollback_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """The call waits for humans: a plan (`plan_required`), one vote (R2) or two (R3)."""

    call: ToolCall
    approval_id: ApprovalId
    risk: Risk
    reasons: tuple[str, ...]
    plan_required: bool
    expires_ms: int
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Denied:
    """The call will never be released."""

    call: ToolCall
    gate_call_id: str
    risk: Risk
    reasons: tuple[str, ...]
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Withheld:
    """No verdict: the gate or the log is down, or an earlier call of the same turn was not released."""

    call: ToolCall
    reason: str


Verdict: TypeAlias = Released | Held | Denied | Withheld


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a client says an executed call gave: its tool message, as text, in the conversation's newest turn.

    `failed` is the dialect's own flag (`is_error`), where it has one.
    """

    call_id: str
    content: str
    failed: bool | None = None


class Gate(Protocol):
    """The in-process gate of an ingress replica."""

    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        """One verdict per call, in order. After the first call that is not released, none is.

        Every verdict's record is durable before this returns. Never raises for a call's content; a dependency that
        is down yields `Withheld`.
        """
        ...

    async def observe(self, context: GateContext, results: Sequence[ToolResult]) -> None:
        """Record what became of calls: reports of released ones, and results of calls that were never released.

        Called beside the request, never in its way. Raises `GatehouseError` when a record could not be made.
        """
        ...


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """How to get back: `steps` in order, and how to `verify` that it worked."""

    steps: tuple[str, ...]
    verify: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """A classified call that may not flow by itself.

    `action_digest` is the SHA-256 hex of the RFC 8785 form of the whole binding; `fingerprint` is the same without the
    random `gate_call_id`: it recognises the same call when the same session emits it again. `call_id` is the model's,
    which clients echo with the result. `approver_roles`: an approver needs one of them; empty: none in particular.
    """

    gate_call_id: str
    action_digest: str
    fingerprint: str
    request_id: RequestId
    session: SessionId
    tenant: TenantId
    requester_key: KeyId
    requester_person: str | None
    tool: str
    arguments: str
    display: str
    display_digest: str
    risk: Risk
    reasons: tuple[str, ...]
    policy_digest: str
    model: ModelId
    call_id: str = ""
    approver_roles: tuple[str, ...] = ()


class ApprovalState(StrEnum):
    """States of an approval (gate.md section 15); all but the first three are terminal."""

    NEEDS_PLAN = "NEEDS_PLAN"
    PENDING = "PENDING"
    APPROVED = "APPROVED"
    CONSUMED = "CONSUMED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    STALE = "STALE"


@dataclass(frozen=True, slots=True)
class Vote:
    """One human's decision on one digest. `person` is the natural person behind `key_id`."""

    person: str
    key_id: KeyId
    approve: bool
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval request with everything an approver must see. Times are milliseconds since the epoch."""

    approval_id: ApprovalId
    state: ApprovalState
    proposal: Proposal
    votes_required: int
    votes: tuple[Vote, ...]
    change_id: str | None
    plan: RollbackPlan | None
    created_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Permit:
    """A consumed approval: exactly one call may leave under it."""

    approval_id: ApprovalId
    action_digest: str
    change_id: str
    rollback_digest: str
    voters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """What a model says of a request, for its approvers to read: it never votes and never lowers a class.

    `concerns` are what could go wrong; `plan` is a draft that a human may record as the rollback plan, or not.
    """

    model: ModelId
    effort: Effort
    at_ms: int
    summary: str
    concerns: tuple[str, ...]
    plan: "RollbackPlan | None" = None


@dataclass(frozen=True, slots=True)
class Frozen:
    """A key whose tool calls do not leave, since `since_ms`. `kind` is the bypass attempt, or `manual`."""

    key_id: KeyId
    tenant: TenantId
    kind: str
    reason: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """The state of the approval queue. Ages are seconds; None: there is none.

    `waiting` counts open requests that somebody must act on, `notices_waiting` messages that no receiver has taken.
    """

    waiting: int
    oldest_s: float | None
    approved_unused: int
    unreported: int
    frozen: int
    notices_waiting: int = 0
    notices_oldest_s: float | None = None
    notices_failed: int = 0
    problems: tuple[str, ...] = ()


class ActionOutcome(StrEnum):
    """How an executed call ended, as far as somebody says so."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class RollbackOutcome(StrEnum):
    """How taking a change back ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NOT_NEEDED = "not_needed"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that was not released, as the replica remembers it that judged it."""

    gate_call_id: str
    tool: str
    risk: Risk
    reason: str
    approval_id: ApprovalId | None = None
    action_digest: str | None = None
    denied: bool = False


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a conversation says became of a call, without its text.

    `output_digest` is the SHA-256 (32 bytes) of the result. `exit_code` is there only if the text clearly has one.
    `refused` is None for a call that was released, or that this replica has not judged.
    """

    call_id: str
    output_digest: bytes
    outcome: ActionOutcome
    exit_code: int | None = None
    refused: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What became of a released call. `reported` and `rollback` are None until somebody has said it."""

    approval_id: ApprovalId
    gate_call_id: str
    consumed_ms: int
    reported: ActionOutcome | None = None
    reported_ms: int | None = None
    alerted_ms: int | None = None
    rollback: RollbackOutcome | None = None


class Approvals(Protocol):
    """The approval store (`PolicyGate`)."""

    async def propose(self, proposal: Proposal) -> Permit | Approval:
        """Consume a matching approval and return its permit, or open (or find) the request that waits for one.

        The same session that emits the same call again meets its own request by fingerprint: approved, it is consumed
        exactly once; pending, no second request is opened. `Forbidden` for a frozen key.
        """
        ...

    async def list_approvals(self, tenant: TenantId | None, state: ApprovalState | None) -> Sequence[Approval]:
        """Requests, newest first; None means all."""
        ...

    async def get(self, tenant: TenantId | None, approval_id: ApprovalId) -> Approval:
        """One request, or `NotFound` (also when it is another tenant's)."""
        ...

    async def plan(self, principal: Principal, approval_id: ApprovalId, change_id: str, plan: RollbackPlan) -> Approval:
        """Record change id and rollback plan; both are needed before any vote counts."""
        ...

    async def vote(
        self, principal: Principal, approval_id: ApprovalId, digests: "Digests", approve: bool, reason: str
    ) -> Approval:
        """One human's vote on what was shown to them. `ApprovalConflict` or `Forbidden` when it may not count."""
        ...

    async def cancel(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        """Withdraw a request."""
        ...

    async def expire(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        """End a request now, as if its time were over: for whoever approves or administers."""
        ...

    async def advise(self, approval_id: ApprovalId, advice: Advice) -> None:
        """Put a model's review beside an open request; a later one takes its place. It counts for nothing."""
        ...

    async def advice(self, tenant: TenantId | None, approval_id: ApprovalId) -> Advice | None:
        """The newest review of a request, if there is one."""
        ...

    async def frozen(self) -> Sequence[Frozen]:
        """Every key whose tool calls do not leave."""
        ...

    async def freeze(self, principal: Principal, key_id: KeyId, reason: str) -> Frozen:
        """Let none of a key's tool calls leave from now on. `admin`, or whoever approves in the key's tenant."""
        ...

    async def unfreeze(self, principal: Principal, key_id: KeyId, change_id: str, reason: str) -> None:
        """Let a key's tool calls leave again. `admin` alone, and never for the key that asks."""
        ...

    async def health(self) -> QueueHealth:
        """How the queue stands, over all tenants."""
        ...

    async def observe(self, context: GateContext, results: Sequence[CallResult]) -> None:
        """Record what a conversation says of calls: each consumed permit's report, and refused calls that ran, once."""
        ...

    async def report(
        self, principal: Principal, approval_id: ApprovalId, outcome: ActionOutcome, exit_code: int | None, note: str
    ) -> Conclusion:
        """Say what became of a released call. `Forbidden` or `ApprovalConflict` when it may not be said (any more)."""
        ...

    async def rollback(
        self, principal: Principal, approval_id: ApprovalId, outcome: RollbackOutcome, note: str
    ) -> Conclusion:
        """Say how taking a released call back ended; a failed attempt may be followed by another."""
        ...

    async def ready(self) -> bool:
        """True when the store answers."""
        ...


# --- permits -----------------------------------------------------------------------------------------------------


class PermitState(StrEnum):
    """States of a permit; all but the first two are terminal."""

    ISSUED = "ISSUED"
    REDEEMED = "REDEEMED"
    REPORTED = "REPORTED"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class PermitAsk:
    """A released call for which a runner, `audience`, wants a signed permit. Digests are hex, `arguments` canonical.

    `rollback_of` names the permit whose execution this call takes back, `step` which 0-based step of its plan it is.
    """

    gate_call_id: str
    action_digest: str
    session: SessionId
    tool: str
    arguments: str
    risk: Risk
    policy_digest: str
    audience: str
    approval_id: ApprovalId | None = None
    change_id: str | None = None
    rollback_digest: str | None = None
    rollback_of: str | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class IssuedPermit:
    """A permit as its runner sees it. `token` is the JWS (EdDSA, `typ: exec-permit+jwt`), empty where it is only shown.

    Times are milliseconds. `plan` is the way back that was recorded with the approval, `taken_back` which of its
    steps, by 0-based index, were executed with success; `plan.verify` counts as the last. `rollback_of` names the
    permit whose execution this one takes back.
    """

    permit_id: str
    state: PermitState
    token: str
    ask: PermitAsk
    issued_ms: int
    expires_ms: int
    exec_profile: str
    plan: RollbackPlan | None = None
    rollback_of: str | None = None
    taken_back: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a runner says of one execution. `output_digest` is the SHA-256 (32 bytes) of what the command printed."""

    outcome: ActionOutcome
    exit_code: int | None
    output_digest: bytes
    started_ms: int
    ended_ms: int
    rollback: RollbackOutcome | None = None
    note: str = ""


class Permits(Protocol):
    """Signed permits and the one execution that each allows (`PolicyGate`)."""

    async def issue(self, principal: Principal, ask: PermitAsk) -> IssuedPermit:
        """A permit for a call that the gate has just released to this principal. `Forbidden` for a frozen key."""
        ...

    async def claim(self, principal: Principal, tool: str, arguments: str, audience: str) -> IssuedPermit:
        """The permit of an approved call that left in one of this key's streams and was not executed yet.

        `NotFound` when there is none: the runner then proposes the call itself.
        """
        ...

    async def redeem(
        self, principal: Principal, permit_id: str, action_digest: str, audience: str, nonce: str | None = None
    ) -> IssuedPermit:
        """Take the one execution. Exactly one caller ever succeeds; the others get `ApprovalConflict`.

        `nonce` is random, of at least 128 bits, and made for this execution by whoever will execute. The same nonce
        gets the same answer again until the execution is reported: the first answer may have been lost. Without one an
        answer is given once.
        """
        ...

    async def report(self, principal: Principal, permit_id: str, report: RunReport) -> IssuedPermit:
        """Say how the execution ended; the first word counts."""
        ...

    async def permit(self, principal: Principal, permit_id: str) -> IssuedPermit:
        """A permit of the key's tenant, without its token."""
        ...

    async def keys(self) -> Mapping[str, JsonValue]:
        """The public keys as a JWK set (RFC 7517, RFC 8037), the newest first."""
        ...


@dataclass(frozen=True, slots=True)
class Digests:
    """What a voter saw: hex SHA-256 of the binding and of the rendering. A vote that echoes others does not count."""

    action: str
    display: str


# --- stored responses --------------------------------------------------------------------------------------------


class ResponseStatus(StrEnum):
    """Status of a stored response, in the Responses API's words; all but the first two are final."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when nothing changes any more."""
        return self not in (ResponseStatus.QUEUED, ResponseStatus.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response of the Responses API. Times are milliseconds since the epoch.

    `body` is the response object as clients see it, `input` the items that this request brought itself; the items of
    earlier turns belong to the response named by `previous_id`.
    """

    response_id: str
    tenant: TenantId
    key_id: KeyId
    status: ResponseStatus
    body: Mapping[str, JsonValue]
    input: tuple[JsonValue, ...]
    previous_id: str | None
    created_ms: int
    expires_ms: int
    background: bool = False


class Responses(Protocol):
    """The store of the Responses API. Another tenant's id is an unknown id: the same `NotFound`, word for word."""

    async def put(self, response: StoredResponse) -> None:
        """Create or replace, durable when it returns. `expires_ms` 0 lets the store choose by its settings.

        A response that is final stays as it is, and one that was deleted stays deleted: a late writer changes nothing.
        `InvalidRequest` when the response is larger than the store takes, `QuotaExceeded` when the tenant is full.
        """
        ...

    async def get(self, tenant: TenantId, response_id: str) -> StoredResponse:
        """One response, or `NotFound`. A background one whose replica fell silent is answered as failed."""
        ...

    async def delete(self, tenant: TenantId, response_id: str) -> None:
        """Forget a response, or `NotFound`. A background one that still runs is stopped."""
        ...

    async def cancel(self, tenant: TenantId, response_id: str) -> StoredResponse:
        """Stop a background response that is not final; a final one is answered as it is.

        `NotFound` for an unknown id, `InvalidRequest` for one that does not run in the background.
        """
        ...

    async def beat(self, tenant: TenantId, response_id: str) -> bool:
        """A sign of life from whoever generates in the background; False: stop, nobody wants it any more."""
        ...

    async def conversation(self, tenant: TenantId, response_id: str) -> Sequence[JsonValue]:
        """Input and output items of a final response and all before it, oldest first: what a next turn builds on.

        `NotFound` when it or one before it is unknown, `InvalidRequest` when it is not final, did not succeed, or the
        whole is larger than the store hands out.
        """
        ...

    async def ready(self) -> bool:
        """True when the store answers."""
        ...


# --- audit -------------------------------------------------------------------------------------------------------


SYSTEM_TENANT = TenantId("system")
"""Tenant of events that belong to no tenant: `log.opened`, `config.loaded`. No key can be created for it."""


@dataclass(frozen=True, slots=True)
class Body:
    """Something that was said: its SHA-256 (32 bytes), and itself only where the tenant's bodies are kept.

    The log never holds either. The sink turns the digest into a salted commitment and the data into an encrypted blob.
    """

    digest: bytes
    data: bytes | None = None


Keeps: TypeAlias = Callable[[TenantId], bool]
"""True for tenants whose words are kept, encrypted, beside the log; of all others the log has commitments alone."""


def keeps_nothing(tenant: TenantId) -> bool:
    """The default: no words of anybody are kept."""
    del tenant
    return False


class BodyField(StrEnum):
    """What a body is of. The record's fields are called after it: `prompt_commit`, `prompt_body`."""

    PROMPT = "prompt"
    OUTPUT = "output"
    ARGUMENTS = "arguments"
    REASON = "reason"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that happened. `name` is `subject.action` of the closed list in `audit/record.py`.

    `event_id` is chosen by the producer and unique: appending it again with equal content returns the first receipt.
    `data` holds only the fields which the schema of `name` allows; never a prompt, an answer or an argument in clear:
    those are `bodies`. `change_id` and `policy_digest` of `data` become fields of the record's envelope.
    """

    event_id: str
    name: str
    at_ms: int
    tenant: TenantId
    principal: str
    request_id: RequestId | None = None
    session: SessionId | None = None
    data: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    bodies: Mapping[BodyField, Body] = field(default_factory=dict[BodyField, Body])


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where the log stands: number of records, and the hash that covers all of them (hex)."""

    size: int
    head_hash: str


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """What the sink says of itself. Ages are seconds, None for what never happened; sizes count records.

    `unsealed`: acknowledged records that no checkpoint covers yet, the oldest of them for `unsealed_s`.
    `witnessed_size`: what the quorum of witnesses has cosigned. `witness_stale`: too long ago, so no R2 or R3 call
    leaves. `exported_*` are None without an export; before its first success `exported_size` is None, and
    `exported_age_s` counts from the sink's start. `failure` says why nothing is acknowledged any more, `problems`
    what else an operator should look at, `notices` what was put right or could not be asked since the start.
    """

    size: int
    epoch: int
    origin: str
    queued_events: int
    unsealed: int
    unsealed_s: float
    checkpoint_size: int
    disk_free_bytes: int
    witnesses: int = 0
    witnessed_size: int | None = None
    witnessed_age_s: float | None = None
    witness_stale: bool = False
    exported_size: int | None = None
    exported_age_s: float | None = None
    failure: str | None = None
    problems: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """Outcome of a canary: appended at `index`, read back, proven under a checkpoint of `checkpoint_size` records.

    `problem` is None when all of that worked.
    """

    index: int | None
    checkpoint_size: int | None
    problem: str | None
    at_ms: int
    took_ms: int


@dataclass(frozen=True, slots=True)
class Proven:
    """A receipt with its proof: `proof` is a C2SP tlog-proof text that ends with the signed checkpoint."""

    receipt: Receipt
    proof: bytes


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it lies in the log: `entry` are its canonical bytes, whose RFC 6962 leaf is `receipt.leaf_hash`."""

    receipt: Receipt
    entry: bytes


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records in order; `next` is the index at which the page after it begins, None at the end of the log."""

    records: tuple[StoredRecord, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Consistency:
    """`hashes` (32 bytes each) lead from an older tree to that of `checkpoint`, a signed note (RFC 6962)."""

    hashes: tuple[bytes, ...]
    checkpoint: bytes


class Audit(Protocol):
    """The audit sink."""

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        """Receipts in order, after the records are on disk (fdatasync), or `AuditUnavailable`.

        All of one call's events are durable when it returns; no event of it is acknowledged before. The kinds
        `AuditOverloaded`, `AuditDiskFull`, `WitnessStale` and `AuditRefused` say that nothing was appended.
        """
        ...

    async def head(self) -> AuditHead:
        """Where the log stands."""
        ...

    async def status(self) -> AuditStatus:
        """What the sink says of itself; also while it acknowledges nothing."""
        ...

    async def check(self) -> AuditCheck:
        """Append a canary, read it back, verify its proof. At most one every few seconds; in between, the last one."""
        ...

    async def checkpoint(self) -> bytes:
        """The newest checkpoint, a signed note (C2SP), with the cosignatures it has so far. `NotFound` before it."""
        ...

    async def verifier_keys(self) -> Sequence[str]:
        """The log's public key and its witnesses', as verifier key texts (C2SP signed-note); the log's is first."""
        ...

    async def tile(self, path: str) -> bytes:
        """A tile or bundle of entries by its C2SP tlog-tiles path; `NotFound` for what is not there."""
        ...

    async def prove(self, index: int) -> Proven:
        """The inclusion proof of a record; waits for the checkpoint that covers it. `NotFound` beyond the log."""
        ...

    async def consistency(self, old_size: int) -> Consistency:
        """That the newest checkpoint's tree begins with that of `old_size`; `NotFound` for a larger size."""
        ...

    async def records(self, begin: int, limit: int, tenant: TenantId | None) -> RecordPage:
        """At most `limit` (1,000) records of `tenant` (None: all) from index `begin` on, in order.

        Reads a bounded stretch of the log: a page may hold fewer records, or none, and still have a next one.
        """
        ...

    async def find(self, event_id: str) -> StoredRecord:
        """The record of an event by its id, or `NotFound`."""
        ...

    async def shred(self, tenant: TenantId, actor: str, change_id: str, reason: str) -> Receipt:
        """Record `tenant.shredded`, then destroy the keys of the tenant's stored bodies. Proofs stay valid."""
        ...
