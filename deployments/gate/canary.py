"""Is the gate there at all? A synthetic dangerous call goes the way of every call, and must be held.

What this finds is a gate that was unplugged, or a policy under which everything flows; a part that is down shows too.
The call names a namespace that cannot exist, its tenant is the system's, and nothing ever emits it.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

from deployments.clock import Clock
from deployments.errors import GatehouseError
from deployments.ports import (
    SYSTEM_TENANT,
    Approvals,
    Gate,
    GateContext,
    GateProfile,
    Held,
    KeyId,
    ModelId,
    Principal,
    RequestId,
    RouteId,
    Scope,
    SessionId,
    ToolCall,
    Verdict,
    Withheld,
)

_log = logging.getLogger("gatehouse.gate")

KEY = KeyId("gatehouse-canary")
PROFILES = (GateProfile.OPS, GateProfile.CODING)
"""The profiles that hold; `observe` holds nothing by design."""


def dangerous_call(mark: str) -> tuple[str, str]:
    """Tool and arguments of a call that nobody may make without asking. `mark` makes it one of its own."""
    return "shell", json.dumps({"command": f"kubectl delete namespace gatehouse-canary-{mark}"})


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """What became of the newest canary. `problem` is None when it was held; `escaped`: it would have been released."""

    problem: str | None
    escaped: bool
    at_ms: int
    took_ms: int


class Canary:
    """Checks at most once in `every_s` seconds, however many ask; in between, they get the newest result.

    `policies` are the revisions of all policies that are live, "" for the configured one: each must hold it, whether or
    not a rollout gives it any session.
    """

    def __init__(
        self,
        gate: Gate,
        approvals: Approvals,
        clock: Clock,
        every_s: float,
        timeout_s: float = 10.0,
        policies: Sequence[str] = ("",),
    ) -> None:
        self._gate = gate
        self._approvals = approvals
        self._clock = clock
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._policies = tuple(policies)
        self._turn = asyncio.Lock()
        self._checked_s: float | None = None
        self._last: CanaryResult | None = None

    @property
    def last(self) -> CanaryResult | None:
        """The newest result; None before the first."""
        return self._last

    async def check(self) -> CanaryResult:
        """Whether the gate holds what it must hold."""
        async with self._turn:
            now_s = self._clock.monotonic_s()
            if self._last is not None and self._checked_s is not None and now_s - self._checked_s < self._every_s:
                return self._last
            problem, escaped = await self._try()
            self._checked_s = self._clock.monotonic_s()
            took_ms = round((self._checked_s - now_s) * 1000)
            self._last = CanaryResult(problem, escaped, self._clock.now_ms(), took_ms)
            if problem is not None:
                _log.log(logging.CRITICAL if escaped else logging.ERROR, "the gate's canary: %s", problem)
            return self._last

    async def run(self) -> None:
        """Check for as long as the replica lives."""
        while True:
            await self.check()
            await asyncio.sleep(self._every_s)

    async def _try(self) -> tuple[str | None, bool]:
        try:
            async with asyncio.timeout(self._timeout_s):
                for policy, profile in product(self._policies, PROFILES):
                    problem, escaped = await self._judged(profile, policy)
                    if problem is not None:
                        by = f" by the candidate policy {policy[:12]}" if policy else ""
                        return f"under '{profile.value}' {problem}{by}", escaped
        except TimeoutError:
            return "the gate did not answer in time", False
        except GatehouseError as error:
            return f"the gate failed: {error.code}", False
        return None, False

    async def _judged(self, profile: GateProfile, policy: str) -> tuple[str | None, bool]:
        mark = secrets.token_hex(8)
        tool, arguments = dangerous_call(mark)
        principal = Principal(
            SYSTEM_TENANT, KEY, person=None, scopes=frozenset({Scope.INFERENCE}), gate_profile=profile
        )
        context = GateContext(
            request_id=RequestId(f"canary-{mark}"),
            principal=principal,
            session=SessionId(f"canary-{mark}"),
            model=ModelId("canary"),
            route_id=RouteId(f"canary-{mark}"),
            offered_tools=frozenset({tool}),
            policy=policy,
        )
        call = ToolCall(f"canary_{mark}", 0, 0, tool, arguments)
        verdicts: Sequence[Verdict] = await self._gate.judge(context, [call])
        match verdicts:
            case [Held() as held]:
                with suppress(GatehouseError):  # it was held, which is what counts; left alone it expires
                    await self._approvals.cancel(principal, held.approval_id, "")
                return None, False
            case [Withheld()]:
                return "a call that must wait for humans could not be put before them", False
            case _:
                return "a dangerous call was not held", True
