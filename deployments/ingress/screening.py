"""The guardrails of a request on its way: what a model is told, what it may say, and who learns what was found.

A request that is kept local has no egress from here on: the one rule that decides which models it may reach
(`egress.py`) then holds for its route, its cascade and its reviews. Nothing here tells a word of what was found.
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from deployments.clock import Clock
from deployments.errors import InvalidRequest
from deployments.guardrails.body import Blocked, BodyScreen
from deployments.guardrails.guard import Guard, Guardrails
from deployments.guardrails.look import Look
from deployments.guardrails.meter import GuardMeter
from deployments.guardrails.values import Action, Direction, GuardrailUnavailable, Tally
from deployments.ingress.dialects.screened import ScreenedReply
from deployments.ingress.dialects.values import Asked, ReplyFilter
from deployments.ingress.trail import Recorder
from deployments.ports import NO_EGRESS, AuditEvent, Dialect, JsonValue, Principal, RequestId, SessionId

HEADER: Final = "x-gatehouse-guardrails"
_IN_LOOP_CHARS: Final = 64 * 1024
_MOST_TOLD: Final = 32


@dataclass(slots=True)
class Watch:
    """The guardrails of one request. `before` is what was found in it, `look` the look at its answer."""

    guard: Guard
    before: Tally
    suspicious: bool
    look: Look | None = None

    @property
    def masks(self) -> bool:
        """Whether the request holds what was masked, so that nobody keeps it as it came."""
        return self.before.did(Action.MASK)

    @property
    def after(self) -> Tally:
        """What was found in the answer that was sent, or was under way."""
        return Tally() if self.look is None else self.look.tally

    def reply(self, inner: ReplyFilter, asked: Asked) -> ReplyFilter:
        """The filter of the answer, behind its guardrails."""
        if self.guard.output is None or asked.dialect is Dialect.EMBEDDINGS:
            return inner
        return ScreenedReply(inner, asked.stream, self._begin)

    def headers(self) -> dict[str, str]:
        """What the answer's headers say: detectors, kinds, actions and counts in the request."""
        found = self.before.found
        return {HEADER: ",".join(map(str, found[:_MOST_TOLD]))} if found else {}

    def _begin(self) -> Look:
        look = self.guard.look_out()
        if look is None:
            raise RuntimeError("an answer without guardrails is not looked at")
        self.look = look
        return look


@dataclass(frozen=True, slots=True)
class Screened:
    """A request behind its guardrails: as whom it goes on, and with which words."""

    principal: Principal
    asked: Asked
    untrusted: bool
    watch: Watch | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """What guardrails look at: a body in the form of `dialect`, with so many characters of text (None: not counted).

    `outside`: messages of the user may be other people's words.
    """

    dialect: Dialect
    body: Mapping[str, JsonValue]
    chars: int | None = None
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """Words behind their guardrails: as whom they go on, and whether others give orders in them."""

    principal: Principal
    body: Mapping[str, JsonValue]
    suspicious: bool = False


@dataclass(frozen=True, slots=True)
class _Seen:
    """Words as they may go on, and what was found in them."""

    guard: Guard
    body: Mapping[str, JsonValue]
    tally: Tally
    suspicious: bool


