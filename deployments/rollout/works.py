"""What is done with a revision before it gets traffic: engines are asked, other artefacts are loaded."""

import asyncio
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout, GatehouseError, InvalidRequest
from deployments.ports import Engine, EngineCall, EngineStart, RequestId, SessionId
from deployments.rollout.controller import Smoke
from deployments.rollout.plan import settings_of
from deployments.rollout.settings import SmokePrompt
from deployments.rollouts import OF_ENGINES, Artefact, Kind, Plan

_MOST_BYTES: Final = 4 * 2**20
_NOT_DEPLOYED: Final = "not_deployed"
_CAPACITY: Final = frozenset(
    {"replicas", "scaling", "num_cpus", "num_gpus", "drain_s", "cold_start_s", "max_queued", "max_queued_tokens"}
)
"""Settings of an engine that change how much it can take and nothing of what it says; a candidate may have its own."""

Loader = Callable[[Artefact], None]
"""Loads an artefact as its user will, and raises `InvalidRequest` when that fails. Runs in a thread."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """An engine of the configuration. `source`: where its checkpoint lies, "" for none; `settings`: a JSON object."""

    model: str
    revision: str
    source: str = ""
    settings: str = "{}"


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
        deployed: Sequence[Deployed] = (),
    ) -> None:
        """`deployed`: all engines of the configuration, that of a model before its candidate."""
        self._engines = engines
        self._loaders = loaders
        self._prompts = prompts
        self._timeout_s = timeout_s
        self._deployed = deployed

    def base(self, plan: Plan) -> str | None:
        """The revision that the configuration names for the target; None where it names none."""
        if plan.kind not in OF_ENGINES:
            return None
        return next((each.revision for each in self._deployed if each.model == plan.target), None)

    def refuse(self, plan: Plan, artefact: Artefact) -> None:
        """Raise `InvalidRequest` for what cannot take a share of the sessions here.

        A candidate must be deployed, and be the artefact: its checkpoint lies where the artefact's files do, it has
        the artefact's settings, and in all others it is as the engine that it would replace.
        """
        if plan.kind not in OF_ENGINES:
            if plan.shadow:
                raise InvalidRequest("Only a revision of an engine has a shadow stage.", "shadow", _NOT_DEPLOYED)
            if plan.kind not in self._loaders:
                raise InvalidRequest(
                    f"Nothing here can give a revision of kind '{plan.kind.value}' to a part of the sessions.",
                    "kind",
                    _NOT_DEPLOYED,
                )
            return
        known = [each for each in self._deployed if each.model == plan.target]
        if not known:
            raise InvalidRequest(f"The configuration has no model '{plan.target}'.", "target", _NOT_DEPLOYED)
        found = next((each for each in known if each.revision == plan.revision), None)
        if found is None or found is known[0]:
            raise InvalidRequest(
                f"No candidate of '{plan.target}' has this revision: set `candidate` of the model in the configuration "
                "first, with this revision.",
                "revision",
                _NOT_DEPLOYED,
            )
        if (why := _differs(known[0], found, artefact)) is not None:
            raise InvalidRequest(f"The candidate of '{plan.target}' is not what was registered: {why}.", "revision")

    def gone(self, plan: Plan) -> bool:
        """True when the revision of an engine's rollout is not in the configuration any more."""
        known = {(each.model, each.revision) for each in self._deployed}
        return plan.kind in OF_ENGINES and (plan.target, plan.revision) not in known

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


def _differs(base: Deployed, candidate: Deployed, artefact: Artefact) -> str | None:
    """What of a candidate is not as the artefact says, None: nothing."""
    source = artefact.path or base.source
    if Path(candidate.source).resolve() != Path(source).resolve():
        return "its `source` is another one"
    said, there, before = settings_of(artefact), json.loads(candidate.settings), json.loads(base.settings)
    for name in sorted(there.keys() | said.keys()):
        if name in said:
            if name not in there or there[name] != said[name]:
                return f"its `{name}` is another one"
        elif name not in _CAPACITY | {"revision", "source"} and there.get(name) != before.get(name):
            return f"its `{name}` differs from the engine's, and the artefact does not say so"
    return None


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
