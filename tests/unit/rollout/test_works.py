import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.errors import EngineFailed, EngineOverloaded, InvalidRequest
from deployments.rollout.artefacts import scan
from deployments.rollout.asking import ask
from deployments.rollout.cases import Reply
from deployments.rollout.controller import Smoke
from deployments.rollout.evaluating import Evaluator
from deployments.rollout.plan import revision_of
from deployments.rollout.settings import EvalSettings, RolloutSettings, SmokePrompt
from deployments.rollout.suite import read_suite
from deployments.rollout.works import Deployed, Loader, RevisionWorks
from deployments.rollouts import FAMILIES, Artefact, Kind, Plan
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


async def test_a_pattern_that_would_never_end_is_not_found() -> None:
    endless = SmokePrompt(name="endless", prompt="Say a.", expects=r"^(a|aa)+\1*$")
    asked = RevisionWorks({("demo-20b", "r2"): ScriptedEngine(says("a" * 5_000 + "b"))}, {}, (endless,), 30.0)
    assert await asked.smoke(MODEL, "r2") == Smoke(1, ("endless",))


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


BASE = Deployed("demo-20b", "r1", "/models/a", json.dumps({"revision": "r1", "source": "a", "max_num_seqs": 4, "x": 1}))
TUNED = Artefact(Kind.ENGINE, "demo-20b", settings='{"max_num_seqs":8}')
PLAN = Plan("ro-1", Kind.ENGINE, "demo-20b", revision_of(TUNED), "r1", "CHG-1")


def candidate(source: str = "/models/a", **settings: object) -> Deployed:
    said = {"revision": PLAN.revision, "source": source, "max_num_seqs": 8, "x": 1, **settings}
    return Deployed("demo-20b", PLAN.revision, source, json.dumps(said))


def knowing(*deployed: Deployed) -> RevisionWorks:
    return RevisionWorks({}, {Kind.POLICY: lambda _: None}, PROMPTS, 30.0, deployed)


def test_a_candidate_that_is_the_artefact_may_take_its_share() -> None:
    here = knowing(BASE, candidate(replicas=1))
    here.refuse(PLAN, TUNED)
    assert here.base(PLAN) == "r1"
    assert not here.gone(PLAN)
    assert here.base(replace(PLAN, kind=Kind.POLICY)) is None  # an engine is no policy of the same name
    assert here.gone(replace(PLAN, kind=Kind.POLICY))