class Screening:
    """Looks at requests. Holds no state of any."""

    def __init__(self, guardrails: Guardrails | None, recorder: Recorder, meter: GuardMeter, clock: Clock) -> None:
        """`guardrails` None: nobody has any."""
        self._guardrails = guardrails
        self._recorder = recorder
        self._meter = meter
        self._clock = clock

    async def request(
        self, principal: Principal, request_id: RequestId, session: SessionId, asked: Asked, untrusted: bool,
        said_untrusted: bool,
    ) -> Screened:  # fmt: skip
        """The request as it goes on. `said_untrusted`: its user's messages may be other people's words.

        Raises:
            InvalidRequest: it holds what no model may be told.
            GuardrailUnavailable: a detector that the tenant requires could not look.
        """
        of = Words(asked.dialect, asked.body, sum(map(len, asked.prompt_texts)), said_untrusted or asked.outside)
        seen = await self._seen(principal, request_id, session, of)
        if seen is None:
            return Screened(principal, asked, untrusted)
        if seen.tally.did(Action.KEEP_LOCAL):
            principal = replace(principal, egress=NO_EGRESS)
        if seen.body is not asked.body:
            asked = replace(asked, body=seen.body)
        return Screened(principal, asked, untrusted or seen.suspicious, Watch(seen.guard, seen.tally, seen.suspicious))

    async def question(
        self, principal: Principal, request_id: RequestId, session: SessionId, words: "Words"
    ) -> "Question":
        """The same for words that no answer is generated to."""
        seen = await self._seen(principal, request_id, session, words)
        if seen is None:
            return Question(principal, words.body)
        if seen.tally.did(Action.KEEP_LOCAL):
            principal = replace(principal, egress=NO_EGRESS)
        return Question(principal, seen.body, seen.suspicious)

    async def _seen(
        self, principal: Principal, request_id: RequestId, session: SessionId, words: "Words"
    ) -> "_Seen | None":
        """What the tenant's guardrails make of words; None where it has none. Raises as `request` does."""
        guard = None if self._guardrails is None else self._guardrails.of(principal.tenant)
        if guard is None:
            return None
        began_s = self._clock.monotonic_s()
        late_s = began_s + guard.profile.budget_ms / 1000
        look = guard.look_in(lambda: self._clock.monotonic_s() > late_s)
        screen = BodyScreen(look, guard.profile.injection.input, outside=words.outside)
        try:
            body = await self._off_loop(words.chars, guard, lambda: screen.screen(words.body))
        except Blocked:
            await self._tell(principal, request_id, session, words.dialect, look.tally)
            kinds = ", ".join(sorted({f"{each.detector}.{each.kind}" for each in look.tally.found
                                      if each.action is Action.BLOCK}))  # fmt: skip
            raise InvalidRequest(
                f"The request holds what this key's guardrails let no model see: {kinds}.", None, "policy_denied"
            ) from None
        except GuardrailUnavailable:
            await self._tell(principal, request_id, session, words.dialect, look.tally, refused=True)
            raise
        except RecursionError:
            raise InvalidRequest("The request is nested too deeply to be looked at.") from None
        self._meter.looked(Direction.INPUT, self._clock.monotonic_s() - began_s)
        await self._tell(principal, request_id, session, words.dialect, look.tally)
        return _Seen(guard, body, look.tally, screen.suspicious)

    async def answered(
        self, watch: Watch, principal: Principal, request_id: RequestId, session: SessionId, asked: Asked, route: str,
        refused: bool,
    ) -> None:  # fmt: skip
        """Record and count what was found in the answer. `refused`: it broke off because a detector could not look."""
        if watch.look is not None:
            tally, direction = watch.after, Direction.OUTPUT
            await self._tell(principal, request_id, session, asked.dialect, tally, route, direction, refused)

    async def _off_loop(
        self, chars: int | None, guard: Guard, work: Callable[[], Mapping[str, JsonValue]]
    ) -> Mapping[str, JsonValue]:
        """Looking at much text, or with a library, is no work for the event loop."""
        if chars is None or chars > _IN_LOOP_CHARS or guard.profile.names.input is not Action.OFF:
            return await asyncio.to_thread(work)
        return work()

    async def _tell(
        self, principal: Principal, request_id: RequestId, session: SessionId, dialect: Dialect, tally: Tally,
        route: str | None = None, direction: Direction = Direction.INPUT, refused: bool = False,
    ) -> None:  # fmt: skip
        """Count and record; nothing of what is fine."""
        if tally.found:
            self._meter.found(direction, tally.found)
        if tally.failures:
            self._meter.failed(direction, tally.failures, refused)
        if not tally.found and not tally.failures:
            return
        matched: list[JsonValue] = [str(each) for each in tally.found]
        unchecked: list[JsonValue] = [f"{detector}:{why}" for detector, why in sorted(tally.failures.items())]
        data: dict[str, JsonValue] = {
            "direction": direction.value,
            "action": tally.action.value,
            "matched": matched[:_MOST_TOLD],
            "unchecked": unchecked,
            "outcome": "refused" if refused or tally.action is Action.BLOCK else "passed",
            "dialect": dialect.value,
            "route_id": route,
        }
        await self._recorder.record(
            AuditEvent(
                event_id=f"guardrail.found:{uuid.uuid4().hex}",
                name="guardrail.found",
                at_ms=self._clock.now_ms(),
                tenant=principal.tenant,
                principal=principal.key_id,
                request_id=request_id,
                session=session,
                data=data,
            )
        )
