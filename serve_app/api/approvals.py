"""`/v1/approvals` and `/v1/gate`: what waits for humans, their plans and votes, and the classifier as a dry run.

Keys with the scope `approve` list, plan, vote, expire, report and freeze; keys with `inference` may look at, plan and
cancel what their own tenant asked for, and report on what they asked for themselves. `admin` sees every tenant, and
alone releases frozen keys. What belongs to another tenant does not exist.
"""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import InvalidRequest
from deployments.gate.binding import plan_digest
from deployments.gate.circumstances import Circumstances
from deployments.gate.classify import Classifier
from deployments.gate.display import escaped
from deployments.gate.explain import as_json, explain
from deployments.gate.judges import Judges, judges_of
from deployments.gate.states import granted, visible_tenant
from deployments.ingress.revisions import Revisions
from deployments.ports import (
    ActionOutcome,
    Advice,
    Approval,
    ApprovalId,
    Approvals,
    ApprovalState,
    Conclusion,
    Digests,
    Frozen,
    GateProfile,
    KeyId,
    Principal,
    RollbackOutcome,
    RollbackPlan,
    Scope,
    SessionId,
)
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import parse_model, read_object

_MAX_BODY_BYTES = 1024 * 1024


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PlanBody(_Body):
    """Change id and rollback plan of a call."""

    change_id: str = Field(min_length=1, max_length=128)
    steps: tuple[str, ...] = Field(min_length=1, max_length=50)
    verify: str = Field(min_length=1, max_length=4000)


class VoteBody(_Body):
    """A vote on exactly what was shown: both digests are echoed."""

    decision: Literal["approve", "reject"]
    reason: str = Field(default="", max_length=4000)
    action_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    display_digest: str = Field(pattern=r"^[0-9a-f]{64}$")


class ReasonBody(_Body):
    """Why a request is withdrawn or ended, or a key frozen."""

    reason: str = Field(default="", max_length=4000)


class ReleaseBody(_Body):
    """Under which change a frozen key is released, and why."""

    change_id: str = Field(min_length=1, max_length=128)
    reason: str = Field(default="", max_length=4000)


class ReportBody(_Body):
    """What became of a released call. `note` is for people; the audit log gets a commitment to it."""

    outcome: Literal["succeeded", "failed", "unknown"]
    exit_code: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    note: str = Field(default="", max_length=4000)


class RollbackBody(_Body):
    """How taking a released call back ended."""

    outcome: Literal["succeeded", "failed", "not_needed"]
    note: str = Field(default="", max_length=4000)


class ClassifyBody(_Body):
    """A call to classify; nothing is proposed or recorded. `arguments` as the model's text, or as an object.

    While a policy is rolled out: `session` asks for the judgement of the policy of that session, `policy` for that of a
    revision; without either the configured one judges.
    """

    tool: str = Field(min_length=1, max_length=256)
    arguments: str | dict[str, object]
    profile: GateProfile | None = None
    session: str | None = Field(default=None, min_length=1, max_length=256)
    policy: str | None = Field(default=None, min_length=1, max_length=128)


class VoteReply(BaseModel):
    """One vote. It counts as long as its key is good and its person still may approve."""

    person: str
    key_id: str
    decision: Literal["approve", "reject"]
    reason: str
    at_ms: int


class PlanReply(BaseModel):
    """A rollback plan and its digest."""

    steps: tuple[str, ...]
    verify: str
    digest: str


class DraftReply(BaseModel):
    """A way back as a model drafts it; it is recorded only when a human records it."""

    steps: tuple[str, ...]
    verify: str


class AdviceReply(BaseModel):
    """A model's review of a request, escaped: to be read, and no part of what a vote signs."""

    model: str
    effort: str
    at_ms: int
    summary: str
    concerns: tuple[str, ...]
    plan: DraftReply | None


class ApprovalReply(BaseModel):
    """A request with all that a vote signs: `display`, whose digest a vote echoes.

    `missing` says what it still waits for. `advice` is there where a single request is shown. Times in milliseconds.
    """

    object: str = "approval"
    id: str
    state: ApprovalState
    missing: str | None
    risk: str
    reasons: tuple[str, ...]
    tool: str
    tenant: str
    session: str
    model: str
    requester_key: str
    requester_person: str | None
    gate_call_id: str
    display: str
    action_digest: str
    display_digest: str
    policy_digest: str
    votes_required: int
    approver_roles: tuple[str, ...]
    votes: list[VoteReply]
    change_id: str | None
    plan: PlanReply | None
    created_ms: int
    expires_ms: int
    advice: AdviceReply | None = None


