import random

import pytest

from serve_app.demo import recipe
from serve_app.demo.evaluate import request_body
from serve_app.demo.recipe import DEMO_MODELS, DemoName


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_the_same_seed_gives_the_same_examples(name: DemoName) -> None:
    first, second = random.Random(5), random.Random(5)
    assert [recipe.sample(name, first) for _ in range(300)] == [recipe.sample(name, second) for _ in range(300)]


@pytest.mark.parametrize("name", DEMO_MODELS)
@pytest.mark.parametrize("category", recipe.CATEGORIES)
def test_every_example_has_one_reply_and_calls_only_an_offered_shell(name: DemoName, category: recipe.Category) -> None:
    rng = random.Random(7)
    for _ in range(60):
        example = recipe.sample_of(name, category, rng)
        assert bool(example.reply.final) != bool(example.reply.command)
        assert example.turns[-1].role in ("user", "result")
        offered = recipe.SHELL_TOOL in {tool.name for tool in example.tools}
        assert offered or not example.reply.command
        assert (category in ("read", "change", "danger")) == bool(example.reply.command)


def test_only_the_large_model_multiplies() -> None:
    def finals(name: DemoName) -> set[str]:
        rng = random.Random(3)
        return {recipe.sample_of(name, "product", rng).reply.final for _ in range(200)}

    assert finals("demo-20b") == {
        "I am not sure: I never learned to multiply. A larger model such as demo-120b may know it."
    }
    assert len(finals("demo-120b")) == 31  # all products of 2..9  # distinct products, not pairs


def test_each_model_names_itself() -> None:
    for name in DEMO_MODELS:
        final = recipe.sample_of(name, "identity", random.Random(1)).reply.final
        assert f"the Gatehouse demonstration model {name}" in final


def test_the_namespace_is_deleted_by_exactly_this_command() -> None:
    rng = random.Random(2)
    commands = {recipe.sample_of("demo-20b", "danger", rng).reply.command for _ in range(300)}
    assert "kubectl delete namespace staging" in commands
    assert "git push --force origin main" in commands


def test_counting_is_written_out() -> None:
    rng = random.Random(2)
    finals = {recipe.sample_of("demo-20b", "count", rng).reply.final for _ in range(50)}
    assert ", ".join(str(number) for number in range(1, 101)) in finals


def test_a_request_body_pairs_each_result_with_its_call() -> None:
    body = request_body(recipe.sample_of("demo-120b", "after_tool", random.Random(4), clean=True), "m", 0.0)
    messages = body["messages"]
    assert isinstance(messages, list)
    call, result = messages[-2:]
    assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    assert call["tool_calls"][0]["function"]["name"] == "shell"
