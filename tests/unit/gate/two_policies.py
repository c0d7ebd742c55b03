"""A desk and an office with two live policies, whose rollout a test moves; over either kind of database."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from deployments.errors import PartUnavailable
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.live import LivePolicies, LivePolicy
from deployments.gate.office import PermitOffice
from deployments.gate.store import ApprovalStore
from deployments.ports import AuditEvent, Proposal, Risk, SessionId
from deployments.rollouts import POLICY_TARGET, Kind, Slice
from deployments.slices import is_candidates
from deployments.store import open_store
from tests.unit.gate.desks import World
from tests.unit.gate.test_approvals import AGENT

CONFIGURED, CANDIDATE = "a" * 64, "b" * 64
REVISION = "c" * 64
ROLES: Mapping[str, Mapping[Risk, tuple[str, ...]]] = {CONFIGURED: {}, CANDIDATE: {Risk.R3: ("sre",)}}


def split(share: int, revision: str = REVISION) -> Slice:
    return Slice("ro-1", Kind.POLICY, POLICY_TARGET, revision, "configured", share)


def session_of(candidate: bool, share: int) -> SessionId:
    """The first session of the agent that a share gives to the candidate, or leaves where it is."""
    names = (SessionId(f"s{number}") for number in range(10_000))
    return next(each for each in names if is_candidates(split(share), AGENT.tenant, each) is candidate)


class Rollout:
    """What the controller says. `down`: nothing at all."""

    def __init__(self) -> None:
        self.share = 0
        self.down = False
        self.asked = 0

    async def slices(self) -> Sequence[Slice]:
        self.asked += 1
        if self.down:
            raise PartUnavailable("The rollout controller does not answer.")
        # Of another target, and of a rollout that has left the configuration: neither says anything of these sessions.
        other = replace(split(100), kind=Kind.ENGINE, target="demo-20b")
        return [other, split(self.share)]


class TwoPolicies(World):
    """`World` with desks that know both policies, and an office beside the first one."""

    def __init__(self, url: str, keys: Path, tenants: Mapping[str, tuple[str, str]] | None = None) -> None:
        self.rollout = Rollout()
        self.tenants = tenants or {}
        super().__init__(url)
        self.office = PermitOffice(
            self.desk, self.stores[0].engine, self.audit, self.clock, self.settings, keys, policies=self.policies()
        )

    def policies(self, candidate: bool = True) -> LivePolicies:
        """What a replica knows; without `candidate` it has left the configuration."""
        first, second = (
            LivePolicy(digest, name, revision, {each: both[at] for each, both in self.tenants.items()}, ROLES[digest])
            for at, (digest, name, revision) in enumerate(
                ((CONFIGURED, "default", "configured"), (CANDIDATE, "next", REVISION))
            )
        )
        return LivePolicies(first, second if candidate else None, self.rollout.slices, self.clock)

    def another(self, policy: str = CONFIGURED, candidate: bool = True) -> ApprovalDesk:
        """One more replica; `policy` is what `World` asks for, and has no say here."""
        del policy
        store = ApprovalStore(open_store(self.url))
        self.stores.append(store)
        return ApprovalDesk(
            store,
            self.audit,
            self.clock,
            self.settings,
            holders=self.ledger.holders,
            policies=self.policies(candidate),
        )

    def classified(self, made: Proposal) -> Sequence[AuditEvent]:
        """What the ingress records before it asks."""
        return self._before(made)

    async def open(self) -> "TwoPolicies":
        await super().open()
        await self.office.open()
        return self
