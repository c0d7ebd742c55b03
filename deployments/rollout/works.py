"""What is done with a revision before it gets traffic: engines are asked, other artefacts are loaded.

A prompt is both: read as its users read it, and tried with the engine of its model.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout, GatehouseError, InvalidRequest
from deployments.ports import Engine
from deployments.rollout.asking import ask
from deployments.rollout.cases import Case, Reply
from deployments.rollout.checks import matches
from deployments.rollout.controller import Smoke
from deployments.rollout.evaluating import Evaluation, Evaluator
from deployments.rollout.plan import settings_of
from deployments.rollout.settings import SmokePrompt
from deployments.rollouts import FAMILIES, NO_PROMPT, OF_ENGINES, OF_MODELS, Artefact, Family, FileSum, Kind, Plan

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
        evaluator: Evaluator | None = None,
    ) -> None:
        """`deployed`: all that the configuration has, of each target the configured one before its candidate.

        `evaluator` None: there is no evaluation suite.
        """
        self._engines = engines
        self._loaders = loaders
        self._prompts = prompts
        self._timeout_s = timeout_s
        self._deployed = deployed
        self._evaluator = evaluator

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

    def eval_cases(self, plan: Plan) -> int:
        """How many cases both revisions of a plan are asked, 0: none. `InvalidRequest` when it asks for what is not."""
        if plan.kind not in OF_MODELS:
            if plan.eval_cases is not None:
                raise InvalidRequest(f"A revision of kind '{plan.kind.value}' answers nothing.", "eval_cases")
            return 0
        if self._evaluator is None:
            if plan.eval_cases is not None:
                raise InvalidRequest("There is no evaluation suite: set `rollout.eval.suite`.", "eval_cases")
            return 0
        return self._evaluator.size(plan.eval_cases)

    async def evaluate(self, plan: Plan, artefact: Artefact) -> Evaluation | None:
        """Ask both revisions their cases for a while; None when there is more to ask.

        `InvalidRequest` when they cannot be compared: there is no suite any more, or the revision before is not there.
        """
        if self._evaluator is None:
            raise InvalidRequest("there is no evaluation suite any more", "eval_cases")
        askers = await asyncio.to_thread(self._askers, plan, artefact)
        return await self._evaluator.round(plan.rollout_id, plan.eval_cases or 0, *askers)

    def _askers(self, plan: Plan, artefact: Artefact) -> tuple[Callable[[Case], Awaitable[Reply]], ...]:
        """How the candidate is asked, and the revision before it. Reads the files of prompts."""
        found = list[Callable[[Case], Awaitable[Reply]]]()
        for revision, its in ((plan.revision, artefact), (plan.previous_revision, None)):
            instructions = ""
            if plan.kind is Kind.PROMPT and revision != NO_PROMPT:
                instructions = self._loaders[Kind.PROMPT](its or self._before(plan)) or ""
            engine = self._engines.get((plan.target, self._engine_of(artefact, revision)))
            if engine is None:
                raise InvalidRequest("one of the revisions is not in the configuration any more", "revision")
            found.append(partial(_asked, engine, plan.target, instructions))
        return tuple(found)

    def _before(self, plan: Plan) -> Artefact:
        """The file of the prompt that a rollout may go back to."""
        for each in self._known(plan):
            if each.revision == plan.previous_revision and each.source:
                path = Path(each.source)
                return Artefact(plan.kind, plan.target, str(path), (FileSum(path.name, 0, ""),))
        raise InvalidRequest("the prompt before is not in the configuration any more", "revision")

    def _engine_of(self, artefact: Artefact, revision: str) -> str:
        """The revision of the engine to ask: of a prompt's model the one that answers whoever is given no other."""
        if artefact.kind is not Kind.PROMPT:
            return revision
        engines = (each for each in self._deployed if each.family is Family.ENGINE and each.target == artefact.target)
        return next((each.revision for each in engines), "")

    async def _answers(self, engine: Engine, model: str, prompt: SmokePrompt, instructions: str) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                asked = [{"role": "user", "content": prompt.prompt}]
                text = (await ask(engine, model, asked, prompt.max_tokens, instructions)).text
        except EngineOverloaded:
            raise
        except (TimeoutError, GatehouseError):
            return False
        return matches(prompt.expects, text)


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


async def _asked(engine: Engine, model: str, instructions: str, case: Case) -> Reply:
    return await ask(engine, model, case.conversation, case.max_tokens, instructions, case.tools, "eval")