class ApprovalListReply(BaseModel):
    """Requests, newest first."""

    object: str = "list"
    data: list[ApprovalReply]


class ConclusionReply(BaseModel):
    """What became of a released call, as far as somebody has said. `alerted_ms`: when its report was missed."""

    object: str = "approval.conclusion"
    id: str
    gate_call_id: str
    outcome: ActionOutcome | None
    rollback: RollbackOutcome | None
    consumed_ms: int
    reported_ms: int | None
    alerted_ms: int | None


class FrozenReply(BaseModel):
    """A key whose tool calls do not leave. `kind` is the attempt to bypass the gate, or `manual`."""

    object: str = "gate.frozen"
    key_id: str
    tenant: str
    kind: str
    reason: str
    since_ms: int


class FrozenListReply(BaseModel):
    """Frozen keys, the newest first."""

    object: str = "list"
    data: list[FrozenReply]


class ReleasedReply(BaseModel):
    """A key that is frozen no more."""

    object: str = "gate.released"
    key_id: str
    change_id: str


class CallReply(BaseModel):
    """A held call. `tool` and `arguments` are there once it may be emitted, or has been."""

    object: str = "gate.call"
    id: str
    approval_id: str
    state: ApprovalState
    missing: str | None
    tool: str | None
    arguments: str | None


class ClassifyReply(BaseModel):
    """What the gate would do with a call, and why. `commands` are those a shell call would run, decoded.

    `policy` and `policy_revision` say which bundle has judged it.

    `explanation` takes it apart: each command with its rule, its targets and the cells of the tables, and the outcome
    under each profile.
    """

    object: str = "gate.classification"
    risk: str
    outcome: str
    reasons: tuple[str, ...]
    rules: tuple[str, ...]
    commands: tuple[str, ...]
    arguments: str | None
    policy: str
    policy_revision: str
    policy_digest: str
    preview: str | None
    explanation: dict[str, Any]


