"""`/v1/admin/rollouts`, `/v1/admin/artefacts`: shipping a revision step by step; scope `admin`.

Whatever changes something names a change, and may be sent again: what was done already is answered as it is now.
"""

import json
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deployments.ports import Principal, Scope
from deployments.rollouts import (
    BOUNDS,
    MOST_CASES,
    Artefact,
    Bound,
    Draft,
    FileSum,
    Kind,
    Metric,
    Move,
    Plan,
    Rollout,
    Rollouts,
    Step,
)
from deployments.rollouts import Rules as RulesValue
from serve_app.api.auth import Authorizer
from serve_app.api.bodies import GivenId, parse_model, read_object

_MAX_ARTEFACT_BYTES: Final = 4 * 2**20
_MAX_BODY_BYTES: Final = 64 * 1024
_DAY_S: Final = 86_400
_MOST_MS: Final = 3_600_000

_Digest = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
_RolloutId = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\z")]
_Reason = Annotated[str, StringConstraints(pattern=r"\A[^\x00-\x1f\x7f]{1,500}\z")]
_Path = Annotated[str, StringConstraints(pattern=r"\A[^\x00-\x1f\x7f]{1,1024}\z")]
_Difference = Annotated[float, Field(strict=False, ge=0, lt=1, allow_inf_nan=False)]
_Seconds = Annotated[int, Field(ge=0, le=30 * _DAY_S)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileBody(_Body):
    """A file of an artefact: its path below the artefact's, its size in bytes and its SHA-256."""

    path: _Path
    size: Annotated[int, Field(ge=0, le=2**53 - 1)]
    sha256: _Digest


class ArtefactBody(_Body):
    """What is to be rolled out: every file below `path`, and settings. The server reads the files before it answers.

    `path` is on the machine of the rollout controller. `signature`: Ed25519 over the revision, in base64. `change_id`:
    the change that it belongs to, recorded with it; a registration changes nothing in production, so there may be none.
    """

    kind: Annotated[Kind, Field(strict=False)]
    target: GivenId
    path: Annotated[str, StringConstraints(pattern=r"\A(?:/[^\x00-\x1f\x7f]{0,1023})?\z")] = ""
    files: Annotated[tuple[FileBody, ...], Field(strict=False, max_length=10_000)] = ()
    settings: dict[str, Any] = Field(default_factory=dict[str, Any], json_schema_extra={"additionalProperties": True})
    signature: Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9+/=]{0,128}\z")] = ""
    change_id: GivenId | None = None

    def to_artefact(self) -> Artefact:
        """The same, as the controller knows it."""
        files = tuple(FileSum(each.path, each.size, each.sha256) for each in self.files)
        settings = json.dumps(self.settings)
        return Artefact(self.kind, self.target, self.path, files, settings, self.signature, self.change_id or "")


class BoundBody(_Body):
    """How much worse than the baseline a share may be: beyond `slack` it goes back, within `tolerance` it goes on."""

    metric: Annotated[Metric, Field(strict=False)]
    slack: _Difference
    tolerance: _Difference
    min_count: Annotated[int, Field(ge=1, le=1_000_000)]
    required: bool = True


class RulesBody(_Body):
    """When a rollout goes on, stops or goes back; times in seconds, the objectives in milliseconds."""

    ttft_ms: Annotated[int, Field(ge=1, le=_MOST_MS)] = 2_000
    e2e_ms: Annotated[int, Field(ge=1, le=_MOST_MS)] = 60_000
    min_s: _Seconds = 600
    deadline_s: Annotated[int, Field(ge=1, le=30 * _DAY_S)] = _DAY_S
    warm_s: Annotated[int, Field(ge=1, le=_DAY_S)] = 3_600
    window_s: _Seconds = 3_600
    false_alarm: Annotated[float, Field(strict=False, gt=0, le=0.1, allow_inf_nan=False)] = 0.01
    design_effect: Annotated[float, Field(strict=False, ge=1, le=100, allow_inf_nan=False)] = 2.0
    drift: Annotated[float, Field(strict=False, ge=0, lt=0.5, allow_inf_nan=False)] = 0.02
    bounds: Annotated[tuple[BoundBody, ...], Field(strict=False, max_length=len(Metric))] | None = None

    def to_rules(self) -> RulesValue:
        """The same, as the controller knows it."""
        given = None if self.bounds is None else tuple(Bound(**each.model_dump()) for each in self.bounds)
        return RulesValue(**self.model_dump(exclude={"bounds"}), bounds=BOUNDS if given is None else given)


