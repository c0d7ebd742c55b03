"""Ports over Serve handles: the only `.remote(`.

Every call has a deadline. What a replica raised comes back as the error it was, never as a Ray type: `RayTaskError`
keeps the original in `cause`, and its `str()` is a remote traceback that must not travel further.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar, cast

from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.errors import (
    AuditInDoubt,
    EngineFailed,
    EngineOverloaded,
    EngineTimeout,
    GatehouseError,
    GateUnavailable,
    PartUnavailable,
)
from deployments.ports import (
    ActionOutcome,
    Advice,
    Approval,
    ApprovalId,
    ApprovalState,
    Attempt,
    AuditCheck,
    AuditEvent,
    AuditHead,
    AuditStatus,
    Budget,
    BudgetState,
    CallResult,
    Conclusion,
    Consistency,
    Digests,
    EngineCall,
    EngineInfo,
    EngineItem,
    Feedback,
    Frozen,
    GateContext,
    Grant,
    IssuedPermit,
    JsonValue,
    KeyId,
    KeyRecord,
    KeySpec,
    ModelId,
    NewKey,
    Permit,
    PermitAsk,
    Principal,
    Proposal,
    Proven,
    QueueHealth,
    Receipt,
    RecordPage,
    RequestId,
    RollbackOutcome,
    RollbackPlan,
    RouteAsk,
    RouteDecision,
    RouteExplanation,
    RouteId,
    RunReport,
    Served,
    StoredRecord,
    StoredResponse,
    TenantId,
    TenantView,
    Usage,
)
from deployments.rollouts import Artefact, Count, Draft, Plan, Rollout, Slice, Step
from deployments.usage import Bucket, Dimension, Place, UsagePage, UsageQuery, UsageReport

T = TypeVar("T")
_log = logging.getLogger("gatehouse.clients")
_STARTING_S = 30  # what a client is told to wait for a model that loads
_READING_S = 3_600.0  # every byte of a checkpoint
_RECORDING_S = 20.0  # a step that waits for the log, and for the one before it


class _Client:
    """One deployment's handle, and what its silence is called."""

    down: type[GatehouseError] = PartUnavailable
    what = "A part of Gatehouse"

    def __init__(self, handle: object, timeout_s: float) -> None:
        self._handle = cast(DeploymentHandle[Any], handle)
        self._timeout_s = timeout_s

    async def _ask(self, method: str, *args: object) -> Any:
        return await self._ask_within(self._timeout_s, method, *args)

    async def _ask_within(self, timeout_s: float, method: str, *args: object) -> Any:
        call = cast(Awaitable[Any], getattr(self._handle, method).remote(*args))
        try:
            async with asyncio.timeout(timeout_s):
                return await call
        except (TimeoutError, GetTimeoutError):
            raise self.down(f"{self.what} did not answer in {timeout_s:g} s.") from None
        except (RayError, RayServeException) as error:
            self._raise(error)

    def _raise(self, error: RayError | RayServeException) -> NoReturn:
        own = _own(error)
        if own is not None:
            raise own from None
        _log.error("%s failed: %s", self.what, _short(error))
        raise self.down(f"{self.what} is not available.") from None


def _own(error: RayError | RayServeException) -> GatehouseError | None:
    cause = getattr(error, "cause", None)
    if isinstance(error, RayTaskError) and isinstance(cause, GatehouseError):
        return cause
    return None


