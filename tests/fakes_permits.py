"""`InMemoryPermits`: the permit port without a database or an audit log; its signatures are real."""

from collections.abc import Mapping
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments.clock import Clock, FixedClock
from deployments.errors import ApprovalConflict, GateUnavailable, NotFound
from deployments.gate.commands import claim_key
from deployments.gate.permits import ISSUER, Claims, PermitKey, lifetime_ms, profile_of, sign
from deployments.ports import (
    IssuedPermit,
    JsonValue,
    PermitAsk,
    PermitState,
    Principal,
    RollbackPlan,
    RunReport,
)


class InMemoryPermits:
    """Implements `ports.Permits`. Set `down` to make every call fail.

    `issued` is every permit by its id, `reports` what runners said; `leave` makes a call claimable, as the desk does
    when an approved one leaves in a stream. `refused` are the attempts that were turned down, by kind.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or FixedClock()
        self.key = PermitKey.of(Ed25519PrivateKey.generate())
        self.issued: dict[str, IssuedPermit] = {}
        self.owners: dict[str, Principal] = {}
        self.reports: dict[str, RunReport] = {}
        self.waiting: list[tuple[Principal, PermitAsk, RollbackPlan | None]] = []
        self.refused: list[str] = []
        self.nonces: dict[str, str] = {}
        self.down = False

    def leave(self, principal: Principal, ask: PermitAsk, plan: RollbackPlan | None = None) -> None:
        self.waiting.append((principal, ask, plan))

    async def issue(self, principal: Principal, ask: PermitAsk) -> IssuedPermit:
        self._check_up()
        return self._hand_out(principal, ask, None)

    async def claim(self, principal: Principal, tool: str, arguments: str, audience: str) -> IssuedPermit:
        self._check_up()
        key = claim_key(principal.tenant, principal.key_id, tool, arguments)
        for place, (owner, ask, plan) in enumerate(self.waiting):
            if claim_key(owner.tenant, owner.key_id, ask.tool, ask.arguments) == key:
                del self.waiting[place]
                return self._hand_out(principal, replace(ask, audience=audience), plan)
        raise NotFound("No approved call waits to be executed like this.")

    async def redeem(
        self, principal: Principal, permit_id: str, action_digest: str, audience: str, nonce: str | None = None
    ) -> IssuedPermit:
        found = await self.permit(principal, permit_id)
        if (found.ask.action_digest, found.ask.audience) != (action_digest, audience):
            raise self._refuse("permit_mismatch")
        again = found.state is PermitState.REDEEMED and nonce is not None and self.nonces.get(permit_id) == nonce
        if found.state is not PermitState.ISSUED and not again:
            raise self._refuse("permit_replayed")
        if found.expires_ms <= self.clock.now_ms():
            raise self._refuse("permit_expired")
        if nonce is not None:
            self.nonces[permit_id] = nonce
        return self._keep(replace(found, state=PermitState.REDEEMED))

    async def report(self, principal: Principal, permit_id: str, report: RunReport) -> IssuedPermit:
        found = await self.permit(principal, permit_id)
        if found.state is not PermitState.REDEEMED:
            raise ApprovalConflict("Only an execution that was begun can be reported.")
        self.reports[permit_id] = report
        return self._keep(replace(found, state=PermitState.REPORTED))

    async def permit(self, principal: Principal, permit_id: str) -> IssuedPermit:
        self._check_up()
        found = self.issued.get(permit_id)
        if found is None or self.owners[permit_id].tenant != principal.tenant:
            raise NotFound("There is no such permit.")
        return replace(found, token="")

    async def keys(self) -> Mapping[str, JsonValue]:
        self._check_up()
        return {"keys": [self.key.jwk()]}

    def _hand_out(self, principal: Principal, ask: PermitAsk, plan: RollbackPlan | None) -> IssuedPermit:
        permit_id = f"prm_{len(self.issued) + 1}"
        now_ms = self.clock.now_ms()
        expires_ms = now_ms + lifetime_ms(ask.risk)
        profile = profile_of(ask.risk, ask.arguments)
        claims = Claims(
            iss=ISSUER, aud=ask.audience, sub=principal.key_id, jti=permit_id, iat=now_ms // 1000, nbf=now_ms // 1000,
            exp=expires_ms // 1000, act=ask.action_digest, risk=ask.risk.value, exec_profile=profile,
            policy_digest=ask.policy_digest, gate_call_id=ask.gate_call_id, approval_id=ask.approval_id,
            change_id=ask.change_id, rollback_digest=ask.rollback_digest, rollback_of=ask.rollback_of,
        )  # fmt: skip
        self.owners[permit_id] = principal
        token = sign(claims, self.key)
        made = IssuedPermit(
            permit_id, PermitState.ISSUED, token, ask, now_ms, expires_ms, profile, plan, ask.rollback_of
        )
        return self._keep(made)

    def _keep(self, permit: IssuedPermit) -> IssuedPermit:
        self.issued[permit.permit_id] = permit
        return permit

    def _refuse(self, kind: str) -> ApprovalConflict:
        self.refused.append(kind)
        return ApprovalConflict("The permit does not allow this.")

    def _check_up(self) -> None:
        if self.down:
            raise GateUnavailable("The permit office is down.")