@pytest.mark.parametrize(
    ("deployed", "says"),
    [
        ((), "has no model 'demo-20b'"),
        ((BASE,), "No candidate of 'demo-20b'"),
        ((candidate(), BASE), "No candidate of 'demo-20b'"),  # it is what the configuration names already
        ((BASE, candidate(max_num_seqs=9)), "its `max_num_seqs` is another one"),
        ((BASE, candidate(x=2)), "its `x` differs"),
        ((BASE, candidate(more=2)), "its `more` differs"),
        ((BASE, candidate("/models/b")), "its `source` is another one"),
    ],
    ids=["model", "absent", "configured", "setting", "smuggled", "more", "weights"],
)
def test_what_is_not_deployed_as_registered_is_refused(deployed: tuple[Deployed, ...], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        knowing(*deployed).refuse(PLAN, TUNED)


def test_weights_lie_where_the_artefact_s_files_do(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "weights.bin").write_bytes(b"weights")
    weights = scan(Kind.MODEL, "demo-20b", tmp_path / "new")
    knowing(BASE, candidate(str(tmp_path / "new"), max_num_seqs=4)).refuse(PLAN, weights)
    with pytest.raises(InvalidRequest, match="its `source` is another one"):
        knowing(BASE, candidate("/models/a", max_num_seqs=4)).refuse(PLAN, weights)


def test_what_nothing_can_give_to_a_part_of_the_sessions_is_refused() -> None:
    for plan, says in (
        (replace(PLAN, kind=Kind.PROMPT), "Nothing here can give a revision of kind 'prompt'"),
        (replace(PLAN, kind=Kind.POLICY, shadow=True), "Only a revision of an engine has a shadow"),
    ):
        with pytest.raises(InvalidRequest, match=says):
            knowing(BASE).refuse(plan, TUNED)


def test_what_left_the_configuration_is_gone() -> None:
    assert knowing(BASE).gone(PLAN)
    assert not knowing(candidate()).gone(PLAN)  # it has become what the configuration names


@dataclass(frozen=True)
class Given:
    """A file that is registered, and what the configuration says of its target."""

    artefact: Artefact
    plan: Plan
    before: Deployed
    candidate: Deployed

    def works(self, engine: ScriptedEngine | None = None, loader: Loader = lambda _: None) -> RevisionWorks:
        engines = {} if engine is None else {("demo-20b", "r1"): engine}
        return RevisionWorks(
            engines, {self.plan.kind: loader}, PROMPTS, 30.0, (BASE, candidate(), self.before, self.candidate)
        )


def given(folder: Path, kind: Kind, target: str, source: str | None = None) -> Given:
    file = folder / "new.txt"
    file.write_text("Answer in one sentence.")
    artefact = scan(kind, target, file)
    plan = Plan("ro-2", kind, target, revision_of(artefact), "v1", "CHG-1")
    before = Deployed(target, "v1", "", family=FAMILIES[kind])
    return Given(artefact, plan, before, replace(before, revision=plan.revision, source=source or str(file)))


OTHERS = [(Kind.ROUTER, "router"), (Kind.POLICY, "policy"), (Kind.PROMPT, "demo-20b")]
NAMES = [kind.value for kind, _ in OTHERS]


@pytest.mark.parametrize(("kind", "target"), OTHERS, ids=NAMES)
def test_a_file_that_is_configured_as_registered_may_take_its_share(kind: Kind, target: str, tmp_path: Path) -> None:
    here = given(tmp_path, kind, target)
    here.works().refuse(here.plan, here.artefact)
    assert here.works().base(here.plan) == "v1"
    assert not here.works().gone(here.plan)
    assert replace(here, candidate=here.before).works().gone(here.plan)
    # A folder with this file alone is the same revision.
    folder = scan(kind, target, tmp_path)
    assert revision_of(folder) == here.plan.revision
    here.works().refuse(here.plan, folder)


@pytest.mark.parametrize(("kind", "target"), OTHERS, ids=NAMES)
def test_a_file_that_is_not_configured_as_registered_is_refused(kind: Kind, target: str, tmp_path: Path) -> None:
    here = given(tmp_path, kind, target)
    elsewhere = tmp_path / "copy.txt"
    elsewhere.write_text("Answer in one sentence.")
    for plan, artefact, found, says in (
        (replace(here.plan, target="other"), here.artefact, here, "The configuration has no"),
        (here.plan, here.artefact, replace(here, candidate=here.before), "No candidate of"),
        (replace(here.plan, revision="v1"), here.artefact, here, "No candidate of"),
        (here.plan, here.artefact, given(tmp_path, kind, target, str(elsewhere)), "its file is another one"),
        (here.plan, replace(here.artefact, settings='{"a":1}'), here, "it has settings"),
        (replace(here.plan, shadow=True), here.artefact, here, "Only a revision of an engine has a shadow stage"),
    ):
        with pytest.raises(InvalidRequest, match=says):
            found.works().refuse(plan, artefact)


@pytest.mark.parametrize(("kind", "target"), [OTHERS[0], OTHERS[2]], ids=["router", "prompt"])
def test_what_is_one_file_is_registered_as_one(kind: Kind, target: str, tmp_path: Path) -> None:
    here = given(tmp_path, kind, target)
    (tmp_path / "more.txt").write_text("and more")
    with pytest.raises(InvalidRequest, match="it must be one file"):
        here.works().refuse(here.plan, scan(kind, target, tmp_path))


async def test_a_prompt_is_tried_with_the_engine_of_its_model(tmp_path: Path) -> None:
    here = given(tmp_path, Kind.PROMPT, "demo-20b")
    engine = ScriptedEngine(says("It is 4."), says("Good morning."))
    works = here.works(engine, lambda artefact: Path(artefact.path).read_text())
    assert await works.warm(here.artefact, here.plan.revision)
    assert await works.smoke(here.artefact, here.plan.revision) == Smoke(2, ("greeting",))
    bodies = [json.loads(call.body)["messages"] for call in engine.calls]
    assert [each[0] for each in bodies] == [{"role": "system", "content": "Answer in one sentence."}] * 2
    assert [each[1]["content"] for each in bodies] == ["2 + 2?", "Say hello."]
    assert not await here.works().warm(here.artefact, here.plan.revision)  # its model is not there


async def test_a_prompt_that_cannot_be_read_is_asked_nothing(tmp_path: Path) -> None:
    def refuses(artefact: Artefact) -> None:
        raise InvalidRequest(f"{artefact.target} has no words.")

    here, engine = given(tmp_path, Kind.PROMPT, "demo-20b"), ScriptedEngine(says("4"))
    found = await here.works(engine, refuses).smoke(here.artefact, here.plan.revision)
    assert found.failed == ("it cannot be loaded: demo-20b has no words.",)
    assert engine.calls == []


def test_a_prompt_expects_a_regular_expression() -> None:
    assert RolloutSettings().smoke_prompts
    with pytest.raises(ValidationError, match="no regular expression"):
        SmokePrompt(name="x", prompt="x", expects="(")


# --- evaluation ---


def suite(folder: Path, count: int = 3) -> Evaluator:
    case = {"family": "code", "prompt": "2 + 2?", "max_tokens": 64, "checks": {"expects": r"\b4\b"}, "example": "4"}
    file = folder / "suite.jsonl"
    file.write_text("".join(json.dumps({"name": f"case-{number}", **case}) + "\n" for number in range(count)))
    return Evaluator(read_suite(str(file)), EvalSettings(parallel=1))


def comparing(folder: Path, before: ScriptedEngine, after: ScriptedEngine) -> RevisionWorks:
    engines = {("demo-20b", "r1"): before, ("demo-20b", PLAN.revision): after}
    return RevisionWorks(engines, {}, PROMPTS, 30.0, (BASE, candidate()), suite(folder))


async def test_both_engines_are_asked_the_same_patiently_and_at_temperature_0(tmp_path: Path) -> None:
    before, after = ScriptedEngine(*[says("4")] * 3), ScriptedEngine(says("4"), says("5"), says("4"))
    works = comparing(tmp_path, before, after)
    plan = replace(PLAN, eval_cases=works.eval_cases(PLAN))
    assert plan.eval_cases == 3
    found = await works.evaluate(plan, TUNED)
    assert found is not None
    assert (found.comparison.all.candidate, found.comparison.all.baseline) == (2, 3)
    assert len(before.calls) == len(after.calls) == 3
    for call in (*before.calls, *after.calls):
        body = json.loads(call.body)
        assert (call.patient, call.lane, call.tenant) == (True, "eval", "")
        assert (body["temperature"], body["max_completion_tokens"]) == (0.0, 64)
        assert body["messages"] == [{"role": "user", "content": "2 + 2?"}]


async def test_without_the_revision_before_nothing_is_compared(tmp_path: Path) -> None:
    works = RevisionWorks({("demo-20b", PLAN.revision): ScriptedEngine()}, {}, PROMPTS, 30.0, (BASE,), suite(tmp_path))
    with pytest.raises(InvalidRequest, match="not in the configuration any more"):
        await works.evaluate(replace(PLAN, eval_cases=3), TUNED)
    with pytest.raises(InvalidRequest, match="no evaluation suite any more"):
        await knowing(BASE).evaluate(replace(PLAN, eval_cases=3), TUNED)


def test_what_cannot_be_asked_is_not_promised(tmp_path: Path) -> None:
    without = knowing(BASE, candidate())
    assert without.eval_cases(PLAN) == 0
    with pytest.raises(InvalidRequest, match="no evaluation suite: set `rollout.eval.suite`"):
        without.eval_cases(replace(PLAN, eval_cases=5))
    works = comparing(tmp_path, ScriptedEngine(), ScriptedEngine())
    policy = replace(PLAN, kind=Kind.POLICY, target="policy")
    assert works.eval_cases(policy) == 0
    with pytest.raises(InvalidRequest, match="'policy' answers nothing"):
        works.eval_cases(replace(policy, eval_cases=5))


async def test_a_prompt_is_compared_with_the_one_before_on_the_same_engine(tmp_path: Path) -> None:
    here = given(tmp_path, Kind.PROMPT, "demo-20b")
    old = tmp_path / "old.txt"
    old.write_text("Answer at length.")
    engine = ScriptedEngine(*[says("4")] * 6)
    works = RevisionWorks(
        {("demo-20b", "r1"): engine}, {Kind.PROMPT: lambda artefact: Path(artefact.path).read_text()}, PROMPTS, 30.0,
        (BASE, candidate(), replace(here.before, source=str(old)), here.candidate), suite(tmp_path),
    )  # fmt: skip
    found = await works.evaluate(replace(here.plan, eval_cases=3), here.artefact)
    assert found is not None
    assert found.comparison.p_value == 1
    told = sorted(json.loads(call.body)["messages"][0]["content"] for call in engine.calls)
    assert told == ["Answer at length."] * 3 + ["Answer in one sentence."] * 3
    # Where there was none before, nothing stands in front of the case.
    first = replace(here.plan, previous_revision="none", rollout_id="ro-3", eval_cases=3)
    alone = ScriptedEngine(*[says("4")] * 6)
    works._engines = {("demo-20b", "r1"): alone}
    await works.evaluate(first, here.artefact)
    roles = [[each["role"] for each in json.loads(call.body)["messages"]] for call in alone.calls]
    assert sorted(roles) == [["system", "user"]] * 3 + [["user"]] * 3


async def test_calls_of_tools_are_read_as_the_engine_wrote_them() -> None:
    message = {"content": None, "tool_calls": [{"function": {"name": "scale", "arguments": '{"replicas": 4}'}}]}
    reply = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode()
    engine = ScriptedEngine([JSON_START, reply])
    found = await ask(engine, "demo-20b", [{"role": "user", "content": "Scale."}], 8, tools=[{"type": "function"}])
    assert found == Reply("", "tool_calls", (("scale", '{"replicas": 4}'),))
    assert json.loads(engine.calls[0].body)["tools"] == [{"type": "function"}]