class RolloutBody(_Body):
    """A rollout of a registered revision. `shares` are percentages that grow, the last one 100.

    `eval_cases`: how many cases of the evaluation suite both revisions are asked first; not set: as configured.
    """

    rollout_id: _RolloutId
    kind: Annotated[Kind, Field(strict=False)]
    target: GivenId
    revision: _Digest
    previous_revision: Annotated[str, StringConstraints(pattern=r"\A[^\x00-\x1f\x7f]{1,128}\z")]
    change_id: GivenId
    shares: Annotated[
        tuple[Annotated[int, Field(ge=1, le=100)], ...], Field(strict=False, min_length=1, max_length=20)
    ] = (5, 25, 100)
    shadow: bool = False
    rules: RulesBody = RulesBody()
    eval_cases: Annotated[int, Field(ge=1, le=MOST_CASES)] | Literal["all"] | None = None

    def to_plan(self) -> Plan:
        """The same, as the controller knows it."""
        return Plan(
            self.rollout_id,
            self.kind,
            self.target,
            self.revision,
            self.previous_revision,
            self.change_id,
            self.shares,
            self.shadow,
            self.rules.to_rules(),
            MOST_CASES if self.eval_cases == "all" else self.eval_cases,
        )


class MoveBody(_Body):
    """Under which change, and why; `reason` is recorded in clear."""

    change_id: GivenId
    reason: _Reason = "by hand"


class PromoteBody(MoveBody):
    """`to`: the next share, in percent. With as much or more it was done already."""

    to: Annotated[int, Field(ge=1, le=100)]


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True)


class ArtefactReply(_Reply):
    """The revision of an artefact: the digest of its content."""

    object: str = "artefact"
    revision: str


class RolloutReply(_Reply):
    """A rollout. `share_percent` is what its revision gets at this moment; `going_back`: a rollback is under way.

    `eval_cases`: how many cases both revisions are asked before there is traffic; 0: it has no such stage.
    """

    object: str = "rollout"
    id: str
    kind: str
    target: str
    revision: str
    previous_revision: str
    change_id: str
    state: str
    share_percent: int
    held: bool
    going_back: bool
    steps: int
    since_ms: int
    shares: list[int]
    shadow: bool
    eval_cases: int = 0


class RolloutListReply(_Reply):
    """Rollouts, the newest first; 100 at most."""

    object: str = "list"
    data: list[RolloutReply]


class StepReply(_Reply):
    """A step. `audit_index` null: not yet on record, and not in force. `evidence`: the figures behind it."""

    number: int
    move: str
    state: str
    share_percent: int
    held: bool
    at_ms: int
    by: str
    change_id: str
    reason: str
    evidence: dict[str, Any] = Field(json_schema_extra={"additionalProperties": True})
    audit_index: int | None


class StepListReply(_Reply):
    """The steps of a rollout, the oldest first."""

    object: str = "list"
    data: list[StepReply]


