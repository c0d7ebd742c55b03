import json

import httpx2
import pytest

from router.types import Tier
from serve_app.routing.checkers import is_right
from serve_app.routing.live import Call, LiveFailed, Way, demonstration_prompts, markdown, measure, report

MODELS = {Tier.BASE: "weak", Tier.STRONG: "strong"}


def server(request: httpx2.Request) -> httpx2.Response:
    """Knows sums and Paris; products only when strong, which a cascade finds out and the router never guesses."""
    body = json.loads(request.content)
    text = body["messages"][-1]["content"]
    product = any(mark in text.lower() for mark in ("times", "*", "multipl", "product", " x "))
    cascade = request.headers.get("x-gatehouse-cascade") == "true" and product
    strong = body["model"] == "strong" or cascade
    numbers = [int(word) for word in "".join(c if c.isdigit() else " " for c in text).split()]
    if "France" in text:
        answer = "Paris is the capital of France."
    elif product:
        answer = f"The answer is {numbers[0] * numbers[1]}." if strong else "I am not sure."
    else:
        answer = f"The answer is {numbers[0] + numbers[1]}."
    headers = {
        "x-gatehouse-tier": "120b" if strong else "20b",
        "x-gatehouse-route-reason": "explicit_model" if body["model"] != "auto" else "default",
    }
    if request.headers.get("x-gatehouse-cascade"):
        headers["x-gatehouse-cascade"] = "escalated" if cascade else "kept"
    reply = {"choices": [{"message": {"content": answer}}], "usage": {"completion_tokens": 7}}
    return httpx2.Response(200, json=reply, headers=headers)


def client(handler=server) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.MockTransport(handler), base_url="http://gate/v1/")


async def test_the_four_ways_are_measured_side_by_side():
    async with client() as http:
        calls = await measure(http, demonstration_prompts(60), MODELS, lambda: 0.0)
    lines = {line.way: line for line in report(calls)}
    assert [lines[way].accuracy for way in Way] == [pytest.approx(2 / 3), 1.0, pytest.approx(2 / 3), 1.0]
    assert [lines[way].strong_share for way in Way] == [0.0, 1.0, 0.0, pytest.approx(1 / 3)]
    assert [lines[way].recovered for way in Way] == [0.0, 1.0, 0.0, 1.0]
    assert lines[Way.CASCADE].cascades == {"escalated": 20, "kept": 40}
    assert lines[Way.WEAK].low < 2 / 3 < lines[Way.WEAK].high
    assert lines[Way.WEAK].tokens == 7
    assert markdown(report(calls)).count("\n") == 6


async def test_a_refusal_ends_the_run_and_says_what_was_refused():
    async with client(lambda _: httpx2.Response(401, json={"error": {"message": "no key"}})) as http:
        with pytest.raises(LiveFailed, match="HTTP 401.*no key"):
            await measure(http, demonstration_prompts(3), MODELS, lambda: 0.0)


def test_where_the_models_do_not_differ_nothing_is_recovered():
    same = [Call("p", True, False, "default", "", 1, 1.0)] * 4
    assert {line.recovered for line in report(dict.fromkeys(Way, same))} == {None}


def test_the_demonstration_prompts_can_be_told_right_from_wrong():
    prompts = demonstration_prompts(300)
    assert prompts == demonstration_prompts(300)
    assert prompts != demonstration_prompts(300, seed=1)
    assert not any(is_right(prompt.check, "I am not sure.") for prompt in prompts)
    assert not any(is_right(prompt.check, "The answer is 1000.") for prompt in prompts)
