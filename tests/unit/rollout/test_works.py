import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.errors import EngineFailed, EngineOverloaded, InvalidRequest
from deployments.rollout.controller import Smoke
from deployments.rollout.settings import RolloutSettings, SmokePrompt
from deployments.rollout.works import Loader, RevisionWorks
from deployments.rollouts import Artefact, Kind
from tests.fakes import JSON_START, Script, ScriptedEngine

MODEL = Artefact(Kind.MODEL, "demo-20b", settings='{"a":1}')
PROMPTS = (
    SmokePrompt(name="sum", prompt="2 + 2?", expects=r"\b4\b"),
    SmokePrompt(name="greeting", prompt="Say hello.", expects="(?i)hello"),
)


def says(text: object) -> Script:
    return [JSON_START, json.dumps({"choices": [{"message": {"content": text}}]}).encode()]


def works(engine: ScriptedEngine | None = None, loaders: dict[Kind, Loader] | None = None) -> RevisionWorks:
    engines = {} if engine is None else {("demo-20b", "r2"): engine}
    return RevisionWorks(engines, loaders or {}, PROMPTS, 30.0)


async def test_every_prompt_is_asked_of_the_revision_and_the_wrong_answers_are_named() -> None:
    engine = ScriptedEngine(says("It is 4."), says("Good morning."))
    assert await works(engine).warm(MODEL, "r2")
    assert await works(engine).smoke(MODEL, "r2") == Smoke(2, ("greeting",))
    bodies = [json.loads(call.body) for call in engine.calls]
    assert [each["messages"][0]["content"] for each in bodies] == ["2 + 2?", "Say hello."]
    assert {each["model"] for each in bodies} == {"demo-20b"}
    good = ScriptedEngine(says("4"), says("Hello!"))
    assert await works(good).smoke(MODEL, "r2") == Smoke(2)


@pytest.mark.parametrize(
    "script",
    [[EngineFailed("dead")], [JSON_START, b"no json"], says(None), [JSON_START, b"{}"], [JSON_START]],
    ids=["dead", "prose", "null", "empty", "nothing"],
)
async def test_what_is_no_answer_fails_every_prompt(script: Script) -> None:
    assert await works(ScriptedEngine(script)).smoke(MODEL, "r2") == Smoke(2, ("sum", "greeting"))


async def test_a_busy_engine_says_nothing_of_the_revision() -> None:
    with pytest.raises(EngineOverloaded):
        await works(ScriptedEngine([EngineOverloaded("full")])).smoke(MODEL, "r2")


async def test_a_revision_that_is_not_deployed_never_gets_warm() -> None:
    assert not await works().warm(MODEL, "r2")
    assert not await works(ScriptedEngine(says("4"))).warm(MODEL, "r3")
    assert not await works().warm(Artefact(Kind.POLICY, "default", settings='{"a":1}'), "r2")


async def test_other_kinds_are_loaded_as_they_will_be(tmp_path: Path) -> None:
    def refuses(artefact: Artefact) -> None:
        raise InvalidRequest(f"{artefact.target} has no rules.")

    policy = Artefact(Kind.POLICY, "default", settings='{"a":1}')
    loaded: list[Artefact] = []
    good, bad = works(loaders={Kind.POLICY: loaded.append}), works(loaders={Kind.POLICY: refuses})
    assert await good.warm(policy, "r2")
    assert await good.smoke(policy, "r2") == Smoke(1)
    assert loaded == [policy]
    assert (await bad.smoke(policy, "r2")).failed == ("it cannot be loaded: default has no rules.",)


def test_a_prompt_expects_a_regular_expression() -> None:
    assert RolloutSettings().smoke_prompts
    with pytest.raises(ValidationError, match="no regular expression"):
        SmokePrompt(name="x", prompt="x", expects="(")
