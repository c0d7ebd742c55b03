"""Which policies are live, and which of them judges a session now: what approvals and permits are held against.

Without a candidate there is one policy, and nothing is asked. With one the rollout controller is asked before each
decision that could release something. What was made under a policy that does not judge its session any more is
outdated: it was asked of another judge. While nobody answers, what was made under the candidate waits: its rollout may
have been taken back meanwhile. The configured policy stands in for a silent controller, as it does in the ingress.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from deployments.clock import Clock, SystemClock
from deployments.errors import GatehouseError
from deployments.gate.policy import Bundle
from deployments.gate.tenant_names import digests
from deployments.ports import SYSTEM_TENANT, Proposal, Risk, SessionId, TenantId
from deployments.rollouts import POLICY_TARGET, UNNAMED, Kind, Slice
from deployments.slices import revision_for

_log = logging.getLogger("gatehouse.gate")

BELIEVED_S = 10.0
"""How long the last answer stands in for a controller that does not answer."""
_AGAIN_S = 1.0
_TIMEOUT_S = 1.0

CHANGED = "The policy has changed since the call was proposed: it must be proposed again."
MOVED = (
    "The session is no longer judged by the policy under which the call was proposed: a rollout has moved it. The call "
    "must be proposed again."
)
NOBODY_SAYS = (
    "gate_unavailable: the rollout controller does not answer, so nobody knows whether the policy under which the call "
    "was proposed still judges its session. Nothing above R0 is released under it until then."
)


class Standing(Enum):
    """Whether a policy judges a session. `MOVED`: another live one does; `GONE`: it is none of the live ones."""

    LIVE = auto()
    MOVED = auto()
    GONE = auto()
    UNKNOWN = auto()

    @property
    def outdated(self) -> bool:
        """True when what was made under it can release nothing any more."""
        return self in {Standing.MOVED, Standing.GONE}


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """A bundle that judges sessions. `digest` is SHA-256 hex; `tenants` are those of tenants with names of their own.

    `revision` is what rollouts call it, `approvers` which roles it wants for a class.
    """

    digest: str
    name: str = ""
    revision: str = UNNAMED
    tenants: Mapping[str, str] = field(default_factory=dict[str, str])
    approvers: Mapping[Risk, tuple[str, ...]] = field(default_factory=dict[Risk, tuple[str, ...]])

    @classmethod
    def of(cls, bundle: Bundle, revision: str) -> "LivePolicy":
        """What is known of a loaded bundle."""
        return cls(bundle.policy_digest, bundle.name, revision, digests(bundle), bundle.approvers)

    def digest_for(self, tenant: str) -> str:
        """The digest under which a tenant's calls are judged."""
        return self.tenants.get(tenant, self.digest)


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known at one moment. `slices` None: nobody says how the sessions are split."""

    configured: LivePolicy | None
    candidate: LivePolicy | None = None
    slices: tuple[Slice, ...] | None = ()

    def standing(self, tenant: TenantId, session: SessionId, digest: str) -> Standing:
        """Whether the policy of this digest judges the session. The canary's calls try every one that is live."""
        if self.configured is None:
            return Standing.LIVE
        configured = digest == self.configured.digest_for(tenant)
        candidate = self.candidate is not None and digest == self.candidate.digest_for(tenant)
        if not configured and not candidate:
            return Standing.GONE
        if self.candidate is None or configured is candidate or tenant == SYSTEM_TENANT:
            return Standing.LIVE
        if self.slices is None:
            return Standing.LIVE if configured else Standing.UNKNOWN
        theirs = any(revision_for(each, tenant, session) == self.candidate.revision for each in self.slices)
        return Standing.LIVE if theirs is candidate else Standing.MOVED

    def standing_of(self, proposal: Proposal) -> Standing:
        """The same of a call that waits."""
        return self.standing(proposal.tenant, proposal.session, proposal.policy_digest)

    def approvers(self, proposal: Proposal) -> Mapping[Risk, tuple[str, ...]]:
        """The roles that the policy of a call wants; those of the configured one for what is none of the live ones."""
        if self.configured is None:
            return {}
        other = self.candidate
        if other is None or proposal.policy_digest == self.configured.digest_for(proposal.tenant):
            return self.configured.approvers
        return (
            other.approvers
            if proposal.policy_digest == other.digest_for(proposal.tenant)
            else (self.configured.approvers)
        )


AskSlices = Callable[[], Awaitable[Sequence[Slice]]]


class LivePolicies:
    """The configured policy and its candidate. `ask` says how sessions are split; without a candidate nobody asks."""

    def __init__(
        self,
        configured: LivePolicy | None,
        candidate: LivePolicy | None = None,
        ask: AskSlices | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._configured = configured
        self._candidate = candidate
        self._ask = ask
        self._clock = clock or SystemClock()
        self._slices: tuple[Slice, ...] = ()
        self._heard_s: float | None = None
        self._failed_s: float | None = None

    @property
    def all(self) -> tuple[LivePolicy, ...]:
        """Every live one, the configured one first."""
        return tuple(each for each in (self._configured, self._candidate) if each is not None)

    @property
    def candidate(self) -> LivePolicy | None:
        """The second one, if there is one."""
        return self._candidate

    async def hear(self) -> Heard:
        """What is known now. Never raises: who does not answer leaves the sessions of the candidate unknown."""
        if self._candidate is None:
            return Heard(self._configured)
        if self._ask is None:  # nobody can give it a session
            return Heard(self._configured, self._candidate)
        if not self._within(self._failed_s, _AGAIN_S):
            await self._listen(self._ask)
        believed = self._failed_s is None or self._within(self._heard_s, BELIEVED_S)
        return Heard(self._configured, self._candidate, self._slices if believed else None)

    async def _listen(self, ask: AskSlices) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await ask()
        except (GatehouseError, TimeoutError) as error:
            _log.warning("nobody says which policy judges a session: %s", type(error).__name__)
            self._failed_s = self._clock.monotonic_s()
            return
        self._slices = tuple(each for each in found if (each.kind, each.target) == (Kind.POLICY, POLICY_TARGET))
        self._heard_s, self._failed_s = self._clock.monotonic_s(), None

    def _within(self, since_s: float | None, span_s: float) -> bool:
        return since_s is not None and self._clock.monotonic_s() - since_s < span_s