def _short(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    return type(cause if isinstance(cause, BaseException) else error).__name__


class ColdWatch:
    """Which engines have no replica now, asked of Serve every few seconds; only for those that may scale to zero.

    A handle cannot tell: once it has seen a replica it answers "populated" for good.
    """

    def __init__(self, period_s: float = 2.0) -> None:
        self._period_s = period_s
        self._watched: set[tuple[str, str]] = set()
        self._cold: frozenset[tuple[str, str]] = frozenset()
        self._task: asyncio.Task[None] | None = None

    def watch(self, handle: object) -> Callable[[], bool]:
        """The answer to "is this deployment cold?", for whoever holds its handle."""
        deployment = cast(DeploymentHandle[Any], handle)
        name = (deployment.app_name, deployment.deployment_name)
        self._watched.add(name)
        return lambda: name in self._cold

    def start(self) -> None:
        """Begin to ask, if anything is watched. On a running loop."""
        if self._watched and self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                status = await asyncio.to_thread(serve.status)
                applications = cast(Mapping[str, Any], status.applications)
                self._cold = frozenset(name for name in self._watched if not _running(applications, *name))
            except (RayError, RayServeException) as error:  # what was known last is the best guess
                _log.error("Serve did not say which replicas run: %s", _short(error))
            await asyncio.sleep(self._period_s)


def _running(applications: Mapping[str, Any], application: str, deployment: str) -> int:
    parts = cast(Mapping[str, Any], getattr(applications.get(application), "deployments", {}))
    states = cast(Mapping[str, int], getattr(parts.get(deployment), "replica_states", {}))
    return sum(count for state, count in states.items() if str(getattr(state, "value", state)) == "RUNNING")


def _never() -> bool:
    return False


class EngineClient(_Client):
    """`ports.Engine` over a streaming handle. `timeout_s` covers a whole reply, `cold_start_s` a first replica."""

    down = EngineFailed
    what = "The model"

    def __init__(
        self, handle: object, timeout_s: float, cold_start_s: float = 300.0, cold: Callable[[], bool] = _never
    ) -> None:
        super().__init__(handle, timeout_s)
        self._stream = self._handle.options(stream=True)
        self._cold_start_s = cold_start_s
        self._cold = cold

    def cold(self) -> bool:
        """True when the model has no replica now, as last seen."""
        return self._cold()

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        """The reply; closing the generator cancels the generation on the replica."""
        ends_s = asyncio.get_running_loop().time() + self._timeout_s
        handle = self._stream.options(session_id=call.session)
        items = cast(DeploymentResponseGenerator[EngineItem], handle.call.remote(call))
        starting = self._cold()
        try:
            while True:
                try:
                    async with asyncio.timeout_at(ends_s):
                        item = await (self._first(items) if starting else anext(items))
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise EngineTimeout(f"The model did not finish within {self._timeout_s:g} s.") from None
                except BackPressureError as error:
                    wait_s = max(1, min(60, round(error.retry_after_s or 2)))
                    raise EngineOverloaded(f"The model is busy. Please try again in {wait_s}s.", wait_s) from None
                except (DeploymentUnavailableError, RayActorError) as error:
                    _log.error("engine replica lost: %s", _short(error))
                    raise EngineFailed("The model stopped while it was answering. Please try again.") from None
                except (RayError, RayServeException) as error:
                    self._raise(error)
                starting = False
                yield item
        finally:
            _cancel(items)

    async def _first(self, items: DeploymentResponseGenerator[EngineItem]) -> EngineItem:
        """The first item of a call that began without a replica; `EngineOverloaded` when none came in time."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        first = asyncio.create_task(_next(items))
        try:
            while not first.done():
                await asyncio.wait({first}, timeout=1.0)
                if not first.done() and self._cold() and loop.time() - began_s > self._cold_start_s:
                    raise EngineOverloaded(
                        f"The model was scaled to zero and is still starting. Please try again in {_STARTING_S}s.",
                        _STARTING_S,
                    )
            return first.result()
        finally:
            first.cancel()

    async def info(self) -> EngineInfo:
        """State of one replica."""
        return cast(EngineInfo, await self._ask("info"))


def _cancel(items: DeploymentResponseGenerator[EngineItem]) -> None:
    """End a call. One that never reached a replica raises here once more what its first item raised: that was told."""
    with suppress(RayError, RayServeException):
        items.cancel()


async def _next(items: DeploymentResponseGenerator[EngineItem]) -> EngineItem:
    return await anext(items)


class LedgerClient(_Client):
    """`ports.Ledger` over a handle."""

    what = "The key ledger"

    async def authenticate(self, presented: str) -> Principal:
        """The principal behind a key, or `Unauthenticated`."""
        return cast(Principal, await self._ask("authenticate", presented))

    async def admit(
        self,
        principal: Principal,
        request_id: RequestId,
        model: ModelId,
        tokens: int,
        prompt_tokens: int = 0,
        grant_id: str | None = None,
    ) -> Grant:
        """Set tokens aside."""
        return cast(Grant, await self._ask("admit", principal, request_id, model, tokens, prompt_tokens, grant_id))

    async def lease(
        self, principal: Principal, model: ModelId, tokens: int, prompt_tokens: int, count: int
    ) -> Sequence[Grant]:
        """Grants for requests that are still to come."""
        return cast(Sequence[Grant], await self._ask("lease", principal, model, tokens, prompt_tokens, count))

    async def opened(self, grants: Sequence[Grant]) -> None:
        """Grants of leases are in use now."""
        await self._ask("opened", grants)

    async def returned(self, grants: Sequence[Grant]) -> None:
        """Grants that nobody will use."""
        await self._ask("returned", grants)

    async def settle(self, grant: Grant, usage: Usage, served: Served | None = None) -> None:
        """Replace the reservation by what was used."""
        await self._ask("settle", grant, usage, served)

    async def create_key(self, spec: KeySpec, actor: str = "system") -> NewKey:
        """Create a key."""
        return cast(NewKey, await self._ask("create_key", spec, actor))

    async def list_keys(self, tenant: TenantId | None) -> Sequence[KeyRecord]:
        """All keys of a tenant, or of everybody."""
        return cast(Sequence[KeyRecord], await self._ask("list_keys", tenant))

    async def holders(self, key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        """The principals of those of the keys that are good at this moment."""
        return cast(Sequence[Principal], await self._ask("holders", key_ids))

    async def tenants(self) -> Sequence[TenantView]:
        """Every tenant that the settings name or that has a key."""
        return cast(Sequence[TenantView], await self._ask("tenants"))

    async def revoke_key(self, key_id: KeyId, actor: str = "system") -> KeyRecord:
        """Revoke a key."""
        return cast(KeyRecord, await self._ask("revoke_key", key_id, actor))

    async def rotate_key(self, key_id: KeyId, grace_s: int, actor: str = "system") -> NewKey:
        """Give a key a new text."""
        return cast(NewKey, await self._ask("rotate_key", key_id, grace_s, actor))

    async def expire_key(self, key_id: KeyId, in_s: int | None, actor: str = "system") -> KeyRecord:
        """Set when a key ends."""
        return cast(KeyRecord, await self._ask("expire_key", key_id, in_s, actor))

    async def put_budget(self, budget: Budget, actor: str = "system") -> BudgetState:
        """Set a budget."""
        return cast(BudgetState, await self._ask("put_budget", budget, actor))

    async def remove_budget(self, budget_id: str, actor: str = "system") -> None:
        """End a budget."""
        await self._ask("remove_budget", budget_id, actor)

    async def budgets(self, tenant: TenantId | None) -> Sequence[BudgetState]:
        """Where budgets stand."""
        return cast(Sequence[BudgetState], await self._ask("budgets", tenant))

    async def usage_report(
        self, query: UsageQuery, by: tuple[Dimension, ...] = (), bucket: Bucket | None = None
    ) -> UsageReport:
        """Totals of what was used."""
        return cast(UsageReport, await self._ask("usage_report", query, by, bucket))

    async def usage_rows(
        self, query: UsageQuery, after: Place | None = None, complete_ms: int | None = None, limit: int = 500
    ) -> UsagePage:
        """Rows of what was used, after a place."""
        return cast(UsagePage, await self._ask("usage_rows", query, after, complete_ms, limit))

    async def ready(self) -> bool:
        """True when the store answers."""
        return bool(await self._ask("ready"))


class DifficultyClient(_Client):
    """`ports.Difficulty` over a handle."""

    what = "The router"

    async def route(self, ask: RouteAsk) -> RouteDecision:
        """Model and effort for a turn."""
        return cast(RouteDecision, await self._ask("route", ask))

    async def observe(self, attempt: Attempt) -> None:
        """Remember how an attempt ended."""
        await self._ask("observe", attempt)

    async def explain(self, tenant: TenantId, route_id: RouteId) -> RouteExplanation:
        """Why an earlier turn of this tenant was routed as it was, or `NotFound`."""
        return cast(RouteExplanation, await self._ask("explain", tenant, route_id))

    async def feedback(self, said: Feedback) -> None:
        """Take a verdict on an earlier turn."""
        await self._ask("feedback", said)

    async def ready(self) -> bool:
        """True when a policy is loaded."""
        return bool(await self._ask("ready"))


class ApprovalsClient(_Client):
    """`ports.Approvals` over a handle."""

    down = GateUnavailable
    what = "The approval store"

    async def propose(self, proposal: Proposal) -> Permit | Approval:
        """Consume a matching approval, or open the request that waits for one."""
        return cast(Permit | Approval, await self._ask("propose", proposal))

    async def list_approvals(self, tenant: TenantId | None, state: ApprovalState | None) -> Sequence[Approval]:
        """Requests, newest first."""
        return cast(Sequence[Approval], await self._ask("list_approvals", tenant, state))

    async def get(self, tenant: TenantId | None, approval_id: ApprovalId) -> Approval:
        """One request."""
        return cast(Approval, await self._ask("get", tenant, approval_id))

    async def plan(self, principal: Principal, approval_id: ApprovalId, change_id: str, plan: RollbackPlan) -> Approval:
        """Record change id and rollback plan."""
        return cast(Approval, await self._ask("plan", principal, approval_id, change_id, plan))

    async def vote(
        self, principal: Principal, approval_id: ApprovalId, digests: Digests, approve: bool, reason: str
    ) -> Approval:
        """One human's vote."""
        return cast(Approval, await self._ask("vote", principal, approval_id, digests, approve, reason))

    async def cancel(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        """Withdraw a request."""
        return cast(Approval, await self._ask("cancel", principal, approval_id, reason))

    async def expire(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        """End a request now."""
        return cast(Approval, await self._ask("expire", principal, approval_id, reason))

    async def advise(self, approval_id: ApprovalId, advice: Advice) -> None:
        """Put a model's review beside an open request."""
        await self._ask("advise", approval_id, advice)

    async def advice(self, tenant: TenantId | None, approval_id: ApprovalId) -> Advice | None:
        """The newest review of a request."""
        return cast(Advice | None, await self._ask("advice", tenant, approval_id))

    async def frozen(self) -> Sequence[Frozen]:
        """Every key whose tool calls do not leave."""
        return cast(Sequence[Frozen], await self._ask("frozen"))

    async def freeze(self, principal: Principal, key_id: KeyId, reason: str) -> Frozen:
        """Let none of a key's tool calls leave from now on."""
        return cast(Frozen, await self._ask("freeze", principal, key_id, reason))

    async def unfreeze(self, principal: Principal, key_id: KeyId, change_id: str, reason: str) -> None:
        """Let a key's tool calls leave again."""
        await self._ask("unfreeze", principal, key_id, change_id, reason)

    async def health(self) -> QueueHealth:
        """How the queue stands."""
        return cast(QueueHealth, await self._ask("health"))

    async def observe(self, context: GateContext, results: Sequence[CallResult]) -> None:
        """Record what a conversation says of calls."""
        await self._ask("observe", context, results)

    async def report(
        self, principal: Principal, approval_id: ApprovalId, outcome: ActionOutcome, exit_code: int | None, note: str
    ) -> Conclusion:
        """Say what became of a released call."""
        return cast(Conclusion, await self._ask("report", principal, approval_id, outcome, exit_code, note))

    async def rollback(
        self, principal: Principal, approval_id: ApprovalId, outcome: RollbackOutcome, note: str
    ) -> Conclusion:
        """Say how taking a released call back ended."""
        return cast(Conclusion, await self._ask("rollback", principal, approval_id, outcome, note))

    async def ready(self) -> bool:
        """True when the store answers."""
        return bool(await self._ask("ready"))


class PermitsClient(_Client):
    """`ports.Permits` over the handle of the approval store."""

    down = GateUnavailable
    what = "The permit office"

    async def issue(self, principal: Principal, ask: PermitAsk) -> IssuedPermit:
        """A permit for a call that was just released."""
        return cast(IssuedPermit, await self._ask("issue", principal, ask))

    async def claim(self, principal: Principal, tool: str, arguments: str, audience: str) -> IssuedPermit:
        """The permit of an approved call that was not executed yet."""
        return cast(IssuedPermit, await self._ask("claim", principal, tool, arguments, audience))

    async def redeem(
        self, principal: Principal, permit_id: str, action_digest: str, audience: str, nonce: str | None = None
    ) -> IssuedPermit:
        """Take the one execution."""
        return cast(IssuedPermit, await self._ask("redeem", principal, permit_id, action_digest, audience, nonce))

    async def report(self, principal: Principal, permit_id: str, report: RunReport) -> IssuedPermit:
        """Say how the execution ended."""
        return cast(IssuedPermit, await self._ask("report_run", principal, permit_id, report))

    async def permit(self, principal: Principal, permit_id: str) -> IssuedPermit:
        """A permit, without its token."""
        return cast(IssuedPermit, await self._ask("permit", principal, permit_id))

    async def keys(self) -> Mapping[str, JsonValue]:
        """The public keys as a JWK set."""
        return cast(Mapping[str, JsonValue], await self._ask("permit_keys"))


class AuditClient(_Client):
    """`ports.Audit` over a handle. The sink's own refusals are certain; silence leaves the record in doubt."""

    down = AuditInDoubt
    what = "The audit sink"

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        """Receipts, after the records are on disk."""
        return cast(Sequence[Receipt], await self._ask("append", events))

    async def head(self) -> AuditHead:
        """Where the log stands."""
        return cast(AuditHead, await self._ask("head"))

    async def status(self) -> AuditStatus:
        """What the sink says of itself."""
        return cast(AuditStatus, await self._ask("status"))

    async def check(self) -> AuditCheck:
        """Outcome of a canary."""
        return cast(AuditCheck, await self._ask("check"))

    async def checkpoint(self) -> bytes:
        """The newest checkpoint."""
        return cast(bytes, await self._ask("checkpoint"))

    async def verifier_keys(self) -> Sequence[str]:
        """The log's key and its witnesses'."""
        return cast(Sequence[str], await self._ask("verifier_keys"))

    async def tile(self, path: str) -> bytes:
        """A tile or bundle of entries."""
        return cast(bytes, await self._ask("tile", path))

    async def prove(self, index: int) -> Proven:
        """The inclusion proof of a record."""
        return cast(Proven, await self._ask("prove", index))

    async def consistency(self, old_size: int) -> Consistency:
        """From an older tree to the newest checkpoint's."""
        return cast(Consistency, await self._ask("consistency", old_size))

    async def records(self, begin: int, limit: int, tenant: TenantId | None) -> RecordPage:
        """Records in order."""
        return cast(RecordPage, await self._ask("records", begin, limit, tenant))

    async def find(self, event_id: str) -> StoredRecord:
        """The record of an event."""
        return cast(StoredRecord, await self._ask("find", event_id))

    async def shred(self, tenant: TenantId, actor: str, change_id: str, reason: str) -> Receipt:
        """Destroy the keys of a tenant's stored bodies."""
        return cast(Receipt, await self._ask("shred", tenant, actor, change_id, reason))


class ResponsesClient(_Client):
    """`ports.Responses` over a handle."""

    what = "The response store"

    async def put(self, response: StoredResponse) -> None:
        """Create or replace."""
        await self._ask("put", response)

    async def get(self, tenant: TenantId, response_id: str) -> StoredResponse:
        """One response, or `NotFound`."""
        return cast(StoredResponse, await self._ask("get", tenant, response_id))

    async def delete(self, tenant: TenantId, response_id: str) -> None:
        """Forget a response, or `NotFound`."""
        await self._ask("delete", tenant, response_id)

    async def cancel(self, tenant: TenantId, response_id: str) -> StoredResponse:
        """Stop a background response."""
        return cast(StoredResponse, await self._ask("cancel", tenant, response_id))

    async def beat(self, tenant: TenantId, response_id: str) -> bool:
        """A sign of life; False: stop."""
        return bool(await self._ask("beat", tenant, response_id))

    async def conversation(self, tenant: TenantId, response_id: str) -> Sequence[JsonValue]:
        """Items of a response and all before it, oldest first."""
        return cast(Sequence[JsonValue], await self._ask("conversation", tenant, response_id))

    async def ready(self) -> bool:
        """True when the store answers."""
        return bool(await self._ask("ready"))


class RolloutsClient(_Client):
    """`rollouts.Rollouts` over a handle. What reads a checkpoint or writes a record has a longer time."""

    what = "The rollout controller"

    async def register(self, artefact: Artefact, actor: str) -> str:
        """Remember an artefact; its revision."""
        return str(await self._ask_within(_READING_S, "register", artefact, actor))

    async def start(self, plan: Plan, actor: str) -> Rollout:
        """Begin a rollout."""
        return cast(Rollout, await self._ask_within(_RECORDING_S, "start", plan, actor))

    async def move(self, rollout_id: str, draft: Draft) -> Rollout:
        """Advance, hold, resume or roll back by hand."""
        return cast(Rollout, await self._ask_within(_RECORDING_S, "move", rollout_id, draft))

    async def get(self, rollout_id: str) -> Rollout:
        """A rollout, or `NotFound`."""
        return cast(Rollout, await self._ask("get", rollout_id))

    async def rollouts(self) -> Sequence[Rollout]:
        """The newest rollouts."""
        return cast(Sequence[Rollout], await self._ask("rollouts"))

    async def history(self, rollout_id: str) -> Sequence[Step]:
        """The steps of a rollout, or `NotFound`."""
        return cast(Sequence[Step], await self._ask("history", rollout_id))

    async def slices(self) -> Sequence[Slice]:
        """How traffic is split now."""
        return cast(Sequence[Slice], await self._ask("slices"))

    async def observe(self, counts: Sequence[Count]) -> None:
        """Add what was seen."""
        await self._ask("observe", counts)

    async def ready(self) -> bool:
        """True when the store answers."""
        return bool(await self._ask("ready"))