def create_approvals_router(
    authorizer: Authorizer, approvals: Approvals, classifier: Classifier | Judges, revisions: Revisions | None = None
) -> APIRouter:
    """The routes of the approval queue and of the gate's dry run.

    `revisions`, if there is one, hears of decisions, and says which policy judges a session.
    """
    judges = judges_of(classifier)
    router = APIRouter(prefix="/v1", tags=["gate"])

    async def voter(request: Request) -> Principal:
        return await authorizer(request, Scope.APPROVE)

    async def member(request: Request) -> Principal:
        return await authorizer(request, Scope.INFERENCE, Scope.APPROVE, Scope.ADMIN)

    async def overseer(request: Request) -> Principal:
        return await authorizer(request, Scope.APPROVE, Scope.ADMIN)

    async def administrator(request: Request) -> Principal:
        return await authorizer(request, Scope.ADMIN)

    @router.get("/approvals")
    async def list_approvals(
        principal: Annotated[Principal, Depends(member)], state: ApprovalState | None = None
    ) -> ApprovalListReply:
        """The queue, newest first."""
        found = await approvals.list_approvals(visible_tenant(principal), state)
        return ApprovalListReply(data=[_reply(approval) for approval in found])

    @router.get("/approvals/{approval_id}")
    async def show(approval_id: str, principal: Annotated[Principal, Depends(member)]) -> ApprovalReply:
        """One request with its full display, both digests, and what a model says of it."""
        tenant = visible_tenant(principal)
        found = await approvals.get(tenant, ApprovalId(approval_id))
        return _reply(found, await approvals.advice(tenant, found.approval_id))

    @router.post("/approvals/{approval_id}/plan")
    @router.post("/gate/calls/{approval_id}/plan")
    async def plan(
        approval_id: str, request: Request, principal: Annotated[Principal, Depends(member)]
    ) -> ApprovalReply:
        """Record change id and rollback plan; the id is the approval's or the call's."""
        body = parse_model(PlanBody, await read_object(request, _MAX_BODY_BYTES))
        approval = await approvals.get(visible_tenant(principal), ApprovalId(approval_id))
        steps = RollbackPlan(body.steps, body.verify)
        return _reply(await approvals.plan(principal, approval.approval_id, body.change_id, steps))

    @router.post("/approvals/{approval_id}/votes")
    async def vote(
        approval_id: str, request: Request, principal: Annotated[Principal, Depends(voter)]
    ) -> ApprovalReply:
        """One human's vote."""
        body = parse_model(VoteBody, await read_object(request, _MAX_BODY_BYTES))
        digests = Digests(body.action_digest, body.display_digest)
        approve = body.decision == "approve"
        decided = await approvals.vote(principal, ApprovalId(approval_id), digests, approve, body.reason)
        if revisions is not None:
            revisions.decided(decided)
        return _reply(decided)

    @router.post("/approvals/{approval_id}/cancel")
    async def cancel(
        approval_id: str, request: Request, principal: Annotated[Principal, Depends(member)]
    ) -> ApprovalReply:
        """Withdraw a request."""
        body = parse_model(ReasonBody, await read_object(request, _MAX_BODY_BYTES))
        return _reply(await approvals.cancel(principal, ApprovalId(approval_id), body.reason))

    @router.post("/approvals/{approval_id}/expire")
    async def expire(
        approval_id: str, request: Request, principal: Annotated[Principal, Depends(overseer)]
    ) -> ApprovalReply:
        """End a request now, as if its time were over."""
        body = parse_model(ReasonBody, await read_object(request, _MAX_BODY_BYTES))
        return _reply(await approvals.expire(principal, ApprovalId(approval_id), body.reason))

    @router.post("/approvals/{approval_id}/report")
    async def report(
        approval_id: str, request: Request, principal: Annotated[Principal, Depends(member)]
    ) -> ConclusionReply:
        """Say what became of the call that left under this approval; on record when this answers."""
        body = parse_model(ReportBody, await read_object(request, _MAX_BODY_BYTES))
        outcome = ActionOutcome(body.outcome)
        return _conclusion(
            await approvals.report(principal, ApprovalId(approval_id), outcome, body.exit_code, body.note)
        )

    @router.post("/approvals/{approval_id}/rollback")
    async def rollback(
        approval_id: str, request: Request, principal: Annotated[Principal, Depends(member)]
    ) -> ConclusionReply:
        """Say how taking the call back ended, or that it was not needed."""
        body = parse_model(RollbackBody, await read_object(request, _MAX_BODY_BYTES))
        outcome = RollbackOutcome(body.outcome)
        return _conclusion(await approvals.rollback(principal, ApprovalId(approval_id), outcome, body.note))

    @router.get("/gate/calls/{gate_call_id}")
    async def call(gate_call_id: str, principal: Annotated[Principal, Depends(member)]) -> CallReply:
        """Where a held call stands; the call itself once it is approved."""
        approval = await approvals.get(visible_tenant(principal), ApprovalId(gate_call_id))
        shown = approval.state in {ApprovalState.APPROVED, ApprovalState.CONSUMED}
        return CallReply(
            id=approval.proposal.gate_call_id,
            approval_id=approval.approval_id,
            state=approval.state,
            missing=missing(approval),
            tool=approval.proposal.tool if shown else None,
            arguments=approval.proposal.arguments if shown else None,
        )

    @router.get("/gate/frozen")
    async def frozen(principal: Annotated[Principal, Depends(overseer)]) -> FrozenListReply:
        """Keys whose tool calls do not leave."""
        tenant = visible_tenant(principal)
        found = await approvals.frozen()
        return FrozenListReply(data=[_frozen(each) for each in found if tenant in (None, each.tenant)])

    @router.post("/gate/frozen/{key_id}")
    async def freeze(key_id: str, request: Request, principal: Annotated[Principal, Depends(overseer)]) -> FrozenReply:
        """Freeze a key: none of its tool calls leave, none of its votes and permits count."""
        body = parse_model(ReasonBody, await read_object(request, _MAX_BODY_BYTES))
        return _frozen(await approvals.freeze(principal, KeyId(key_id), body.reason))

    @router.post("/gate/frozen/{key_id}/release")
    async def release(
        key_id: str, request: Request, principal: Annotated[Principal, Depends(administrator)]
    ) -> ReleasedReply:
        """Release a frozen key."""
        body = parse_model(ReleaseBody, await read_object(request, _MAX_BODY_BYTES))
        await approvals.unfreeze(principal, KeyId(key_id), body.change_id, body.reason)
        return ReleasedReply(key_id=key_id, change_id=body.change_id)

    @router.post("/gate/classify")
    async def classify(request: Request, principal: Annotated[Principal, Depends(member)]) -> ClassifyReply:
        """What the gate would do with a call; changes and records nothing."""
        raw = await read_object(request, _MAX_BODY_BYTES)
        body = parse_model(ClassifyBody, raw)
        arguments = raw["arguments"]
        if not isinstance(arguments, str | dict):
            raise InvalidRequest("Invalid value for 'arguments'.", "arguments")
        profile = body.profile or principal.gate_profile
        call = body.tool, arguments, profile, Circumstances(tenant=principal.tenant)
        policy = body.policy or (policy_of(revisions, principal, body.session) if body.session else "")
        named = judges.named(policy)
        if named is None:
            raise InvalidRequest("No policy of this revision is live here.", "policy")
        judge = judges.of(policy)
        found = await asyncio.to_thread(judge.classify, *call)
        return ClassifyReply(
            risk=found.risk.value,
            outcome=found.outcome.value,
            reasons=found.reasons,
            rules=found.rules,
            commands=found.commands,
            arguments=found.arguments,
            policy=judge.bundle_name,
            policy_revision=named or judges.revision,
            policy_digest=found.policy_digest,
            preview=found.preview,
            explanation=as_json(await asyncio.to_thread(explain, judge.bundle, *call)),
        )

    return router