def create_rollouts_router(authorizer: Authorizer, rollouts: Rollouts) -> APIRouter:
    """The routes of rollouts."""
    router = APIRouter(prefix="/v1/admin", tags=["rollouts"])

    async def administrator(request: Request) -> Principal:
        return await authorizer(request, Scope.ADMIN)

    @router.post("/artefacts", status_code=201)
    async def register(request: Request, principal: Annotated[Principal, Depends(administrator)]) -> ArtefactReply:
        """Register an artefact, on record before it is answered; the same content has the same revision again."""
        body = parse_model(ArtefactBody, await read_object(request, _MAX_ARTEFACT_BYTES))
        return ArtefactReply(revision=await rollouts.register(body.to_artefact(), principal.key_id))

    @router.post("/rollouts", status_code=201)
    async def start(request: Request, principal: Annotated[Principal, Depends(administrator)]) -> RolloutReply:
        """Begin a rollout."""
        body = parse_model(RolloutBody, await read_object(request, _MAX_BODY_BYTES))
        return _reply(await rollouts.start(body.to_plan(), principal.key_id))

    @router.get("/rollouts", dependencies=[Depends(administrator)])
    async def list_rollouts() -> RolloutListReply:
        """The newest rollouts."""
        return RolloutListReply(data=[_reply(each) for each in await rollouts.rollouts()])

    @router.get("/rollouts/{rollout_id}")
    async def rollout(rollout_id: str, principal: Annotated[Principal, Depends(administrator)]) -> RolloutReply:
        """One of them."""
        del principal
        return _reply(await rollouts.get(rollout_id))

    @router.get("/rollouts/{rollout_id}/history")
    async def history(rollout_id: str, principal: Annotated[Principal, Depends(administrator)]) -> StepListReply:
        """What became of it, with the figures behind every step."""
        del principal
        return StepListReply(data=[_step(each) for each in await rollouts.history(rollout_id)])

    @router.post("/rollouts/{rollout_id}/promote")
    async def promote(
        request: Request, rollout_id: str, principal: Annotated[Principal, Depends(administrator)]
    ) -> RolloutReply:
        """Go on to the next share now, whatever the figures say."""
        body = parse_model(PromoteBody, await read_object(request, _MAX_BODY_BYTES))
        draft = Draft(Move.ADVANCE, principal.key_id, body.change_id, body.reason, to=body.to)
        return _reply(await rollouts.move(rollout_id, draft))

    async def moved(request: Request, rollout_id: str, principal: Principal, move: Move) -> RolloutReply:
        body = parse_model(MoveBody, await read_object(request, _MAX_BODY_BYTES))
        return _reply(await rollouts.move(rollout_id, Draft(move, principal.key_id, body.change_id, body.reason)))

    @router.post("/rollouts/{rollout_id}/hold")
    async def hold(
        request: Request, rollout_id: str, principal: Annotated[Principal, Depends(administrator)]
    ) -> RolloutReply:
        """Stay where it is until somebody says otherwise; it still goes back when it is worse."""
        return await moved(request, rollout_id, principal, Move.HOLD)

    @router.post("/rollouts/{rollout_id}/resume")
    async def resume(
        request: Request, rollout_id: str, principal: Annotated[Principal, Depends(administrator)]
    ) -> RolloutReply:
        """End a hold; the stage begins again."""
        return await moved(request, rollout_id, principal, Move.RESUME)

    @router.post("/rollouts/{rollout_id}/rollback")
    async def rollback(
        request: Request, rollout_id: str, principal: Annotated[Principal, Depends(administrator)]
    ) -> RolloutReply:
        """Give all of the traffic back. It is in force at once, also when the answer is that it is not recorded yet."""
        return await moved(request, rollout_id, principal, Move.ROLL_BACK)

    return router


def _reply(found: Rollout) -> RolloutReply:
    plan, now = found.plan, found.standing
    return RolloutReply(
        id=plan.rollout_id,
        kind=plan.kind.value,
        target=plan.target,
        revision=plan.revision,
        previous_revision=plan.previous_revision,
        change_id=plan.change_id,
        state=now.state.value,
        share_percent=found.share,
        held=now.held,
        going_back=found.wanted is not None,
        steps=now.number,
        since_ms=now.since_ms,
        shares=[*plan.shares],
        shadow=plan.shadow,
        eval_cases=plan.eval_cases or 0,
    )


def _step(found: Step) -> StepReply:
    then, draft = found.after, found.draft
    return StepReply(
        number=then.number,
        move=draft.move.value,
        state=then.state.value,
        share_percent=then.share,
        held=then.held,
        at_ms=found.at_ms,
        by=draft.by,
        change_id=draft.change_id,
        reason=draft.reason,
        evidence=json.loads(draft.evidence),
        audit_index=found.record,
    )
