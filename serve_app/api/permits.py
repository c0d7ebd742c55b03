"""`/v1/gate/calls`, `/v1/permits` and `/v1/gate/jwks`: what a runner asks before, and says after, it executes a call.

A runner proposes a call, or claims one that left in a stream of its key, and gets a permit; it redeems the permit,
once, executes, and reports. Everything needs a key with the scope `inference`; only the public keys need none.
"""

import asyncio
import secrets
from typing import Annotated, Any, Literal, assert_never

import rfc8785
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import ApprovalConflict, InvalidRequest
from deployments.gate.binding import ActionBinding
from deployments.gate.circumstances import Circumstances
from deployments.gate.classify import Classification
from deployments.gate.commands import RUN_TOOL, run_of
from deployments.gate.judges import Judges
from deployments.gate.permits import binding_object, binding_of
from deployments.gate.takeback import Way, way_of
from deployments.ingress.surface import Surface
from deployments.ports import (
    ActionOutcome,
    Denied,
    GateContext,
    Held,
    IssuedPermit,
    JsonValue,
    ModelId,
    PermitAsk,
    PermitState,
    Principal,
    Released,
    RequestId,
    RollbackOutcome,
    RouteId,
    RunReport,
    Scope,
    SessionId,
    ToolCall,
    Withheld,
)
from serve_app.api.approvals import missing, policy_of
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import parse_model, read_object
from serve_app.api.streams import request_id_of

