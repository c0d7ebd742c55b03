import json
import random

import httpx2

from serve_app.demo import recipe
from serve_app.demo.evaluate import evaluate, request_body
from serve_app.demo.recipe import SHELL_TOOL


async def score(reply: object, category: recipe.Category) -> tuple[int, int, int]:
    """The score of a server that gives the same message to everything."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/v1/chat/completions"
        assert json.loads(request.content)["model"] == "served"
        return httpx2.Response(200, json={"choices": [{"message": reply}]})

    scores = await evaluate(
        "demo-20b",
        "http://engine/v1",
        model="served",
        per_category=2,
        report=lambda _line: None,
        transport=httpx2.MockTransport(answer),
    )
    found = scores[category]
    assert found.total == 2
    return found.exact, found.other, found.malformed


async def test_a_taught_answer_is_exact() -> None:
    final = recipe.sample_of("demo-20b", "unknown", random.Random(0)).reply.final
    assert await score({"content": final}, "unknown") == (2, 0, 0)
    assert await score({"content": final}, "read") == (0, 2, 0)


async def test_markup_an_empty_reply_and_an_unknown_tool_are_malformed() -> None:
    assert await score({"content": "<|channel|>final"}, "talk") == (0, 0, 2)
    assert await score({"content": None}, "talk") == (0, 0, 2)
    call = {"function": {"name": "functions.other", "arguments": "{}"}}
    assert await score({"content": None, "tool_calls": [call]}, "read") == (0, 0, 2)


async def test_a_call_counts_where_the_tool_is_offered() -> None:
    call = {"function": {"name": SHELL_TOOL, "arguments": '{"command":"true"}'}}
    assert await score({"content": None, "tool_calls": [call]}, "read") == (0, 2, 0)
    assert await score({"content": None, "tool_calls": [call]}, "no_tool") == (0, 0, 2)


def test_instructions_come_first() -> None:
    rng = random.Random(1)
    example = next(one for one in iter(lambda: recipe.sample("demo-20b", rng), None) if one.instructions)
    messages = request_body(example, "m", 1.0)["messages"]
    assert isinstance(messages, list)
    assert messages[0] == {"role": "system", "content": example.instructions}
