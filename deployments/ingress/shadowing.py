"""The shadow of a rollout: a candidate is asked what the revision before it is asked, and nobody sees its answers.

A shadow costs no client anything: it is begun beside the request, reads its own copy, and whatever becomes of it is a
figure and nothing else. Its tool calls are not looked at, its tokens are charged to nobody. Beyond a few at once
requests have no shadow.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing
from contextvars import Context
from dataclasses import replace
from typing import Final

from deployments.clock import Clock
from deployments.errors import EngineFailed, EngineTimeout, GatehouseError
from deployments.ingress.dialects.upstream import upstream_error
from deployments.ingress.revisions import Choice, Revisions, Seen
from deployments.ports import Counted, Engine, EngineCall, EngineStart, ModelId, RequestId

_log = logging.getLogger("gatehouse.ingress")
_AT_ONCE: Final = 4
_BAD: Final = 400


class Shadows:
    """Asks candidates, for as long as a rollout is in its shadow stage."""

    def __init__(self, candidates: Mapping[ModelId, Engine], revisions: Revisions, clock: Clock) -> None:
        self._candidates = candidates
        self._revisions = revisions
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, model: ModelId, call: EngineCall, choice: Choice, context: Context) -> None:
        """Ask the candidate of `model` the same, in a task that belongs to `context`; at once done where there is none.

        `choice` is the one that the request was given.
        """
        split = choice.split
        if split is None or not split.shadow or model not in self._candidates or len(self._running) >= _AT_ONCE:
            return
        shadow = replace(
            call, request_id=RequestId(f"{call.request_id}-shadow"), revision=split.revision, patient=True
        )  # fmt: skip
        asking = self._ask(self._candidates[model], shadow, Choice(split.revision, split, candidate=True))
        task = asyncio.create_task(asking, context=context)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Stop what runs."""
        running = [*self._running]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _ask(self, engine: Engine, call: EngineCall, choice: Choice) -> None:
        began_s, first_ms = self._clock.monotonic_s(), None
        failed: bool | None = None
        try:
            async with aclosing(engine.call(call)) as items:
                async for item in items:
                    if isinstance(item, EngineStart) and item.status >= _BAD:
                        raise upstream_error(item.status, b"")
                    said = item.data if isinstance(item, Counted) else item if isinstance(item, bytes) else b""
                    if said and first_ms is None:
                        first_ms = (self._clock.monotonic_s() - began_s) * 1000
            failed = False
        except (EngineFailed, EngineTimeout):
            failed = True
        except GatehouseError as error:  # it was busy, or the request was bad: that says nothing of it
            _log.info("no shadow of a request: %s", error.code)
            return
        ms = (self._clock.monotonic_s() - began_s) * 1000
        self._revisions.count(choice, Seen(failed, not failed, first_ms, ms))
