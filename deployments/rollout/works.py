"""What is done with a revision before it gets traffic: engines are asked, other artefacts are loaded.

A prompt is both: read as its users read it, and tried with the engine of its model.
"""

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
from deployments.rollouts import FAMILIES, OF_ENGINES, Artefact, Family, Kind, Plan

_MOST_BYTES: Final = 4 * 2**20
_NOT_DEPLOYED: Final = "not_deployed"
_OF_ONE_FILE: Final = frozenset({Kind.ROUTER, Kind.PROMPT})
_WHERE: Final = {
    Kind.ROUTER: "`difficulty.learned.candidate`",
    Kind.POLICY: "`gate.candidate`",
    Kind.PROMPT: "`candidate_prompt` of the model",
}
_CAPACITY: Final = frozenset(
    {"replicas", "scaling", "num_cpus", "num_gpus", "drain_s", "cold_start_s", "max_queued", "max_queued_tokens"}
)
"""Settings of an engine that change how much it can take and nothing of what it says; a candidate may have its own."""

Loader = Callable[[Artefact], str | None]
"""Loads an artefact as its user will, and raises `InvalidRequest` when that fails. Runs in a thread.

That of prompts answers the text.
"""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What of a target there is in the configuration: its engines, snapshots, policies or prompts.

    `source`: where its checkpoint or file lies, "" for none; `settings`: a JSON object, of an engine alone.
    """

    target: str
    revision: str
    source: str = ""
    settings: str = "{}"
    family: Family = Family.ENGINE


class RevisionWorks:
    """Implements `controller.Works`. `engines` are by target and revision, `loaders` by kind.

    A model's or an engine's revision is warm when its engine answers, and good when it answers the prompts. Of another
    kind it is warm when there is a loader, and good when that loads it; a prompt besides when its model answers the
    prompts with it. What nobody here knows never gets warm.
    """

    def __init__(
        self,
        engines: Mapping[tuple[str, str], Engine],
        loaders: Mapping[Kind, Loader],
        prompts: Sequence[SmokePrompt],
        timeout_s: float,
        deployed: Sequence[Deployed] = (),
    ) -> None:
        """`deployed`: all that the configuration has, of each target the configured one before its candidate."""
        self._engines = engines
        self._loaders = loaders
        self._prompts = prompts
        self._timeout_s = timeout_s
        self._deployed = deployed

    def base(self, plan: Plan) -> str | None:
        """The revision that the configuration names for the target; None where it names none."""
        return next((each.revision for each in self._known(plan)), None)

    def refuse(self, plan: Plan, artefact: Artefact) -> None:
        """Raise `InvalidRequest` for what cannot take a share of the sessions here.

        A candidate must be in the configuration, and be the artefact: its files lie where the artefact's do. An
        engine has the artefact's settings besides, and in all others it is as the engine that it would replace.
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
        known = self._known(plan)
        if not known:
            of_model = plan.kind in OF_ENGINES or plan.kind is Kind.PROMPT
            what = "model" if of_model else f"target of kind '{plan.kind.value}' named"
            raise InvalidRequest(f"The configuration has no {what} '{plan.target}'.", "target", _NOT_DEPLOYED)
        found = next((each for each in known if each.revision == plan.revision), None)
        if found is None or found is known[0]:
            where = _WHERE.get(plan.kind, "`candidate` of the model")
            raise InvalidRequest(
                f"No candidate of '{plan.target}' has this revision: set {where} in the configuration "
                "first, with this revision.",
                "revision",
                _NOT_DEPLOYED,
            )
        why = _differs(known[0], found, artefact) if plan.kind in OF_ENGINES else _is_another(found, artefact)
        if why is not None:
            raise InvalidRequest(f"The candidate of '{plan.target}' is not what was registered: {why}.", "revision")

    def gone(self, plan: Plan) -> bool:
        """True when the revision of a rollout is not in the configuration any more."""
        return plan.revision not in {each.revision for each in self._known(plan)}

    def _known(self, plan: Plan) -> list[Deployed]:
        family = FAMILIES[plan.kind]
        return [each for each in self._deployed if (each.family, each.target) == (family, plan.target)]

    async def warm(self, artefact: Artefact, revision: str) -> bool:
        """True when the revision is loaded and answers."""
        if artefact.kind in self._loaders and artefact.kind is not Kind.PROMPT:
            return True
        engine = self._engines.get((artefact.target, self._engine_of(artefact, revision)))
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
        instructions = ""
        if loader is not None:
            try:
                instructions = await asyncio.to_thread(loader, artefact) or ""
            except InvalidRequest as error:
                return Smoke(1, (f"it cannot be loaded: {error.public_message}",))
            if artefact.kind is not Kind.PROMPT:
                return Smoke(1)
        engine = self._engines[artefact.target, self._engine_of(artefact, revision)]
        failed = [
            each.name for each in self._prompts if not await self._answers(engine, artefact.target, each, instructions)
        ]
        return Smoke(len(self._prompts), tuple(failed))

    def _engine_of(self, artefact: Artefact, revision: str) -> str:
        """The revision of the engine to ask: of a prompt's model the one that answers whoever is given no other."""
        if artefact.kind is not Kind.PROMPT:
            return revision
        engines = (each for each in self._deployed if each.family is Family.ENGINE and each.target == artefact.target)
        return next((each.revision for each in engines), "")

    async def _answers(self, engine: Engine, model: str, prompt: SmokePrompt, instructions: str) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                text = await _ask(engine, model, prompt, instructions)
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


def _is_another(candidate: Deployed, artefact: Artefact) -> str | None:
    """Why a candidate that is no engine is not the artefact, None: it is."""
    if settings_of(artefact):
        return "it has settings, and nothing here would read them"
    if artefact.kind in _OF_ONE_FILE and len(artefact.files) != 1:
        return "it must be one file"
    source, path = Path(candidate.source).resolve(), Path(artefact.path).resolve()
    there = {path, *(path / each.path for each in artefact.files)}  # a file, or one of a folder
    return None if source in there else "its file is another one"


async def _ask(engine: Engine, model: str, prompt: SmokePrompt, instructions: str = "") -> str:
    """The text of an answer, to a prompt behind the operator's instructions; `EngineFailed` for one that is none."""
    request_id = RequestId(f"smoke_{uuid.uuid4().hex}")
    body = {
        "model": model,
        "messages": [
            *([{"role": "system", "content": instructions}] if instructions else []),
            {"role": "user", "content": prompt.prompt},
        ],
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