def policy_of(revisions: Revisions | None, principal: Principal, session: str) -> str:
    """The revision of the policy that judges a session of a key, "" where there is one policy."""
    choice = None if revisions is None else revisions.choices(principal.tenant, SessionId(session)).policy
    return "" if choice is None else choice.revision


def missing(approval: Approval) -> str | None:
    """What the request still waits for, as a sentence; None when it waits for nothing."""
    match approval.state:
        case ApprovalState.NEEDS_PLAN:
            return "A change id and a rollback plan are needed."
        case ApprovalState.PENDING:
            given = granted(approval.votes)
            who = "a person other than the requester" if given == 0 else "a second person"
            if approval.proposal.approver_roles:
                who = f"{who} with one of the roles {', '.join(approval.proposal.approver_roles)}"
            return f"{given} of {approval.votes_required} votes: {who} must approve."
        case ApprovalState.APPROVED:
            return "Approved: the same session must emit the same call again; it is then released, once."
        case _:
            return None


def _conclusion(found: Conclusion) -> ConclusionReply:
    return ConclusionReply(
        id=found.approval_id,
        gate_call_id=found.gate_call_id,
        outcome=found.reported,
        rollback=found.rollback,
        consumed_ms=found.consumed_ms,
        reported_ms=found.reported_ms,
        alerted_ms=found.alerted_ms,
    )


def _frozen(found: Frozen) -> FrozenReply:
    return FrozenReply(
        key_id=found.key_id, tenant=found.tenant, kind=found.kind, reason=found.reason, since_ms=found.since_ms
    )


def advice_reply(found: Advice) -> AdviceReply:
    """A review as clients see it: escaped, because a model wrote it that had read what somebody else wrote."""
    return AdviceReply(
        model=escaped(found.model),
        effort=found.effort.value,
        at_ms=found.at_ms,
        summary=escaped(found.summary),
        concerns=tuple(map(escaped, found.concerns)),
        plan=None
        if found.plan is None
        else DraftReply(steps=tuple(map(escaped, found.plan.steps)), verify=escaped(found.plan.verify)),
    )


def _plan(plan: RollbackPlan | None) -> PlanReply | None:
    if plan is None:
        return None
    return PlanReply(steps=plan.steps, verify=plan.verify, digest=plan_digest(plan.steps, plan.verify))


def _reply(approval: Approval, advice: Advice | None = None) -> ApprovalReply:
    proposal = approval.proposal
    return ApprovalReply(
        id=approval.approval_id,
        state=approval.state,
        missing=missing(approval),
        risk=proposal.risk.value,
        reasons=proposal.reasons,
        tool=proposal.tool,
        tenant=proposal.tenant,
        session=proposal.session,
        model=proposal.model,
        requester_key=proposal.requester_key,
        requester_person=proposal.requester_person,
        gate_call_id=proposal.gate_call_id,
        display=proposal.display,
        action_digest=proposal.action_digest,
        display_digest=proposal.display_digest,
        policy_digest=proposal.policy_digest,
        votes_required=approval.votes_required,
        approver_roles=proposal.approver_roles,
        votes=[
            VoteReply(
                person=vote.person,
                key_id=vote.key_id,
                decision="approve" if vote.approve else "reject",
                reason=vote.reason,
                at_ms=vote.at_ms,
            )
            for vote in approval.votes
        ],
        change_id=approval.change_id,
        plan=_plan(approval.plan),
        created_ms=approval.created_ms,
        expires_ms=approval.expires_ms,
        advice=None if advice is None else advice_reply(advice),
    )