_MAX_BODY_BYTES = 1024 * 1024
_RUNNER = ModelId("runner")
_NO_ROUTE = RouteId("runner")
_Audience = Annotated[str, Field(min_length=1, max_length=128)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CallBody(_Body):
    """A call that a runner wants to execute. `arguments` as text, or as an object."""

    tool: str = Field(min_length=1, max_length=256)
    arguments: str | dict[str, object]
    audience: _Audience
    session: str | None = Field(default=None, min_length=1, max_length=256)


class ClaimBody(_Body):
    """A call that a runner was given to execute."""

    tool: str = Field(min_length=1, max_length=256)
    arguments: str | dict[str, object]
    audience: _Audience


class RedeemBody(_Body):
    """What is about to be executed: the digest of its binding, and by whom.

    `nonce` is random and made for this execution alone: under the same nonce the same answer is given again.
    """

    action_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    audience: _Audience
    nonce: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{22,128}$")


class RunReportBody(_Body):
    """How an execution ended. `output_digest` covers all that the command printed. Times in milliseconds."""

    outcome: Literal["succeeded", "failed", "unknown"]
    exit_code: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    output_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    started_ms: int = Field(ge=0, lt=2**53)
    ended_ms: int = Field(ge=0, lt=2**53)
    rollback: Literal["succeeded", "failed", "not_needed"] | None = None
    note: str = Field(default="", max_length=4000)


class StepBody(_Body):
    """Which step of the plan of an executed call to take now; the verification is the last one."""

    step: int = Field(ge=0, le=50)
    audience: _Audience


class PlanShown(BaseModel):
    """The way back that was recorded with the approval."""

    steps: tuple[str, ...]
    verify: str


class PermitReply(BaseModel):
    """A permit. `token` and `binding` are there for its runner, when it gets it. Times in milliseconds.

    `action_digest` is the SHA-256 of the RFC 8785 form of `binding`.
    """

    object: str = "permit"
    id: str
    state: PermitState
    token: str | None
    binding: dict[str, Any] | None
    action_digest: str
    gate_call_id: str
    audience: str
    risk: str
    exec_profile: str
    approval_id: str | None
    change_id: str | None
    rollback_digest: str | None
    rollback_of: str | None
    step: int | None
    plan: PlanShown | None
    taken_back: tuple[int, ...]
    issued_ms: int
    expires_ms: int


class ProposedReply(BaseModel):
    """What the gate makes of a proposed call.

    `permitted` comes with a permit; `held` with the approval that it waits for: the same call of the same session is
    released once, when that is granted. `by_hand`: a verification that a human must make.
    """

    object: str = "gate.proposed"
    status: Literal["permitted", "held", "denied", "withheld", "by_hand"]
    gate_call_id: str | None = None
    risk: str | None = None
    reasons: tuple[str, ...] = ()
    approval_id: str | None = None
    missing: str | None = None
    plan_required: bool = False
    expires_ms: int | None = None
    permit: PermitReply | None = None
    by_hand: str | None = None


class JwksReply(BaseModel):
    """Public keys (RFC 7517), the newest first."""

    keys: list[dict[str, object]]


def create_permits_router(authorizer: Authorizer, surface: Surface, judges: Judges) -> APIRouter:
    """The routes of runners. A call is judged by the policy of the session that it belongs to."""
    router = APIRouter(prefix="/v1", tags=["gate"])
    permits = surface.permits

    async def runner(request: Request) -> Principal:
        return await authorizer(request, Scope.INFERENCE)

    async def proposed(
        request: Request, principal: Principal, session: str, call: ToolCall, audience: str, of: tuple[str, int] | None
    ) -> ProposedReply:
        context = GateContext(
            request_id=RequestId(request_id_of(request)),
            principal=principal,
            session=SessionId(session),
            model=_RUNNER,
            route_id=_NO_ROUTE,
            offered_tools=frozenset({call.name}),
            agent="gatehouse-run",
            policy=policy_of(surface.revisions, principal, session),
        )
        (verdict,) = await surface.gate.judge(context, [call])
        match verdict:
            case Released():
                rollback_of, step = of or (None, None)
                ask = PermitAsk(
                    gate_call_id=verdict.gate_call_id,
                    action_digest=verdict.action_digest,
                    session=context.session,
                    tool=call.name,
                    arguments=verdict.arguments,
                    risk=verdict.risk,
                    policy_digest=verdict.policy_digest,
                    audience=audience,
                    approval_id=verdict.approval_id,
                    change_id=verdict.change_id,
                    rollback_digest=verdict.rollback_digest,
                    rollback_of=rollback_of,
                    step=step,
                )
                permit = await permits.issue(principal, ask)
                return _permitted(permit, principal, verdict.reasons)
            case Held():
                approval = await surface.approvals.get(principal.tenant, verdict.approval_id)
                return ProposedReply(
                    status="held",
                    gate_call_id=approval.proposal.gate_call_id,
                    risk=verdict.risk.value,
                    reasons=verdict.reasons,
                    approval_id=verdict.approval_id,
                    missing=missing(approval),
                    plan_required=verdict.plan_required,
                    expires_ms=verdict.expires_ms,
                )
            case Denied():
                return ProposedReply(
                    status="denied",
                    gate_call_id=verdict.gate_call_id,
                    risk=verdict.risk.value,
                    reasons=verdict.reasons,
                )
            case Withheld():
                return ProposedReply(status="withheld", reasons=(verdict.reason,))
            case _:
                assert_never(verdict)

    @router.post("/gate/calls")
    async def propose(request: Request, principal: Annotated[Principal, Depends(runner)]) -> ProposedReply:
        """Propose a call, as a model would; released, it comes with its permit."""
        raw = await read_object(request, _MAX_BODY_BYTES)
        body = parse_model(CallBody, raw)
        call = _call(body.tool, _text(raw["arguments"]))
        session = body.session or f"runner:{principal.key_id}"
        return await proposed(request, principal, session, call, body.audience, None)

    @router.post("/permits/claim")
    async def claim(request: Request, principal: Annotated[Principal, Depends(runner)]) -> PermitReply:
        """The permit of an approved call that left in a stream of this key and was not executed yet."""
        raw = await read_object(request, _MAX_BODY_BYTES)
        body = parse_model(ClaimBody, raw)
        permit = await permits.claim(principal, body.tool, _text(raw["arguments"]), body.audience)
        return _reply(permit, principal)

    @router.post("/permits/{permit_id}/redeem")
    async def redeem(permit_id: str, request: Request, principal: Annotated[Principal, Depends(runner)]) -> PermitReply:
        """Take the one execution; on record when this answers. Safe to ask again under the same nonce."""
        body = parse_model(RedeemBody, await read_object(request, _MAX_BODY_BYTES))
        return _reply(await permits.redeem(principal, permit_id, body.action_digest, body.audience, body.nonce))

    @router.post("/permits/{permit_id}/report")
    async def report(permit_id: str, request: Request, principal: Annotated[Principal, Depends(runner)]) -> PermitReply:
        """Say how the execution ended; on record when this answers."""
        body = parse_model(RunReportBody, await read_object(request, _MAX_BODY_BYTES))
        said = RunReport(
            outcome=ActionOutcome(body.outcome),
            exit_code=body.exit_code,
            output_digest=bytes.fromhex(body.output_digest),
            started_ms=body.started_ms,
            ended_ms=body.ended_ms,
            rollback=None if body.rollback is None else RollbackOutcome(body.rollback),
            note=body.note,
        )
        return _reply(await permits.report(principal, permit_id, said))

    @router.post("/permits/{permit_id}/rollback")
    async def rollback(
        permit_id: str, request: Request, principal: Annotated[Principal, Depends(runner)]
    ) -> ProposedReply:
        """Propose a step of the plan of an executed call: under its approval if the step does no more than the call."""
        body = parse_model(StepBody, await read_object(request, _MAX_BODY_BYTES))
        origin = await permits.permit(principal, permit_id)
        if origin.plan is None:
            raise ApprovalConflict("No plan was recorded with this call: it cannot be taken back by a runner.")
        texts = (*origin.plan.steps, origin.plan.verify)
        if body.step >= len(texts):
            raise InvalidRequest("The plan has no such step.", "step")
        ran = run_of(origin.ask.tool, origin.ask.arguments)
        given: dict[str, JsonValue] = {"command": texts[body.step]}
        if ran is not None and ran.cwd is not None:
            given["cwd"] = ran.cwd
        arguments = rfc8785.dumps(given).decode("utf-8")
        judge = judges.of(policy_of(surface.revisions, principal, _taking_back(origin)))
        found = await asyncio.to_thread(
            judge.classify, RUN_TOOL, arguments, principal.gate_profile, Circumstances(tenant=principal.tenant)
        )
        match way_of(found, origin, body.step):
            case Way.BY_HAND:
                return ProposedReply(status="by_hand", by_hand=origin.plan.verify)
            case Way.SIGNED:
                ask = _signed(principal, origin, arguments, found, body)
                return _permitted(await permits.issue(principal, ask), principal, found.reasons)
            case Way.GATE:
                of = (origin.permit_id, body.step)
                return await proposed(
                    request, principal, _taking_back(origin), _call(RUN_TOOL, arguments), body.audience, of
                )

    @router.get("/permits/{permit_id}")
    async def show(permit_id: str, principal: Annotated[Principal, Depends(runner)]) -> PermitReply:
        """A permit of the key's tenant, without its token and its call."""
        return _reply(await permits.permit(principal, permit_id))

    @router.get("/gate/jwks")
    async def jwks() -> JwksReply:
        """The keys that permits are verified with; no authentication."""
        keys = (await permits.keys())["keys"]
        return JwksReply.model_validate({"keys": keys})

    return router


def _taking_back(origin: IssuedPermit) -> SessionId:
    """The session of the steps that take an execution back."""
    return SessionId(f"rollback:{origin.permit_id}")


def _signed(
    principal: Principal, origin: IssuedPermit, arguments: str, found: Classification, body: StepBody
) -> PermitAsk:
    """A step as a call of its own, under the approval of the call that it takes back."""
    session = _taking_back(origin)
    binding = ActionBinding(
        gate_call_id=secrets.token_hex(16),
        tenant=principal.tenant,
        principal=principal.key_id,
        session=session,
        tool=RUN_TOOL,
        arguments=arguments,
        policy_digest=found.policy_digest,
    )
    return PermitAsk(
        gate_call_id=binding.gate_call_id,
        action_digest=binding.action_digest(),
        session=session,
        tool=RUN_TOOL,
        arguments=arguments,
        risk=found.risk,
        policy_digest=found.policy_digest,
        audience=body.audience,
        approval_id=origin.ask.approval_id,
        change_id=origin.ask.change_id,
        rollback_digest=origin.ask.rollback_digest,
        rollback_of=origin.permit_id,
        step=body.step,
    )


def _call(tool: str, arguments: str) -> ToolCall:
    return ToolCall(call_id=f"run_{secrets.token_hex(12)}", choice=0, index=0, name=tool, arguments=arguments)


def _text(arguments: JsonValue) -> str:
    """The arguments as text; the gate makes their one canonical form."""
    if isinstance(arguments, str):
        return arguments
    try:
        return rfc8785.dumps(arguments).decode("utf-8")
    except (rfc8785.CanonicalizationError, ValueError, RecursionError):
        raise InvalidRequest("The arguments have no canonical JSON form.", "arguments") from None


def _permitted(permit: IssuedPermit, principal: Principal, reasons: tuple[str, ...]) -> ProposedReply:
    return ProposedReply(
        status="permitted",
        gate_call_id=permit.ask.gate_call_id,
        risk=permit.ask.risk.value,
        reasons=reasons,
        approval_id=permit.ask.approval_id,
        expires_ms=permit.expires_ms,
        permit=_reply(permit, principal),
    )


def _reply(permit: IssuedPermit, runner: Principal | None = None) -> PermitReply:
    """A permit; with its token and its call for the `runner` that has just got it."""
    ask, plan = permit.ask, permit.plan
    given = runner is not None and bool(permit.token)
    binding = binding_object(binding_of(runner, ask)) if runner is not None and given else None
    return PermitReply(
        id=permit.permit_id,
        state=permit.state,
        token=permit.token if given else None,
        binding=binding,
        action_digest=ask.action_digest,
        gate_call_id=ask.gate_call_id,
        audience=ask.audience,
        risk=ask.risk.value,
        exec_profile=permit.exec_profile,
        approval_id=ask.approval_id,
        change_id=ask.change_id,
        rollback_digest=ask.rollback_digest,
        rollback_of=permit.rollback_of,
        step=ask.step,
        plan=None if plan is None else PlanShown(steps=plan.steps, verify=plan.verify),
        taken_back=permit.taken_back,
        issued_ms=permit.issued_ms,
        expires_ms=permit.expires_ms,
    )
