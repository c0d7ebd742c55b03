"""What is done with a revision before it gets traffic: engines are asked, other artefacts are loaded."""

import asyncio
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout, GatehouseError, InvalidRequest
from deployments.ports import Engine, EngineCall, EngineStart, RequestId, SessionId
from deployments.rollout.controller import Smoke
from deployments.rollout.settings import SmokePrompt
from deployments.rollouts import Artefact, Kind

_MOST_BYTES: Final = 4 * 2**20

Loader = Callable[[Artefact], None]
"""Loads an artefact as its user will, and raises `InvalidRequest` when that fails. Runs in a thread."""


class RevisionWorks:
    """Implements `controller.Works`. `engines` are by target and revision, `loaders` by kind.

    A model's or an engine's revision is warm when its engine answers, and good when it answers the prompts. Of another
    kind it is warm when there is a loader, and good when that loads it. What nobody here knows never gets warm.
    """

    def __init__(
        self,
        engines: Mapping[tuple[str, str], Engine],
        loaders: Mapping[Kind, Loader],
        prompts: Sequence[SmokePrompt],
        timeout_s: float,
    ) -> None:
        self._engines = engines
        self._loaders = loaders
        self._prompts = prompts
        self._timeout_s = timeout_s

    async def warm(self, artefact: Artefact, revision: str) -> bool:
        """True when the revision is loaded and answers."""
        if artefact.kind in self._loaders:
            return True
        engine = self._engines.get((artefact.target, revision))
        if engine is None:
            return False
        try:
            await engine.info()
        except (EngineFailed, EngineOverloaded, EngineTimeout):
            return False
        return True

    async def smoke(self, artefact: Artefact, revision: str) -> Smoke:
        """Ask every prompt, one after the other. An engine that is busy raises: that says nothing of the revision."""
        loader = self._loaders.get(artefact.kind)
        if loader is not None:
            try:
                await asyncio.to_thread(loader, artefact)
            except InvalidRequest as error:
                return Smoke(1, (f"it cannot be loaded: {error.public_message}",))
            return Smoke(1)
        engine = self._engines[artefact.target, revision]
        failed = [each.name for each in self._prompts if not await self._answers(engine, artefact.target, each)]
        return Smoke(len(self._prompts), tuple(failed))

    async def _answers(self, engine: Engine, model: str, prompt: SmokePrompt) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                text = await _ask(engine, model, prompt)
        except EngineOverloaded:
            raise
        except (TimeoutError, GatehouseError):
            return False
        return re.search(prompt.expects, text) is not None


async def _ask(engine: Engine, model: str, prompt: SmokePrompt) -> str:
    """The text of an answer; `EngineFailed` for one that is none."""
    request_id = RequestId(f"smoke_{uuid.uuid4().hex}")
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt.prompt}],
        "max_completion_tokens": prompt.max_tokens,
        "temperature": 0.0,
    }
    call = EngineCall(
        path="/v1/chat/completions",
        headers={"content-type": "application/json"},
        body=json.dumps(body).encode(),
        request_id=request_id,
        session=SessionId(request_id),
    )
    data, status = bytearray(), 0
    async with aclosing(engine.call(call)) as items:
        async for item in items:
            if isinstance(item, EngineStart):
                status = item.status
            elif isinstance(item, bytes):
                data += item
            if len(data) > _MOST_BYTES:
                raise EngineFailed("The answer is too long.")
    try:
        message = cast(dict[str, Any], json.loads(data))["choices"][0]["message"]
        text: object = message.get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise EngineFailed("The answer could not be read.") from None
    if status != 200 or not isinstance(text, str):
        raise EngineFailed("The engine gave no answer.")
    return text
