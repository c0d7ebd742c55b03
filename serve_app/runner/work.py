"""The runner: from a call to its report, in the order that nothing may change.

1. The command can begin at all. 2. A permit: of the call that an agent's stream has brought, or of one proposed now.
3. The permit is the gate's, for this runner, good now, and for exactly what is about to be executed. 4. It is redeemed.
5. The command is executed under the profile that the permit names. 6. What became of it is reported.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TypeAlias

import rfc8785

from deployments.clock import Clock
from deployments.gate.commands import RUN_TOOL, Run, run_of
from deployments.gate.permits import OFFLINE, BadPermit, Claims, digest_of, verify
from deployments.ports import JsonValue
from serve_app.runner.execute import Ended, execute
from serve_app.runner.git_drivers import without_drivers
from serve_app.runner.house import House, Refused, Reply, Unavailable, pinned
from serve_app.runner.network import Isolation, probe
from serve_app.runner.profile import CannotRun, Prepared, prepare
from serve_app.runner.settings import RunnerSettings

_POLL_S = 2.0
_TRIES, _PAUSE_S = 4, 0.25
"""How often an answer is asked for, and how long after the first time; four times as long after each other."""
_NONCE_BYTES = 32
_PASSING = ("gate_unavailable", "witness_stale")
"""How reasons begin that are gone by themselves."""
_OVER = frozenset({"REJECTED", "EXPIRED", "CANCELLED", "STALE", "CONSUMED"})

Sink: TypeAlias = Callable[[int, bytes], None]
Progress: TypeAlias = Callable[[str], Awaitable[None]]


class Verdict(StrEnum):
    """Why a call was not executed."""

    HELD = "held"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class NotRun:
    """A call that was not executed. `approval_id` and `missing`: what it waits for."""

    verdict: Verdict
    reasons: tuple[str, ...]
    approval_id: str | None = None
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """A call that was executed, once, and what the gate was told. `unreported`: why it could not be told."""

    permit_id: str
    ended: Ended
    report: Mapping[str, JsonValue]
    unreported: str | None = None
    notice: str | None = None


Done: TypeAlias = Ran | NotRun


async def quiet(message: str) -> None:
    """Tell nobody."""
    del message


class Runner:
    """Executes calls of one key, each under its permit."""

    def __init__(self, settings: RunnerSettings, house: House, clock: Clock, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._house = house
        self._clock = clock
        self._environment = environment
        self._isolation: Isolation | None = None

    async def run(
        self, arguments: Mapping[str, JsonValue], sink: Sink, progress: Progress = quiet, tool: str = RUN_TOOL
    ) -> Done:
        """Execute a call. Raises `CannotRun`, `BadPermit`, `Refused` or `Unavailable` where nothing was executed."""
        text = rfc8785.dumps(dict(arguments)).decode("utf-8")
        wanted = run_of(tool, text)
        if wanted is None:
            raise Refused("the call does not name exactly one command")
        # 1
        prepared = prepare(wanted, self._settings, self._environment)
        # 2
        permit = await self._house.claim(tool, text, self._settings.audience)
        if permit is None:
            permit = await self._proposed(tool, text, progress)
        if isinstance(permit, NotRun):
            return permit
        return await self.under(permit, wanted, prepared, sink)

    async def under(self, permit: Reply, wanted: Run, prepared: Prepared, sink: Sink) -> Ran:
        """Steps 3 to 6: execute what `wanted` says under a permit, and report."""
        # 3
        claims = await self._verified(permit, wanted)
        isolation, notice = await self._network(claims)
        timeout_s = min(wanted.timeout_s or self._settings.timeout_s, self._settings.timeout_s)
        prepared = await without_drivers(prepared, wanted.command)
        # 4
        await self._redeem(claims)
        # 5
        try:
            ended = await execute(prepared, self._settings, self._clock, sink, timeout_s, isolation)
        except CannotRun as error:
            await self._report(claims.jti, _lost(self._clock.now_ms(), "failed", error.code))
            raise
        except BaseException:  # whatever it is, the permit is used, and somebody waits for a report
            await asyncio.shield(self._report(claims.jti, _lost(self._clock.now_ms())))
            raise
        # 6
        report = _said(ended)
        return Ran(claims.jti, ended, report, await self._report(claims.jti, report), notice)

    async def _proposed(self, tool: str, text: str, progress: Progress) -> Reply | NotRun:
        """A permit for the call, after waiting for its approval as long as the settings say."""
        session = self._settings.session
        ends_s = self._clock.monotonic_s() + self._settings.wait_s
        while True:
            reply = await self._house.propose(tool, text, self._settings.audience, session)
            answer = answer_of(reply)
            if not isinstance(answer, NotRun) or answer.approval_id is None:
                return answer
            while True:
                left_s = ends_s - self._clock.monotonic_s()
                if left_s <= 0:
                    return answer
                await progress(f"waits for approval {answer.approval_id}: {answer.missing}")
                await asyncio.sleep(min(_POLL_S, left_s))
                state = (await self._house.approval(answer.approval_id)).get("state")
                if state == "APPROVED":
                    break
                if state in _OVER:
                    return NotRun(Verdict.DENIED, (f"the request {answer.approval_id} is {state}",))

    async def _verified(self, permit: Reply, wanted: Run) -> Claims:
        token, binding = permit.get("token"), permit.get("binding")
        if not isinstance(token, str) or not isinstance(binding, dict):
            raise BadPermit("The permit came without its token or its call.")
        jwks = await pinned(self._house, self._settings.pins)
        claims = verify(token, jwks, self._settings.audience, self._clock.now_ms() / 1000)
        tool, arguments = binding.get("tool"), binding.get("arguments")
        if digest_of(binding) != claims.act:
            raise BadPermit("The permit is for another call than the one that came with it.")
        named = (binding.get("gate_call_id"), binding.get("principal"), binding.get("policy_digest"))
        if named != (claims.gate_call_id, claims.sub, claims.policy_digest):
            raise BadPermit("The permit and its call name different things.")
        found = run_of(tool, arguments) if isinstance(tool, str) and isinstance(arguments, str) else None
        if found is None or (found.command, found.cwd) != (wanted.command, wanted.cwd):
            raise BadPermit("The permit is for another command than the one to execute.")
        return claims

    async def _network(self, claims: Claims) -> tuple[Isolation | None, str | None]:
        if claims.exec_profile != OFFLINE or not self._settings.offline:
            return None, None
        self._isolation = self._isolation or await probe()
        if self._isolation.reason is not None:
            return None, f"runs with the machine's network: {self._isolation.reason}"
        return self._isolation, None

    async def _redeem(self, claims: Claims) -> None:
        """Take the one execution, patiently: an answer that was lost is asked for again, under the same nonce.

        The nonce is of this execution and known to nobody else, so that no second execution can come of it. Without an
        answer nothing is executed, though the permit may be used up.
        """
        nonce = secrets.token_urlsafe(_NONCE_BYTES)
        for number in range(_TRIES):
            try:
                await self._house.redeem(claims.jti, claims.act, self._settings.audience, nonce)
            except Unavailable:
                if number + 1 == _TRIES or self._clock.now_ms() >= claims.exp * 1000:
                    raise
                await asyncio.sleep(_PAUSE_S * 4**number)
            else:
                return

    async def _report(self, permit_id: str, report: Mapping[str, JsonValue]) -> str | None:
        """Tell Gatehouse, patiently; why it could not be told, or None. The gate alerts on what was never reported."""
        said = ""
        for number in range(_TRIES):
            try:
                await self._house.report(permit_id, report)
            except Unavailable as error:
                said = str(error)
                await asyncio.sleep(_PAUSE_S * 4**number)
            except Refused as error:
                return str(error)
            else:
                return None
        return said


def answer_of(reply: Reply) -> Reply | NotRun:
    """The permit of a reply to a proposal, or why there is none; `Unavailable` where the gate cannot say."""
    reasons = reply.get("reasons")
    said = tuple(str(reason) for reason in reasons) if isinstance(reasons, list) else ()
    permit, approval_id, missing = reply.get("permit"), reply.get("approval_id"), reply.get("missing")
    match reply.get("status"):
        case "permitted" if isinstance(permit, dict):
            return permit
        case "held" if isinstance(approval_id, str):
            return NotRun(Verdict.HELD, said, approval_id, str(missing or ""))
        case "withheld" if not said or said[0].startswith(_PASSING):
            raise Unavailable(" ".join(said) or "the gate withholds the call")
        case "withheld":  # a frozen key, or arguments that nobody can read: trying again is useless
            raise Refused(" ".join(said))
        case _:
            return NotRun(Verdict.DENIED, said)


def _said(ended: Ended) -> dict[str, JsonValue]:
    note = f"timed out; printed {ended.printed_bytes} bytes" if ended.timed_out else ""
    return {
        "outcome": "succeeded" if ended.exit_code == 0 and not ended.timed_out else "failed",
        "exit_code": ended.exit_code,
        "output_digest": ended.output_digest.hex(),
        "started_ms": ended.started_ms,
        "ended_ms": ended.ended_ms,
        "note": note,
    }


def _lost(now_ms: int, outcome: str = "unknown", exit_code: int | None = None) -> dict[str, JsonValue]:
    return {
        "outcome": outcome,
        "exit_code": exit_code,
        "output_digest": sha256(b"").hexdigest(),
        "started_ms": now_ms,
        "ended_ms": now_ms,
        "note": "the runner was interrupted" if exit_code is None else "the command could not be started",
    }
